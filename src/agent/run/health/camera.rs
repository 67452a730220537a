//! What is known of one camera: its state, what it counted, how often its pictures came of late.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::agent::capture::{CameraState, Stats};
use crate::agent::config::CameraId;
use crate::agent::ring::SharedRing;
use crate::base::clock::{Mono, Wall};
use crate::contract::heartbeat::{CameraHealth, SamplingHealth};
use crate::contract::state::{CameraCondition, CameraStatus};

/// An inference that goes on failing is logged at most so often a camera.
const SAY_AGAIN_AFTER: Duration = Duration::from_secs(30);
/// Rates are means over so long.
const RATE_OVER: Duration = Duration::from_secs(5);

/// See the module's doc.
#[derive(Default)]
pub struct CameraRecord {
    /// Counted by capture.
    pub stats: Arc<Stats>,
    pub(super) windows: AtomicU64,
    pub(super) incidents: AtomicU64,
    /// Frames that a newer one of the same camera pushed out of inference's queue.
    overtaken: AtomicU64,
    /// Frames a second that the model is made for; none: the model doesn't look at it.
    model_fps: Option<f32>,
    state: Mutex<Option<(CameraState, Wall)>>,
    /// Nanoseconds of monotonic time; 0 before the first.
    last_video: AtomicU64,
    frames: Mutex<Recent>,
    inference_failures: AtomicU64,
    failure_said: Mutex<Option<Mono>>,
}

impl CameraRecord {
    /// Of a camera that the model looks at so often, or not at all.
    pub fn new(model_fps: Option<f32>) -> Self {
        CameraRecord { model_fps, ..CameraRecord::default() }
    }

    /// Its state has changed; `now` labels it.
    pub fn state_is(&self, state: CameraState, now: Wall) {
        *self.state.lock().expect("nothing panics under this lock") = Some((state, now));
    }

    /// An access unit came.
    pub fn video_came(&self, now: Mono) {
        self.last_video.store(now.as_nanos().max(1), Ordering::Relaxed);
    }

    /// A frame goes to inference; so many older ones of this camera were let go for it.
    pub fn frame_came(&self, now: Mono, overtaken: u64) {
        self.frames.lock().expect("nothing panics under this lock").add(now);
        self.overtaken.fetch_add(overtaken, Ordering::Relaxed);
    }

    /// A frame could not be classified; whether that should be logged (again).
    pub fn inference_failed(&self, now: Mono) -> bool {
        self.inference_failures.fetch_add(1, Ordering::Relaxed);
        let mut said = self.failure_said.lock().expect("nothing panics under this lock");
        let say = said.is_none_or(|t| now.since(t) >= SAY_AGAIN_AFTER);
        if say {
            *said = Some(now);
        }
        say
    }

    /// As its `camera` message says it; `started` is when the daemon did.
    pub fn condition(&self, id: &CameraId, started: Wall) -> CameraCondition {
        let state = self.state.lock().expect("nothing panics under this lock").clone();
        let since = state.as_ref().map_or(started, |s| s.1).rfc3339();
        let video = match &state {
            Some((CameraState::Running { video, .. }, _)) => video.clone(),
            _ => None,
        };
        let (status, reason) = in_words(state.map(|s| s.0));
        CameraCondition { camera: id.0.to_string(), status, since, reason, video }
    }

