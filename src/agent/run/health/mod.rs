//! How the device is: what the stages count, what the queues between them dropped, what the sensors say. Read by the
//! heartbeat, by `vedette status` and by systemd's status line. `camera` is what is known of one camera, `sight` whether
//! the model sees it, `durations` are percentiles.
//!
//! Locks: a few for each camera, one for durations; each is held for a copy only.

mod camera;
mod durations;
mod ring_watch;
mod sight;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::sync::watch;

use super::incidents::Inbox;
use super::pressure::{Interval, Rate};
use super::serving::InUse;
use crate::agent::capture::{CameraState, Frame};
use crate::agent::config::{CameraId, Config};
use crate::agent::health::Sensors;
use crate::agent::incident::MachineCounters;
use crate::agent::incident::arming::Arming;
use crate::agent::infer::EngineInfo;
use crate::agent::infer::manifest::Manifest;
use crate::agent::store::Store;
use crate::agent::uplink::Link;
use crate::agent::upload::UploadCounters;
use crate::base::clock::{Clock, Mono, Wall};
use crate::base::queue::Queue;
use crate::contract::alert::{ClockState, ModelRef};
use crate::contract::heartbeat::{HealthReport, HealthSource, InferenceHealth, SlowedBy, UploadHealth};
use crate::contract::identity::IdentityStatus;
use crate::contract::notice::Trouble;
use crate::contract::outbox::Outbox;
use crate::contract::state::{CameraCondition, CameraStatus, DeviceFacts};
use crate::contract::status::{DeviceStatus, HttpsStatus};
use crate::contract::update::UpdateStatus;

pub use camera::CameraRecord;
use durations::Durations;
pub use ring_watch::RingWatch;
use sight::Look;

struct Queues {
    frames: Queue<Frame>,
    inbox: Inbox,
    store: Store,
    rings: BTreeMap<CameraId, Arc<RingWatch>>,
}

/// See the module's doc.
pub struct Health {
    clock: Arc<dyn Clock>,
    started: Mono,
    sensors: Sensors,
    facts: Mutex<DeviceFacts>,
    engine: Mutex<Option<EngineInfo>>,
    /// What becomes of a better engine.
    better_engine: Mutex<Option<String>>,
    cameras: BTreeMap<CameraId, Arc<CameraRecord>>,
    inference: Mutex<Inference>,
    /// The sampling rate in force, in eighths of the model's.
    rate: AtomicU8,
    /// Something slowed the machine down when that was last looked at.
    throttled: AtomicBool,
    /// Part of the last interval that the engine worked, in percent.
    busy_percent: AtomicU32,
    queues: OnceLock<Queues>,
    uplink: OnceLock<(Arc<dyn Outbox>, watch::Receiver<Link>)>,
    uploads: OnceLock<(Store, Arc<UploadCounters>)>,
    https: OnceLock<watch::Receiver<HttpsStatus>>,
    machine: Mutex<MachineCounters>,
    incidents_seen: AtomicU64,
    /// `model.stride`
    stride: Option<usize>,
    update: Mutex<Option<UpdateStatus>>,
    identity: Mutex<Option<IdentityStatus>>,
    seen_by_others: Mutex<BTreeMap<Trouble, String>>,
    version: watch::Sender<u64>,
}

/// How long frames take, and why fewer are looked at.
#[derive(Default)]
struct Inference {
    frame: Durations,
    delay: Durations,
    slowed_by: Option<SlowedBy>,
}

