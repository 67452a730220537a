//! The board: what each camera does, and what was counted for it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde::Serialize;

use crate::agent::config::CameraId;
use crate::base::clock::Mono;

/// What a camera does.
///
/// ```text
///     Connecting ──► Running ──► Ended (a file, played once)
///       ▲    │          │
///       │    ├──────────┤
///       │    ▼          ▼
///       └── Lost ◄──────┘        any ──► Failed (trying again cannot help)
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum CameraState {
    /// No picture yet, nothing wrong yet.
    Connecting,
    /// Pictures come.
    Running,
    /// Gone, frozen or never there; it is tried again.
    Lost {
        /// For a person; without credentials.
        reason: String,
    },
    /// Its video came to its end.
    Ended,
    /// It is not tried again.
    Failed {
        /// For a person; without credentials.
        reason: String,
    },
}

/// Why something of a camera was let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum DropCause {
    /// An access unit that could not be decoded or has no usable time.
    Undecodable,
    /// A picture: decoding or scaling was behind.
    CaptureBehind,
    /// A frame: the classifier was behind.
    ClassifierBehind,
    /// A score: the incident stage was behind.
    IncidentBehind,
    /// An access unit that left the ring before its time, for want of memory.
    RingFull,
}

impl DropCause {
    const ALL: [DropCause; 5] = [
        DropCause::Undecodable,
        DropCause::CaptureBehind,
        DropCause::ClassifierBehind,
        DropCause::IncidentBehind,
        DropCause::RingFull,
    ];

    /// Its name in snapshots.
    pub const fn name(self) -> &'static str {
        match self {
            DropCause::Undecodable => "undecodable",
            DropCause::CaptureBehind => "capture_behind",
            DropCause::ClassifierBehind => "classifier_behind",
            DropCause::IncidentBehind => "incident_behind",
            DropCause::RingFull => "ring_full",
        }
    }
}

#[derive(Debug)]
struct Camera {
    id: CameraId,
    state: Mutex<CameraState>,
    access_units: AtomicU64,
    bytes: AtomicU64,
    frames: AtomicU64,
    restarts: AtomicU64,
    /// Nanoseconds of the time that the last frame was reported with, plus one; 0: none yet.
    last_frame: AtomicU64,
    dropped: [AtomicU64; DropCause::ALL.len()],
}

/// What the stages of one camera report into; clones share it.
#[derive(Debug, Clone)]
pub struct CameraHealth(Arc<Camera>);

impl CameraHealth {
    fn new(id: CameraId) -> Self {
        CameraHealth(Arc::new(Camera {
            id,
            state: Mutex::new(CameraState::Connecting),
            access_units: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            frames: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            last_frame: AtomicU64::new(0),
            dropped: Default::default(),
        }))
    }

    /// A new state. Connecting or running again after a loss counts as a restart.
    pub fn set_state(&self, next: CameraState) {
        let mut state = self.0.state.lock().expect("nothing panics under this lock");
        let back = matches!(next, CameraState::Connecting | CameraState::Running);
        if back && matches!(*state, CameraState::Lost { .. }) {
            self.0.restarts.fetch_add(1, Ordering::Relaxed);
        }
        *state = next;
    }

    /// The state as it is.
    pub fn state(&self) -> CameraState {
        self.0.state.lock().expect("nothing panics under this lock").clone()
    }