    /// As the heartbeat carries it.
    pub fn health(&self, now: Mono, ring: Option<&SharedRing>) -> CameraHealth {
        let (status, reason) =
            in_words(self.state.lock().expect("nothing panics under this lock").clone().map(|s| s.0));
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut drops = BTreeMap::from([
            ("decoder_late".to_owned(), self.stats.skipped.get()),
            ("overtaken_before_inference".to_owned(), count(&self.overtaken)),
            ("not_classified".to_owned(), count(&self.inference_failures)),
        ]);
        if let Some(counts) = ring.map(SharedRing::counts) {
            drops.insert("ring_oversized_groups".to_owned(), counts.oversized_groups);
            drops.insert("ring_undecodable".to_owned(), counts.undecodable);
            drops.insert("ring_time_falls".to_owned(), counts.time_falls);
        }
        CameraHealth {
            status,
            reason,
            sampling: self.model_fps.map(|model_fps| SamplingHealth { model_fps, frames_fps: self.frames_fps(now) }),
            access_units: self.stats.access_units.get(),
            pictures: self.stats.pictures.get(),
            frames: self.stats.frames.get(),
            windows: count(&self.windows),
            incidents: count(&self.incidents),
            restarts: self.stats.sessions.get().saturating_sub(1),
            drops,
            last_video_age_ms: match count(&self.last_video) {
                0 => None,
                ns => Some(now.since(Mono::from_nanos(ns)).as_millis() as u64),
            },
        }
    }

    fn frames_fps(&self, now: Mono) -> f32 {
        self.frames.lock().expect("nothing panics under this lock").a_second(now)
    }
}

fn in_words(state: Option<CameraState>) -> (CameraStatus, Option<String>) {
    match state {
        None | Some(CameraState::Connecting) => (CameraStatus::Starting, None),
        Some(CameraState::Running { .. }) => (CameraStatus::Live, None),
        Some(CameraState::Lost { reason, .. }) => (CameraStatus::Lost, Some(reason)),
        Some(CameraState::Ended) => (CameraStatus::Ended, None),
        Some(CameraState::Failed { reason }) => (CameraStatus::Lost, Some(reason)),
    }
}

/// When something happened, for the last [`RATE_OVER`].
#[derive(Debug, Default)]
struct Recent(VecDeque<Mono>);

impl Recent {
    fn add(&mut self, now: Mono) {
        self.forget_before(now.back(RATE_OVER));
        self.0.push_back(now);
    }

    /// How often a second, in the mean. In the first seconds it is too low.
    fn a_second(&mut self, now: Mono) -> f32 {
        self.forget_before(now.back(RATE_OVER));
        self.0.len() as f32 / RATE_OVER.as_secs_f32()
    }

    fn forget_before(&mut self, oldest: Mono) {
        while self.0.front().is_some_and(|t| *t <= oldest) && oldest > Mono::ZERO {
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_late() {
        let mut recent = Recent::default();
        for n in 0..800 {
            recent.add(Mono::from_millis(n * 125));
        }
        let last = Mono::from_millis(799 * 125);
        assert_eq!(recent.a_second(last), 8.0);
        assert_eq!(recent.0.len(), 40, "what is old is forgotten");
        assert!(recent.a_second(last + Duration::from_millis(2_500)) < 4.5);
        assert_eq!(recent.a_second(last + RATE_OVER), 0.0);
    }

    #[test]
    fn a_failure_that_lasts_is_said_twice_a_minute() {
        let record = CameraRecord::new(Some(8.0));
        let said = (0..480).filter(|n| record.inference_failed(Mono::from_millis(n * 125))).count();
        assert_eq!(said, 2);
        assert_eq!(record.health(Mono::ZERO, None).drops["not_classified"], 480);
    }

    #[test]
    fn a_lost_camera_says_why() {
        let (record, id) = (CameraRecord::new(None), CameraId::new("gate"));
        assert_eq!(record.condition(&id, Wall::from_unix_ms(0)).since, "1970-01-01T00:00:00.000Z");
        let lost = CameraState::Lost { reason: "no route to host".into(), retry_in: Duration::from_secs(1) };
        record.state_is(lost, Wall::from_unix_ms(5));
        let condition = record.condition(&id, Wall::from_unix_ms(0));
        assert_eq!((condition.status, condition.reason.as_deref()), (CameraStatus::Lost, Some("no route to host")));
        let health = record.health(Mono::ZERO, None);
        assert_eq!((health.status, health.reason, health.sampling), (condition.status, condition.reason, None));
    }
}
