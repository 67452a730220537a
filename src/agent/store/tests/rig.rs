//! A store in a temporary directory with its writer on a thread, and transitions to feed it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tempfile::TempDir;
use uuid::Uuid;

use crate::agent::config::CameraId;
use crate::agent::incident::{CloseReason, EvidenceSource, Incident, Transition};
use crate::agent::store::*;
use crate::base::clock::{ManualClock, Mono, Wall};
use crate::base::progress::Beat;
use crate::base::stop::StopToken;
use crate::contract::alert::ModelRef;
use crate::contract::outbox::{Outbox, OutboxRow};

/// 2023-11-14T22:13:20Z.
pub const T0_MS: i64 = 1_700_000_000_000;

pub struct Rig {
    pub dir: TempDir,
    pub clock: Arc<ManualClock>,
    pub synchronised: Arc<AtomicBool>,
    pub context: DeviceContext,
    pub store: Store,
    writer: Option<JoinHandle<Result<(), StoreError>>>,
}

pub fn context(outbox: OutboxPolicy, synchronised: &Arc<AtomicBool>) -> DeviceContext {
    let synchronised = Arc::clone(synchronised);
    DeviceContext {
        site: "harbour".into(),
        device: "d1".into(),
        outbox,
        labels: Labels::default(),
        clock_state: Arc::new(move || ClockState {
            synchronised: synchronised.load(Ordering::Relaxed),
            estimated_error_ms: None,
        }),
    }
}

pub fn queue_for(consumers: &[&str]) -> OutboxPolicy {
    OutboxPolicy::Queue {
        consumers: consumers.iter().map(ToString::to_string).collect(),
        keep: Duration::from_secs(30 * 86_400),
        max_bytes: u64::MAX,
    }
}

impl Rig {
    pub fn new(outbox: OutboxPolicy) -> Rig {
        Rig::over(tempfile::tempdir().expect("a temporary directory"), outbox)
    }

    /// Whose alerts say this too.
    pub fn with_labels(outbox: OutboxPolicy, labels: Labels) -> Rig {
        Rig::open(tempfile::tempdir().expect("a temporary directory"), outbox, labels)
    }

    /// On a state directory that may hold a store already.
    pub fn over(dir: TempDir, outbox: OutboxPolicy) -> Rig {
        Rig::open(dir, outbox, Labels::default())
    }

    fn open(dir: TempDir, outbox: OutboxPolicy, labels: Labels) -> Rig {
        let clock = Arc::new(ManualClock::new(Wall::from_unix_ms(T0_MS)));
        let synchronised = Arc::new(AtomicBool::new(true));
        let context = DeviceContext { labels, ..context(outbox, &synchronised) };
        let (store, writer) = Store::open(dir.path(), context.clone(), clock.clone()).expect("the store opens");
        let writer = Some(std::thread::spawn(move || writer.run(&Beat::detached())));
        Rig { dir, clock, synchronised, context, store, writer }
    }

    /// Ends the daemon in good order; the directory stays.
    pub fn end(mut self) -> TempDir {
        self.stop().expect("the writer ends well");
        std::mem::replace(&mut self.dir, tempfile::tempdir().expect("a temporary directory"))
    }

    pub fn stop(&mut self) -> Result<(), StoreError> {
        self.store.close();
        self.writer.take().map_or(Ok(()), |w| w.join().expect("the writer does not panic"))
    }

    /// What a power cut now would leave: the files as they are, in another directory.
    pub fn power_cut(&self) -> TempDir {
        let copy = tempfile::tempdir().expect("a temporary directory");
        for name in ["vedette.db", "vedette.db-wal", "outbox-numbers"] {
            let from = self.dir.path().join(name);
            if from.exists() {
                std::fs::copy(from, copy.path().join(name)).expect("copied");
            }
        }
        copy
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Records and waits for the commit.
    pub fn record(&self, transition: Transition) {
        self.store.record(record(transition)).expect("taken");
        self.store.flush().expect("committed");
    }

    pub fn open_incident(&self, n: u128) {
        self.record(Transition::Opened(incident(n)));
    }

    pub fn queued(&self) -> Vec<OutboxRow> {
        self.store.range(0, u64::MAX, usize::MAX).expect("readable")
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.store.close();
        if let Some(writer) = self.writer.take() {
            // A test that failed unwinds through here; its own message is the one that matters.
            drop(writer.join());
        }
    }
}

pub fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

/// What saw it.
pub fn model() -> ModelRef {
    ModelRef { name: "m".into(), version: "1.0.0".into(), digest: "ab".into() }
}

/// An incident of Fighting at the gate, 10 s to 12 s after the clock's origin.
pub fn incident(n: u128) -> Incident {
    Incident {
        id: id(n),
        camera: CameraId::new("gate"),
        source: EvidenceSource::Classifier,
        class: "Fighting".into(),
        start: Mono::from_millis(10_000),
        end: Mono::from_millis(12_000),
        peak_score: 0.875,
        peak_at: Mono::from_millis(12_000),
        peak_scores: BTreeMap::from([("Normal".into(), 0.125), ("Fighting".into(), 0.875)]),
        peak_fps: 8.0,
        threshold: 0.5,
        windows: 2,
        model: Some(model()),
        later_model: None,
    }
}

pub fn closed(n: u128) -> Transition {
    Transition::Closed(incident(n), CloseReason::Quiet)
}

pub const SYNCHRONISED: ClockState = ClockState { synchronised: true, estimated_error_ms: None };

pub fn record(transition: Transition) -> IncidentRecord {
    let (Transition::Opened(i) | Transition::Updated(i) | Transition::Closed(i, _)) = &transition;
    let wall = |t: Mono| Wall::from_unix_ms(T0_MS + t.as_millis() as i64);
    let times = Times {
        start: wall(i.start),
        end: wall(i.end),
        peak: wall(i.peak_at),
        event: wall(i.end),
        clock: SYNCHRONISED,
    };
    let clip = ClipIntent::Planned { start: times.start - Duration::from_secs(10) };
    IncidentRecord { transition, times, clip }
}

/// An incident that is over, with a clip of these bytes and a picture.
pub fn with_clip(rig: &Rig, n: u128, bytes: &[u8]) {
    rig.open_incident(n);
    let path = format!("clips/2023-11-14/{n}.mp4");
    rig.store.clip_recording(ClipRecording { incident: id(n), path: path.clone() }).expect("recorded");
    std::fs::create_dir_all(rig.path().join("clips/2023-11-14")).expect("made");
    std::fs::write(rig.path().join(&path), bytes).expect("written");
    let jpeg = format!("clips/2023-11-14/{n}.jpg");
    std::fs::write(rig.path().join(&jpeg), b"jpeg").expect("written");
    rig.store
        .clip_done(ClipDone {
            incident: id(n),
            start: Wall::from_unix_ms(T0_MS),
            event_offset_ms: 10_000,
            duration_ms: 20_000,
            size_bytes: bytes.len() as u64,
            sha256: crate::base::digest::of_bytes(bytes),
            peak_jpeg_path: Some(jpeg),
            thumbnail: None,
        })
        .expect("recorded");
    rig.record(closed(n));
}

/// Waits until it is so; a test that waits for a minute has failed.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let pause = StopToken::new();
    for _ in 0..6000 {
        if so() {
            return;
        }
        pause.wait(Duration::from_millis(10));
    }
    panic!("waited a minute for: {what}");
}
