//! From the arrival of a window's last access unit in the process to the alert at a subscriber: the daemon as it runs on
//! a device, a real RTSP camera, a real broker, and a subscriber in this process, so that one clock times both ends.
//!
//! ```text
//!   access unit ─► decode ─► tap ─► inference ─► Score ─► incident ─► store ─► uplink ─► broker ─► subscriber
//!   └──────── to_frame ──────────┘              │                                                │
//!   └──────────────── to_score ─────────────────┘─────────────────── from_score ─────────────────┘
//! ```
//!
//! `to_frame` is measured before, with capture alone on the same camera. Thresholds are so low that any window opens an
//! incident, and an incident is so short that one follows the other; the alert that opens one then waits for the one
//! that closes the last, which makes the figure rather too high than too low.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use anyhow::{Context, bail};
use rumqttc::{AsyncClient, Event as MqttEvent, Incoming, MqttOptions, PublishOptions, QoS};
use serde_json::{Value, json};
use tokio::sync::broadcast;
use uuid::Uuid;
use vedette::agent::capture::{
    AccessUnit, CameraState, Capture, CaptureSink, Continuity, Frame, FrameTap, Snapshots, Stats, Wants,
};
use vedette::agent::config::{self, Config};
use vedette::agent::http::client;
use vedette::agent::incident::Transition;
use vedette::agent::infer::model::Model;
use vedette::agent::run::Daemon;
use vedette::agent::run::events::Event;
use vedette::base::clock::{Clock, Mono, SystemClock};
use vedette::base::progress::Beat;
use vedette::base::stop::StopToken;
use vedette::contract::ack::Ack;
use vedette::contract::topics::{Channel, DeviceTopics};

use crate::ms;

/// Below anything that a softmax gives.
const THRESHOLD: f32 = 1e-9;
const INCIDENT_LENGTH: Duration = Duration::from_secs(4);
const CAPTURE_ALONE: Duration = Duration::from_secs(15);
/// What the whole may take beside the incidents themselves.
const PATIENCE: Duration = Duration::from_secs(60);
const CONSUMER: &str = "soc";
const OPENED: &str = "org.vedette.alert.opened.v1";

pub struct Setup {
    pub rtsp: String,
    pub broker: u16,
    pub model: PathBuf,
    pub onnxruntime: PathBuf,
    pub dir: PathBuf,
    pub incidents: usize,
}

pub fn measure(setup: &Setup) -> anyhow::Result<Value> {
    let clock = Arc::new(SystemClock::new());
    let config = configure(setup)?;
    let to_frame = capture_alone(&config, clock.clone())?;

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (arrived_at, arrived) = mpsc::channel();
    let topics = DeviceTopics::new(&config.device.site, &config.device.id)?;
    let (ready_is, ready) = mpsc::channel();
    let subscriber = runtime.spawn(subscribe(setup.broker, topics, clock.clone(), ready_is, arrived_at));
    ready.recv_timeout(PATIENCE).context("the broker granted no subscription")?;

    let runtime_dir = config.paths.runtime_dir.clone();
    let daemon = Daemon::start(config, clock.clone())?;
    let (tell, seen) = mpsc::channel();
    let watcher = runtime.spawn(watch(daemon.events().watch(), clock.clone(), tell));
    let mut stations = Stations { seen, scores: BTreeMap::new(), opened: BTreeMap::new() };
    let measured = collect(setup.incidents, clock.as_ref(), &mut stations, &arrived);
    let status = runtime.block_on(client::status(&runtime_dir, PATIENCE));
    let drained = daemon.drain();
    for (name, task) in [("subscriber", subscriber), ("watcher", watcher)] {
        if task.is_finished() {
            log::error!("the {name} ended early: {:?}", runtime.block_on(task));
        } else {
            task.abort();
        }
    }
    if !drained.troubles.is_empty() {
        bail!("{drained}");
    }
    let mut result = measured?;
    result["to_frame_ms"] = json!(to_frame);
    result["inference"] = status?["health"]["inference"]["frame_ms"].take();
    Ok(result)
}

