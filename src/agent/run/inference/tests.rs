//! The inference stage with an engine that takes as long as the test says, four cameras, and a clock that only the
//! engine and the cameras' pictures move.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{RwLock, mpsc};

use tempfile::TempDir;

use super::*;
use crate::agent::capture::{CameraState, CaptureSink, Tap};
use crate::agent::clip::Rules;
use crate::agent::config::{self, CameraId, Pace};
use crate::agent::health::Sensors;
use crate::agent::infer::classifier::Options;
use crate::agent::infer::{Encoder, Engine, EngineError, EngineInfo, Slot, scripted};
use crate::agent::ring::{Bounds, SharedRing};
use crate::agent::run::cameras::CameraSink;
use crate::agent::run::health::{CameraRecord, RingWatch};
use crate::agent::run::serving::InUse;
use crate::base::clock::{ManualClock, Wall};
use crate::base::queue::Full;
use crate::base::stop::StopToken;
use crate::contract::alert::ModelRef;
use crate::contract::heartbeat::{CameraHealth, HealthSource, SlowedBy};

/// The scripted encoder, at a price.
struct Slow {
    encoder: Box<dyn Encoder>,
    clock: Arc<ManualClock>,
    each: Arc<std::sync::Mutex<Duration>>,
}

impl Encoder for Slow {
    fn encode(&mut self, views: &[&[u8]]) -> Result<Vec<Slot>, EngineError> {
        self.clock.advance(*self.each.lock().expect("no panic") * views.len() as u32);
        self.encoder.encode(views)
    }
    fn features(&self, slot: &Slot) -> Result<Vec<f32>, EngineError> {
        self.encoder.features(slot)
    }
}

struct Camera {
    sink: CameraSink,
    record: Arc<CameraRecord>,
    tap: Tap<()>,
    fps: f64,
    pictures: u64,
}

struct Rig {
    dir: TempDir,
    clock: Arc<ManualClock>,
    each: Arc<std::sync::Mutex<Duration>>,
    health: Arc<Health>,
    inference: Inference,
    watch: Watch,
    cameras: Vec<Camera>,
}

