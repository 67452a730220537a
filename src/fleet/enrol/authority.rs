//! The fleet's certificate authority: its files, and what it signs.
//!
//! ```text
//!   DIR/ca.crt  ca.key              the root; where there is an issuing authority, ca.key is kept offline
//!       issuing.crt  issuing.key    who signs day by day, if there is one
//!       crl.pem                     the revocation list, for the broker
//!       registry.json               who is enrolled
//! ```
//!
//! Invariants: X.509 version 3; serial numbers of 128 random bits; nothing is signed that would outlive who signs it; valid
//! from a day ago, for clocks that are wrong.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use age::secrecy::SecretString;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData, RevocationReason,
    RevokedCertParams, SanType, SerialNumber,
};
use time::OffsetDateTime;

use super::registry::{Issued, Standing};
use super::secret_key::{self, KeyFileError};
use crate::agent::identity::papers::{Paper, PaperError};
use crate::base::atomic_file;
use crate::base::clock::Wall;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// The root,
const ROOT_LIVES: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// and who signs in its stead.
const ISSUING_LIVES: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// A common name has at most so many characters (RFC 5280, ub-common-name).
pub const LONGEST_NAME: usize = 64;

/// Why the authority does not sign.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// There is one.
    #[error("{} is there already: an authority is never overwritten; name another directory", .0.display())]
    Exists(PathBuf),
    /// There is none.
    #[error("cannot read {}: is --ca the directory of an authority (vedette-fleet enrol ca init)?", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of it.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its key.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// Its certificate.
    #[error("{} cannot be used", path.display())]
    Certificate {
        /// Which.
        path: PathBuf,
        /// Why.
        source: PaperError,
    },
    /// Certificate and key are of different authorities.
    #[error("{} is not the key of {}", key.display(), certificate.display())]
    Pair {
        /// The key's file.
        key: PathBuf,
        /// The certificate's.
        certificate: PathBuf,
    },
    /// Too long a name for X.509.
    #[error(
        "{0:?} has more than {LONGEST_NAME} characters, and a certificate's name has no room for them: shorten site or device"
    )]
    LongName(String),
    /// No name or address.
    #[error("{0:?} is neither a host's name nor an address")]
    Host(String),
    /// It would go on after its authority has ended.
    #[error(
        "the authority's certificate expires {0}, before what was to be signed: make a new authority, or ask for fewer days"
    )]
    Outlives(String),
    /// Signing failed.
    #[error("could not be signed")]
    Sign(#[from] rcgen::Error),
    /// No entropy.
    #[error("no serial number: the system gives no random numbers")]
    Random,
}

/// An authority's directory, without its keys.
#[derive(Debug, Clone)]
pub struct Authority {
    dir: PathBuf,
    /// The root's certificate: what others trust.
    pub root_pem: String,
    issuing_pem: Option<String>,
}

/// Who is to have a certificate, and what for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// `{site}/{device}`
    Device(String),
    /// A consumer or a manager.
    Client(String),
    /// A broker; its names and addresses.
    Server(Vec<String>),
}

/// What was signed.
#[derive(Debug, Clone)]
pub struct Signed {
    /// What it says.
    pub paper: Paper,
    /// It, and what leads to the root.
    pub pem: String,
}

impl Authority {
    /// Makes a new one. With a second passphrase there is an issuing authority, and the root's key is not needed day by day.
    pub fn init(
        dir: &Path,
        name: &str,
        root: &SecretString,
        issuing: Option<&SecretString>,
        now: Wall,
    ) -> Result<Authority, AuthorityError> {
        let files = Files(dir);
        for path in [files.root(), files.root_key(), files.issuing(), files.issuing_key()] {
            if path.exists() {
                return Err(AuthorityError::Exists(path));
            }
        }
        std::fs::create_dir_all(dir).map_err(|source| AuthorityError::Write { path: dir.to_owned(), source })?;
        let key = secret_key::generate()?;
        let below = u8::from(issuing.is_some());
        let params = authority_params(name, below, now, ROOT_LIVES)?;
        let root_pem = params.self_signed(&key)?.pem();
        secret_key::write(&files.root_key(), &key, root)?;
        let issuing_pem = match issuing {
            None => None,
            Some(passphrase) => {
                let issuing_key = secret_key::generate()?;
                let below_params = authority_params(&format!("{name}, issuing"), 0, now, ISSUING_LIVES)?;
                let issuer = Issuer::new(params, key);
                let pem = below_params.signed_by(&issuing_key, &issuer)?.pem();
                secret_key::write(&files.issuing_key(), &issuing_key, passphrase)?;
                write(&files.issuing(), &pem)?;
                Some(pem)
            }
        };
        // The last: without it there is no authority.
        write(&files.root(), &root_pem)?;
        Ok(Authority { dir: dir.to_owned(), root_pem, issuing_pem })
    }

