//! The way to the broker: alerts out of the outbox, the device's state retained, confirmations back in.
//!
//! ```text
//!     outbox ─► pump (lanes) ─┐                      ┌─► acks ─► outbox
//!     health ─► heartbeat ────┼─► session ═ broker ══┤
//!     desk ───► commands ─────┘                      └─► desk    (adapters: alerts and health in others' formats)
//!
//!     waiting ──► connecting ──► up: birth, states, alerts ──► lost ──► waiting (growing, jittered)
//!        ▲            │ refused, unreachable                    │
//!        └────────────┘                                         └─ stop ─► flush, "stopped", DISCONNECT
//! ```
//!
//! What belongs here: MQTT. What does not: what an alert says (`contract`), and keeping it (`store`).
//!
//! Invariants: an alert's only home is the outbox; the client's memory is never trusted with one. A broker that is
//! away, slow, or wrong affects nothing but the uplink. Credentials are never logged. After a stop, [`run`]
//! returns within [`STOP_MOST`].

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rumqttc::{QoS, SubscribeFilterInput};
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use crate::agent::config;
use crate::agent::identity::renewal::Shown;
use crate::base::clock::{Clock, Mono};
use crate::base::error::Chain;
use crate::base::progress::Beat;
use crate::base::stop::StopToken;
use crate::contract::command::CommandDesk;
use crate::contract::heartbeat::HealthSource;
use crate::contract::outbox::Outbox;
use crate::contract::topics::{Channel, DeviceTopics, TopicError};

mod access;
mod acks;
mod commands;
mod adapters;
mod counter;
mod error;
mod heartbeat;
mod lanes;
mod line;
mod pacing;
mod pump;
mod renewal;
mod session;
mod tls;

pub use error::{Cause, Pace, SessionError};

use access::{Access, CONNECT_TIMEOUT};
use acks::Acks;
use adapters::{Adapters, Passing};
use counter::SessionCounter;
use heartbeat::Reporter;
use line::Line;
use pacing::Pacing;
use pump::Pump;
use renewal::Renewal;
use session::Incoming;

/// Whether what the files hold makes a connection by TLS possible, as far as that can be told without a broker; if not, why.
pub fn check_tls(files: &config::TlsPem, alpn: &[String], clock: Arc<dyn Clock>) -> Result<(), Cause> {
    tls::client_config(files, alpn, clock).map(|_| ())
}

/// The longest that [`run`] takes to return after a stop.
pub const STOP_MOST: Duration = Duration::from_secs(7);

const GOODBYE: Duration = Duration::from_secs(2);
const DISCONNECT: Duration = Duration::from_secs(1);
const ROUND: Duration = Duration::from_secs(1);

/// Links to the clip of an incident and to the picture of its peak, good from now on.
pub type LinksTo = Arc<dyn Fn(Uuid) -> LinkPair + Send + Sync>;

/// See [`LinksTo`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkPair {
    /// The clip.
    pub clip: String,
    /// The picture.
    pub peak: String,
}

/// What the uplink works with.
pub struct Parts {
    /// `[mqtt]`
    pub mqtt: config::Mqtt,
    /// `[adapters]`
    pub adapters: config::Adapters,
    /// `[device]`
    pub device: config::Device,
    /// Where the session counter is kept: `uplink-session` in the state directory.
    pub counter_file: PathBuf,
    /// The durable queue.
    pub outbox: Arc<dyn Outbox>,
    /// Makes links to clips; none: alerts carry none.
    pub links: Option<LinksTo>,
    /// Where commands go; none: they are not listened to.
    pub desk: Option<Arc<dyn CommandDesk>>,
    /// How the device is.
    pub health: Arc<dyn HealthSource>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Ends it.
    pub stop: StopToken,
    /// For the watchdog.
    pub beat: Beat,
    /// Where it tells how it stands, for page and doctor.
    pub link: watch::Sender<Link>,
    /// Where it tells what came of each certificate that it has shown, for the renewal of certificates.
    pub shown: watch::Sender<Option<Shown>>,
}

/// How the connection stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// Not tried yet.
    Starting,
    /// Alerts raised from now on are news to the broker.
    Up {
        /// Its session counter.
        session: u64,
    },
    /// There is none.
    Down {
        /// Why, with its causes.
        why: String,
        /// Whether somebody must act.
        pace: Pace,
    },
    /// The daemon is stopping.
    Stopped,
}