impl Rig {
    /// Cameras with so many pictures a second, and an engine that takes so long for a frame.
    fn new(fps: &[f64], each: Duration) -> Rig {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("manifest.toml"), "").expect("writable");
        let cameras: String = (0..fps.len()).map(|n| format!("[[camera]]\nid = \"c{n}\"\nkind = \"test\"\n")).collect();
        let text = format!("[device]\nsite = \"s\"\nid = \"d\"\n[model]\ndir = \".\"\n{cameras}");
        let config = config::parse(&text, dir.path()).expect("a good config");
        let (clock, manifest) = (Arc::new(ManualClock::new(Wall::from_unix_ms(0))), Arc::new(scripted::manifest()));
        let each = Arc::new(std::sync::Mutex::new(each));
        let engine = scripted::by_brightness(&manifest);
        let slow = Slow { encoder: engine.encoder, clock: clock.clone(), each: each.clone() };
        let engine = Engine { encoder: Box::new(slow), ..engine };
        let model = ModelRef { name: "m".into(), version: "1.0.0".into(), digest: "ab".into() };
        let in_use = InUse { reference: model.clone(), manifest: manifest.clone() };
        let info = Some(engine.info.clone());
        let sensors = Sensors::under(dir.path(), dir.path());
        let health = Arc::new(Health::new(&config, (model, &manifest), info, (clock.clone(), sensors)));
        let same: fn(&_, &_) -> bool = |a: &Frame, b: &Frame| a.camera == b.camera;
        let frames = Queue::new(2, Full::DropOldestInPlace(same));
        let clip_rules = Arc::new(RwLock::new(Rules::new(&config.clip, &config.incident)));
        let camera = |(n, fps): (usize, &f64)| {
            let camera = CameraId::new(&format!("c{n}"));
            let record = health.camera(&camera);
            let ring = SharedRing::new(Bounds { max_bytes: 1, max_time: Duration::ZERO });
            let sink = CameraSink {
                ring_watch: Arc::new(RingWatch::new(camera.clone(), ring.clone(), clip_rules.clone())),
                clock: clock.clone(),
                camera,
                ring,
                frames: frames.clone(),
                inbox: Inbox::default(),
                events: Events::default(),
                health: health.clone(),
                pace: Pace::Realtime,
                stop: StopToken::new(),
                record: record.clone(),
            };
            sink.state(CameraState::Running { size: None, video: None });
            Camera { sink, record, tap: Tap::new(8.0), fps: *fps, pictures: 0 }
        };
        let inference = Inference {
            frames: frames.clone(),
            classifier: Classifier::new(manifest, engine, Options { replaceable: true, ..Options::default() }),
            inbox: Inbox::default(),
            events: Events::default(),
            health: health.clone(),
            clock: clock.clone(),
            handover: Arc::default(),
            company: Company::default(),
            board: Arc::default(),
            gallery: Gallery::default(),
            serving: Arc::new(Serving::new(in_use)),
        };
        let cameras = fps.iter().enumerate().map(camera).collect();
        Rig { dir, clock, each, health, inference, watch: Watch::default(), cameras }
    }

    /// Lets so many seconds pass.
    fn run(&mut self, seconds: u64) {
        self.run_ms(seconds * 1000);
    }

    fn run_ms(&mut self, ms: u64) {
        let until = self.clock.now() + Duration::from_millis(ms);
        while self.clock.now() < until {
            let now = self.clock.now();
            for camera in &mut self.cameras {
                camera.pictures_until(now);
            }
            if self.inference.frames.is_empty() {
                self.clock.advance(Duration::from_millis(10));
            } else {
                assert!(self.inference.round(&mut self.watch).is_continue());
            }
        }
    }

    /// Throttles the machine, or not; whoever looks at the sensors does.
    fn throttle(&self, level: u32) {
        let device = self.dir.path().join("sys/class/thermal/cooling_device0");
        std::fs::create_dir_all(&device).expect("writable");
        for (file, text) in [("type", "cpu-throttle-alert"), ("cur_state", &level.to_string()), ("max_state", "1")] {
            std::fs::write(device.join(file), text).expect("writable");
        }
        self.health.heed(&self.health.report());
    }

    fn heartbeat(&self, camera: usize) -> CameraHealth {
        self.health.report().cameras.remove(&format!("c{camera}")).expect("it is configured")
    }

    fn aimed_fps(&self, camera: usize) -> f32 {
        self.heartbeat(camera).sampling.expect("it is classified").aimed_fps
    }
}

impl Camera {
    /// Gives the pictures that have come by now, as capture does.
    fn pictures_until(&mut self, now: Mono) {
        loop {
            let at = Mono::from_nanos((self.pictures as f64 * 1e9 / self.fps) as u64);
            if at > now {
                return;
            }
            self.pictures += 1;
            let sample_fps = self.sink.sample_fps(8.0);
            self.tap.set_fps(sample_fps);
            for (at, ()) in self.tap.push(at, ()) {
                self.record.stats.frames.add(1);
                self.sink.frame(Frame {
                    camera: self.sink.camera.clone(),
                    at,
                    arrival: at,
                    width: 32,
                    height: 18,
                    rgb: vec![9; 32 * 18 * 3].into(),
                    discontinuity: false,
                    sample_fps,
                });
            }
        }
    }
}

#[test]
fn under_overload_the_rate_falls_in_steps_no_camera_starves_and_it_rises_again() {
    // 4 x 8 frames a second at 43 ms each are 138 % of the time; at 6 a second 103 %, at 5 86 %.
    let mut rig = Rig::new(&[25.0, 30.0, 29.97, 15.0], Duration::from_millis(43));
    rig.run(3);
    assert_eq!(rig.aimed_fps(0), 8.0, "one strained interval is none");
    rig.run(3);
    assert_eq!(rig.aimed_fps(0), 7.0);
    rig.run(60);
    let (settled, before) = (rig.aimed_fps(0), (0..4).map(|n| rig.heartbeat(n).windows).collect::<Vec<_>>());
    assert_eq!(settled, 5.0, "with 6 frames would be let go");
    assert_eq!(rig.health.report().inference.expect("an engine").busy_percent / 10, 8);
    rig.run(60);
    for (n, before) in before.into_iter().enumerate() {
        let health = rig.heartbeat(n);
        // 5 frames a second with a stride of 4: 75 windows in a minute.
        assert!((70..=76).contains(&(health.windows - before)), "{n}: {}", health.windows - before);
        assert_eq!((health.blind, rig.aimed_fps(n)), (None, settled));
        assert!(health.drops["overtaken_before_inference"] > 0);
    }
    *rig.each.lock().expect("no panic") = Duration::from_millis(10);
    rig.run(60);
    assert_eq!(rig.aimed_fps(3), 8.0);
}