    /// One that is there.
    pub fn open(dir: &Path) -> Result<Authority, AuthorityError> {
        let files = Files(dir);
        let read = |path: PathBuf| match std::fs::read_to_string(&path) {
            Ok(pem) => Ok(Some(pem)),
            Err(e) if e.kind() == io::ErrorKind::NotFound && path != files.root() => Ok(None),
            Err(source) => Err(AuthorityError::Read { path, source }),
        };
        let root_pem = read(files.root())?.unwrap_or_default();
        Ok(Authority { dir: dir.to_owned(), root_pem, issuing_pem: read(files.issuing())? })
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The revocation list's file.
    pub fn crl_path(&self) -> PathBuf {
        self.dir.join("crl.pem")
    }

    /// What the key that signs is called, for who is asked for its passphrase.
    pub fn key_path(&self) -> PathBuf {
        let files = Files(&self.dir);
        if self.issuing_pem.is_some() { files.issuing_key() } else { files.root_key() }
    }

    /// Opens the key that signs day by day.
    pub fn unlock(&self, passphrase: &SecretString) -> Result<Signer, AuthorityError> {
        let files = Files(&self.dir);
        let (pem, certificate) = match &self.issuing_pem {
            Some(pem) => (pem, files.issuing()),
            None => (&self.root_pem, files.root()),
        };
        let key = secret_key::open(&self.key_path(), passphrase)?;
        let bad = |source| AuthorityError::Certificate { path: certificate.clone(), source };
        let paper = Paper::read(pem).map_err(bad)?;
        if crate::base::digest::of_bytes(&key.subject_public_key_info()) != paper.key {
            return Err(AuthorityError::Pair { key: self.key_path(), certificate });
        }
        let issuer = Issuer::from_ca_cert_pem(pem, key)?;
        Ok(Signer { issuer, ends: paper.not_after, chain: self.issuing_pem.clone().unwrap_or_default() })
    }
}

/// An authority that signs.
pub struct Signer {
    issuer: Issuer<'static, KeyPair>,
    /// Nothing that it signs is valid for longer.
    ends: Wall,
    /// What goes out behind each certificate.
    chain: String,
}

impl Signer {
    /// Signs a certificate for this key, from a day ago, valid for so long from now.
    pub fn sign(
        &self,
        subject: &Subject,
        key: &impl PublicKeyData,
        now: Wall,
        lives: Duration,
    ) -> Result<Signed, AuthorityError> {
        if now + lives > self.ends {
            return Err(AuthorityError::Outlives(self.ends.rfc3339()));
        }
        let mut params = match subject {
            Subject::Device(name) => {
                let uri = format!("urn:vedette:device:{}", name.replace('/', ":"));
                let mut params = named(name, now, lives)?;
                params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
                params
            }
            Subject::Client(name) => {
                let mut params = named(name, now, lives)?;
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
                params
            }
            Subject::Server(names) => {
                let mut params = named("broker", now, lives)?;
                params.subject_alt_names = names.iter().map(|n| host(n)).collect::<Result<_, _>>()?;
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
                params
            }
        };
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let pem = params.signed_by(key, &self.issuer)?.pem();
        let paper = Paper::read(&pem).expect("it was just made");
        Ok(Signed { paper, pem: format!("{pem}{}", self.chain) })
    }

    /// The revocation list of these, in PEM.
    pub fn crl<'a>(
        &self,
        withdrawn: impl Iterator<Item = &'a Issued>,
        number: u64,
        now: Wall,
        next: Wall,
    ) -> Result<String, AuthorityError> {
        let revoked = |c: &Issued| {
            let reason = match c.standing {
                Standing::Superseded => RevocationReason::Superseded,
                Standing::Issued | Standing::Current | Standing::Revoked => RevocationReason::KeyCompromise,
            };
            RevokedCertParams {
                serial_number: SerialNumber::from(bytes(&c.serial)),
                revocation_time: date(c.since_unix_ms),
                reason_code: Some(reason),
                invalidity_date: None,
            }
        };
        let list = CertificateRevocationListParams {
            // As certificates are: brokers' clocks are not all right either.
            this_update: date(now - DAY),
            next_update: date(next),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: withdrawn.map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.pem()?)
    }
}

struct Files<'a>(&'a Path);

impl Files<'_> {
    fn root(&self) -> PathBuf {
        self.0.join("ca.crt")
    }
    fn root_key(&self) -> PathBuf {
        self.0.join("ca.key")
    }
    fn issuing(&self) -> PathBuf {
        self.0.join("issuing.crt")
    }
    fn issuing_key(&self) -> PathBuf {
        self.0.join("issuing.key")
    }
}

fn write(path: &Path, text: &str) -> Result<(), AuthorityError> {
    atomic_file::write(path, text.as_bytes()).map_err(|source| AuthorityError::Write { path: path.to_owned(), source })
}

fn named(name: &str, now: Wall, lives: Duration) -> Result<CertificateParams, AuthorityError> {
    if name.chars().count() > LONGEST_NAME {
        return Err(AuthorityError::LongName(name.to_owned()));
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.not_before, params.not_after) = (date(now - DAY), date(now + lives));
    let mut serial = [0; 16];
    SystemRandom::new().fill(&mut serial).map_err(|_| AuthorityError::Random)?;
    // Positive, and never shorter than it seems.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn authority_params(name: &str, below: u8, now: Wall, lives: Duration) -> Result<CertificateParams, AuthorityError> {
    let mut params = named(name, now, lives)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn host(name: &str) -> Result<SanType, AuthorityError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let bad = || AuthorityError::Host(name.to_owned());
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '*');
    if name.is_empty() || name.len() > 253 || !name.chars().all(fits) {
        return Err(bad());
    }
    Ok(SanType::DnsName(name.to_owned().try_into().map_err(|_| bad())?))
}

fn bytes(serial: &str) -> Vec<u8> {
    let even = if serial.len().is_multiple_of(2) { serial.to_owned() } else { format!("0{serial}") };
    even.as_bytes().chunks(2).map(|two| u8::from_str_radix(&String::from_utf8_lossy(two), 16).unwrap_or(0)).collect()
}

fn date(at: Wall) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(at.unix_ms() / 1000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