/// Keeps a connection until stopped. Fails only where the device's names fit no topic, which a validated config
/// rules out.
pub async fn run(parts: Parts) -> Result<(), TopicError> {
    let Parts { mqtt, adapters, device, counter_file, outbox, links, desk, health, clock, stop, beat, link, shown } =
        parts;
    let topics = DeviceTopics::new(&device.site, &device.id)?;
    let touched = Arc::new(Notify::new());
    let acks = Acks::new(topics.clone(), &mqtt.consumers);
    let reporter = Reporter {
        topics: topics.clone(),
        outbox: Arc::clone(&outbox),
        health,
        clock: Arc::clone(&clock),
        adapters: Arc::new(Adapters::new(&adapters, &topics)),
        heartbeat_every: mqtt.heartbeat_every,
        touched: Arc::clone(&touched),
    };
    let passing = Passing::new(Adapters::new(&adapters, &topics), mqtt.consumers.is_empty());
    let mut uplink = Uplink {
        access: Arc::new(Access::new(mqtt, &topics, Arc::clone(&clock), shown)),
        counter: SessionCounter::open(counter_file, &*clock),
        ears: Ears { topics: topics.clone(), acks: &acks, desk, odd_ids: Arc::new(Seldom::new(Arc::clone(&clock))) },
        pump: Pump::new(Arc::clone(&outbox), passing, topics, links, Arc::clone(&clock), Arc::clone(&touched)),
        reporter,
        clock,
        stop,
        beat: beat.clone(),
        link,
    };
    tokio::select! {
        () = uplink.stay_connected() => {}
        () = acks.run(outbox, touched) => {}
    }
    beat.end();
    Ok(())
}

/// Where goes what the broker sends.
#[derive(Clone)]
struct Ears<'a> {
    topics: DeviceTopics,
    acks: &'a Acks,
    desk: Option<Arc<dyn CommandDesk>>,
    odd_ids: Arc<Seldom>,
}

/// Lets something through at most once a minute: what others send does not fill the journal.
struct Seldom {
    clock: Arc<dyn Clock>,
    last: Mutex<Option<Mono>>,
}

impl Seldom {
    fn new(clock: Arc<dyn Clock>) -> Self {
        Seldom { clock, last: Mutex::new(None) }
    }

    fn is_due(&self) -> bool {
        let (now, mut last) = (self.clock.now(), self.last.lock().expect("nobody panics under it"));
        let due = last.is_none_or(|last| now.since(last) >= Duration::from_secs(60));
        if due {
            *last = Some(now);
        }
        due
    }
}

impl Ears<'_> {
    fn filters(&self) -> Vec<String> {
        let mut filters = self.acks.filters();
        filters.extend(self.desk.is_some().then(|| self.topics.commands()));
        filters
    }

    fn is_command(&self, topic: &str) -> bool {
        topic.strip_prefix(self.topics.commands().trim_end_matches('+')).is_some_and(|id| !id.contains('/'))
    }

    fn take(&self, Incoming { topic, payload, retained, receipt }: Incoming<'_>) {
        match DeviceTopics::parse(topic) {
            // The next one says it too, and nothing is let go of before it is stored.
            Ok((device, Channel::Ack(consumer))) if device == self.topics => self.acks.take(&consumer, payload),
            // It would come again with every connection, also when nobody remembers that it was carried out.
            Ok((device, Channel::Command(id))) if device == self.topics && retained => {
                log::warn!("command {id} is retained at the broker, and ignored: publish it without the retain flag");
            }
            Ok((device, Channel::Command(id))) if device == self.topics => {
                if let Some(desk) = &self.desk {
                    return desk.take(id.as_str(), payload, receipt);
                }
            }
            // Its status would have a topic that nobody may have.
            Err(TopicError::Name(_)) if self.is_command(topic) => {
                if self.odd_ids.is_due() {
                    let id: String = topic.rsplit('/').next().unwrap_or_default().chars().take(80).collect();
                    log::warn!(
                        "a command is ignored: its id {id:?} is not 1 to 64 of a-z A-Z 0-9 _ - (said once a minute)"
                    );
                }
            }
            _ => log::debug!("a message on {topic} is not for this version"),
        }
        receipt();
    }
}

/// Says the statuses of commands where commands are listened to.
async fn say_statuses(
    desk: Option<&Arc<dyn CommandDesk>>,
    reporter: &Reporter,
    line: &Line,
    session: u64,
) -> Result<Infallible, SessionError> {
    match desk {
        None => std::future::pending().await,
        Some(desk) => commands::say_statuses(Arc::clone(desk), reporter, line, session).await,
    }
}

struct Uplink<'a> {
    access: Arc<Access>,
    counter: SessionCounter,
    ears: Ears<'a>,
    pump: Pump,
    reporter: Reporter,
    clock: Arc<dyn Clock>,
    stop: StopToken,
    beat: Beat,
    link: watch::Sender<Link>,
}