impl Health {
    /// Of a device with this config, model and, if any camera is classified, engine.
    pub fn new(
        config: &Config,
        (model, manifest): (ModelRef, &Manifest),
        engine: Option<EngineInfo>,
        (clock, sensors): (Arc<dyn Clock>, Sensors),
    ) -> Self {
        let stride = config.model.stride.unwrap_or(manifest.stride);
        let look = Look::of(manifest.sample_fps, manifest.window, stride);
        let record = |classify: bool| Arc::new(CameraRecord::new(classify.then_some(look)));
        let cameras = config.cameras.iter().map(|c| (c.id.clone(), record(c.classify))).collect();
        Health {
            started: clock.now(),
            clock,
            sensors,
            facts: Mutex::new(DeviceFacts { agent_version: env!("CARGO_PKG_VERSION").to_owned(), model: Some(model) }),
            engine: Mutex::new(engine),
            better_engine: Mutex::default(),
            cameras,
            inference: Mutex::default(),
            rate: AtomicU8::new(Rate::FULL.eighths()),
            throttled: AtomicBool::new(false),
            busy_percent: AtomicU32::new(0),
            queues: OnceLock::new(),
            uplink: OnceLock::new(),
            uploads: OnceLock::new(),
            https: OnceLock::new(),
            machine: Mutex::default(),
            incidents_seen: AtomicU64::new(0),
            stride: config.model.stride,
            update: Mutex::default(),
            identity: Mutex::default(),
            seen_by_others: Mutex::default(),
            version: watch::Sender::new(0),
        }
    }

    /// Another model serves from now on, on this engine.
    pub fn model_is(&self, model: &InUse, engine: EngineInfo) {
        self.facts.lock().expect("nothing panics under this lock").model = Some(model.reference.clone());
        let m = &model.manifest;
        let look = Look::of(m.sample_fps, m.window, self.stride.unwrap_or(m.stride));
        self.cameras.values().for_each(|record| record.looked_at_with(look));
        self.engine_is(engine);
        self.version.send_modify(|v| *v += 1);
    }

    /// How the device stands with its updates.
    pub fn update_is(&self, status: UpdateStatus) {
        let mut update = self.update.lock().expect("nothing panics under this lock");
        if update.as_ref() != Some(&status) {
            *update = Some(status);
            self.version.send_modify(|v| *v += 1);
        }
    }

    /// How the device stands with its certificate.
    pub fn identity_is(&self, status: IdentityStatus) {
        let mut identity = self.identity.lock().expect("nothing panics under this lock");
        if identity.as_ref() != Some(&status) {
            *identity = Some(status);
            self.version.send_modify(|v| *v += 1);
        }
    }

    /// Trouble that somebody else has seen, with words for a person; none: it is over.
    pub fn trouble_is(&self, trouble: Trouble, words: Option<String>) {
        let mut seen = self.seen_by_others.lock().expect("nothing panics under this lock");
        match words {
            Some(words) => drop(seen.insert(trouble, words)),
            None => drop(seen.remove(&trouble)),
        }
    }

    /// That trouble.
    pub fn seen_by_others(&self) -> BTreeMap<Trouble, String> {
        self.seen_by_others.lock().expect("nothing panics under this lock").clone()
    }

    /// The model has seen an incident begin.
    pub fn incident_seen(&self) {
        self.incidents_seen.fetch_add(1, Ordering::Relaxed);
    }

    /// Incidents that a model has seen begin, since the start.
    pub fn incidents_seen(&self) -> u64 {
        self.incidents_seen.load(Ordering::Relaxed)
    }

    /// Another engine serves from now on.
    pub fn engine_is(&self, engine: EngineInfo) {
        *self.engine.lock().expect("nothing panics under this lock") = Some(engine);
    }

    /// Whether what serves is better than the CPU's.
    pub fn engine_is_better(&self) -> bool {
        self.engine.lock().expect("nothing panics under this lock").as_ref().is_some_and(|e| e.gains_by_batches)
    }

    /// What becomes of a better engine; none: nothing is to be said.
    pub fn better_engine(&self, words: Option<String>) {
        *self.better_engine.lock().expect("nothing panics under this lock") = words;
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
        rings: BTreeMap<CameraId, Arc<RingWatch>>,
    ) {
        self.queues.set(Queues { frames, inbox, store, rings }).ok();
    }

