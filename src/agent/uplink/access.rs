//! What it takes to connect: the brokers in their order, and the files by which both sides know each other, read anew for
//! each connection.
//!
//! Invariant: a [`Stamp`] is taken before what it stands for is read, so that a file that changes in between is seen to
//! have changed.

use std::net::Ipv6Addr;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rumqttc::{AckMode, LastWill, MqttOptions, NetworkOptions, TlsConfiguration, Transport};
use tokio::sync::watch;

use super::error::{Cause, SessionError, words};
use super::session::{Connection, MAX_IN_FLIGHT, NothingInFlight, RECEIVE_MAXIMUM, REQUESTS_AT_ONCE, SESSION_EXPIRY_S};
use super::tls;
use crate::agent::config::{self, Broker};
use crate::agent::identity::renewal::{Came, Shown};
use crate::base::clock::Clock;
use crate::base::digest;
use crate::base::error::Chain;
use crate::contract::topics::DeviceTopics;

/// How often files are looked at for a change. One that has changed and stands still for another look is taken over:
/// certificate and key are two files, and are not renewed in one instant.
const LOOK_EVERY: Duration = Duration::from_secs(5);
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest packet the device accepts: acknowledgements, and room for commands.
const MAX_INCOMING_BYTES: u32 = 64 * 1024;

/// What it takes to connect.
pub(super) struct Access {
    mqtt: Arc<config::Mqtt>,
    client_id: String,
    clock: Arc<dyn Clock>,
    /// The broker whose turn it is.
    turn: AtomicUsize,
    shown: watch::Sender<Option<Shown>>,
}

/// Which files, by what the system says of them without their content; none for one that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp(Vec<Option<[u64; 4]>>);

impl Access {
    pub(super) fn new(
        mqtt: config::Mqtt,
        topics: &DeviceTopics,
        clock: Arc<dyn Clock>,
        shown: watch::Sender<Option<Shown>>,
    ) -> Self {
        Access { mqtt: Arc::new(mqtt), client_id: topics.broker_user(), clock, turn: AtomicUsize::new(0), shown }
    }

    /// How many brokers there are to try.
    pub(super) fn brokers(&self) -> usize {
        self.mqtt.brokers.len()
    }

    /// The broker whose turn it is.
    pub(super) fn broker(&self) -> &Broker {
        &self.mqtt.brokers[self.turn.load(Ordering::Relaxed) % self.mqtt.brokers.len()]
    }

    /// It is the next one's turn.
    pub(super) fn move_on(&self) {
        self.turn.fetch_add(1, Ordering::Relaxed);
    }

    /// Connects; bounded by a time-out.
    pub(super) async fn connect(&self, will: LastWill) -> Result<Connection, SessionError> {
        let broker = self.broker();
        let papers = self.papers(broker).await.map_err(|source| SessionError::Files { source })?;
        let (stamp, certificate) = (papers.stamp.clone(), papers.certificate.clone());
        let options = self
            .options(broker, papers, will)
            .map_err(|e| SessionError::Unreachable { broker: broker.to_string(), source: words(&e) })?;
        let opened = Connection::open(options, broker, stamp, self.mqtt.keep_alive).await;
        if let Some(certificate) = certificate {
            let came = match &opened {
                Ok(_) => Came::Accepted,
                Err(e) if e.is_of_our_certificate() => Came::Refused(Chain(e).to_string()),
                Err(e) => Came::Failed(Chain(e).to_string()),
            };
            self.shown.send_replace(Some(Shown { certificate, came }));
        }
        opened
    }