impl Uplink<'_> {
    async fn stay_connected(&mut self) {
        let mut pacing = Pacing::new(self.access.brokers());
        let mut complaint = String::new();
        while !self.stop.is_stopped() {
            let (started, files) = (self.clock.now(), self.access.stamp().await);
            let Err(e) = self.connect_and_serve(&mut complaint).await else { break };
            let why = Chain(&e).to_string();
            // Once for each kind of trouble, not once for each try.
            if why == complaint {
                log::debug!("{why}");
            } else {
                log::warn!("{why}");
                complaint.clone_from(&why);
            }
            self.link.send_replace(Link::Down { why, pace: e.pace() });
            let next = pacing.failed(&e, self.clock.now().since(started));
            if next.move_on {
                self.access.move_on();
            }
            let access = Arc::clone(&self.access);
            let renewed_or_due = async {
                tokio::select! {
                    () = tokio::time::sleep(next.delay) => {}
                    () = access.changed(&files) => {}
                }
            };
            self.while_alive(renewed_or_due).await;
        }
        self.link.send_replace(Link::Stopped);
    }

    /// Waits for something that is bounded itself, beating.
    async fn beating<F: Future>(&self, bounded: F) -> F::Output {
        let mut bounded = std::pin::pin!(bounded);
        loop {
            self.beat.beat();
            tokio::select! {
                done = &mut bounded => return done,
                () = tokio::time::sleep(ROUND) => {}
            }
        }
    }

    /// As [`Uplink::beating`]; none if stopped first.
    async fn while_alive<F: Future>(&self, bounded: F) -> Option<F::Output> {
        tokio::select! {
            done = self.beating(bounded) => Some(done),
            () = self.stop.stopped() => None,
        }
    }

    /// One connection from its beginning to its end, and those that take over from it. `Ok`: stopped.
    async fn connect_and_serve(&mut self, complaint: &mut String) -> Result<(), SessionError> {
        let mut session = self.counter.next();
        let will = self.reporter.will(session);
        let Some(connection) = self.while_alive(self.access.connect(will)).await else { return Ok(()) };
        let mut connection = connection?;
        complaint.clear();
        loop {
            log::info!("connected to the broker at {}, session {session}", connection.line.broker);
            let renewal = Renewal::new(Arc::clone(&self.access), self.reporter.clone(), self.counter.next());
            let made_with = connection.stamp.clone();
            let mut renewed = std::pin::pin!(renewal.next(&made_with));
            let (line, ears, stop) = (connection.line.clone(), self.ears.clone(), self.stop.clone());
            let gave_up = async {
                stop.stopped().await;
                tokio::time::sleep(STOP_MOST - ROUND).await;
            };
            let ended = tokio::select! {
                // In this order: the broker's last word on what was said, then that it has closed.
                biased;
                failed = self.serve(line, session) => failed,
                ended = connection.drive(|message| ears.take(message)) => ended,
                () = gave_up => Ok(()),
                next = &mut renewed => {
                    (connection, session) = (next, renewal.session);
                    continue;
                }
            };
            if ended.is_ok() || !renewal.under_way() {
                return ended;
            }
            // The broker ends this connection when it takes the next: which of the two is heard of first is chance.
            let next = tokio::time::timeout(CONNECT_TIMEOUT, renewed);
            match self.while_alive(next).await {
                Some(Ok(next)) => (connection, session) = (next, renewal.session),
                Some(Err(_)) => return ended,
                None => return Ok(()),
            }
        }
    }

    /// All that is said over one connection. Never ends well by itself: after a goodbye the connection ends.
    async fn serve(&mut self, line: Line, session: u64) -> Result<(), SessionError> {
        let introduced = async {
            self.subscribe(&line).await?;
            self.reporter.birth(&line, session).await
        };
        let said = self.beating(introduced).await?;
        if let Some(flow) = self.pump.begin(&self.stop, &self.beat).await {
            self.link.send_replace(Link::Up { session });
            tokio::select! {
                // In this order: when the connection ends, the first two have something to see to before it is given up.
                biased;
                failed = say_statuses(self.ears.desk.as_ref(), &self.reporter, &line, session) => match failed? {},
                pumped = self.pump.run(flow, &line, &self.stop, &self.beat) => pumped?,
                failed = async {
                    let failed = self.reporter.run(&line, session, said).await;
                    // The pump has its own answers to take in before the connection is given up.
                    tokio::time::sleep(ROUND).await;
                    failed
                } => match failed? {},
            }
        }
        // Whatever comes of it: the daemon is going.
        match tokio::time::timeout(GOODBYE, self.reporter.goodbye(&line, session)).await {
            Ok(said) => said?,
            Err(_) => log::warn!("the broker did not acknowledge the goodbye in time"),
        }
        if let Err(e) = line.client.try_disconnect_with_timeout(DISCONNECT) {
            log::debug!("no orderly disconnect: {e}");
            return Ok(());
        }
        std::future::pending().await
    }

    /// Without confirmations alerts still flow; rows are then kept until they are too old.
    async fn subscribe(&self, line: &Line) -> Result<(), SessionError> {
        let filters = self.ears.filters();
        if filters.is_empty() {
            return Ok(());
        }
        let inputs = filters.iter().map(|f| SubscribeFilterInput::new(f.clone(), QoS::AtLeastOnce));
        let Ok(notice) = line.client.try_subscribe_many_tracked(inputs) else { return Err(line.silent()) };
        let Ok(answer) = tokio::time::timeout(line.patience, notice.wait_completion_async()).await else {
            return Err(line.silent());
        };
        if let Err(e) = answer {
            log::error!("the broker does not let the device hear {}: {e}", filters.join(", "));
        }
        Ok(())
    }
}
