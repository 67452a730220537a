//! The fleet over MQTT 5: what devices say comes in and is folded into [`Observations`]; commands go out.
//!
//! ```text
//!   connect ─► subscribe ─► granted: watching ─► retained messages, then news ─► lost: nothing is known any more
//!      ▲                                                                            │
//!      └──────────────────────────── wait (growing, jittered) ◄─────────────────────┘
//! ```
//!
//! What does not belong here: what follows from what is heard (`step`).
//!
//! Invariants: the session is a new one each time; nothing rests on the broker's memory but what devices had retained. While
//! there is no connection `watching_since` is none, and nothing is decided. A command is sent with QoS 1 and expires; it is
//! said again, under the same id, until the device answers.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rumqttc::{
    AsyncClient, Event, EventLoop, MqttOptions, Packet, PubAckReason, PublishOptions, PublishProperties, PublishResult,
    QoS, SubscribeFilterInput, Transport,
};
use tokio::sync::Notify;

use super::observe::{Heard, Observations};
use super::settings::Broker;
use super::state::CommandKind;
use super::step::Outgoing;
use super::tls;
use crate::base::backoff::Backoff;
use crate::base::clock::{Clock, Mono, Wall};
use crate::base::error::Chain;
use crate::base::stop::StopToken;
use crate::contract::command::{Command, Request};
use crate::contract::state::CONTENT_TYPE;
use crate::contract::topics::{Channel, PREFIX};

/// What is listened to, below `vedette/v1/{site}/{device}/`.
const CHANNELS: [&str; 4] = ["state", "heartbeat", "update", "cmd/+/status"];
/// Requests between us and the client.
const REQUESTS: usize = 512;
/// Commands that are on their way at once.
const AT_ONCE: u16 = 100;
/// A broker that acknowledges nothing for so long is taken for gone.
const PATIENCE: Duration = Duration::from_secs(20);
/// A command that the broker has, and that no device has answered, is said again.
const SAY_AGAIN: Duration = Duration::from_secs(60);
/// One that nobody listened to: the device may be about to subscribe.
const SAY_AGAIN_SOON: Duration = Duration::from_secs(10);
const MAX_INCOMING_BYTES: u32 = 1024 * 1024;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// What `[broker]` names.
    #[error("could not use the files that [broker] names")]
    Tls(#[from] tls::TlsError),
    /// The password.
    #[error("could not read {}", path.display())]
    Password {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
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
        "the broker at {broker} does not let this user hear the devices ({why}): see `user fleet` in deploy/mosquitto/acl"
    )]
    Deaf {
        /// Host and port.
        broker: String,
        /// In words.
        why: String,
    },
}

/// Wall time as it was when the program began, and what has passed since: a clock that is set in between decides nothing.
#[derive(Clone)]
pub struct Steady {
    clock: Arc<dyn Clock>,
    from: (Mono, Wall),
}

impl Steady {
    /// From now on.
    pub fn new(clock: Arc<dyn Clock>) -> Steady {
        let from = (clock.now(), clock.wall());
        Steady { clock, from }
    }

    /// Now.
    pub fn now(&self) -> Wall {
        self.from.1 + self.mono().since(self.from.0)
    }

    fn mono(&self) -> Mono {
        self.clock.now()
    }
}

/// The fleet, as far as it is heard.
pub struct Fleet {
    steady: Steady,
    shared: Mutex<Shared>,
    changed: Notify,
}

#[derive(Default)]
struct Shared {
    seen: Observations,
    client: Option<AsyncClient>,
    /// When a command is to be said again, by its id.
    said: HashMap<String, Mono>,
    /// Why there is no connection.
    trouble: Option<String>,
}

impl Fleet {
    /// Nobody is heard yet: [`Fleet::listen`] does that.
    pub fn new(steady: Steady) -> Fleet {
        Fleet { steady, shared: Mutex::default(), changed: Notify::new() }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("nobody panics under it")
    }

    /// Looks at what was heard.
    pub fn with<T>(&self, look: impl FnOnce(&Observations) -> T) -> T {
        look(&self.shared().seen)
    }

    /// Why there is no connection, for a person.
    pub fn trouble(&self) -> Option<String> {
        self.shared().trouble.clone()
    }

