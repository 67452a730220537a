//! One connection to the broker: made, driven, and named when it fails.
//!
//! Every connection has its own client and event loop, and nothing of either outlives it: what was sent and not
//! acknowledged is still in the outbox and goes again with the same id. The broker, for its part, keeps the
//! session (clean start false, session expiry), so that what is addressed to the device while it is away
//! waits for it. [`NothingInFlight`] is how the two are told to fit.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rumqttc::{
    AsyncClient, ConnectionError, DisconnectReasonCode, Event, EventLoop, MqttOptions, Packet, PersistedAckMode,
    PersistedSession, SessionStore, SessionStoreError, SessionStoreKey, StateError, TlsError,
};

use super::access::{CONNECT_TIMEOUT, Stamp};
use super::error::{Cause, Pace, SessionError, network_error, refusal, words};
use super::line::Line;
use super::tls;
use crate::agent::config::Broker;
use crate::contract::command::Receipt;

/// How long the broker keeps what is addressed to a device that is away.
pub(super) const SESSION_EXPIRY_S: u32 = 7 * 24 * 3600;
/// Requests between this task and the event loop; more than the pump's window and the states together.
const REQUESTS: usize = 2 * MAX_IN_FLIGHT as usize;
/// More than the pump's window: the states and the adapters have room beside it.
pub(super) const MAX_IN_FLIGHT: u16 = 192;
/// What the broker may send before the first of it is acknowledged; that many acknowledgements find room among the requests.
pub(super) const RECEIVE_MAXIMUM: u16 = 64;
/// Requests that go into one write.
pub(super) const REQUESTS_AT_ONCE: usize = 32;
/// Who waits for answers takes the end of the connection in within so long.
const LAST_WORD: Duration = Duration::from_millis(100);

/// A message that the broker sent. It comes again over another connection if nobody called the receipt.
pub(super) struct Incoming<'a> {
    pub(super) topic: &'a str,
    pub(super) payload: &'a [u8],
    /// It was kept by the broker, and may be of any time.
    pub(super) retained: bool,
    pub(super) receipt: Receipt,
}

/// A connection that the broker has accepted.
pub(super) struct Connection {
    pub(super) line: Line,
    /// What it was made with.
    pub(super) stamp: Stamp,
    eventloop: EventLoop,
    client_id: String,
}

impl Connection {
    /// Connects; bounded by the time-out in `options`.
    pub(super) async fn open(
        options: MqttOptions,
        broker: &Broker,
        stamp: Stamp,
        patience: Duration,
    ) -> Result<Self, SessionError> {
        let client_id = options.client_id();
        let (client, mut eventloop) = AsyncClient::builder(options)
            .capacity(REQUESTS)
            .try_build()
            .map_err(|e| SessionError::Unreachable { broker: broker.to_string(), source: words(&e) })?;
        loop {
            match eventloop.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(ack))) => {
                    // It has served its purpose; the client would copy all that is in flight for it at every packet.
                    eventloop.options.clear_session_store();
                    let max_packet_bytes = ack.properties.and_then(|p| p.max_packet_size).unwrap_or(u32::MAX);
                    let max_packet_bytes = max_packet_bytes as usize;
                    let objected = Arc::default();
                    let ended = Arc::default();
                    let broker = broker.to_string().into();
                    let line = Line { client, broker, max_packet_bytes, patience, objected, ended };
                    return Ok(Connection { line, stamp, eventloop, client_id });
                }
                Ok(_) => {}
                Err(e) => return Err(connect_error(broker, e)),
            }
        }
    }

    /// Drives the connection to its end and hands on what comes in. `Ok`: the device has said goodbye.
    pub(super) async fn drive(mut self, on_message: impl Fn(Incoming<'_>)) -> Result<(), SessionError> {
        let (objected, ended) = (Arc::clone(&self.line.objected), Arc::clone(&self.line.ended));
        let (broker, client) = (self.line.broker.to_string(), self.line.client);
        loop {
            match self.eventloop.poll().await {
                Ok(Event::Incoming(Packet::Publish(p))) => {
                    let receipt: Receipt = match client.prepare_ack(&p) {
                        // A connection that has ended needs none.
                        Some(ack) => Box::new({
                            let client = client.clone();
                            move || client.try_manual_ack(ack).unwrap_or(())
                        }),
                        None => Box::new(|| ()),
                    };
                    match std::str::from_utf8(&p.topic) {
                        Ok(topic) => {
                            on_message(Incoming { topic, payload: &p.payload, retained: p.retain, receipt });
                        }
                        Err(_) => receipt(),
                    }
                }
                Ok(_) => {}
                Err(ConnectionError::RequestsDone) => return Ok(()),
                Err(ConnectionError::MqttState(StateError::ServerDisconnect {
                    reason_code: DisconnectReasonCode::SessionTakenOver,
                    ..
                })) => return Err(SessionError::TakenOver { broker, client: self.client_id }),
                Err(e) => {
                    objected.store(is_objection(&e), Ordering::Relaxed);
                    ended.notify_one();
                    // Its last word, if there was one, says more than that it closed: whoever waits for that goes first, and
                    // hears only now that no answer will come.
                    drop(self.eventloop);
                    tokio::time::sleep(LAST_WORD).await;
                    let source = network_error(e).map_or_else(|e| words(&e), |e| Box::new(e) as Cause);
                    return Err(SessionError::Lost { broker, source });
                }
            }
        }
    }
}