    /// Returns when the files are others than they were.
    pub(super) async fn changed(&self, since: &Stamp) {
        let mut last = since.clone();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = self.stamp().await;
            if now != *since && now == last {
                return;
            }
            last = now;
        }
    }

    /// The files as they are now.
    pub(super) async fn stamp(&self) -> Stamp {
        let mqtt = Arc::clone(&self.mqtt);
        off_the_runtime(move || stamp_of(&mqtt)).await
    }

    async fn papers(&self, broker: &Broker) -> Result<Papers, Cause> {
        let (mqtt, clock, with_tls) = (Arc::clone(&self.mqtt), Arc::clone(&self.clock), broker.tls);
        off_the_runtime(move || {
            let stamp = stamp_of(&mqtt);
            let (tls, certificate) = match mqtt.tls.as_ref().filter(|_| with_tls) {
                Some(tls) => {
                    let pem = tls.read()?;
                    let certificate = pem.client.as_ref().map(|(certificate, _)| digest::of_bytes(certificate));
                    (Some(Arc::new(tls::client_config(&pem, &tls.alpn, clock)?)), certificate)
                }
                None => (None, None),
            };
            Ok(Papers { stamp, tls, certificate, credentials: mqtt.credentials()? })
        })
        .await
    }

    fn options(&self, broker: &Broker, papers: Papers, will: LastWill) -> Result<MqttOptions, rumqttc::OptionError> {
        let Broker { host, port, websocket, .. } = broker;
        let bare_ipv6 = host.parse::<Ipv6Addr>().is_ok();
        let authority = if bare_ipv6 { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let tls = papers.tls.map(TlsConfiguration::Rustls);
        let id = self.client_id.clone();
        let mut o = match (websocket, tls) {
            (None, tls) => {
                let mut o = MqttOptions::new(id, rumqttc::Broker::tcp(host.clone(), *port));
                if let Some(tls) = tls {
                    o.set_transport(Transport::tls_with_config(tls));
                }
                o
            }
            (Some(path), None) => {
                let mut o = MqttOptions::new(id, rumqttc::Broker::websocket(format!("ws://{authority}{path}"))?);
                o.set_transport(Transport::Ws);
                o
            }
            (Some(path), Some(tls)) => {
                MqttOptions::websocket_with_tls_config(id, format!("wss://{authority}{path}"), tls)?
            }
        };
        if let Some(c) = papers.credentials {
            o.set_credentials(c.user, c.password);
        }
        let mut network = NetworkOptions::new();
        // An alert is one small packet: it must not wait for a larger one.
        network.set_tcp_nodelay(true);
        o.set_network_options(network);
        if bare_ipv6 {
            // The client joins host and port by a colon; a bare IPv6 address needs its brackets, for which TLS
            // in turn has no use.
            o.set_socket_connector(move |_, network| rumqttc::default_socket_connect(authority.clone(), network));
        }
        o.set_keep_alive(u16::try_from(self.mqtt.keep_alive.as_secs()).unwrap_or(u16::MAX))
            .set_connect_timeout(CONNECT_TIMEOUT)
            .set_last_will(will)
            .set_clean_start(false)
            .set_session_expiry_interval(Some(SESSION_EXPIRY_S))
            .set_max_packet_size(Some(MAX_INCOMING_BYTES))
            .set_outgoing_inflight_upper_limit(MAX_IN_FLIGHT)
            // What is handed over together goes out together.
            .set_max_request_batch(REQUESTS_AT_ONCE)
            .set_ack_mode(AckMode::Manual)
            .set_receive_maximum(Some(RECEIVE_MAXIMUM))
            .set_session_store(NothingInFlight);
        Ok(o)
    }
}

/// What the files hold.
struct Papers {
    stamp: Stamp,
    tls: Option<Arc<rustls::ClientConfig>>,
    /// SHA-256 of the device's own, with its chain.
    certificate: Option<String>,
    credentials: Option<config::Credentials>,
}

fn stamp_of(mqtt: &config::Mqtt) -> Stamp {
    let of = |path| {
        let m = std::fs::metadata(path).ok()?;
        Some([m.ino(), m.mtime().unsigned_abs(), m.mtime_nsec().unsigned_abs(), m.len()])
    };
    Stamp(mqtt.files().map(of).collect())
}

/// A disk may hang; the connection that stands does not hang with it.
async fn off_the_runtime<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}
