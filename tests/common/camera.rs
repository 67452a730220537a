//! A camera under test: its configuration, its stage, and a consumer that keeps everything it gets.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use vedette::agent::capture::{
    AccessUnit, CameraState, Capture, CaptureError, CaptureSink, Frame, FrameTap, Snapshots, Stats, Wants,
};
use vedette::agent::config::{Camera, CameraId, Credentials, Pace, Source, Transport};
use vedette::base::clock::{Clock, Mono, SystemClock, Wall};
use vedette::base::progress::Beat;
use vedette::base::stage::{Ended, Stage};
use vedette::base::stop::StopToken;

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(60);

/// Everything a camera gave, in order.
#[derive(Default, Clone)]
pub struct Seen {
    pub units: Vec<AccessUnit>,
    pub frames: Vec<Frame>,
    pub states: Vec<CameraState>,
}

/// A consumer that keeps everything.
#[derive(Default)]
pub struct Recorder {
    seen: Mutex<Seen>,
    changed: Condvar,
}

impl Recorder {
    fn note(&self, what: impl FnOnce(&mut Seen)) {
        what(&mut self.seen.lock().unwrap());
        self.changed.notify_all();
    }

    /// What was seen once `enough` holds; panics with the states when it doesn't in time.
    pub fn wait_for(&self, what: &str, enough: impl Fn(&Seen) -> bool) -> Seen {
        let guard = self.seen.lock().unwrap();
        let (seen, timed_out) = self.changed.wait_timeout_while(guard, PATIENCE, |s| !enough(s)).unwrap();
        assert!(
            !timed_out.timed_out(),
            "no {what}: {} access units, {} frames, {:?}",
            seen.units.len(),
            seen.frames.len(),
            seen.states
        );
        seen.clone()
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }
}

impl CaptureSink for Recorder {
    fn access_unit(&self, unit: AccessUnit) {
        self.note(|s| s.units.push(unit));
    }
    fn frame(&self, frame: Frame) {
        self.note(|s| s.frames.push(frame));
    }
    fn state(&self, state: CameraState) {
        self.note(|s| s.states.push(state));
    }
}

/// A configured camera with the defaults.
pub fn camera(source: Source) -> Camera {
    Camera {
        place: None,
        id: CameraId::new("gate"),
        source,
        classify: true,
        schedule: None,
        region: None,
        masks: Vec::new(),
        thresholds: BTreeMap::new(),
        ring_time: Duration::from_secs(30),
        ring_max_bytes: 64_000_000,
        encode_kbps: 1_000,
        frozen_after: Duration::from_secs(10),
    }
}

/// A network camera over this transport.
pub fn rtsp_over(transport: Transport, url: String, login: Option<(&str, &str)>) -> Source {
    let credentials = login.map(|(user, password)| Credentials { user: user.into(), password: password.into() });
    Source::Rtsp { url, credentials, transport, latency: Duration::from_millis(200) }
}

/// A network camera.
pub fn rtsp(url: String, login: Option<(&str, &str)>) -> Source {
    rtsp_over(Transport::Auto, url, login)
}

/// A file as a camera.
pub fn file(path: &Path, pace: Pace, repeat: bool) -> Source {
    Source::File { path: path.to_owned(), pace, repeat }
}

/// Everything: access units and eight frames a second.
pub const ALL: Wants = Wants { access_units: true, frames: Some(FrameTap { sample_fps: 8.0, region: None }) };

/// A camera stage that runs until it is dropped.
pub struct Running {
    pub recorder: Arc<Recorder>,
    pub snapshots: Snapshots,
    pub stats: Arc<Stats>,
    outcome: Arc<Mutex<Option<Result<(), CaptureError>>>>,
    stop: StopToken,
    stage: Option<Stage>,
}

/// The clock of a daemon that has run for an hour.
struct AnHourOn(SystemClock);

impl Clock for AnHourOn {
    fn now(&self) -> Mono {
        self.0.now() + Duration::from_secs(3600)
    }
    fn wall(&self) -> Wall {
        self.0.wall()
    }
}

impl Running {
    pub fn start(camera: Camera, wants: Wants) -> Self {
        Self::by(Arc::new(SystemClock::new()), camera, wants)
    }

    /// Started as the daemon starts a camera that comes back after an hour.
    pub fn start_late(camera: Camera, wants: Wants) -> Self {
        Self::by(Arc::new(AnHourOn(SystemClock::new())), camera, wants)
    }

    fn by(clock: Arc<dyn Clock>, camera: Camera, wants: Wants) -> Self {
        let recorder = Arc::new(Recorder::default());
        let capture = Capture {
            camera,
            wants,
            clock,
            sink: recorder.clone(),
            stats: Arc::default(),
            snapshots: Snapshots::default(),
        };
        let (snapshots, stats) = (capture.snapshots.clone(), capture.stats.clone());
        let (stop, outcome) = (StopToken::new(), Arc::new(Mutex::new(None)));
        let stage = Stage::spawn("capture-gate", || {}, {
            let (stop, outcome) = (stop.clone(), outcome.clone());
            move || *outcome.lock().unwrap() = Some(capture.run(&stop, &Beat::detached()))
        })
        .expect("threads can be had");
        Running { recorder, snapshots, stats, outcome, stop, stage: Some(stage) }
    }

    /// Waits for the stage's own end.
    pub fn finish(mut self) -> (Seen, Result<(), CaptureError>) {
        assert_eq!(self.stage.take().unwrap().join(PATIENCE), Ended::Done);
        (self.recorder.seen(), self.outcome.lock().unwrap().take().unwrap())
    }

    /// Asks for the end and waits for it.
    pub fn stop(self) -> (Seen, Result<(), CaptureError>) {
        self.stop.stop();
        self.finish()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(stage) = self.stage.take() {
            let ended = stage.join(PATIENCE);
            assert!(std::thread::panicking() || ended == Ended::Done, "the stage ended so: {ended:?}");
        }
    }
}
