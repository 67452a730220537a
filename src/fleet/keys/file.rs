//! Key files: the private half as PKCS#8 PEM, encrypted (PBES2: scrypt, AES-256-CBC), mode 0600; the public half beside it
//! as PEM. Both are what `openssl pkey` reads and writes.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use age::secrecy::{ExposeSecret, SecretString};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use pkcs8::der::asn1::OctetString;
use pkcs8::pkcs5::{pbes2, scrypt};
use pkcs8::spki::SubjectPublicKeyInfoRef;
use pkcs8::{Document, EncryptedPrivateKeyInfo, EncryptedPrivateKeyInfoRef, LineEnding, SecretDocument};
use tough::schema::key::Key;

use super::{SigningKey, public_ed25519, public_p256};
use crate::base::atomic_file;

const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";
const PUBLIC: &str = "PUBLIC KEY";
/// Larger than any key file, and than anything that should be read as one.
const LARGEST_BYTES: u64 = 65_536;

/// scrypt: the most memory that OpenSSL grants it unasked (16 MiB of its 32), and so often over it that a guess costs as much
/// as with 2^17 once (OWASP's advice for where memory is short).
const SCRYPT: (u8, u32, u32) = (14, 8, 5);

/// Why a key file is not used, or was not written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
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
    /// It has no passphrase.
    #[error(
        "the key {} is not encrypted: openssl pkcs8 -topk8 -scrypt -in {} -out encrypted.pem", path.display(), path.display()
    )]
    NotEncrypted {
        /// Which.
        path: PathBuf,
    },
    /// It is no key file.
    #[error("{} is no key that this program reads: {what}; vedette-fleet keys new makes one", path.display())]
    NoKey {
        /// Which.
        path: PathBuf,
        /// What it is instead.
        what: String,
    },
    /// The passphrase is another one.
    #[error("the passphrase is not that of the key {}, or the file is damaged", path.display())]
    Passphrase {
        /// Which.
        path: PathBuf,
    },
    /// It is a public key where a private one is needed.
    #[error("{} is the public half of a key, and to sign takes the private one", path.display())]
    OnlyPublic {
        /// Which.
        path: PathBuf,
    },
    /// It is there already.
    #[error("{} is there already: a key is never overwritten; choose another name", path.display())]
    Exists {
        /// Which.
        path: PathBuf,
    },
    /// It could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No key could be made.
    #[error("no key could be made: the system gives no random numbers")]
    Generate,
    /// It is in a PKCS#11 module and stays there.
    #[error("a key in a PKCS#11 module is not written to a file")]
    StaysInToken,
}

/// Where the public half of a key file stands: `NAME.pub` beside `NAME.pem`.
pub fn public_path(path: &Path) -> PathBuf {
    path.with_extension("pub")
}

/// Writes a key, encrypted, and its public half beside it. Neither may be there.
pub fn write(path: &Path, key: &SigningKey, passphrase: &SecretString) -> Result<(), FileError> {
    let beside = public_path(path);
    for path in [path, &beside] {
        if path.exists() {
            return Err(FileError::Exists { path: path.to_owned() });
        }
    }
    let der = match key {
        SigningKey::Ed25519(pair) => pair.to_pkcs8v1().map_err(|_| FileError::Generate)?,
        SigningKey::P256(pair) => pair.to_pkcs8v1().map_err(|_| FileError::Generate)?,
        SigningKey::Token(_) => return Err(FileError::StaysInToken),
    };
    let pem = encrypt(der.as_ref(), passphrase)?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| FileError::Write { path, source }
    };
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path).map_err(failed(path))?;
    io::Write::write_all(&mut file, pem.as_bytes()).and_then(|()| file.sync_all()).map_err(failed(path))?;
    atomic_file::write(&beside, public_pem(&key.public()).as_bytes()).map_err(failed(&beside))
}

