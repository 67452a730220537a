//! The renewal service's connection to the broker (MQTT 5 over TLS): hears what devices say of their certificates, and
//! answers.
//!
//! ```text
//!   connect ─► subscribe ─► retained messages, then news ─► lost ─► wait (growing, jittered) ─► connect
//! ```
//!
//! Invariants: the session is a new one each time, and nothing rests on the broker's memory but what devices had retained.
//! One message is dealt with at a time. Its own certificate is read anew for each connection.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rumqttc::{
    AsyncClient, Event, EventLoop, MqttOptions, Packet, PublishOptions, QoS, SubscribeFilterInput, TlsConfiguration,
    Transport,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::office::Office;
use super::renewals::{Answer, answer};
use crate::agent::config::Broker;
use crate::base::backoff::Backoff;
use crate::base::clock::Clock;
use crate::base::error::Chain;
use crate::base::stop::StopToken;
use crate::contract::topics::PREFIX;

/// How often the revocation list's age is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// A broker that has sent nothing for so long has sent all that it had retained.
const QUIET: Duration = Duration::from_secs(3);
const CONNECT_WITHIN: Duration = Duration::from_secs(15);
const REQUESTS: usize = 64;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// A file.
    #[error("could not read {} as PEM", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: rustls::pki_types::pem::Error,
    },
    /// What the files hold does not go together.
    #[error("certificate, key and authority cannot be used")]
    Unfit(#[from] rustls::Error),
    /// The network, the broker, or TLS between them.
    #[error("no connection to the broker at {broker}: {why}")]
    Broker {
        /// Host and port.
        broker: String,
        /// In words.
        why: String,
    },
    /// It lets us in and not listen.
    #[error(
        "the broker at {0} does not let this user hear the devices: see `user fleet-enrol` in deploy/mosquitto/acl"
    )]
    Deaf(String),
}

/// What the service works with.
pub struct Service<'a> {
    /// Who signs.
    pub office: &'a Office,
    /// Where the broker is.
    pub broker: Broker,
    /// Who may have signed the broker's certificate.
    pub ca: PathBuf,
    /// Its own certificate,
    pub cert: PathBuf,
    /// and key.
    pub key: PathBuf,
    /// Its name there: the certificate's.
    pub user: String,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Told of everything that was done, or refused.
    pub tell: Box<dyn Fn(&Answer) + 'a>,
    /// Called when a new revocation list was written.
    pub on_crl: Box<dyn Fn() + 'a>,
}

