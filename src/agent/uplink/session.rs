//! One connection to the broker: made, driven, and named when it fails.
//!
//! Every connection has its own client and event loop, and nothing of either outlives it: what was sent and not
//! acknowledged is still in the outbox and goes again with the same id. The broker, for its part, keeps the
//! session (clean start false, session expiry), so that what is addressed to the device while it is away
//! waits for it. [`NothingInFlight`] is how the two are told to fit.

use std::error::Error;
use std::io;
use std::net::Ipv6Addr;
use std::pin::Pin;
use std::time::Duration;

use rumqttc::{
    AsyncClient, Broker, ConnectionError, DisconnectReasonCode, Event, EventLoop, LastWill, MqttOptions,
    NetworkOptions, Packet, PersistedAckMode, PersistedSession, SessionStore, SessionStoreError, SessionStoreKey,
    StateError, Transport,
};

use super::error::{Cause, SessionError, network_error, refusal, words};
use super::line::Line;
use crate::agent::config;
use crate::contract::topics::DeviceTopics;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the broker keeps what is addressed to a device that is away.
const SESSION_EXPIRY_S: u32 = 7 * 24 * 3600;
/// Largest packet the device accepts: acknowledgements, and room for commands.
const MAX_INCOMING_BYTES: u32 = 64 * 1024;
/// Requests between this task and the event loop; more than the pump's window and the states together.
const REQUESTS: usize = 64;
const MAX_IN_FLIGHT: u16 = 48;

/// What it takes to connect.
#[derive(Debug, Clone)]
pub(super) struct Access {
    mqtt: config::Mqtt,
    client_id: String,
}

impl Access {
    pub(super) fn new(mqtt: config::Mqtt, topics: &DeviceTopics) -> Self {
        Access { mqtt, client_id: topics.broker_user() }
    }

    /// Host and port, for people.
    pub(super) fn broker(&self) -> String {
        format!("{}:{}", self.mqtt.host, self.mqtt.port)
    }

    fn options(&self, will: LastWill) -> MqttOptions {
        let config::Mqtt { host, port, tls, credentials, keep_alive, .. } = &self.mqtt;
        let mut o = MqttOptions::new(self.client_id.clone(), Broker::tcp(host.clone(), *port));
        if let Some(tls) = tls {
            let client = tls.client.as_ref().map(|(cert, key)| (cert.clone(), key.0.clone()));
            o.set_transport(Transport::tls(tls.ca_pem.clone(), client, None));
        }
        if let Some(c) = credentials {
            o.set_credentials(c.user.clone(), c.password.clone());
        }
        let mut network = NetworkOptions::new();
        // An alert is one small packet: it must not wait for a larger one.
        network.set_tcp_nodelay(true);
        o.set_network_options(network);
        if host.parse::<Ipv6Addr>().is_ok() {
            // The client joins host and port by a colon; a bare IPv6 address needs its brackets, for which TLS
            // in turn has no use.
            let address = format!("[{host}]:{port}");
            o.set_socket_connector(move |_, network| rumqttc::default_socket_connect(address.clone(), network));
        }
        o.set_keep_alive(u16::try_from(keep_alive.as_secs()).unwrap_or(u16::MAX))
            .set_connect_timeout(CONNECT_TIMEOUT)
            .set_last_will(will)
            .set_clean_start(false)
            .set_session_expiry_interval(Some(SESSION_EXPIRY_S))
            .set_max_packet_size(Some(MAX_INCOMING_BYTES))
            .set_outgoing_inflight_upper_limit(MAX_IN_FLIGHT)
            .set_session_store(NothingInFlight);
        o
    }

