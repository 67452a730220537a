//! The way to the broker: alerts out of the outbox, the device's state retained, confirmations back in.
//!
//! ```text
//!     outbox ─► pump (lanes) ─┐                      ┌─► acks ─► outbox
//!     health ─► heartbeat ────┴─► session ═ broker ══┘    (adapters: the same in others' formats)
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

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rumqttc::{QoS, SubscribeFilterInput};
use tokio::sync::{Notify, watch};

use crate::agent::config;
use crate::base::backoff::Backoff;
use crate::base::clock::Clock;
use crate::base::error::Chain;
use crate::base::progress::Beat;
use crate::base::stop::StopToken;
use crate::contract::heartbeat::HealthSource;
use crate::contract::outbox::Outbox;
use crate::contract::topics::{DeviceTopics, TopicError};

mod acks;
mod adapters;
mod counter;
mod error;
mod heartbeat;
mod lanes;
mod line;
mod pump;
mod session;

pub use error::{Cause, Pace, SessionError};

use acks::Acks;
use adapters::{Adapters, Passing};
use counter::SessionCounter;
use heartbeat::Reporter;
use line::Line;
use pump::Pump;
use session::Access;

/// The longest that [`run`] takes to return after a stop.
pub const STOP_MOST: Duration = Duration::from_secs(7);

const SOON: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
const SLOWLY: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(300));
/// A connection that lasted so long was a good one: the next failure starts with short delays again.
const GOOD_AFTER: Duration = Duration::from_secs(30);
const GOODBYE: Duration = Duration::from_secs(2);
const DISCONNECT: Duration = Duration::from_secs(1);
const ROUND: Duration = Duration::from_secs(1);

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
    let Parts { mqtt, adapters, device, counter_file, outbox, health, clock, stop, beat, link } = parts;
    let topics = DeviceTopics::new(&device.site, &device.id)?;
    let touched = Arc::new(Notify::new());
    let acks = Acks::new(topics.clone(), &mqtt.consumers);
    let reporter = Reporter {
        topics: topics.clone(),
        outbox: Arc::clone(&outbox),
        health,
        clock: Arc::clone(&clock),
        adapters: Adapters::new(&adapters, &topics),
        heartbeat_every: mqtt.heartbeat_every,
        touched: Arc::clone(&touched),
    };
    let passing = Passing::new(Adapters::new(&adapters, &topics), mqtt.consumers.is_empty());
    let mut uplink = Uplink {
        access: Access::new(mqtt, &topics),
        counter: SessionCounter::open(counter_file, &*clock),
        pump: Pump::new(Arc::clone(&outbox), passing, topics, Arc::clone(&clock), Arc::clone(&touched)),
        reporter,
        acks: &acks,
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

struct Uplink<'a> {
    access: Access,
    counter: SessionCounter,
    pump: Pump,
    reporter: Reporter,
    acks: &'a Acks,
    clock: Arc<dyn Clock>,
    stop: StopToken,
    beat: Beat,
    link: watch::Sender<Link>,
}

impl Uplink<'_> {
    async fn stay_connected(&mut self) {
        let mut soon = Backoff::new(SOON.0, SOON.1);
        let mut slowly = Backoff::new(SLOWLY.0, SLOWLY.1);
        let mut complaint = String::new();
        while !self.stop.is_stopped() {
            let started = self.clock.now();
            let Err(e) = self.connect_and_serve(&mut complaint).await else { break };
            if self.clock.now().since(started) >= GOOD_AFTER {
                soon.reset();
                slowly.reset();
            }
            let why = Chain(&e).to_string();
            // Once for each kind of trouble, not once for each try.
            if why == complaint {
                log::debug!("{why}");
            } else {
                log::warn!("{why}");
                complaint.clone_from(&why);
            }
            self.link.send_replace(Link::Down { why, pace: e.pace() });
            let delay = match e.pace() {
                Pace::Soon => soon.next_delay(),
                Pace::Slowly => slowly.next_delay(),
            };
            self.while_alive(tokio::time::sleep(delay)).await;
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

    /// One connection from its beginning to its end. `Ok`: stopped.
    async fn connect_and_serve(&mut self, complaint: &mut String) -> Result<(), SessionError> {
        let session = self.counter.next();
        let will = self.reporter.will(session);
        let Some(connection) = self.while_alive(self.access.connect(will)).await else { return Ok(()) };
        let connection = connection?;
        log::info!("connected to the broker at {}, session {session}", self.access.broker());
        complaint.clear();
        let (line, acks, stop) = (connection.line.clone(), self.acks, self.stop.clone());
        let gave_up = async {
            stop.stopped().await;
            tokio::time::sleep(STOP_MOST - ROUND).await;
        };
        tokio::select! {
            // In this order: the broker's last word on what was said, then that it has closed.
            biased;
            failed = self.serve(line, session) => failed,
            ended = connection.drive(|topic, payload| acks.take(topic, payload)) => ended,
            () = gave_up => Ok(()),
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
                pumped = self.pump.run(flow, &line, &self.stop, &self.beat) => pumped?,
                failed = self.reporter.run(&line, session, said) => match failed? {},
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
        let filters = self.acks.filters();
        if filters.is_empty() {
            return Ok(());
        }
        let inputs = filters.iter().map(|f| SubscribeFilterInput::new(f.clone(), QoS::AtLeastOnce));
        let Ok(notice) = line.client.try_subscribe_many_tracked(inputs) else { return Err(line.silent()) };
        let Ok(answer) = tokio::time::timeout(line.patience, notice.wait_completion_async()).await else {
            return Err(line.silent());
        };
        if let Err(e) = answer {
            log::error!("the broker does not let the device hear confirmations on {}: {e}", filters.join(", "));
        }
        Ok(())
    }
}
