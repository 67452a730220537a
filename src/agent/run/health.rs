//! How the device is: what the stages count, what the queues between them dropped, what the sensors say. Read by the
//! heartbeat, by `vedette status` and by systemd's status line.
//!
//! Locks: one for each camera's state, one for durations; each is held for a copy only.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;

use super::incidents::Inbox;
use crate::agent::capture::{CameraState, Frame, Stats};
use crate::agent::config::{CameraId, Config};
use crate::agent::health::Sensors;
use crate::agent::incident::MachineCounters;
use crate::agent::infer::EngineInfo;
use crate::agent::ring::SharedRing;
use crate::agent::store::Store;
use crate::agent::uplink::Link;
use crate::base::clock::{Clock, Mono, Wall};
use crate::base::queue::Queue;
use crate::contract::alert::{ClockState, ModelRef};
use crate::contract::heartbeat::{
    CameraHealth, DiskHealth, HealthReport, HealthSource, InferenceHealth, MemoryHealth, Timing,
};
use crate::contract::outbox::Outbox;
use crate::contract::state::{CameraCondition, CameraStatus, DeviceFacts};

/// Durations that the percentiles are taken over.
const DURATIONS: usize = 512;
/// An inference that goes on failing is logged at most so often a camera.
const SAY_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// What is known of one camera.
#[derive(Default)]
pub struct CameraRecord {
    /// Counted by capture.
    pub stats: Arc<Stats>,
    state: Mutex<Option<(CameraState, Wall)>>,
    /// Nanoseconds of monotonic time; 0 before the first.
    last_video: AtomicU64,
    windows: AtomicU64,
    incidents: AtomicU64,
    inference_failures: AtomicU64,
    failure_said: Mutex<Option<Mono>>,
}

struct Queues {
    frames: Queue<Frame>,
    inbox: Inbox,
    store: Store,
    rings: BTreeMap<CameraId, SharedRing>,
}

/// See the module's doc.
pub struct Health {
    clock: Arc<dyn Clock>,
    started: Mono,
    sensors: Sensors,
    facts: DeviceFacts,
    engine: Option<EngineInfo>,
    cameras: BTreeMap<CameraId, Arc<CameraRecord>>,
    passes: Mutex<Passes>,
    queues: OnceLock<Queues>,
    uplink: OnceLock<(Arc<dyn Outbox>, watch::Receiver<Link>)>,
    machine: Mutex<MachineCounters>,
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct Passes {
    frames: u64,
    /// Milliseconds a frame, newest last.
    recent: VecDeque<f32>,
}

impl Health {
    /// Of a device with this config, model and, if any camera is classified, engine.
    pub fn new(config: &Config, model: ModelRef, engine: Option<EngineInfo>, clock: Arc<dyn Clock>) -> Self {
        let cameras = config.cameras.iter().map(|c| (c.id.clone(), Arc::default())).collect();
        Health {
            started: clock.now(),
            clock,
            sensors: Sensors::of_machine(&config.paths.state_dir),
            facts: DeviceFacts { agent_version: env!("CARGO_PKG_VERSION").to_owned(), model: Some(model) },
            engine,
            cameras,
            passes: Mutex::default(),
            queues: OnceLock::new(),
            uplink: OnceLock::new(),
            machine: Mutex::default(),
            version: watch::Sender::new(0),
        }
    }

    /// A camera's record; one that no config names has one that nobody reads.
    pub fn camera(&self, camera: &CameraId) -> Arc<CameraRecord> {
        self.cameras.get(camera).cloned().unwrap_or_default()
    }

    /// Drops are read from these from now on.
    pub fn watch_queues(
        &self,
        frames: Queue<Frame>,
        inbox: Inbox,
        store: Store,
        rings: BTreeMap<CameraId, SharedRing>,
    ) {
        self.queues.set(Queues { frames, inbox, store, rings }).ok();
    }

    /// The link and the outbox are read from these from now on.
    pub fn watch_uplink(&self, outbox: Arc<dyn Outbox>, link: watch::Receiver<Link>) {
        self.uplink.set((outbox, link)).ok();
    }

