//! An authority's private key in a file: PKCS#8 in PEM behind a passphrase (PBES2: scrypt, AES-256-CBC), mode 0600. `openssl
//! pkey` reads it.
//!
//! The format is that of `fleet::keys`; the two files are to become one.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use age::secrecy::{ExposeSecret, SecretString};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use pkcs8::der::asn1::OctetString;
use pkcs8::pkcs5::{pbes2, scrypt};
use pkcs8::{EncryptedPrivateKeyInfo, EncryptedPrivateKeyInfoRef, LineEnding, SecretDocument};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};

use crate::base::atomic_file;

const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";
/// Larger than any key file.
const LARGEST_BYTES: u64 = 65_536;
/// scrypt: the most memory that OpenSSL grants it unasked, five times over.
const SCRYPT: (u8, u32, u32) = (14, 8, 5);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("cannot read the key {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may read it.
    #[error("the key {} can be read by others (mode {mode:04o}): chmod 600 {}, and think of who may have read it", path.display(), path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is no key file.
    #[error("{} is no encrypted key on P-256 in PEM (PKCS#8); vedette-fleet enrol ca init makes one", .0.display())]
    NoKey(PathBuf),
    /// The passphrase is another one.
    #[error("the passphrase is not that of the key {}, or the file is damaged", .0.display())]
    Passphrase(PathBuf),
    /// It could not be made.
    #[error("no key could be made: the system gives no random numbers")]
    Make,
    /// It could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A new key, on P-256.
pub fn generate() -> Result<KeyPair, KeyFileError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|_| KeyFileError::Make)
}

/// Writes a key, encrypted.
pub fn write(path: &Path, key: &KeyPair, passphrase: &SecretString) -> Result<(), KeyFileError> {
    let (mut salt, mut iv) = ([0; 16], [0; 16]);
    let random = SystemRandom::new();
    random.fill(&mut salt).and_then(|()| random.fill(&mut iv)).map_err(|_| KeyFileError::Make)?;
    let cost = scrypt::Params::new(SCRYPT.0, SCRYPT.1, SCRYPT.2).expect("constants within scrypt's limits");
    let made = || -> Result<_, pkcs8::Error> {
        let scheme = pbes2::Parameters::generate_scrypt_aes256cbc(cost, &salt, iv)?;
        let encrypted = scheme.encrypt(passphrase.expose_secret(), key.serialized_der())?;
        let info = EncryptedPrivateKeyInfo {
            encryption_algorithm: scheme.into(),
            encrypted_data: OctetString::new(encrypted)?,
        };
        Ok(SecretDocument::try_from(&info)?.to_pem(ENCRYPTED, LineEnding::LF)?)
    };
    let pem = made().map_err(|_| KeyFileError::Make)?;
    let failed = |source| KeyFileError::Write { path: path.to_owned(), source };
    atomic_file::write_private(path, pem.as_bytes()).map_err(failed)
}

/// Opens one.
pub fn open(path: &Path, passphrase: &SecretString) -> Result<KeyPair, KeyFileError> {
    let unreadable = |source| KeyFileError::Read { path: path.to_owned(), source };
    let no_key = || KeyFileError::NoKey(path.to_owned());
    let of = std::fs::metadata(path).map_err(unreadable)?;
    if of.len() > LARGEST_BYTES {
        return Err(no_key());
    }
    if of.mode() & 0o077 != 0 {
        return Err(KeyFileError::Open { path: path.to_owned(), mode: of.mode() & 0o7777 });
    }
    let pem = std::fs::read_to_string(path).map_err(unreadable)?;
    let document = match SecretDocument::from_pem(&pem) {
        Ok((ENCRYPTED, document)) => document,
        _ => return Err(no_key()),
    };
    let info: EncryptedPrivateKeyInfoRef = document.decode_msg().map_err(|_| no_key())?;
    let der = info.decrypt(passphrase.expose_secret()).map_err(|_| KeyFileError::Passphrase(path.to_owned()))?;
    let der = rcgen_der(der.as_bytes());
    KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256).map_err(|_| no_key())
}

fn rcgen_der(der: &[u8]) -> rustls::pki_types::PrivatePkcs8KeyDer<'_> {
    rustls::pki_types::PrivatePkcs8KeyDer::from(der)
}
