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
const INCIDENT_LENGTH: Duration = Duration::from_secs(2);
const CAPTURE_ALONE: Duration = Duration::from_secs(15);
/// What the whole may take beside the incidents themselves.
const PATIENCE: Duration = Duration::from_secs(60);
const CONSUMER: &str = "soc";

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
    let (opened_at, opened) = mpsc::channel();
    let watcher = runtime.spawn(watch(daemon.events().watch(), clock.clone(), opened_at));
    let measured = collect(setup.incidents, clock.as_ref(), &opened, &arrived);
    let status = runtime.block_on(client::status(&runtime_dir, PATIENCE));
    let drained = daemon.drain();
    subscriber.abort();
    watcher.abort();
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

/// An incident that was opened, and when what led to it was seen.
struct Opened {
    incident: Uuid,
    arrival: Mono,
    scored: Mono,
    decided: Mono,
}

async fn watch(
    mut events: broadcast::Receiver<Event>,
    clock: Arc<SystemClock>,
    opened: mpsc::Sender<Opened>,
) -> anyhow::Result<()> {
    let mut scores: BTreeMap<Mono, (Mono, Mono)> = BTreeMap::new();
    loop {
        let event = events.recv().await?;
        let now = clock.now();
        match event {
            Event::Score(score) => {
                scores.insert(score.end, (score.arrival, now));
            }
            Event::Incident(transition) => {
                if let Transition::Opened(incident) = &*transition
                    && let Some((arrival, scored)) = scores.get(&incident.end)
                {
                    let (arrival, scored) = (*arrival, *scored);
                    opened.send(Opened { incident: incident.id, arrival, scored, decided: now })?;
                }
            }
            _ => {}
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
                let ack = serde_json::to_vec(&Ack { seq })?;
                client.publish(topics.ack(CONSUMER)?, ack, PublishOptions::new(QoS::AtLeastOnce)).await?;
                if alert["type"].as_str().is_some_and(|t| t.ends_with("opened")) {
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
    opened: &mpsc::Receiver<Opened>,
    arrived: &mpsc::Receiver<Arrived>,
) -> anyhow::Result<Value> {
    let deadline = clock.now() + PATIENCE + 4 * INCIDENT_LENGTH * u32::try_from(wanted)?;
    let mut known: BTreeMap<Uuid, Opened> = BTreeMap::new();
    let (mut total, mut to_score, mut from_score, mut decided) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    // The first one pays for what is done once: pages, caches, the broker's first message.
    let mut first = true;
    while total.len() < wanted {
        let alert = arrived
            .recv_timeout(deadline.since(clock.now()))
            .with_context(|| format!("{} of {wanted} alerts came in time", total.len()))?;
        while !known.contains_key(&alert.incident) {
            let o = opened.recv_timeout(PATIENCE).context("an alert came for an incident that was not opened")?;
            known.insert(o.incident, o);
        }
        let o = known.remove(&alert.incident).expect("looked for above");
        if std::mem::take(&mut first) {
            continue;
        }
        total.push(ms(alert.at.since(o.arrival)));
        to_score.push(ms(o.scored.since(o.arrival)));
        decided.push(ms(o.decided.since(o.scored)));
        from_score.push(ms(alert.at.since(o.scored)));
    }
    Ok(
        json!({ "total_ms": total, "to_score_ms": to_score, "score_to_incident_ms": decided, "from_score_ms": from_score }),
    )
}
