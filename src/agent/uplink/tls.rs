//! TLS of a connection: from PEM files to the library's configuration, and from the library's errors to words that a person
//! can act on.
//!
//! Invariants: versions 1.2 and 1.3 and nothing older; the broker's certificate is judged by the authorities of the
//! configuration alone and by the daemon's own clock; nothing of an earlier connection is resumed, so that a renewed
//! certificate is the one that is shown.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};

use super::error::{Cause, Pace};
use crate::agent::config::TlsPem;
use crate::agent::config::x509::{Certificate, IS_VERSION_1};
use crate::base::clock::{Clock, Wall};

/// What a connection's TLS goes by.
pub(super) fn client_config(pem: &TlsPem, alpn: &[String], clock: Arc<dyn Clock>) -> Result<ClientConfig, Cause> {
    let mut authorities = RootCertStore::empty();
    let parsed = certificates(&pem.ca).map_err(|e| format!("ca_file: {e}"))?;
    authorities.add_parsable_certificates(parsed);
    if authorities.is_empty() {
        return Err("ca_file holds no certificate of an authority that could be read".into());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_details(provider, Arc::new(DaemonTime(clock)))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(authorities);
    let mut config = match &pem.client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(certificate).map_err(|e| format!("cert_file: {e}"))?;
            if chain.first().and_then(|leaf| Certificate::read(leaf)).is_some_and(|c| c.version == 1) {
                return Err(format!("cert_file {IS_VERSION_1}").into());
            }
            let key = PrivateKeyDer::from_pem_slice(&key.0).map_err(|e| format!("key_file: {e}"))?;
            builder.with_client_auth_cert(chain, key).map_err(|e| match e {
                rustls::Error::InconsistentKeys(_) => "cert_file and key_file do not belong together".to_owned(),
                e => format!("cert_file and key_file: {e}"),
            })?
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.clone().into_bytes()).collect();
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, rustls::pki_types::pem::Error> {
    CertificateDer::pem_slice_iter(pem).collect()
}

/// The daemon's wall clock, for certificates.
struct DaemonTime(Arc<dyn Clock>);

impl fmt::Debug for DaemonTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DaemonTime")
    }
}

impl TimeProvider for DaemonTime {
    fn current_time(&self) -> Option<UnixTime> {
        // Before 1970 is before every certificate.
        let ms = u64::try_from(self.0.wall().unix_ms()).unwrap_or(0);
        Some(UnixTime::since_unix_epoch(Duration::from_millis(ms)))
    }
}

/// The TLS library's own error, however deep in others it lies.
pub(super) fn error_in<'e>(e: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    let mut next = Some(e);
    while let Some(e) = next {
        if let Some(found) = e.downcast_ref() {
            return Some(found);
        }
        // What such an error wraps is not among its sources.
        if let Some(inner) = e.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            next = Some(inner);
            continue;
        }
        next = e.source();
    }
    None
}

/// A failed handshake in words, and how soon to try again.
pub(super) fn explain(e: &rustls::Error) -> (String, Pace) {
    use AlertDescription as A;
    use CertificateError as C;
    use rustls::Error as E;
    let slowly = |why: &str| (why.to_owned(), Pace::Slowly);
    match e {
        E::InvalidCertificate(C::NotValidYetContext { time, not_before }) => (
            format!(
                "the broker's certificate is valid from {} on, and by this device's clock it is {}: is the clock wrong?",
                date(*not_before),
                date(*time)
            ),
            // The clock is about to be set, most likely.
            Pace::Soon,
        ),
        E::InvalidCertificate(C::ExpiredContext { time, not_after }) => (
            format!(
                "the broker's certificate expired {}, and by this device's clock it is {}",
                date(*not_after),
                date(*time)
            ),
            Pace::Soon,
        ),
        E::InvalidCertificate(C::NotValidYet) => ("the broker's certificate is not valid yet".into(), Pace::Soon),
        E::InvalidCertificate(C::Expired) => ("the broker's certificate has expired".into(), Pace::Soon),
        // The second: by one that bears the same name.
        E::InvalidCertificate(C::UnknownIssuer | C::BadSignature) => {
            slowly("the broker's certificate is not signed by an authority in ca_file")
        }
        E::InvalidCertificate(C::NotValidForName | C::NotValidForNameContext { .. }) => {
            slowly("the broker's certificate is for another name than the one in url")
        }
        // The library wraps its verifier's error and does not name it.
        E::InvalidCertificate(C::Other(why)) if why.to_string().contains("UnsupportedCertVersion") => {
            (format!("the broker's certificate {IS_VERSION_1}"), Pace::Slowly)
        }
        E::AlertReceived(A::CertificateExpired) => {
            slowly("the broker says that this device's certificate (cert_file) has expired")
        }
        E::AlertReceived(A::CertificateRevoked) => {
            slowly("the broker says that this device's certificate (cert_file) is revoked")
        }
        E::AlertReceived(A::UnknownCA) => {
            slowly("the broker does not know the authority that signed this device's certificate (cert_file)")
        }
        E::AlertReceived(A::CertificateRequired) => {
            slowly("the broker asks for a certificate of this device: cert_file and key_file")
        }
        E::AlertReceived(A::BadCertificate | A::UnsupportedCertificate | A::CertificateUnknown | A::DecryptError) => {
            slowly(
                "the broker does not accept this device's certificate (cert_file); is it valid by the broker's clock?",
            )
        }
        E::AlertReceived(A::ProtocolVersion) | E::PeerIncompatible(_) => {
            (format!("the broker speaks neither TLS 1.2 nor 1.3 with what this device offers ({e})"), Pace::Slowly)
        }
        E::AlertReceived(A::NoApplicationProtocol) | E::NoApplicationProtocol => {
            slowly("the broker takes none of the protocols in alpn")
        }
        e => (e.to_string(), Pace::Slowly),
    }
}

fn date(t: UnixTime) -> String {
    Wall::from_unix_ms(i64::try_from(t.as_secs() * 1000).unwrap_or(i64::MAX)).rfc3339()
}