/// A public key as PEM (SubjectPublicKeyInfo).
pub fn public_pem(key: &Key) -> String {
    // RFC 8410: the algorithm, then the key as a bit string, whose only length is known.
    const ED25519: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    match key {
        Key::Ed25519 { keyval, .. } => {
            let der = [&ED25519[..], &keyval.public[..]].concat();
            let document = Document::try_from(der).ok().and_then(|d| d.to_pem(PUBLIC, LineEnding::LF).ok());
            document.unwrap_or_default()
        }
        // It stands in the metadata as PEM.
        Key::Ecdsa { keyval, .. } | Key::EcdsaOld { keyval, .. } => plain(&keyval.public),
        Key::Rsa { keyval, .. } => plain(&keyval.public),
    }
}

fn plain(value: &impl serde::Serialize) -> String {
    let text = serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
    format!("{}\n", text.trim_end())
}

fn encrypt(der: &[u8], passphrase: &SecretString) -> Result<String, FileError> {
    let failed = |_| FileError::Generate;
    let (mut salt, mut iv) = ([0; 16], [0; 16]);
    let random = SystemRandom::new();
    random.fill(&mut salt).and_then(|()| random.fill(&mut iv)).map_err(failed)?;
    let cost = scrypt::Params::new(SCRYPT.0, SCRYPT.1, SCRYPT.2).expect("constants within scrypt's limits");
    let made = || -> Result<String, pkcs8::Error> {
        let scheme = pbes2::Parameters::generate_scrypt_aes256cbc(cost, &salt, iv)?;
        let encrypted = scheme.encrypt(passphrase.expose_secret(), der)?;
        let info = EncryptedPrivateKeyInfo {
            encryption_algorithm: scheme.into(),
            encrypted_data: OctetString::new(encrypted)?,
        };
        let pem = SecretDocument::try_from(&info)?.to_pem(ENCRYPTED, LineEnding::LF)?;
        Ok(pem.as_str().to_owned())
    };
    made().map_err(|_| FileError::Generate)
}

/// What a key file holds, before it is opened.
pub enum Content {
    /// A private key behind a passphrase.
    Encrypted(SecretDocument),
    /// A public key.
    Public(Key),
}

/// Reads a key file as far as that goes without a passphrase.
pub fn read(path: &Path) -> Result<Content, FileError> {
    let unreadable = |source| FileError::Read { path: path.to_owned(), source };
    let no_key = |what: &str| FileError::NoKey { path: path.to_owned(), what: what.into() };
    let of = fs::metadata(path).map_err(unreadable)?;
    if of.len() > LARGEST_BYTES {
        return Err(no_key("it is too large"));
    }
    let pem = fs::read_to_string(path).map_err(unreadable)?;
    let open = || match of.mode() & 0o077 {
        0 => Ok(()),
        _ => Err(FileError::Open { path: path.to_owned(), mode: of.mode() & 0o7777 }),
    };
    match label(&pem) {
        Some(ENCRYPTED) => {
            open()?;
            let (_, document) = SecretDocument::from_pem(&pem).map_err(|e| no_key(&format!("broken PEM: {e}")))?;
            Ok(Content::Encrypted(document))
        }
        Some("PRIVATE KEY" | "EC PRIVATE KEY" | "RSA PRIVATE KEY") => {
            open()?;
            Err(FileError::NotEncrypted { path: path.to_owned() })
        }
        Some(PUBLIC) => parse_public(&pem).map(Content::Public).map_err(|what| no_key(&what)),
        Some(label) => Err(no_key(&format!("a {label}"))),
        None => Err(no_key("not PEM")),
    }
}

/// Opens what [`read`] found.
pub fn open(path: &Path, content: Content, passphrase: &SecretString) -> Result<SigningKey, FileError> {
    let no_key = |what: &str| FileError::NoKey { path: path.to_owned(), what: what.into() };
    let Content::Encrypted(document) = content else {
        return Err(FileError::OnlyPublic { path: path.to_owned() });
    };
    let info: EncryptedPrivateKeyInfoRef = document.decode_msg().map_err(|e| no_key(&format!("broken PKCS#8: {e}")))?;
    let wrong = |_| FileError::Passphrase { path: path.to_owned() };
    let der = info.decrypt(passphrase.expose_secret()).map_err(wrong)?;
    if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.as_bytes()) {
        return Ok(SigningKey::Ed25519(Box::new(pair)));
    }
    match EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der.as_bytes()) {
        Ok(pair) => Ok(SigningKey::P256(Box::new(pair))),
        Err(_) => Err(no_key("neither Ed25519 nor ECDSA on P-256")),
    }
}

