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
use std::sync::Arc;
use std::time::Duration;

use rumqttc::{
    AsyncClient, Broker, ConnectReturnCode, ConnectionError, DisconnectReasonCode, Event, EventLoop, LastWill,
    MqttOptions, NetworkOptions, Packet, PersistedAckMode, PersistedSession, PubAckReason, PublishNotice,
    PublishNoticeError, PublishOptions, PublishProperties, PublishResult, SessionStore, SessionStoreError,
    SessionStoreKey, StateError, Transport,
};

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

/// Why there is no connection, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// No way to it.
    #[error("could not reach the broker at {broker}")]
    Unreachable {
        /// Host and port.
        broker: String,
        /// What the network said.
        source: Cause,
    },
    /// One side does not accept the other's certificates, or one of them speaks no TLS.
    #[error("could not agree on TLS with the broker at {broker}")]
    Tls {
        /// Host and port.
        broker: String,
        /// What the TLS library said.
        source: Cause,
    },
    /// The broker answered, and refused the connection or what makes it worth having.
    #[error("the broker at {broker} refused the connection: {why}")]
    Refused {
        /// Host and port.
        broker: String,
        /// Its reason code, in words.
        why: String,
        /// How soon to ask again.
        pace: Pace,
    },
    /// It was there and is gone.
    #[error("lost the connection to the broker at {broker}")]
    Lost {
        /// Host and port.
        broker: String,
        /// What the network or the broker said.
        source: Cause,
    },
    /// The connection stands but nothing is acknowledged.
    #[error("the broker at {broker} has acknowledged nothing for {} s", silence.as_secs())]
    Silent {
        /// Host and port.
        broker: String,
        /// For how long.
        silence: Duration,
    },
    /// Another client has connected under the device's name.
    #[error("another client has connected to the broker at {broker} as {client:?}: two devices with one id?")]
    TakenOver {
        /// Host and port.
        broker: String,
        /// The name.
        client: String,
    },
}

/// What a library said, in words.
pub type Cause = Box<dyn Error + Send + Sync>;

/// How soon to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// It may pass by itself.
    Soon,
    /// Somebody must act; asking often would only fill the broker's log.
    Slowly,
}

impl SessionError {
    /// How soon to try again.
    pub fn pace(&self) -> Pace {
        match self {
            SessionError::Refused { pace, .. } => *pace,
            SessionError::Tls { .. } | SessionError::TakenOver { .. } => Pace::Slowly,
            SessionError::Unreachable { .. } | SessionError::Lost { .. } | SessionError::Silent { .. } => Pace::Soon,
        }
    }
}

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
                    let link = Link {
                        client,
                        broker: self.broker().into(),
                        max_packet_bytes: max_packet_bytes as usize,
                        patience: self.mqtt.keep_alive,
                    };
                    return Ok(Connection { link, eventloop, client_id: self.client_id.clone() });
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

fn refusal(code: ConnectReturnCode) -> (String, Pace) {
    use ConnectReturnCode as C;
    let (why, pace) = match code {
        C::BadUserNamePassword => ("wrong user name or password", Pace::Slowly),
        C::NotAuthorized => ("not authorised: wrong user name or password, or no right to connect", Pace::Slowly),
        C::BadClientId | C::ClientIdentifierNotValid => ("it does not accept the device's name", Pace::Slowly),
        C::Banned => ("the device is banned", Pace::Slowly),
        C::RefusedProtocolVersion | C::UnsupportedProtocolVersion => ("it does not speak MQTT 5", Pace::Slowly),
        C::RetainNotSupported => ("it does not retain messages", Pace::Slowly),
        C::ServerUnavailable | C::ServiceUnavailable => ("it is unavailable", Pace::Soon),
        C::ServerBusy => ("it is busy", Pace::Soon),
        C::ConnectionRateExceeded => ("too many connections in a short time", Pace::Slowly),
        other => return (format!("{other:?}"), Pace::Slowly),
    };
    (why.to_owned(), pace)
}

/// The network's own error, out of the several wrappings in which the library hands it on.
fn network_error(e: ConnectionError) -> Result<io::Error, ConnectionError> {
    match e {
        ConnectionError::Io(e)
        | ConnectionError::MqttState(StateError::Io(e) | StateError::Deserialization(rumqttc::Error::Io(e))) => Ok(e),
        e => Err(e),
    }
}

/// The library's errors print their sources already; as a cause they are one text without further sources.
fn words(e: &dyn Error) -> Cause {
    e.to_string().into()
}