impl Service<'_> {
    /// Deals with what devices have asked for by now.
    pub async fn once(&self) -> Result<(), LineError> {
        let (client, mut events) = self.connect().await?;
        self.crl();
        loop {
            match tokio::time::timeout(QUIET, events.poll()).await {
                Ok(Ok(event)) => self.heed(&client, event)?,
                Ok(Err(e)) => return Err(self.lost(&e)),
                Err(_) => break,
            }
        }
        // Until the broker has taken all of it.
        client.try_disconnect_with_timeout(CONNECT_WITHIN).map_err(|e| self.lost(&e))?;
        loop {
            match events.poll().await {
                Ok(event) => self.heed(&client, event)?,
                Err(rumqttc::ConnectionError::RequestsDone) => return Ok(()),
                Err(e) => return Err(self.lost(&e)),
            }
        }
    }

    /// Stays connected, and deals with what devices ask for, until stopped. Fails only where nothing can come of trying
    /// again: files that cannot be used.
    pub async fn watch(&self, stop: &StopToken) -> Result<(), LineError> {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        let mut complaint = String::new();
        while !stop.is_stopped() {
            let ended = tokio::select! {
                () = stop.stopped() => break,
                ended = self.serve(&mut backoff) => ended,
            };
            match ended {
                Err(e @ (LineError::Pem { .. } | LineError::Unfit(_))) if complaint.is_empty() => return Err(e),
                Err(e) => {
                    let why = Chain(&e).to_string();
                    // Once for each kind of trouble.
                    if why != complaint {
                        log::warn!("{why}");
                    }
                    complaint = why;
                }
                Ok(never) => match never {},
            }
            tokio::select! {
                () = stop.stopped() => {}
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
        }
        Ok(())
    }

    /// One connection to its end.
    async fn serve(&self, backoff: &mut Backoff) -> Result<std::convert::Infallible, LineError> {
        let (client, mut events) = self.connect().await?;
        log::info!("connected to the broker at {}", self.broker);
        backoff.reset();
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                event = events.poll() => self.heed(&client, event.map_err(|e| self.lost(&e))?)?,
                _ = look.tick() => self.crl(),
            }
        }
    }

    fn heed(&self, client: &AsyncClient, event: Event) -> Result<(), LineError> {
        match event {
            Event::Incoming(Packet::Publish(publish)) => {
                let Ok(topic) = std::str::from_utf8(&publish.topic) else { return Ok(()) };
                for done in answer(self.office, topic, &publish.payload, self.clock.wall()) {
                    (self.tell)(&done);
                    match done {
                        Answer::Send { topic, payload, .. } => {
                            let sent = client.try_publish(topic, payload, PublishOptions::at_least_once());
                            sent.map_err(|e| self.lost(&e))?;
                        }
                        Answer::Withdrawn(_) => (self.on_crl)(),
                        Answer::Refused { .. } => {}
                    }
                }
                Ok(())
            }
            Event::Incoming(Packet::SubAck(ack)) if ack.return_codes.iter().any(|code| !is_granted(code)) => {
                Err(LineError::Deaf(self.broker.to_string()))
            }
            _ => Ok(()),
        }
    }

    fn crl(&self) {
        match self.office.renew_crl(false, self.clock.wall()) {
            Ok(true) => (self.on_crl)(),
            Ok(false) => {}
            Err(e) => log::error!("the revocation list was not renewed: {}", Chain(&e)),
        }
    }

    /// A connection that has asked to hear the devices.
    async fn connect(&self) -> Result<(AsyncClient, EventLoop), LineError> {
        let (client, mut events) =
            AsyncClient::builder(self.options()?).capacity(REQUESTS).try_build().map_err(|e| self.lost(&e))?;
        let accepted = async {
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => return Ok(()),
                    Ok(_) => {}
                    Err(e) => return Err(self.lost(&e)),
                }
            }
        };
        match tokio::time::timeout(CONNECT_WITHIN, accepted).await {
            Ok(accepted) => accepted?,
            Err(_) => return Err(self.lost(&"it does not answer")),
        }
        let filter = SubscribeFilterInput::new(format!("{PREFIX}/+/+/identity"), QoS::AtLeastOnce);
        client.try_subscribe_many([filter]).map_err(|e| self.lost(&e))?;
        Ok((client, events))
    }

    fn options(&self) -> Result<MqttOptions, LineError> {
        let Broker { host, port, .. } = &self.broker;
        let mut options = MqttOptions::new(self.user.clone(), rumqttc::Broker::tcp(host.clone(), *port));
        let tls = tls(&self.ca, &self.cert, &self.key)?;
        options
            .set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(tls))))
            .set_keep_alive(30)
            .set_connect_timeout(CONNECT_WITHIN)
            .set_clean_start(true)
            .set_max_packet_size(Some(128 * 1024));
        Ok(options)
    }

    fn lost(&self, why: &dyn std::fmt::Display) -> LineError {
        LineError::Broker { broker: self.broker.to_string(), why: why.to_string() }
    }
}

fn is_granted(code: &rumqttc::SubscribeReasonCode) -> bool {
    matches!(code, rumqttc::SubscribeReasonCode::Success(_))
}

/// What the connection's TLS goes by.
fn tls(ca: &Path, cert: &Path, key: &Path) -> Result<ClientConfig, LineError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| LineError::Pem { path, source }
    };
    let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>, LineError> {
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(unreadable(path))
    };
    let mut authorities = RootCertStore::empty();
    authorities.add_parsable_certificates(certificates(ca)?);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(authorities);
    Ok(builder
        .with_client_auth_cert(certificates(cert)?, PrivateKeyDer::from_pem_file(key).map_err(unreadable(key))?)?)
}