#[test]
fn throttled_it_looks_less_often_before_a_frame_is_lost_says_why_and_looks_more_often_when_it_is_over() {
    let mut rig = Rig::new(&[25.0, 30.0], Duration::from_millis(10));
    rig.throttle(0);
    rig.run(10);
    assert_eq!(rig.aimed_fps(0), 8.0);
    rig.throttle(1);
    rig.run(3);
    let sampling = rig.heartbeat(1).sampling.expect("it is classified");
    assert_eq!((sampling.aimed_fps, sampling.slowed_by), (7.0, Some(SlowedBy::Throttling)));
    rig.run(120);
    let hot = rig.heartbeat(0);
    assert_eq!((rig.aimed_fps(0), hot.blind), (5.0, None), "it goes on");
    assert_eq!(hot.drops["overtaken_before_inference"], 0, "the engine has always had time");
    rig.throttle(0);
    rig.run(9);
    assert_eq!(rig.aimed_fps(0), 5.0, "it may come back");
    rig.run(40);
    let sampling = rig.heartbeat(1).sampling.expect("it is classified");
    assert_eq!((sampling.aimed_fps, sampling.slowed_by), (8.0, None));
}

#[test]
fn a_machine_that_cannot_even_do_the_least_says_that_its_cameras_are_blind_and_still_takes_turns() {
    let mut rig = Rig::new(&[25.0; 12], Duration::from_millis(100));
    rig.run(60);
    let health: Vec<_> = (0..12).map(|n| rig.heartbeat(n)).collect();
    for health in &health {
        let why = health.blind.clone().expect("10 frames a second are too few for twelve cameras");
        assert!(why.contains("the machine has no time for its frames"), "{why}");
    }
    let looked_at = |h: &CameraHealth| h.frames - h.drops["overtaken_before_inference"];
    let (least, most) = (health.iter().map(looked_at).min(), health.iter().map(looked_at).max());
    assert!(least.expect("cameras") + 4 >= most.expect("cameras"), "{least:?} to {most:?}");
}

#[test]
fn a_slow_camera_is_blind_beside_a_good_one_that_sees() {
    let mut rig = Rig::new(&[4.0, 25.0], Duration::from_millis(5));
    rig.run(30);
    let (slow, good) = (rig.heartbeat(0), rig.heartbeat(1));
    assert_eq!(slow.windows, 0);
    assert!(slow.blind.is_some_and(|why| why.contains("frames a second come and the model needs 5.0")));
    assert!(good.windows > 50 && good.blind.is_none());
    assert!(rig.health.summary().contains("blind: c0"), "{}", rig.health.summary());
}

/// An encoder that fails from a given pass on.
struct Fails(Box<dyn Encoder>, u32);

impl Encoder for Fails {
    fn encode(&mut self, views: &[&[u8]]) -> Result<Vec<Slot>, EngineError> {
        self.1 = self.1.saturating_sub(1);
        match self.1 {
            0 => Err(EngineError::Run { network: crate::agent::infer::Network::Encoder, source: "no".into() }),
            _ => self.0.encode(views),
        }
    }
    fn features(&self, slot: &Slot) -> Result<Vec<f32>, EngineError> {
        self.0.features(slot)
    }
}