    /// An access unit of so many bytes came.
    pub fn access_unit(&self, bytes: usize) {
        self.0.access_units.fetch_add(1, Ordering::Relaxed);
        self.0.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A frame was handed on, at this time of the daemon's clock.
    pub fn frame(&self, now: Mono) {
        self.0.frames.fetch_add(1, Ordering::Relaxed);
        self.0.last_frame.fetch_max(now.as_nanos().saturating_add(1), Ordering::Relaxed);
    }

    /// So many were let go.
    pub fn dropped(&self, cause: DropCause, count: u64) {
        self.0.dropped[cause as usize].fetch_add(count, Ordering::Relaxed);
    }

    fn snapshot(&self, now: Mono) -> CameraSnapshot {
        let c = &*self.0;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let last_frame = read(&c.last_frame).checked_sub(1).map(Mono::from_nanos);
        let counted = DropCause::ALL.into_iter().map(|cause| (cause.name(), read(&c.dropped[cause as usize])));
        CameraSnapshot {
            camera: c.id.clone(),
            state: self.state(),
            access_units: read(&c.access_units),
            bytes: read(&c.bytes),
            frames: read(&c.frames),
            last_frame_age_ms: last_frame.map(|at| now.since(at).as_millis() as u64),
            restarts: read(&c.restarts),
            dropped: counted.filter(|(_, count)| *count > 0).collect(),
        }
    }
}

/// One camera at one moment. Counts are since the daemon's start; each is right by itself, but they are not
/// taken at the very same instant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CameraSnapshot {
    /// Camera.
    pub camera: CameraId,
    /// What it does.
    #[serde(flatten)]
    pub state: CameraState,
    /// Access units that came or were encoded.
    pub access_units: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames handed on to the classifier.
    pub frames: u64,
    /// Milliseconds since the last of them; absent before the first.
    pub last_frame_age_ms: Option<u64>,
    /// How often it came back after a loss.
    pub restarts: u64,
    /// What was let go, by [`DropCause::name`]; causes without a loss are absent.
    pub dropped: BTreeMap<&'static str, u64>,
}

/// All cameras of the daemon; clones share it.
#[derive(Debug, Clone, Default)]
pub struct HealthBoard(Arc<Mutex<Vec<CameraHealth>>>);

impl HealthBoard {
    /// What this camera's stages report into; the same one whoever asks.
    pub fn camera(&self, id: &CameraId) -> CameraHealth {
        let mut cameras = self.0.lock().expect("nothing panics under this lock");
        if let Some(known) = cameras.iter().find(|c| c.0.id == *id) {
            return known.clone();
        }
        let new = CameraHealth::new(id.clone());
        cameras.push(new.clone());
        new
    }

    /// Every camera, in the order in which they were first asked for.
    pub fn snapshot(&self, now: Mono) -> Vec<CameraSnapshot> {
        let cameras = self.0.lock().expect("nothing panics under this lock").clone();
        cameras.iter().map(|c| c.snapshot(now)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stages_report_is_in_the_heartbeat() {
        let board = HealthBoard::default();
        let gate = CameraId::new("gate");
        let (capture, infer) = (board.camera(&gate), board.camera(&gate));
        capture.set_state(CameraState::Running);
        capture.access_unit(1000);
        capture.access_unit(24);
        capture.frame(Mono::from_millis(5));
        infer.dropped(DropCause::ClassifierBehind, 3);
        board.camera(&CameraId::new("yard"));
        let shown = serde_json::to_value(board.snapshot(Mono::from_millis(45))).unwrap();
        assert_eq!(
            shown,
            serde_json::json!([
                {"camera": "gate", "state": "running", "access_units": 2, "bytes": 1024, "frames": 1,
                 "last_frame_age_ms": 40, "restarts": 0, "dropped": {"classifier_behind": 3}},
                {"camera": "yard", "state": "connecting", "access_units": 0, "bytes": 0, "frames": 0,
                 "last_frame_age_ms": null, "restarts": 0, "dropped": {}},
            ])
        );
    }

    #[test]
    fn a_restart_is_a_return_after_a_loss() {
        let camera = HealthBoard::default().camera(&CameraId::new("gate"));
        let lost = || CameraState::Lost { reason: "no route to host".into() };
        for state in [CameraState::Running, lost(), lost(), CameraState::Connecting, CameraState::Running, lost()] {
            camera.set_state(state);
        }
        assert_eq!(camera.snapshot(Mono::ZERO).restarts, 1);
        camera.set_state(CameraState::Running);
        assert_eq!(camera.snapshot(Mono::ZERO).restarts, 2);
        camera.set_state(lost());
        let shown = serde_json::to_value(camera.snapshot(Mono::ZERO)).unwrap();
        assert_eq!((&shown["state"], &shown["reason"]), (&"lost".into(), &"no route to host".into()));
    }

    #[test]
    fn every_cause_has_a_counter_of_its_own() {
        let camera = HealthBoard::default().camera(&CameraId::new("gate"));
        for (i, cause) in DropCause::ALL.into_iter().enumerate() {
            camera.dropped(cause, i as u64 + 1);
        }
        let dropped = camera.snapshot(Mono::ZERO).dropped;
        assert_eq!(dropped.len(), DropCause::ALL.len());
        assert_eq!((dropped["undecodable"], dropped["ring_full"]), (1, 5));
    }
}