    /// The link and the outbox are read from these from now on.
    pub fn watch_uplink(&self, outbox: Arc<dyn Outbox>, link: watch::Receiver<Link>) {
        self.uplink.set((outbox, link)).ok();
    }

    /// What leaves the device is read from these from now on.
    pub fn watch_uploads(&self, store: Store, counters: Arc<UploadCounters>) {
        self.uploads.set((store, counters)).ok();
    }

    /// How HTTPS is, is read from this from now on.
    pub fn watch_https(&self, status: watch::Receiver<HttpsStatus>) {
        self.https.set(status).ok();
    }

    fn uploads(&self) -> Option<UploadHealth> {
        let (store, counters) = self.uploads.get()?;
        let counts = store.reader().upload_counts().unwrap_or_default();
        Some(UploadHealth {
            pending: counts.pending,
            done: counts.done,
            failed: counts.failed,
            failures: counters.failures.load(Ordering::Relaxed),
            sent_bytes: counters.sent_bytes.load(Ordering::Relaxed),
        })
    }

    /// A camera's state has changed.
    pub fn camera_state(&self, record: &CameraRecord, state: &CameraState) {
        record.state_is(state.clone(), self.clock.wall(), self.clock.now());
        self.version.send_modify(|v| *v += 1);
    }

    /// Video came from a camera.
    pub fn video_came(&self, record: &CameraRecord) {
        record.video_came(self.clock.now());
    }

    /// A frame goes to inference; so many older ones of its camera were let go for it.
    pub fn frame_came(&self, record: &CameraRecord, overtaken: u64) {
        record.frame_came(self.clock.now(), overtaken);
    }

    /// Frames that arrived at these times went through the encoder (and the windows that were due through the head) in
    /// one pass.
    pub fn inferred(&self, arrivals: impl ExactSizeIterator<Item = Mono>, took: Duration) {
        let (now, frames) = (self.clock.now(), arrivals.len());
        let mut inference = self.inference.lock().expect("nothing panics under this lock");
        inference.frame.add(took / frames.max(1) as u32, frames);
        for arrival in arrivals {
            inference.delay.add(now.since(arrival), 1);
        }
    }

    /// The cameras' ids.
    pub fn camera_ids(&self) -> impl Iterator<Item = &CameraId> {
        self.cameras.keys()
    }

    /// Whether the clock's time of day can be gone by.
    pub fn knows_time_of_day(&self) -> bool {
        self.sensors.knows_time_of_day(self.clock.wall())
    }

    /// Whether incidents open on a camera.
    pub fn armed(&self, camera: &CameraId, arming: Arming) {
        if !self.camera(camera).armed(arming) {
            return;
        }
        self.version.send_modify(|v| *v += 1);
        let until = |t: Option<Wall>| t.map_or("from now on".into(), |t| format!("until {}", t.rfc3339()));
        match arming {
            Arming::Always => {
                log::info!(camera:% = camera; "{camera} is armed: no schedule and no command says otherwise any more")
            }
            Arming::TimeUnknown => log::warn!(
                camera:% = camera;
                "{camera} is armed whatever its schedule says, until the clock is set: is a time server in reach (timedatectl)?"
            ),
            Arming::Scheduled { armed: true, until: t } => {
                log::info!(camera:% = camera; "{camera} is armed {}", until(t))
            }
            Arming::Wished { armed, until: t } => {
                let armed = if armed { "armed" } else { "disarmed" };
                log::warn!(camera:% = camera; "{camera} is {armed} {} by a command, whatever its schedule says", until(t));
            }
            Arming::Scheduled { armed: false, until: t } => {
                log::info!(camera:% = camera; "{camera} is disarmed {}: no incident opens, video is kept", until(t));
            }
        }
    }