#[test]
fn an_engine_that_is_handed_over_serves_without_a_gap_and_one_that_fails_is_told_of() {
    let mut rig = Rig::new(&[25.0], Duration::from_millis(5));
    rig.run(10);
    let before = rig.heartbeat(0).windows;
    let other = scripted::by_brightness(&scripted::manifest());
    let info = EngineInfo { runtime: "the GPU".into(), ..other.info.clone() };
    let encoder: Box<dyn Encoder> = Box::new(Fails(other.encoder, 200));
    rig.inference.handover.offer(Engine { info, encoder, ..other });
    rig.run(10);
    let report = rig.health.report();
    assert_eq!(report.inference.expect("an engine").engine, "the GPU");
    // 8 frames a second with a stride of 4: 20 windows in 10 s, had nothing happened.
    assert!((19..=21).contains(&(rig.heartbeat(0).windows - before)), "{}", rig.heartbeat(0).windows - before);
    assert_eq!(rig.inference.handover.was_broken(), None);
    rig.run(20);
    assert_eq!(rig.inference.handover.was_broken(), Some(Broken::Fails), "it fails with every frame");
    let seen = rig.heartbeat(0).windows;
    rig.inference.handover.offer(scripted::by_brightness(&scripted::manifest()));
    rig.run(10);
    assert!(rig.heartbeat(0).windows > seen + 10, "the other one serves");
}

/// A head that fails from a given window on.
struct Headless(Box<dyn crate::agent::infer::Head>, u32);

impl crate::agent::infer::Head for Headless {
    fn classify(&mut self, windows: &[&[Slot]]) -> Result<Vec<Arc<[f32]>>, EngineError> {
        self.1 = self.1.saturating_sub(1);
        match self.1 {
            0 => Err(EngineError::NotFinite { network: crate::agent::infer::Network::Head, item: 0 }),
            _ => self.0.classify(windows),
        }
    }
}

#[test]
fn a_head_that_fails_alone_is_told_of_though_every_frame_is_encoded() {
    let mut rig = Rig::new(&[25.0, 25.0], Duration::from_millis(5));
    rig.run(5);
    let other = scripted::by_brightness(&scripted::manifest());
    let head: Box<dyn crate::agent::infer::Head> = Box::new(Headless(other.head, 10));
    rig.inference.handover.offer(Engine { head, ..other });
    rig.run(60);
    assert_eq!(rig.inference.handover.was_broken(), Some(Broken::Fails), "no window gives a score");
    // A frame that is broken now and then is the camera's affair.
    let mut rig = Rig::new(&[25.0], Duration::from_millis(5));
    rig.run(60);
    assert_eq!(rig.inference.handover.was_broken(), None);
}