    /// A camera's state has changed.
    pub fn camera_state(&self, record: &CameraRecord, state: &CameraState) {
        *record.state.lock().expect("nothing panics under this lock") = Some((state.clone(), self.clock.wall()));
        self.version.send_modify(|v| *v += 1);
    }

    /// Video came from a camera.
    pub fn video_came(&self, record: &CameraRecord) {
        record.last_video.store(self.clock.now().as_nanos().max(1), Ordering::Relaxed);
    }

    /// So many frames went through the encoder (and the windows that were due through the head) in one pass.
    pub fn inferred(&self, frames: usize, took: Duration) {
        let mut passes = self.passes.lock().expect("nothing panics under this lock");
        passes.frames += frames as u64;
        if passes.recent.len() == DURATIONS {
            passes.recent.pop_front();
        }
        passes.recent.push_back(took.as_secs_f32() * 1000.0 / frames.max(1) as f32);
    }

    /// A window was scored.
    pub fn scored(&self, camera: &CameraId) {
        self.camera(camera).windows.fetch_add(1, Ordering::Relaxed);
    }

    /// What the incident machine did not act on.
    pub fn machine(&self, counters: MachineCounters) {
        *self.machine.lock().expect("nothing panics under this lock") = counters;
    }

    /// An incident opened.
    pub fn incident_opened(&self, camera: &CameraId) {
        self.camera(camera).incidents.fetch_add(1, Ordering::Relaxed);
    }

    /// A frame could not be classified; whether that should be logged (again).
    pub fn inference_failed(&self, camera: &CameraId) -> bool {
        let (now, record) = (self.clock.now(), self.camera(camera));
        record.inference_failures.fetch_add(1, Ordering::Relaxed);
        let mut said = record.failure_said.lock().expect("nothing panics under this lock");
        let say = said.is_none_or(|t| now.since(t) >= SAY_AGAIN_AFTER);
        if say {
            *said = Some(now);
        }
        say
    }

    /// One line.
    pub fn summary(&self) -> String {
        let conditions = self.cameras();
        let live = conditions.iter().filter(|c| c.status == CameraStatus::Live).count();
        let lost: Vec<_> =
            conditions.iter().filter(|c| c.status == CameraStatus::Lost).map(|c| c.camera.as_str()).collect();
        let lost = if lost.is_empty() { String::new() } else { format!(", lost: {}", lost.join(", ")) };
        let link = match self.uplink.get().map(|(_, link)| link.borrow().clone()) {
            None => "no broker configured".to_owned(),
            Some(Link::Up { .. }) => "broker connected".to_owned(),
            Some(Link::Down { why, .. }) => format!("broker away: {why}"),
            Some(Link::Starting | Link::Stopped) => "broker not connected".to_owned(),
        };
        format!("{live} of {} cameras live{lost}; {link}", conditions.len())
    }

    /// Everything, as `vedette status` prints it.
    pub fn status(&self) -> serde_json::Value {
        let outbox = self.uplink.get().and_then(|(outbox, _)| outbox.status().ok());
        json!({
            "summary": self.summary(),
            "agent": self.facts,
            "clock": self.clock(),
            "cameras": self.cameras(),
            "health": self.report(),
            "outbox": outbox,
        })
    }

