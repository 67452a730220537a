//! The certificate of the device's own HTTPS: the installer's, or one that the device makes and signs itself, once, and
//! whose fingerprint a person can compare.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

use crate::agent::config::SecretPem;
use crate::agent::config::x509::{Certificate, IS_VERSION_1};
use crate::base::{atomic_file, digest};

/// Certificate and key in one file, so that they are always a pair; in the state directory.
const OWN_FILE: &str = "https.pem";

/// Why there is no HTTPS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file system refused.
    #[error("cannot {operation} {}", .path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No certificate could be made.
    #[error("the device cannot make a certificate for itself")]
    Make(#[from] rcgen::Error),
    /// What was read is no PEM.
    #[error("{what} is not PEM")]
    Pem {
        /// Which.
        what: String,
        /// What the parser said.
        source: pem::Error,
    },
    /// It is older than what TLS takes.
    #[error("the certificate of {what} {}", IS_VERSION_1)]
    Version1 {
        /// Which.
        what: String,
    },
    /// They are no pair, or of a kind that is not known.
    #[error("certificate and key of {what} do not go together")]
    Unfit {
        /// Which.
        what: String,
        /// What TLS said.
        source: rustls::Error,
    },
}

/// What the device shows of itself.
pub struct Identity {
    /// Takes connections.
    pub acceptor: TlsAcceptor,
    /// SHA-256 of the certificate, as `openssl x509 -fingerprint -sha256` writes it.
    pub fingerprint: String,
    /// The device made it itself.
    pub self_signed: bool,
}

impl Identity {
    /// The given certificate and key, or the state directory's own, made for these names if there is none yet.
    pub fn open(
        given: Option<&(Vec<u8>, SecretPem)>,
        (name, alternatives): (&str, &[String]),
        state_dir: &Path,
    ) -> Result<Identity, TlsError> {
        match given {
            Some(pair) => Identity::given(pair),
            None => {
                let path = state_dir.join(OWN_FILE);
                let pem = own(&path, name, alternatives)?;
                Identity::of(&pem, &pem, &path.display().to_string(), true)
            }
        }
    }

    /// The installer's.
    pub fn given((cert, key): &(Vec<u8>, SecretPem)) -> Result<Identity, TlsError> {
        Identity::of(cert, &key.0, "http.cert_file and http.key_file", false)
    }

    fn of(cert_pem: &[u8], key_pem: &[u8], what: &str, self_signed: bool) -> Result<Identity, TlsError> {
        let unreadable = |source| TlsError::Pem { what: what.to_owned(), source };
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(cert_pem).collect::<Result<_, _>>().map_err(unreadable)?;
        let leaf = chain.first().ok_or(unreadable(pem::Error::NoItemsFound))?;
        if Certificate::read(leaf).is_some_and(|c| c.version == 1) {
            return Err(TlsError::Version1 { what: what.to_owned() });
        }
        let hex = digest::of_bytes(leaf).to_uppercase();
        let pairs: Vec<&str> = (0..hex.len()).step_by(2).filter_map(|i| hex.get(i..i + 2)).collect();
        let fingerprint = pairs.join(":");
        let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(unreadable)?;
        let unfit = |source| TlsError::Unfit { what: what.to_owned(), source };
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(unfit)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(unfit)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Identity { acceptor: TlsAcceptor::from(Arc::new(config)), fingerprint, self_signed })
    }
}

/// The device's own certificate and key.
fn own(path: &Path, name: &str, alternatives: &[String]) -> Result<Vec<u8>, TlsError> {
    let fail = |operation| move |source| TlsError::Io { operation, path: path.to_owned(), source };
    match std::fs::read(path) {
        Ok(pem) => return Ok(pem),
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fail("read")(e)),
        Err(_) => {}
    }
    let mut params = rcgen::CertificateParams::new(alternatives)?;
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    // Whatever the clock says at the first start, and for as long as the device lives: its fingerprint is what counts.
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2120, 1, 1);
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let key = rcgen::KeyPair::generate()?;
    let pem = format!("{}{}", params.self_signed(&key)?.pem(), key.serialize_pem()).into_bytes();
    atomic_file::write_private(path, &pem).map_err(fail("write"))?;
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_device_makes_its_certificate_once_and_keeps_it_to_itself() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["gate-1.example".to_owned(), "192.0.2.7".to_owned()];
        let open = || Identity::open(None, ("gate-1", &names), dir.path()).unwrap();
        let (first, second) = (open(), open());
        assert!(first.self_signed && first.fingerprint == second.fingerprint);
        assert_eq!(first.fingerprint.len(), 95);
        let path = dir.path().join(OWN_FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let said = std::process::Command::new("openssl")
            .args(["x509", "-noout", "-fingerprint", "-sha256", "-subject", "-ext", "subjectAltName", "-in"])
            .arg(&path)
            .output()
            .expect("openssl");
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.contains(&first.fingerprint), "{said}");
        assert!(said.contains("gate-1") && said.contains("IP Address:192.0.2.7"), "{said}");
        std::fs::write(&path, "not PEM").unwrap();
        let refused = Identity::open(None, ("gate-1", &names), dir.path()).err().expect("no certificate");
        assert!(refused.to_string().contains("https.pem"), "{refused}");
    }
}