/// An encoder whose device is lost from a given pass on.
struct Lost(Box<dyn Encoder>, u32, #[expect(dead_code, reason = "what counts is whether it is let go")] Arc<()>);

impl Encoder for Lost {
    fn encode(&mut self, views: &[&[u8]]) -> Result<Vec<Slot>, EngineError> {
        self.1 = self.1.saturating_sub(1);
        match self.1 {
            0 => Err(EngineError::Lost { network: Network::Encoder, source: "an illegal memory access".into() }),
            _ => self.0.encode(views),
        }
    }
    fn features(&self, slot: &Slot) -> Result<Vec<f32>, EngineError> {
        self.0.features(slot)
    }
}

#[test]
fn an_engine_whose_device_is_lost_is_told_of_at_once_and_never_freed() {
    let mut rig = Rig::new(&[25.0], Duration::from_millis(5));
    let other = scripted::by_brightness(&scripted::manifest());
    let held = Arc::new(());
    let encoder: Box<dyn Encoder> = Box::new(Lost(other.encoder, 10, held.clone()));
    rig.inference.handover.offer(Engine { encoder, ..other });
    let mut said = None;
    for _ in 0..400 {
        rig.run_ms(10);
        said = rig.inference.handover.was_broken();
        if said.is_some() {
            break;
        }
    }
    let Some(Broken::Lost(why)) = said else { panic!("{said:?}") };
    assert!(why.contains("an illegal memory access") && why.contains("started anew"), "{why}");
    assert_eq!(rig.inference.handover.was_broken(), None, "once");
    rig.inference.handover.offer(scripted::by_brightness(&scripted::manifest()));
    rig.run(10);
    assert!(rig.heartbeat(0).windows > 10, "the other one serves");
    assert_eq!(Arc::strong_count(&held), 2, "to free it would be work for its device");
}

/// Says how many frames each pass of the encoder had.
struct Counted(Box<dyn Encoder>, mpsc::Sender<usize>);

impl Encoder for Counted {
    fn encode(&mut self, views: &[&[u8]]) -> Result<Vec<Slot>, EngineError> {
        self.1.send(views.len()).ok();
        self.0.encode(views)
    }
    fn features(&self, slot: &Slot) -> Result<Vec<f32>, EngineError> {
        self.0.features(slot)
    }
}

/// A clock that tells somebody of the second and the third time that it is looked at in a round: the stage has the first
/// frame and will wait for another, or not; and it has its batch together.
struct Telling(Arc<ManualClock>, AtomicU32, mpsc::Sender<()>);

impl Clock for Telling {
    fn now(&self) -> Mono {
        let now = self.0.now();
        if matches!(self.1.fetch_add(1, Ordering::Relaxed), 1 | 2) {
            self.2.send(()).expect("somebody listens");
        }
        now
    }
    fn wall(&self) -> Wall {
        self.0.wall()
    }
}

const PATIENCE: Duration = Duration::from_secs(60);

/// How many of 100 passes that began with a frame of one camera had the other's, which came when the pass had begun.
/// `apart_ms`: from one frame of a camera to its next.
fn passes_with_both(gains_by_batches: bool, apart_ms: u64) -> usize {
    let mut rig = Rig::new(&[8.0, 8.0], Duration::from_millis(1));
    let (counts, counted) = mpsc::channel();
    let engine = scripted::by_brightness(&scripted::manifest());
    let info = EngineInfo { gains_by_batches, ..engine.info.clone() };
    let encoder: Box<dyn Encoder> = Box::new(Counted(engine.encoder, counts));
    rig.inference.handover.offer(Engine { info, encoder, ..engine });
    let (tell, told) = mpsc::channel();
    let (give, to_give) = mpsc::channel::<Frame>();
    let (gave, given) = mpsc::channel();
    let telling = Arc::new(Telling(rig.clock.clone(), AtomicU32::new(u32::MAX / 2), tell));
    rig.inference.clock = telling.clone();
    let sink = rig.cameras.remove(1).sink;
    let other = std::thread::spawn(move || {
        for frame in to_give {
            while told.try_recv().is_ok() {}
            gave.send(()).ok();
            told.recv_timeout(PATIENCE).expect("the stage looks at its clock");
            // A stage that does not wait has its batch at once. One that waits has not, and is given the frame in time.
            told.recv_timeout(Duration::from_millis(1)).ok();
            sink.frame(frame);
            gave.send(()).ok();
        }
    });
    let frame = |camera: &str, at: Mono| Frame {
        camera: CameraId::new(camera),
        at,
        arrival: at,
        width: 32,
        height: 18,
        rgb: vec![9; 32 * 18 * 3].into(),
        discontinuity: false,
        sample_fps: 8.0,
    };
    let mut both = 0;
    for _ in 0..100 {
        rig.clock.advance(Duration::from_millis(apart_ms));
        let at = rig.clock.now();
        give.send(frame("c1", at)).expect("it listens");
        given.recv_timeout(PATIENCE).expect("it is ready");
        rig.cameras[0].sink.frame(frame("c0", at));
        telling.1.store(0, Ordering::Relaxed);
        assert!(rig.inference.round(&mut rig.watch).is_continue());
        telling.1.store(u32::MAX / 2, Ordering::Relaxed);
        given.recv_timeout(PATIENCE).expect("the other camera's frame");
        while !rig.inference.frames.is_empty() {
            assert!(rig.inference.round(&mut rig.watch).is_continue());
        }
        // The first pass of a round is the one that began with c0.
        let passes: Vec<usize> = counted.try_iter().collect();
        assert_eq!(passes.iter().sum::<usize>(), 2, "no frame is lost: {passes:?}");
        both += usize::from(passes[0] == 2);
    }
    drop(give);
    other.join().expect("it does not panic");
    both
}

#[test]
fn a_pass_waits_for_a_camera_whose_frame_is_due_and_not_for_a_dead_one() {
    // On a machine that is busy a frame may come later than the 4 ms, or the stage be stopped for longer than the one: the
    // bounds are far from both.
    let due = passes_with_both(true, 125);
    assert!(due >= 50, "{due} of 100 passes had both cameras' frames");
    // Each has been silent for longer than a gap: it may never come.
    let dead = passes_with_both(true, 1000);
    assert!(dead <= 25, "{dead} of 100 passes had the frame of a camera that was thought dead");
    let alone = passes_with_both(false, 125);
    assert!(alone <= 25, "{alone} of 100 passes of an engine that gains nothing");
}