    fn counters(&self, id: &CameraId, record: &CameraRecord) -> CameraHealth {
        let mut drops = BTreeMap::from([
            ("decoder_late".to_owned(), record.stats.skipped.get()),
            ("not_classified".to_owned(), record.inference_failures.load(Ordering::Relaxed)),
        ]);
        if let Some(ring) = self.queues.get().and_then(|q| q.rings.get(id)) {
            let counts = ring.counts();
            drops.insert("ring_oversized_groups".to_owned(), counts.oversized_groups);
            drops.insert("ring_undecodable".to_owned(), counts.undecodable);
            drops.insert("ring_time_falls".to_owned(), counts.time_falls);
        }
        CameraHealth {
            access_units: record.stats.access_units.get(),
            pictures: record.stats.pictures.get(),
            frames: record.stats.frames.get(),
            windows: record.windows.load(Ordering::Relaxed),
            incidents: record.incidents.load(Ordering::Relaxed),
            restarts: record.stats.sessions.get().saturating_sub(1),
            drops,
            last_video_age_ms: match record.last_video.load(Ordering::Relaxed) {
                0 => None,
                ns => Some(self.clock.now().since(Mono::from_nanos(ns)).as_millis() as u64),
            },
        }
    }
}

impl HealthSource for Health {
    fn report(&self) -> HealthReport {
        let readings = self.sensors.read(self.clock.wall());
        let cameras = self.cameras.iter().map(|(id, record)| (id.0.to_string(), self.counters(id, record))).collect();
        let machine = *self.machine.lock().expect("nothing panics under this lock");
        let mut drops = BTreeMap::from([
            ("scores_out_of_order".to_owned(), machine.out_of_order),
            ("windows_in_cool_down".to_owned(), machine.cooled_down),
        ]);
        if let Some(q) = self.queues.get() {
            let store = q.store.counters();
            drops.insert("frames_before_inference".to_owned(), q.frames.dropped());
            drops.insert("scores_before_incident".to_owned(), q.inbox.dropped());
            drops.insert("records_refused_by_store".to_owned(), store.refused);
            drops.insert("records_lost_by_store".to_owned(), store.lost);
        }
        HealthReport {
            uptime_s: self.clock.now().since(self.started).as_secs(),
            cameras,
            drops,
            inference: self
                .engine
                .as_ref()
                .map(|e| InferenceHealth { engine: e.runtime.clone(), frame_ms: self.timing() }),
            memory: readings.resident_bytes.map(|resident_bytes| MemoryHealth { resident_bytes }),
            disks: readings
                .disk
                .map(|d| ("state".to_owned(), DiskHealth { free_bytes: d.free_bytes, total_bytes: d.total_bytes }))
                .into_iter()
                .collect(),
            temperatures_c: readings.temperatures.into_iter().map(|t| (t.zone, t.celsius)).collect(),
        }
    }

    fn facts(&self) -> DeviceFacts {
        self.facts.clone()
    }

    fn cameras(&self) -> Vec<CameraCondition> {
        let since = self.clock.wall_at(self.started);
        let state = |record: &CameraRecord| record.state.lock().expect("nothing panics under this lock").clone();
        self.cameras.iter().map(|(id, record)| condition(id, state(record).as_ref(), since)).collect()
    }

    fn clock(&self) -> ClockState {
        self.sensors.clock(self.clock.wall()).into()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}

impl Health {
    fn timing(&self) -> Timing {
        let passes = self.passes.lock().expect("nothing panics under this lock");
        let mut sorted: Vec<f32> = passes.recent.iter().copied().collect();
        sorted.sort_by(f32::total_cmp);
        let at = |q: f32| sorted.get(((sorted.len().max(1) - 1) as f32 * q) as usize).copied().unwrap_or(0.0);
        Timing { count: passes.frames, median: at(0.5), p99: at(0.99), max: at(1.0) }
    }
}

fn condition(id: &CameraId, state: Option<&(CameraState, Wall)>, started: Wall) -> CameraCondition {
    let (status, reason) = match state.map(|s| &s.0) {
        None | Some(CameraState::Connecting) => (CameraStatus::Starting, None),
        Some(CameraState::Running { .. }) => (CameraStatus::Live, None),
        Some(CameraState::Lost { reason, .. }) => (CameraStatus::Lost, Some(reason.clone())),
        Some(CameraState::Ended) => (CameraStatus::Ended, None),
        Some(CameraState::Failed { reason }) => (CameraStatus::Lost, Some(reason.clone())),
    };
    let since = state.map_or(started, |s| s.1).rfc3339();
    CameraCondition { camera: id.0.to_string(), status, since, reason }
}
