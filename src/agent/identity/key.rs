//! Keys that are made on this device (ECDSA on P-256), and the requests for their certificates.
//!
//! Invariant: a [`PrivateKey`] is wiped from memory when it is let go of, and `Debug` does not show it.

use age::secrecy::{ExposeSecret, SecretString};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};

use crate::base::digest;

/// Why there is no key or no request.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It could not be made.
    #[error("no key could be made")]
    Make(#[source] rcgen::Error),
    /// It is not one.
    #[error("that is no private key on P-256 in PEM (PKCS#8)")]
    Unreadable,
    /// The request.
    #[error("the request for a certificate could not be made")]
    Request(#[source] rcgen::Error),
}

/// A private key.
#[derive(Debug, Clone)]
pub struct PrivateKey(SecretString);

impl PrivateKey {
    /// A new one.
    pub fn generate() -> Result<PrivateKey, KeyError> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(KeyError::Make)?;
        Ok(PrivateKey(SecretString::from(pair.serialize_pem())))
    }

    /// One from PEM.
    pub fn read(pem: SecretString) -> Result<PrivateKey, KeyError> {
        let key = PrivateKey(pem);
        key.pair().map(|_| key)
    }

    /// PKCS#8 in PEM, not encrypted: for a file that only the daemon may read.
    pub fn pem(&self) -> &str {
        self.0.expose_secret()
    }

    /// SHA-256 of its public half, as [`super::papers::Paper::key`] has it.
    pub fn digest(&self) -> Result<String, KeyError> {
        Ok(digest::of_bytes(&self.pair()?.subject_public_key_info()))
    }

    /// A request (PKCS#10, PEM) for a certificate of this name.
    pub fn request(&self, name: &str) -> Result<String, KeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serialize_request(&self.pair()?).and_then(|r| r.pem()).map_err(KeyError::Request)
    }

    fn pair(&self) -> Result<KeyPair, KeyError> {
        KeyPair::from_pkcs8_pem_and_sign_algo(self.pem(), &PKCS_ECDSA_P256_SHA256).map_err(|_| KeyError::Unreadable)
    }
}