fn configure(setup: &Setup) -> anyhow::Result<Config> {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let path = |path: &std::path::Path| quoted(&path.to_string_lossy());
    let text = format!(
        "[device]\nsite = \"bench\"\nid = \"this-machine\"\n[paths]\nstate_dir = {state}\nruntime_dir = {run}\n\
         [model]\ndir = {model}\nonnxruntime = {onnxruntime}\n\
         [[camera]]\nid = \"street\"\nkind = \"rtsp\"\nurl = {url}\n\
         [clip]\npre_roll_s = 1\npost_roll_s = 1\n\
         [mqtt]\nurl = \"mqtt://127.0.0.1:{broker}\"\nconsumers = [\"{CONSUMER}\"]\n",
        state = path(&setup.dir.join("state")),
        run = path(&setup.dir.join("run")),
        model = path(&setup.model),
        onnxruntime = path(&setup.onnxruntime),
        url = quoted(&setup.rtsp),
        broker = setup.broker,
    );
    let file = setup.dir.join("vedette.toml");
    std::fs::create_dir_all(setup.dir.join("state"))?;
    std::fs::write(&file, text)?;
    let mut config = config::load(&file)?;
    let classes = Model::open(&setup.model)?.manifest().thresholds.clone();
    config.cameras[0].thresholds = classes.into_keys().map(|class| (class, THRESHOLD)).collect();
    // Shorter than a config file may say: the machine takes it, and it makes for many incidents.
    config.incident.max_length = INCIDENT_LENGTH;
    config.incident.min_windows = 1;
    Ok(config)
}

/// From an access unit's arrival to the frame that capture hands on: decoding, and what the tap has to wait for.
fn capture_alone(config: &Config, clock: Arc<SystemClock>) -> anyhow::Result<Vec<f64>> {
    let sample_fps = Model::open(&config.model.dir)?.manifest().sample_fps;
    let sink = Arc::new(Timed {
        until: clock.now() + CAPTURE_ALONE,
        clock: clock.clone(),
        took_ms: Mutex::default(),
        over: StopToken::new(),
    });
    let capture = Capture {
        camera: config.cameras[0].clone(),
        wants: Wants { access_units: true, frames: Some(FrameTap { sample_fps, region: None }) },
        clock,
        sink: sink.clone(),
        stats: Arc::new(Stats::default()),
        snapshots: Snapshots::default(),
    };
    capture.run_once(&mut Continuity::default(), &sink.over, &Beat::detached())?;
    let mut took = std::mem::take(&mut *sink.took_ms.lock().expect("nothing panics under this lock"));
    // The first second: what the camera had ready when it was connected to came in a burst.
    took.drain(..took.len().min(sample_fps as usize));
    Ok(took)
}

struct Timed {
    until: Mono,
    clock: Arc<SystemClock>,
    took_ms: Mutex<Vec<f64>>,
    over: StopToken,
}

impl CaptureSink for Timed {
    fn access_unit(&self, _: AccessUnit) {}

    fn frame(&self, frame: Frame) {
        let now = self.clock.now();
        self.took_ms.lock().expect("nothing panics under this lock").push(ms(now.since(frame.arrival)));
        if now > self.until {
            self.over.stop();
        }
    }

    fn state(&self, state: CameraState) {
        if let CameraState::Lost { .. } | CameraState::Failed { .. } = state {
            self.over.stop();
        }
    }
}

/// What the daemon tells of itself on the way, and when.
enum Seen {
    /// A window that ends at `end` was scored.
    Score { end: Mono, arrival: Mono, at: Mono },
    /// The window that ends at `end` opened an incident.
    Opened { incident: Uuid, end: Mono, at: Mono },
}

async fn watch(
    mut events: broadcast::Receiver<Event>,
    clock: Arc<SystemClock>,
    seen: mpsc::Sender<Seen>,
) -> anyhow::Result<()> {
    loop {
        let event = events.recv().await?;
        let at = clock.now();
        match event {
            Event::Score(score) => seen.send(Seen::Score { end: score.end, arrival: score.arrival, at })?,
            Event::Incident(transition) => {
                if let Transition::Opened(incident) = &*transition {
                    seen.send(Seen::Opened { incident: incident.id, end: incident.end, at })?;
                }
            }
            _ => {}
        }
    }
}

/// The stations of one alert.
struct Way {
    arrival: Mono,
    scored: Mono,
    decided: Mono,
}

