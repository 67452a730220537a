//! What a certificate says of whom it is for, and whether it holds: signed by the fleet's authority, for clients, now.
//!
//! What does not belong here: the broker's certificate, which `uplink::tls` judges.
//!
//! Invariant: whatever the bytes are, reading ends and does not panic.

use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::base::clock::Wall;
use crate::base::digest;

/// More than a chain of certificates has: a command that brings one fits into a message.
pub const CHAIN_MOST_BYTES: usize = 16 * 1024;

/// Why a certificate is not taken.
#[derive(Debug, thiserror::Error)]
pub enum PaperError {
    /// It cannot be read.
    #[error("{0}: send it as PEM, the device's own certificate first")]
    Unreadable(String),
    /// Another's.
    #[error("the certificate is for {found:?}, and this is {wanted:?}")]
    OtherName {
        /// Who it is for.
        found: String,
        /// Who it should be for.
        wanted: String,
    },
    /// No authority of ours vouches for it, or not for this use, or not now.
    #[error("the certificate does not hold: {0}")]
    DoesNotHold(String),
}

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paper {
    /// Common name: `{site}/{device}`.
    pub name: String,
    /// Serial number, hexadecimal, without leading zeros.
    pub serial: String,
    /// Valid from then on.
    pub not_before: Wall,
    /// And until then.
    pub not_after: Wall,
    /// SHA-256 of its public key (SubjectPublicKeyInfo), hexadecimal.
    pub key: String,
}

impl Paper {
    /// Reads the first certificate of a chain in PEM.
    pub fn read(pem: &str) -> Result<Paper, PaperError> {
        let chain = chain(pem)?;
        let (_, c) = X509Certificate::from_der(&chain[0])
            .map_err(|_| PaperError::Unreadable("that is no X.509 certificate".into()))?;
        let name = c.subject().iter_common_name().next().and_then(|n| n.as_str().ok());
        let name = name.ok_or_else(|| PaperError::Unreadable("the certificate has no common name".into()))?;
        let at = |t: x509_parser::time::ASN1Time| Wall::from_unix_ms(t.timestamp().saturating_mul(1000));
        Ok(Paper {
            name: name.to_owned(),
            serial: serial(c.raw_serial()),
            not_before: at(c.validity().not_before),
            not_after: at(c.validity().not_after),
            key: digest::of_bytes(c.public_key().raw),
        })
    }

    /// How long it is valid altogether.
    pub fn lifetime(&self) -> Duration {
        millis(self.not_after.unix_ms().saturating_sub(self.not_before.unix_ms()))
    }

    /// How long it is valid yet.
    pub fn left(&self, now: Wall) -> Duration {
        millis(self.not_after.unix_ms().saturating_sub(now.unix_ms()))
    }
}

fn millis(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// A serial number as the tools of this tree write it.
pub fn serial(bytes: &[u8]) -> String {
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    hex.trim_start_matches('0').to_owned()
}

/// Whether the first certificate of `pem` is `name`'s, and holds at `now` by these authorities, for a client.
pub fn holds(pem: &str, name: &str, authorities_pem: &str, now: Wall) -> Result<Paper, PaperError> {
    let paper = Paper::read(pem)?;
    if paper.name != name {
        return Err(PaperError::OtherName { found: paper.name, wanted: name.to_owned() });
    }
    let not = |e: &dyn std::fmt::Display| PaperError::DoesNotHold(e.to_string());
    let chain = chain(pem)?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(self::chain(authorities_pem)?);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().map_err(|e| not(&e))?;
    let at = UnixTime::since_unix_epoch(millis(now.unix_ms()));
    verifier.verify_client_cert(&chain[0], &chain[1..], at).map_err(|e| match e {
        // The second: by one that bears the same name.
        rustls::Error::InvalidCertificate(
            rustls::CertificateError::UnknownIssuer | rustls::CertificateError::BadSignature,
        ) => not(&"the authority that this device was given has not signed it"),
        rustls::Error::InvalidCertificate(rustls::CertificateError::ExpiredContext { .. }) => not(&format_args!(
            "it expired {}, and by this device's clock it is {}",
            paper.not_after.rfc3339(),
            now.rfc3339()
        )),
        rustls::Error::InvalidCertificate(rustls::CertificateError::NotValidYetContext { .. }) => not(&format_args!(
            "it is valid from {} on, and by this device's clock it is {}: is the clock wrong?",
            paper.not_before.rfc3339(),
            now.rfc3339()
        )),
        e => not(&e),
    })?;
    Ok(paper)
}

/// At least one certificate.
fn chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, PaperError> {
    if pem.len() > CHAIN_MOST_BYTES {
        return Err(PaperError::Unreadable(format!("the chain has more than {CHAIN_MOST_BYTES} bytes")));
    }
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match read {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(PaperError::Unreadable("there is no certificate in PEM".into())),
        Err(e) => Err(PaperError::Unreadable(format!("the PEM is broken ({e})"))),
    }
}