    /// Completes when something was heard since the last time.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Stays connected until stopped. Fails only where nothing can come of trying again: files that cannot be used.
    pub async fn listen(&self, broker: &Broker, stop: &StopToken) -> Result<(), FleetError> {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        while !stop.is_stopped() {
            let (options, name) = (options(broker)?, name(broker));
            let ended = tokio::select! {
                () = stop.stopped() => break,
                ended = self.connection(options, &name, &mut backoff) => ended,
            };
            let why = Chain(&ended).to_string();
            {
                let mut shared = self.shared();
                (shared.client, shared.seen.watching_since) = (None, None);
                // Once for each kind of trouble.
                if shared.trouble.as_ref() != Some(&why) {
                    log::warn!("{why}");
                }
                shared.trouble = Some(why);
            }
            self.changed.notify_one();
            tokio::select! {
                () = stop.stopped() => break,
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
        }
        // No goodbye: there is no will, and nothing of ours that the broker keeps.
        self.shared().client = None;
        Ok(())
    }

    /// One connection to its end, which is why it ended.
    async fn connection(&self, options: MqttOptions, broker: &str, backoff: &mut Backoff) -> FleetError {
        let lost = |why: &dyn std::fmt::Display| FleetError::Broker { broker: broker.to_owned(), why: why.to_string() };
        let (client, mut events) = match AsyncClient::builder(options).capacity(REQUESTS).try_build() {
            Ok(built) => built,
            Err(e) => return lost(&e),
        };
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(_))) => break,
                Ok(_) => {}
                Err(e) => return lost(&e),
            }
        }
        let filters = CHANNELS.map(|c| SubscribeFilterInput::new(format!("{PREFIX}/+/+/{c}"), QoS::AtLeastOnce));
        let Ok(notice) = client.try_subscribe_many_tracked(filters) else { return lost(&"it ended at once") };
        let granted = async {
            match tokio::time::timeout(PATIENCE, notice.wait_completion_async()).await {
                Ok(Ok(_)) => None,
                Ok(Err(e)) => Some(e.to_string()),
                Err(_) => Some("it does not answer".to_owned()),
            }
        };
        let mut granted = std::pin::pin!(granted);
        let mut asked = true;
        loop {
            tokio::select! {
                refused = &mut granted, if asked => {
                    if let Some(why) = refused {
                        return FleetError::Deaf { broker: broker.to_owned(), why };
                    }
                    asked = false;
                    backoff.reset();
                    let mut shared = self.shared();
                    shared.seen.watching_since = Some(self.steady.now());
                    (shared.client, shared.trouble) = (Some(client.clone()), None);
                    shared.said.clear();
                    drop(shared);
                    log::info!("connected to the broker at {broker}");
                    self.changed.notify_one();
                }
                event = next(&mut events) => match event {
                    Ok(Some(message)) => self.take(&message),
                    Ok(None) => {}
                    Err(e) => return lost(&e),
                },
            }
        }
    }

    fn take(&self, message: &rumqttc::Publish) {
        let Ok(topic) = std::str::from_utf8(&message.topic) else { return };
        let heard = Heard { topic, payload: &message.payload, retained: message.retain };
        if self.shared().seen.take(self.steady.now(), heard) {
            self.changed.notify_one();
        }
    }

    /// Sends what was not sent of late; whether the broker has all of it. What it does not take is said again another time.
    pub async fn send(&self, commands: &[Outgoing], release: u64, rollout: &str) -> bool {
        let (client, due) = {
            let (mut shared, now) = (self.shared(), self.steady.mono());
            if commands.is_empty() && !shared.said.is_empty() {
                shared.said.retain(|_, again| *again > now);
            }
            let Some(client) = shared.client.clone() else { return commands.is_empty() };
            let is_due = |c: &&Outgoing| shared.said.get(&c.id).is_none_or(|again| *again <= now);
            (client, commands.iter().filter(is_due).collect::<Vec<_>>())
        };
        let mut all = true;
        for some in due.chunks(AT_ONCE.into()) {
            let mut notices = Vec::new();
            for command in some {
                match client.try_publish_tracked(
                    topic(command),
                    self.payload(command, release, rollout),
                    self.how(command),
                ) {
                    Ok(notice) => notices.push((command, notice)),
                    Err(e) => {
                        log::debug!("{} waits: {e}", command.device);
                        all = false;
                    }
                }
            }
            for (command, notice) in notices {
                let answer = tokio::time::timeout(PATIENCE, notice.wait_async()).await;
                let again = match answer {
                    Ok(Ok(PublishResult::Qos1(ack))) => match ack.reason {
                        PubAckReason::Success => SAY_AGAIN,
                        PubAckReason::NoMatchingSubscribers => SAY_AGAIN_SOON,
                        reason => {
                            log::error!("the broker does not take a command to {}: {reason:?}", command.device);
                            SAY_AGAIN
                        }
                    },
                    Ok(other) => {
                        log::debug!("a command to {} got {other:?}", command.device);
                        return false;
                    }
                    Err(_) => {
                        log::warn!("the broker has acknowledged nothing for {} s", PATIENCE.as_secs());
                        return false;
                    }
                };
                let at = self.steady.mono() + again;
                self.shared().said.insert(command.id.clone(), at);
            }
        }
        all
    }

    fn payload(&self, command: &Outgoing, release: u64, rollout: &str) -> Vec<u8> {
        let request = Request {
            command: match command.kind {
                CommandKind::Offer => Command::UpdateModel { release, rollout: Some(rollout.to_owned()) },
                CommandKind::CallOff => Command::CancelUpdate { release: Some(release) },
            },
            expires_at: Some(command.until.rfc3339()),
            requested_by: Some(format!("vedette-fleet rollout {rollout}")),
        };
        serde_json::to_vec(&request).expect("texts and numbers are always JSON")
    }

    fn how(&self, command: &Outgoing) -> PublishOptions {
        let left_ms = command.until.unix_ms().saturating_sub(self.steady.now().unix_ms());
        let properties = PublishProperties {
            payload_format_indicator: Some(1),
            content_type: Some(CONTENT_TYPE.to_owned()),
            message_expiry_interval: Some(u32::try_from(left_ms / 1000).unwrap_or(u32::MAX).max(1)),
            ..PublishProperties::default()
        };
        PublishOptions::at_least_once().properties(properties)
    }
}