/// A connection that the broker has accepted.
pub(super) struct Connection {
    pub(super) link: Link,
    eventloop: EventLoop,
    client_id: String,
}

impl Connection {
    /// Drives the connection to its end and hands on what comes in. `Ok`: the device has said goodbye.
    pub(super) async fn drive(mut self, on_message: impl Fn(&str, &[u8])) -> Result<(), SessionError> {
        let broker = self.link.broker.to_string();
        // The event loop ends when nobody can give it work any more; the others hold their own.
        drop(self.link);
        loop {
            match self.eventloop.poll().await {
                Ok(Event::Incoming(Packet::Publish(p))) => {
                    if let Ok(topic) = std::str::from_utf8(&p.topic) {
                        on_message(topic, &p.payload);
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

/// What can be said over a connection. Cheap to clone.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) client: AsyncClient,
    broker: Arc<str>,
    max_packet_bytes: usize,
    /// A broker that acknowledges nothing for so long is taken for gone. The client's own ping does not see
    /// this while there is something to send.
    pub(super) patience: Duration,
}

/// A message to publish with QoS 1.
pub(super) struct Message {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    pub(super) retain: bool,
    pub(super) content_type: &'static str,
    pub(super) user_properties: Vec<(String, String)>,
}

/// What the broker did with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Took it; somebody gets it.
    Taken,
    /// Took it; nobody subscribes.
    NoSubscriber,
    /// Did not take it.
    Refused(PubAckReason),
    /// It was not sent: the broker takes no packet of that size, or retains nothing.
    NotSendable,
}

impl Link {
    /// The broker has been silent for too long.
    pub(super) fn silent(&self) -> SessionError {
        SessionError::Silent { broker: self.broker.to_string(), silence: self.patience }
    }

    /// The broker lets the device connect but not be itself.
    pub(super) fn not_allowed(&self, topic: &str) -> SessionError {
        let why = format!("it does not let this device speak on {topic}; are these the credentials of another device?");
        SessionError::Refused { broker: self.broker.to_string(), why, pace: Pace::Slowly }
    }

    fn lost(&self, why: &dyn Error) -> SessionError {
        SessionError::Lost { broker: self.broker.to_string(), source: words(why) }
    }

    /// Hands a message to the connection at once or not at all. None: the broker would not take its size.
    pub(super) fn send(&self, message: Message) -> Result<Option<PublishNotice>, SessionError> {
        let Message { topic, payload, retain, content_type, user_properties } = message;
        let properties_bytes: usize = user_properties.iter().map(|(k, v)| k.len() + v.len() + 5).sum();
        // Fixed header, topic's length, packet identifier, lengths and identifiers of properties: below 64 bytes.
        if payload.len() + topic.len() + properties_bytes + content_type.len() + 64 > self.max_packet_bytes {
            return Ok(None);
        }
        let properties = PublishProperties {
            payload_format_indicator: Some(1),
            content_type: Some(content_type.to_owned()),
            user_properties,
            ..PublishProperties::default()
        };
        let options = PublishOptions::at_least_once().retain(retain).properties(properties);
        self.client.try_publish_tracked(topic, payload, options).map(Some).map_err(|e| self.lost(&e))
    }

    /// What came of a message that was sent.
    pub(super) fn verdict(&self, answer: Result<PublishResult, PublishNoticeError>) -> Result<Verdict, SessionError> {
        match answer {
            Ok(PublishResult::Qos1(ack)) => Ok(match ack.reason {
                PubAckReason::Success => Verdict::Taken,
                PubAckReason::NoMatchingSubscribers => Verdict::NoSubscriber,
                reason => Verdict::Refused(reason),
            }),
            Err(PublishNoticeError::RetainNotSupported) => Ok(Verdict::NotSendable),
            // Whatever else happened to it, it has to be sent again, on a connection whose state is sound.
            Ok(other) => Err(self.lost(&io::Error::other(format!("it answered {other:?} to QoS 1")))),
            Err(e) => Err(self.lost(&e)),
        }
    }

    /// Publishes and waits for the broker's word.
    pub(super) async fn publish(&self, message: Message) -> Result<Verdict, SessionError> {
        let Some(notice) = self.send(message)? else { return Ok(Verdict::NotSendable) };
        match tokio::time::timeout(self.patience, notice.wait_async()).await {
            Ok(answer) => self.verdict(answer),
            Err(_) => Err(self.silent()),
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