/// Whether it was what was sent that ended the connection, not the network. Mosquitto acknowledges a message that is too
/// large for it with a reason (0x95) that MQTT does not know there, and the client cannot go on after that.
fn is_objection(e: &ConnectionError) -> bool {
    use DisconnectReasonCode as D;
    match e {
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, .. }) => matches!(
            reason_code,
            D::MalformedPacket
                | D::ProtocolError
                | D::ImplementationSpecificError
                | D::TopicNameInvalid
                | D::PacketTooLarge
                | D::QuotaExceeded
                | D::AdministrativeAction
                | D::PayloadFormatInvalid
                | D::RetainNotSupported
                | D::QoSNotSupported
        ),
        ConnectionError::MqttState(StateError::Deserialization(e)) => !matches!(e, rumqttc::Error::Io(_)),
        _ => false,
    }
}

fn connect_error(to: &Broker, e: ConnectionError) -> SessionError {
    let broker = to.to_string();
    let unreachable = |source: Cause| SessionError::Unreachable { broker: broker.clone(), source };
    if let Some(e) = tls::error_in(&e) {
        return not_agreed(broker, e);
    }
    match e {
        ConnectionError::ConnectionRefused(code) => {
            let (why, pace) = refusal(code);
            SessionError::Refused { broker, why, pace }
        }
        ConnectionError::Tls(TlsError::Io(e)) => unreachable(Box::new(e)),
        ConnectionError::Tls(e) => {
            SessionError::Tls { broker, source: words(&e), pace: Pace::Slowly, by_broker: false }
        }
        ConnectionError::Timeout(_) => unreachable(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()).into()),
        e => match network_error(e) {
            Ok(e) => match tls::error_in(&e) {
                // With TLS 1.3 the broker's verdict on our certificate comes with the first read.
                Some(e) => not_agreed(broker, e),
                None => unreachable(Box::new(e)),
            },
            Err(e) => unreachable(words(&e)),
        },
    }
}

fn not_agreed(broker: String, e: &rustls::Error) -> SessionError {
    let (why, pace) = tls::explain(e);
    let by_broker = matches!(e, rustls::Error::AlertReceived(_));
    SessionError::Tls { broker, source: why.into(), pace, by_broker }
}

/// A session store that remembers that there is nothing to remember.
///
/// The client asks for one before it resumes a session that the broker has kept. What it would store is what was
/// published and not acknowledged; that is in the outbox, more durably, and is published anew. With QoS 1
/// nothing is lost or confused by that: the broker keeps no state of what a client publishes.
#[derive(Debug)]
pub(super) struct NothingInFlight;

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
                ack_mode: PersistedAckMode::Manual,
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
