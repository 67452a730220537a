//! TLS towards the broker and towards the database: from PEM files to one configuration, and what the database's client
//! needs to use it.
//!
//! Invariants: versions 1.2 and 1.3; whoever is on the other side is judged by the named authority alone, by its name too.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Socket;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};

/// The files of one side.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    /// Of the authority.
    pub ca: Option<&'a Path>,
    /// Our certificate,
    pub cert: Option<&'a Path>,
    /// and its key.
    pub key: Option<&'a Path>,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error("could not read {} as PEM", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: rustls::pki_types::pem::Error,
    },
    /// An authority that signs nothing.
    #[error("{} holds no certificate of an authority", path.display())]
    NoAuthority {
        /// Which.
        path: PathBuf,
    },
    /// What the files hold does not go together.
    #[error("the certificate and its key cannot be used")]
    Unfit {
        /// Why.
        #[from]
        source: rustls::Error,
    },
}

/// What a connection's TLS goes by; none without an authority.
pub fn config(files: Files<'_>) -> Result<Option<Arc<ClientConfig>>, TlsError> {
    let Some(ca) = files.ca else { return Ok(None) };
    let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
        read.map_err(|source| TlsError::Pem { path: path.to_owned(), source })
    };
    let mut authorities = RootCertStore::empty();
    authorities.add_parsable_certificates(certificates(ca)?);
    if authorities.is_empty() {
        return Err(TlsError::NoAuthority { path: ca.to_owned() });
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(authorities);
    let config = match files.cert.zip(files.key) {
        None => builder.with_no_client_auth(),
        Some((cert, path)) => {
            let key = PrivateKeyDer::from_pem_file(path);
            let key = key.map_err(|source| TlsError::Pem { path: path.to_owned(), source })?;
            builder.with_client_auth_cert(certificates(cert)?, key)?
        }
    };
    Ok(Some(Arc::new(config)))
}

/// TLS for the database's client.
#[derive(Clone)]
pub struct ForDatabase(pub Arc<ClientConfig>);

/// For one connection.
pub struct Handshake {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

/// An encrypted connection.
pub struct Encrypted(tokio_rustls::client::TlsStream<Socket>);

impl MakeTlsConnect<Socket> for ForDatabase {
    type Stream = Encrypted;
    type TlsConnect = Handshake;
    type Error = rustls::pki_types::InvalidDnsNameError;

    fn make_tls_connect(&mut self, domain: &str) -> Result<Handshake, Self::Error> {
        Ok(Handshake { config: Arc::clone(&self.0), name: ServerName::try_from(domain.to_owned())? })
    }
}

impl TlsConnect<Socket> for Handshake {
    type Stream = Encrypted;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Encrypted>> + Send>>;

    fn connect(self, stream: Socket) -> Self::Future {
        let connector = tokio_rustls::TlsConnector::from(self.config);
        Box::pin(async move { connector.connect(self.name, stream).await.map(Encrypted) })
    }
}

impl TlsStream for Encrypted {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
