//! Whether what somebody sends is a request for a certificate (PKCS#10), and whose.
//!
//! Invariant: of a request nothing is taken over but its name, which is compared, and its key.

use rcgen::{CertificateSigningRequestParams, DnType, DnValue, PKCS_ECDSA_P256_SHA256, PublicKey, PublicKeyData};

use crate::base::digest;

/// Larger than any request for a key on P-256.
pub const LARGEST_BYTES: usize = 8 * 1024;

/// Why it is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Too long.
    #[error("the request has more than {LARGEST_BYTES} bytes")]
    TooLarge,
    /// Not one, or not signed with its own key.
    #[error("that is no request for a certificate in PEM that is signed with its own key: {0}")]
    Malformed(String),
    /// Another kind of key.
    #[error("the request is for a key of another kind than ECDSA on P-256")]
    Algorithm,
    /// No name in it.
    #[error("the request has no common name of the form SITE/DEVICE")]
    Name,
}

/// A request that is one.
#[derive(Debug)]
pub struct Request {
    /// Who asks, by its own word.
    pub name: String,
    /// The key that is to be certified; whoever made the request has its private half.
    pub key: PublicKey,
    /// SHA-256 of that key.
    pub key_digest: String,
    /// SHA-256 of the request.
    pub digest: String,
}

impl Request {
    /// Reads one, and checks its signature.
    pub fn read(pem: &str) -> Result<Request, RequestError> {
        if pem.len() > LARGEST_BYTES {
            return Err(RequestError::TooLarge);
        }
        let read =
            CertificateSigningRequestParams::from_pem(pem).map_err(|e| RequestError::Malformed(e.to_string()))?;
        if read.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(RequestError::Algorithm);
        }
        let name = match read.params.distinguished_name.get(&DnType::CommonName) {
            Some(DnValue::Utf8String(name)) => name.clone(),
            Some(DnValue::PrintableString(name)) => name.as_str().to_owned(),
            _ => return Err(RequestError::Name),
        };
        let key_digest = digest::of_bytes(&read.public_key.subject_public_key_info());
        Ok(Request { name, key: read.public_key, key_digest, digest: digest::of_bytes(pem.trim().as_bytes()) })
    }
}