    /// Connects; bounded by a time-out.
    pub(super) async fn connect(&self, will: LastWill) -> Result<Connection, SessionError> {
        let unreachable = |e: &dyn Error| SessionError::Unreachable { broker: self.broker(), source: words(e) };
        let (client, mut eventloop) =
            AsyncClient::builder(self.options(will)).capacity(REQUESTS).try_build().map_err(|e| unreachable(&e))?;
        loop {
            match eventloop.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(ack))) => {
                    let max_packet_bytes = ack.properties.and_then(|p| p.max_packet_size).unwrap_or(u32::MAX);
                    let line = Line {
                        client,
                        broker: self.broker().into(),
                        max_packet_bytes: max_packet_bytes as usize,
                        patience: self.mqtt.keep_alive,
                    };
                    return Ok(Connection { line, eventloop, client_id: self.client_id.clone() });
                }
                Ok(_) => {}
                Err(e) => return Err(self.connect_error(e)),
            }
        }
    }

    fn connect_error(&self, e: ConnectionError) -> SessionError {
        let broker = self.broker();
        let with_tls = self.mqtt.tls.is_some();
        match e {
            ConnectionError::ConnectionRefused(code) => {
                let (why, pace) = refusal(code);
                SessionError::Refused { broker, why, pace }
            }
            ConnectionError::Tls(e) => SessionError::Tls { broker, source: words(&e) },
            ConnectionError::Timeout(_) => {
                let source = format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()).into();
                SessionError::Unreachable { broker, source }
            }
            e => match network_error(e) {
                // With TLS 1.3 the broker's verdict on our certificate comes with the first read.
                Ok(e) if with_tls && e.kind() == io::ErrorKind::InvalidData => {
                    SessionError::Tls { broker, source: Box::new(e) }
                }
                Ok(e) => SessionError::Unreachable { broker, source: Box::new(e) },
                Err(e) => SessionError::Unreachable { broker, source: words(&e) },
            },
        }
    }
}

/// A message that the broker sent.
pub(super) struct Incoming<'a> {
    pub(super) topic: &'a str,
    pub(super) payload: &'a [u8],
    /// It was kept by the broker, and may be of any time.
    pub(super) retained: bool,
}

/// A connection that the broker has accepted.
pub(super) struct Connection {
    pub(super) line: Line,
    eventloop: EventLoop,
    client_id: String,
}

impl Connection {
    /// Drives the connection to its end and hands on what comes in. `Ok`: the device has said goodbye.
    pub(super) async fn drive(mut self, on_message: impl Fn(Incoming<'_>)) -> Result<(), SessionError> {
        let broker = self.line.broker.to_string();
        // The event loop ends when nobody can give it work any more; the others hold their own.
        drop(self.line);
        loop {
            match self.eventloop.poll().await {
                Ok(Event::Incoming(Packet::Publish(p))) => {
                    if let Ok(topic) = std::str::from_utf8(&p.topic) {
                        on_message(Incoming { topic, payload: &p.payload, retained: p.retain });
                    }
                }
                Ok(_) => {}
                Err(ConnectionError::RequestsDone) => return Ok(()),
                Err(ConnectionError::MqttState(StateError::ServerDisconnect {
                    reason_code: DisconnectReasonCode::SessionTakenOver,
                    ..
                })) => return Err(SessionError::TakenOver { broker, client: self.client_id }),
                Err(e) => {
                    // Its last word, if there was one, says more than that it closed: whoever waits for that goes first.
                    tokio::task::yield_now().await;
                    let source = network_error(e).map_or_else(|e| words(&e), |e| Box::new(e) as Cause);
                    return Err(SessionError::Lost { broker, source });
                }
            }
        }
    }
}

/// A session store that remembers that there is nothing to remember.
///
/// The client asks for one before it resumes a session that the broker has kept. What it would store is what was
/// published and not acknowledged; that is in the outbox, more durably, and is published anew. With QoS 1
/// nothing is lost or confused by that: the broker keeps no state of what a client publishes.
#[derive(Debug)]
struct NothingInFlight;

type Stored<'a, T> = Pin<Box<dyn Future<Output = Result<T, SessionStoreError>> + Send + 'a>>;

impl SessionStore for NothingInFlight {
    fn load<'a>(&'a self, key: &'a SessionStoreKey) -> Stored<'a, Option<PersistedSession>> {
        Box::pin(async {
            Ok(Some(PersistedSession {
                format_version: 1,
                client_id: key.client_id().to_owned(),
                clean_start: false,
                session_expiry_interval: Some(SESSION_EXPIRY_S),
                outgoing_inflight_upper_limit: Some(MAX_IN_FLIGHT),
                ack_mode: PersistedAckMode::Automatic,
                last_pkid: 0,
                last_puback: 0,
                replay: Vec::new(),
                incoming_qos2: Vec::new(),
            }))
        })
    }

    fn save<'a>(&'a self, _: &'a SessionStoreKey, _: &'a PersistedSession) -> Stored<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    fn clear<'a>(&'a self, _: &'a SessionStoreKey) -> Stored<'a, ()> {
        Box::pin(async { Ok(()) })
    }
}
