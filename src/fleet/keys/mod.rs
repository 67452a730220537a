//! Keys that sign: in files behind a passphrase (`file`), or in a PKCS#11 module that never lets them out (`token`); and
//! the root metadata that say whose key signs what (`root`).
//!
//! | file | what it is |
//! |---|---|
//! | `spec` | how a key is named on the command line; opening it |
//! | `secret` | where passphrases and PINs come from |
//! | `file` | PKCS#8 PEM, encrypted; public keys beside |
//! | `token` | PKCS#11, named by RFC 7512 URIs (`uri`) |
//! | `signatures` | signing metadata, and who has signed |
//! | `root` | root metadata: made, changed, checked (pure) |
//!
//! What does not belong here: targets, snapshot and timestamp (`release`). No secret stands in an error, in a log or in a
//! `Debug`.

pub mod file;
pub mod root;
pub mod secret;
pub mod signatures;
pub mod spec;
pub mod token;
pub mod uri;

use std::collections::HashMap;
use std::fmt;

use async_trait::async_trait;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use tough::schema::key::{EcdsaKey, EcdsaScheme, Ed25519Key, Ed25519Scheme, Key};
use tough::sign::Sign;

pub use spec::KeySpec;

/// The kinds of keys that devices and other TUF clients verify without more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Ed25519.
    Ed25519,
    /// ECDSA on P-256 with SHA-256.
    P256,
}

/// A key that can sign.
pub enum SigningKey {
    /// In memory, from a file.
    Ed25519(Box<Ed25519KeyPair>),
    /// In memory, from a file.
    P256(Box<EcdsaKeyPair>),
    /// In a PKCS#11 module.
    Token(Box<token::TokenKey>),
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", id_of(&self.public()))
    }
}

/// Why a key did not sign.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The library would not.
    #[error("the key {0} does not sign (out of memory, or a machine whose cryptography is broken)")]
    Library(String),
    /// The PKCS#11 module would not.
    #[error(transparent)]
    Token(#[from] token::TokenError),
}

impl SigningKey {
    /// A new one, in memory only.
    pub fn generate(kind: Kind) -> Result<SigningKey, file::FileError> {
        let failed = |_| file::FileError::Generate;
        Ok(match kind {
            Kind::Ed25519 => SigningKey::Ed25519(Box::new(Ed25519KeyPair::generate().map_err(failed)?)),
            Kind::P256 => {
                SigningKey::P256(Box::new(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(failed)?))
            }
        })
    }

    /// Its public half, as TUF metadata hold it.
    pub fn public(&self) -> Key {
        match self {
            SigningKey::Ed25519(pair) => public_ed25519(pair.public_key().as_ref()),
            SigningKey::P256(pair) => public_p256(pair.public_key().as_ref()),
            SigningKey::Token(token) => token.public().clone(),
        }
    }

    /// Its id in hexadecimal.
    pub fn id(&self) -> String {
        id_of(&self.public())
    }

    /// Signs `message`.
    pub fn sign_bytes(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let failed = |_| SignError::Library(self.id());
        match self {
            SigningKey::Ed25519(pair) => Ok(pair.try_sign(message).map_err(failed)?.as_ref().to_vec()),
            SigningKey::P256(pair) => Ok(pair.sign(&SystemRandom::new(), message).map_err(failed)?.as_ref().to_vec()),
            SigningKey::Token(token) => Ok(token.sign_bytes(message)?),
        }
    }
}

/// So that `tough`'s own editor can use any of them.
#[async_trait]
impl Sign for SigningKey {
    fn tuf_key(&self) -> Key {
        self.public()
    }

    async fn sign(
        &self,
        msg: &[u8],
        _rng: &(dyn SecureRandom + Sync),
    ) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync + 'static>> {
        Ok(self.sign_bytes(msg)?)
    }
}

/// An Ed25519 public key from its 32 bytes.
pub fn public_ed25519(bytes: &[u8]) -> Key {
    let keyval = Ed25519Key { public: bytes.to_vec().into(), _extra: HashMap::new() };
    Key::Ed25519 { keyval, scheme: Ed25519Scheme::Ed25519, _extra: HashMap::new() }
}

/// A P-256 public key from its uncompressed point.
pub fn public_p256(point: &[u8]) -> Key {
    let keyval = EcdsaKey { public: point.to_vec().into(), _extra: HashMap::new() };
    Key::Ecdsa { keyval, scheme: EcdsaScheme::EcdsaSha2Nistp256, _extra: HashMap::new() }
}

/// The id of a public key, as TUF computes it, in hexadecimal.
pub fn id_of(key: &Key) -> String {
    // Its only error is that a key could not be written as JSON.
    key.key_id().map(|id| hex(&id)).unwrap_or_else(|_| "a key without an id".into())
}

/// What kind of key it is, for people.
pub fn kind_of(key: &Key) -> &'static str {
    match key {
        Key::Ed25519 { .. } => "ed25519",
        Key::Ecdsa { .. } | Key::EcdsaOld { .. } => "ecdsa-p256",
        Key::Rsa { .. } => "rsa",
    }
}

/// Bytes in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_who_it_is_and_not_what_it_holds() {
        for kind in [Kind::Ed25519, Kind::P256] {
            let key = SigningKey::generate(kind).expect("entropy");
            assert_eq!(format!("{key:?}"), format!("SigningKey({})", key.id()));
            assert_eq!(key.id().len(), 64);
            assert!(!key.sign_bytes(b"message").expect("it signs").is_empty());
        }
    }
}