fn topic(command: &Outgoing) -> String {
    let id = command.id.parse().expect("a prefix and hexadecimal digits are a name");
    command.device.topics().topic(&Channel::Command(id))
}

async fn next(events: &mut EventLoop) -> Result<Option<rumqttc::Publish>, rumqttc::ConnectionError> {
    match events.poll().await? {
        Event::Incoming(Packet::Publish(message)) => Ok(Some(message)),
        _ => Ok(None),
    }
}

fn name(broker: &Broker) -> String {
    format!("{}:{}", broker.url.host_str().unwrap_or_default(), port(broker))
}

fn port(broker: &Broker) -> u16 {
    broker.url.port().unwrap_or(if broker.url.scheme() == "mqtts" { 8883 } else { 1883 })
}

fn options(broker: &Broker) -> Result<MqttOptions, FleetError> {
    let host = broker.url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    // Where the broker takes the user's name for it, this one is not used.
    let id = format!("vedette-fleet-{:08x}", fastrand::u32(..));
    let mut options = MqttOptions::new(id, rumqttc::Broker::tcp(host, port(broker)));
    if broker.url.scheme() == "mqtts"
        && let Some(config) = tls::config(broker.files())?
    {
        options.set_transport(Transport::tls_with_config(rumqttc::TlsConfiguration::Rustls(config)));
    }
    if let Some((user, path)) = broker.user.as_ref().zip(broker.password_file.as_ref()) {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|source| FleetError::Password { path: path.clone(), source })?;
        options.set_credentials(user.clone(), text.lines().next().unwrap_or_default().to_owned());
    }
    options
        .set_keep_alive(30)
        .set_connect_timeout(Duration::from_secs(10))
        .set_clean_start(true)
        // The client sets room aside for as many.
        .set_outgoing_inflight_upper_limit(AT_ONCE)
        .set_max_packet_size(Some(MAX_INCOMING_BYTES));
    Ok(options)
}