    /// A window was scored.
    pub fn scored(&self, camera: &CameraId) {
        self.camera(camera).window_came(self.clock.now());
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
    pub fn inference_failed(&self, camera: &CameraId, why: String) -> bool {
        self.camera(camera).inference_failed(self.clock.now(), why)
    }

    /// Frames of all cameras that came and that were let go for newer ones, so far.
    pub fn frames(&self) -> (u64, u64) {
        self.cameras.values().map(|record| record.frames()).fold((0, 0), |(a, b), (came, gone)| (a + came, b + gone))
    }

    /// The sampling rate in force.
    pub fn rate(&self) -> Rate {
        Rate::from_eighths(self.rate.load(Ordering::Relaxed))
    }

    /// Whether something slowed the machine down when `heed` last heard.
    pub fn is_throttled(&self) -> bool {
        self.throttled.load(Ordering::Relaxed)
    }

    /// What the sensors say that other stages go by. Reading them takes too long for those; who looks now and then tells.
    pub fn heed(&self, report: &HealthReport) {
        self.throttled.store(report.throttling.as_ref().is_some_and(|t| t.active), Ordering::Relaxed);
    }

    /// An interval of inference is over, and went so; from here on `rate` is in force.
    pub fn interval(&self, interval: Interval, rate: Rate, slowed_by: Option<SlowedBy>) {
        self.inference.lock().expect("nothing panics under this lock").slowed_by = slowed_by;
        self.busy_percent.store((interval.busy * 100.0).round() as u32, Ordering::Relaxed);
        let before = Rate::from_eighths(self.rate.swap(rate.eighths(), Ordering::Relaxed));
        if rate != before {
            let (eighths, percent) = (rate.eighths(), (interval.busy * 100.0).round());
            if rate < before && interval.throttled {
                log::warn!(
                    "the machine is throttled, too hot or its supply too weak ({percent} % busy): the model is shown {eighths} of 8 frames of every camera; see `vedette status`"
                );
            } else if rate < before {
                log::warn!(
                    "inference cannot keep up ({percent} % busy, {} of {} frames let go): the model is shown {eighths} of 8 frames of every camera; classify fewer cameras, or see `vedette status` for what holds the machine back",
                    interval.let_go,
                    interval.came
                );
            } else {
                log::info!("inference keeps up ({percent} % busy): the model is shown {eighths} of 8 frames again");
            }
        }
        self.look();
    }

    /// Looks whether the model sees every camera; says it when that has changed.
    fn look(&self) {
        for (id, record) in &self.cameras {
            let Some(news) = record.look(self.clock.now()) else { continue };
            self.version.send_modify(|v| *v += 1);
            match news {
                Some(why) => log::error!(camera:% = id; "{id} is blind, nothing on it can be detected: {why}"),
                None if record.is_live() => log::info!(camera:% = id; "{id} is not blind any more"),
                // That it is lost is said already, and says all.
                None => {}
            }
        }
    }

    /// One line.
    pub fn summary(&self) -> String {
        let conditions = self.cameras();
        let live = conditions.iter().filter(|c| c.status == CameraStatus::Live).count();
        let lost: Vec<_> =
            conditions.iter().filter(|c| c.status == CameraStatus::Lost).map(|c| c.camera.as_str()).collect();
        let lost = if lost.is_empty() { String::new() } else { format!(", lost: {}", lost.join(", ")) };
        let blind: Vec<_> = conditions.iter().filter(|c| c.blind.is_some()).map(|c| c.camera.as_str()).collect();
        let blind = if blind.is_empty() { String::new() } else { format!(", blind: {}", blind.join(", ")) };
        let link = match self.uplink.get().map(|(_, link)| link.borrow().clone()) {
            None => "no broker configured".to_owned(),
            Some(Link::Up { .. }) => "broker connected".to_owned(),
            Some(Link::Down { why, .. }) => format!("broker away: {why}"),
            Some(Link::Starting | Link::Stopped) => "broker not connected".to_owned(),
        };
        format!("{live} of {} cameras live{lost}{blind}; {link}", conditions.len())
    }

    /// Everything, as `vedette status` shows it.
    pub fn status(&self) -> DeviceStatus {
        DeviceStatus {
            summary: self.summary(),
            agent: self.facts(),
            clock: self.clock(),
            cameras: self.cameras(),
            health: self.report(),
            outbox: self.uplink.get().and_then(|(outbox, _)| outbox.status().ok()),
            https: self.https.get().map(|status| status.borrow().clone()),
        }
    }

    fn inference(&self, engine: &EngineInfo) -> InferenceHealth {
        let inference = self.inference.lock().expect("nothing panics under this lock");
        InferenceHealth {
            engine: engine.runtime.clone(),
            frame_ms: inference.frame.timing(),
            delay_ms: inference.delay.timing(),
            busy_percent: self.busy_percent.load(Ordering::Relaxed),
            better_engine: self.better_engine.lock().expect("nothing panics under this lock").clone(),
        }
    }
}

impl HealthSource for Health {
    fn report(&self) -> HealthReport {
        let readings = self.sensors.read(self.clock.wall());
        let (now, rings) = (self.clock.now(), self.queues.get().map(|q| &q.rings));
        let sampled = (self.rate(), self.inference.lock().expect("nothing panics under this lock").slowed_by);
        let health =
            |id, record: &CameraRecord| record.health(now, sampled, rings.and_then(|r| r.get(id)).map(Arc::as_ref));
        let cameras = self.cameras.iter().map(|(id, record)| (id.0.to_string(), health(id, record))).collect();
        let engine = self.engine.lock().expect("nothing panics under this lock").clone();
        let machine = *self.machine.lock().expect("nothing panics under this lock");
        let mut drops = BTreeMap::from([
            ("scores_out_of_order".to_owned(), machine.out_of_order),
            ("windows_in_cool_down".to_owned(), machine.cooled_down),
            ("windows_while_disarmed".to_owned(), machine.disarmed),
        ]);
        if let Some(q) = self.queues.get() {
            let store = q.store.counters();
            drops.insert("frames_before_inference".to_owned(), q.frames.dropped());
            drops.insert("scores_before_incident".to_owned(), q.inbox.dropped());
            drops.insert("records_refused_by_store".to_owned(), store.refused);
            drops.insert("records_lost_by_store".to_owned(), store.lost);
            drops.insert("clips_deleted_by_age".to_owned(), store.expired_by_age);
            drops.insert("clips_deleted_for_room".to_owned(), store.expired_for_room);
            drops.insert("clips_deleted_undelivered".to_owned(), store.expired_undelivered);
            drops.insert("alerts_given_up".to_owned(), store.given_up);
        }
        HealthReport {
            uptime_s: now.since(self.started).as_secs(),
            cameras,
            drops,
            inference: engine.as_ref().map(|engine| self.inference(engine)),
            memory: readings.memory,
            stalls: readings.stalls,
            disks: readings.disk.map(|disk| ("state".to_owned(), disk)).into_iter().collect(),
            wear: readings.wear,
            temperatures_c: readings.temperatures_c,
            throttling: readings.throttling,
            power_w: readings.power_w,
            power_mode: readings.power_mode,
            uploads: self.uploads(),
        }
    }

    fn facts(&self) -> DeviceFacts {
        self.facts.lock().expect("nothing panics under this lock").clone()
    }

    fn update(&self) -> Option<UpdateStatus> {
        self.update.lock().expect("nothing panics under this lock").clone()
    }

    fn identity(&self) -> Option<IdentityStatus> {
        self.identity.lock().expect("nothing panics under this lock").clone()
    }

    fn cameras(&self) -> Vec<CameraCondition> {
        let condition =
            |(id, record): (&CameraId, &Arc<CameraRecord>)| record.condition(id, self.started, self.clock.as_ref());
        self.cameras.iter().map(condition).collect()
    }

    fn clock(&self) -> ClockState {
        self.sensors.clock(self.clock.wall()).into()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}