/// Stations by incident. A score and the incident that it opened may be told in either order.
struct Stations {
    seen: mpsc::Receiver<Seen>,
    scores: BTreeMap<Mono, (Mono, Mono)>,
    opened: BTreeMap<Uuid, (Mono, Mono)>,
}

impl Stations {
    fn of(&mut self, incident: Uuid) -> anyhow::Result<Way> {
        loop {
            if let Some((end, decided)) = self.opened.get(&incident)
                && let Some((arrival, scored)) = self.scores.get(end)
            {
                return Ok(Way { arrival: *arrival, scored: *scored, decided: *decided });
            }
            match self.seen.recv_timeout(PATIENCE).context("an alert came for an incident that no window opened")? {
                Seen::Score { end, arrival, at } => drop(self.scores.insert(end, (arrival, at))),
                Seen::Opened { incident, end, at } => drop(self.opened.insert(incident, (end, at))),
            }
        }
    }
}

/// An alert of an opened incident came.
struct Arrived {
    incident: Uuid,
    at: Mono,
}

/// A SOC: stamps what comes, then reads it, and confirms it.
async fn subscribe(
    broker: u16,
    topics: DeviceTopics,
    clock: Arc<SystemClock>,
    ready: mpsc::Sender<()>,
    arrived: mpsc::Sender<Arrived>,
) -> anyhow::Result<()> {
    let mut options = MqttOptions::new("vedette-bench-soc", ("127.0.0.1".to_owned(), broker));
    options.set_keep_alive(10);
    let (client, mut events) = AsyncClient::builder(options).capacity(16).build();
    loop {
        match events.poll().await? {
            MqttEvent::Incoming(Incoming::ConnAck(_)) => {
                let all = format!("vedette/v1/{}/{}/alerts/#", topics.site.as_str(), topics.device.as_str());
                client.subscribe(all, QoS::AtLeastOnce).await?;
            }
            MqttEvent::Incoming(Incoming::SubAck(_)) => ready.send(())?,
            MqttEvent::Incoming(Incoming::Publish(message)) => {
                let at = clock.now();
                let topic = String::from_utf8_lossy(&message.topic);
                let (_, Channel::Alerts { .. }) = DeviceTopics::parse(&topic)? else { continue };
                let alert: Value = serde_json::from_slice(&message.payload)?;
                let seq = alert["sequence"].as_str().and_then(|s| s.parse().ok()).context("an alert has a number")?;
                let ack = serde_json::to_vec(&Ack { seq, epoch: None })?;
                client.publish(topics.ack(CONSUMER)?, ack, PublishOptions::new(QoS::AtLeastOnce)).await?;
                if alert["type"] == OPENED {
                    let id = alert["data"]["incident"]["id"].as_str().context("an alert has an incident")?;
                    arrived.send(Arrived { incident: id.parse()?, at })?;
                }
            }
            _ => {}
        }
    }
}

/// Waits for so many alerts and matches them with what led to them.
fn collect(
    wanted: usize,
    clock: &SystemClock,
    stations: &mut Stations,
    arrived: &mpsc::Receiver<Arrived>,
) -> anyhow::Result<Value> {
    let deadline = clock.now() + PATIENCE + 4 * INCIDENT_LENGTH * u32::try_from(wanted)?;
    let mut ways = Vec::new();
    // The first one pays for what is done once: pages, caches, the broker's first message.
    while ways.len() <= wanted {
        let alert = arrived
            .recv_timeout(deadline.since(clock.now()))
            .with_context(|| format!("{} of {wanted} alerts came in time", ways.len()))?;
        ways.push((stations.of(alert.incident)?, alert.at));
    }
    let each = |part: fn(&Way, Mono) -> Duration| -> Vec<f64> {
        ways.iter().skip(1).map(|(way, arrived)| ms(part(way, *arrived))).collect()
    };
    Ok(json!({
        "total_ms": each(|way, arrived| arrived.since(way.arrival)),
        "to_score_ms": each(|way, _| way.scored.since(way.arrival)),
        "score_to_incident_ms": each(|way, _| way.decided.since(way.scored)),
        "from_score_ms": each(|way, arrived| arrived.since(way.scored)),
    }))
}