fn label(pem: &str) -> Option<&str> {
    pem.lines().find_map(|l| l.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----"))
}

fn parse_public(pem: &str) -> Result<Key, String> {
    let (_, document) = Document::from_pem(pem).map_err(|e| format!("broken PEM: {e}"))?;
    let info: SubjectPublicKeyInfoRef = document.decode_msg().map_err(|e| format!("broken public key: {e}"))?;
    let bytes = info.subject_public_key.as_bytes().ok_or("broken public key")?;
    match (info.algorithm.oid.to_string().as_str(), bytes.len()) {
        ("1.3.101.112", 32) => Ok(public_ed25519(bytes)),
        ("1.2.840.10045.2.1", 65) => Ok(public_p256(bytes)),
        (oid, _) => Err(format!("a public key of another kind ({oid}); Ed25519 and ECDSA on P-256 are read")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::super::Kind;
    use super::*;

    fn passphrase() -> SecretString {
        SecretString::from("correct horse".to_owned())
    }

    #[test]
    fn a_key_comes_back_with_its_passphrase_and_openssl_reads_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for (kind, name) in [(Kind::Ed25519, "ED25519"), (Kind::P256, "P-256")] {
            let path = dir.path().join(format!("{name}.pem"));
            let key = SigningKey::generate(kind).expect("entropy");
            write(&path, &key, &passphrase()).expect("writable");
            assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
            assert!(matches!(write(&path, &key, &passphrase()), Err(FileError::Exists { .. })));
            let again = open(&path, read(&path).expect("a key"), &passphrase()).expect("the passphrase");
            assert_eq!(again.id(), key.id());
            let wrong = SecretString::from("wrong horse".to_owned());
            let refused = open(&path, read(&path).expect("a key"), &wrong).expect_err("another passphrase");
            assert!(matches!(refused, FileError::Passphrase { .. }) && !refused.to_string().contains("horse"));
            let Content::Public(public) = read(&public_path(&path)).expect("beside it") else { panic!("public") };
            assert_eq!(public, key.public());
            let openssl = Command::new("openssl")
                .args(["pkey", "-noout", "-text", "-passin", "pass:correct horse", "-in"])
                .arg(&path)
                .output()
                .expect("openssl is there");
            let said = String::from_utf8_lossy(&openssl.stdout).into_owned();
            assert!(said.contains(name), "{said} {}", String::from_utf8_lossy(&openssl.stderr));
        }
    }

    #[test]
    fn a_key_of_openssl_is_read_and_one_without_a_passphrase_or_with_readers_is_not() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| dir.path().join(name);
        let openssl = |args: &[&str]| {
            let done = Command::new("openssl").current_dir(dir.path()).args(args).output().expect("openssl is there");
            assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        };
        openssl(&["genpkey", "-algorithm", "ed25519", "-out", "bare.pem"]);
        fs::set_permissions(at("bare.pem"), fs::Permissions::from_mode(0o600)).expect("ours");
        assert!(matches!(read(&at("bare.pem")), Err(FileError::NotEncrypted { .. })));
        let to = ["pkcs8", "-topk8", "-passout", "pass:correct horse", "-in", "bare.pem", "-out"];
        openssl(&[&to[..], &["pbkdf2.pem", "-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA256"]].concat());
        openssl(&[&to[..], &["scrypt.pem", "-scrypt"]].concat());
        let mut ids = Vec::new();
        for name in ["pbkdf2.pem", "scrypt.pem"] {
            fs::set_permissions(at(name), fs::Permissions::from_mode(0o600)).expect("ours");
            ids.push(open(&at(name), read(&at(name)).expect("a key"), &passphrase()).expect("it opens").id());
        }
        assert_eq!(ids[0], ids[1]);
        fs::set_permissions(at("scrypt.pem"), fs::Permissions::from_mode(0o640)).expect("ours");
        assert!(matches!(read(&at("scrypt.pem")), Err(FileError::Open { mode: 0o640, .. })));
        fs::write(at("noise"), "noise").expect("writable");
        assert!(matches!(read(&at("noise")), Err(FileError::NoKey { .. })));
    }
}
