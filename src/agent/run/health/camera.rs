//! What is known of one camera: its state, what it counted, how often its pictures came of late.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::super::pressure::Rate;
use super::ring_watch::RingWatch;
use super::sight::{self, Blind, Look, Seen};
use crate::agent::capture::{CameraState, Stats};
use crate::agent::config::CameraId;
use crate::agent::incident::arming::Arming;
use crate::base::clock::{Clock, Mono, Wall};
use crate::contract::heartbeat::{CameraClockHealth, CameraHealth, SamplingHealth, SlowedBy};
use crate::contract::state::{ArmingState, CameraCondition, CameraStatus};

/// An inference that goes on failing is logged at most so often a camera.
const SAY_AGAIN_AFTER: Duration = Duration::from_secs(30);
/// A step of the wall clock that labels are made anew for, in milliseconds.
const CLOCK_SET_MS: u64 = 1000;
/// Rates are means over so long.
const RATE_OVER: Duration = Duration::from_secs(5);

/// See the module's doc.
#[derive(Default)]
pub struct CameraRecord {
    /// Counted by capture.
    pub stats: Arc<Stats>,
    windows: AtomicU64,
    pub(super) incidents: AtomicU64,
    /// Frames that a newer one of the same camera pushed out of inference's queue.
    overtaken: AtomicU64,
    /// What the model looks at it with; none: it doesn't.
    look: Mutex<Option<Look>>,
    state: Mutex<State>,
    /// Nanoseconds of monotonic time; 0 before the first.
    last_video: AtomicU64,
    inference_failures: AtomicU64,
    of_late: Mutex<OfLate>,
}

#[derive(Default)]
struct State {
    /// As capture said it; when, as a label and in monotonic time.
    now: Option<(CameraState, Wall, Mono)>,
    blind: Option<Blind>,
    arming: Option<Arming>,
}

/// What has happened in the last seconds, or since the last window.
#[derive(Default)]
struct OfLate {
    frames: Recent,
    overtaken: Recent,
    window: Option<Mono>,
    failure: Option<String>,
    failure_said: Option<Mono>,
}

impl CameraRecord {
    /// Of a camera that the model looks at so, or not at all.
    pub fn new(look: Option<Look>) -> Self {
        CameraRecord { look: Mutex::new(look), ..CameraRecord::default() }
    }

    /// The model looks at it so from now on, if it looks at it.
    pub fn looked_at_with(&self, look: Look) {
        let mut now = self.look.lock().expect("nothing panics under this lock");
        *now = now.map(|_| look);
    }

    /// Whether incidents open on it, as far as is known.
    pub fn is_armed(&self) -> bool {
        self.state().arming.is_none_or(Arming::is_armed)
    }

    fn look_of(&self) -> Option<Look> {
        *self.look.lock().expect("nothing panics under this lock")
    }

    /// Its state has changed.
    pub fn state_is(&self, state: CameraState, label: Wall, now: Mono) {
        self.state().now = Some((state, label, now));
    }

    /// An access unit came.
    pub fn video_came(&self, now: Mono) {
        self.last_video.store(now.as_nanos().max(1), Ordering::Relaxed);
    }

    /// A frame goes to inference; so many older ones of this camera were let go for it.
    pub fn frame_came(&self, now: Mono, overtaken: u64) {
        let mut of_late = self.of_late();
        of_late.frames.add(now);
        (0..overtaken).for_each(|_| of_late.overtaken.add(now));
        self.overtaken.fetch_add(overtaken, Ordering::Relaxed);
    }

    /// A window was scored.
    pub fn window_came(&self, now: Mono) {
        self.windows.fetch_add(1, Ordering::Relaxed);
        let mut of_late = self.of_late();
        (of_late.window, of_late.failure) = (Some(now), None);
    }

    /// A frame could not be classified; whether that should be logged (again).
    pub fn inference_failed(&self, now: Mono, why: String) -> bool {
        self.inference_failures.fetch_add(1, Ordering::Relaxed);
        let mut of_late = self.of_late();
        of_late.failure = Some(why);
        let say = of_late.failure_said.is_none_or(|t| now.since(t) >= SAY_AGAIN_AFTER);
        if say {
            of_late.failure_said = Some(now);
        }
        say
    }

    /// Frames that came and that were let go so far.
    pub fn frames(&self) -> (u64, u64) {
        (self.stats.frames.get(), self.overtaken.load(Ordering::Relaxed))
    }

    /// Looks whether the model sees it; what is new: it is blind, or no longer.
    pub fn look(&self, now: Mono) -> Option<Option<Blind>> {
        let look = self.look_of()?;
        let mut state = self.state();
        let live_for = match &state.now {
            Some((CameraState::Running { .. }, _, since)) => now.since(*since),
            // Lost, starting, ended: that is said already, and says all.
            _ => Duration::ZERO,
        };
        let blind = sight::blind(look, &self.seen(now, live_for));
        // The same cause with other figures is no news.
        let news = state.blind.as_ref().map(std::mem::discriminant) != blind.as_ref().map(std::mem::discriminant);
        news.then(|| {
            state.blind.clone_from(&blind);
            blind
        })
    }

    /// Whether video comes.
    pub fn is_live(&self) -> bool {
        matches!(self.state().now, Some((CameraState::Running { .. }, ..)))
    }

    /// Whether incidents open on it; whether that is news.
    pub fn armed(&self, arming: Arming) -> bool {
        let before = self.state().arming.replace(arming);
        // With no schedule nothing has changed since the start.
        before != Some(arming) && (before, arming) != (None, Arming::Always)
    }

    fn seen(&self, now: Mono, live_for: Duration) -> Seen {
        let mut of_late = self.of_late();
        Seen {
            without_window: of_late.window.map_or(live_for, |t| live_for.min(now.since(t))),
            frames_fps: of_late.frames.a_second(now),
            overtaken_fps: of_late.overtaken.a_second(now),
            failing: of_late.failure.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics under this lock")
    }

    fn of_late(&self) -> MutexGuard<'_, OfLate> {
        self.of_late.lock().expect("nothing panics under this lock")
    }

    /// As its `camera` message says it; `started` is when the daemon did. After a clock was set the label of what
    /// happened before is that of the new clock.
    pub fn condition(&self, id: &CameraId, started: Mono, clock: &dyn Clock) -> CameraCondition {
        let mut state = self.state();
        let since = match &mut state.now {
            None => clock.wall_at(started),
            Some((_, label, at)) => {
                // The clock may have been set since. Two clocks are never read at once: what differs by less is no news.
                let now = clock.wall_at(*at);
                if now.unix_ms().abs_diff(label.unix_ms()) >= CLOCK_SET_MS {
                    *label = now;
                }
                *label
            }
        };
        let since = since.rfc3339();
        let (status, reason) = in_words(state.now.as_ref().map(|s| &s.0));
        let blind = state.blind.as_ref().map(ToString::to_string);
        let arming = state.arming.and_then(arming_in_words);
        let video = match &state.now {
            Some((CameraState::Running { video, .. }, ..)) => video.clone(),
            _ => None,
        };
        CameraCondition { camera: id.0.to_string(), status, since, reason, video, blind, arming }
    }

    /// As the heartbeat carries it, while the model is shown so many of eight frames, and for this reason not all.
    pub fn health(
        &self,
        now: Mono,
        (rate, slowed_by): (Rate, Option<SlowedBy>),
        ring: Option<&RingWatch>,
    ) -> CameraHealth {
        let (status, reason, blind, arming) = {
            let state = self.state();
            let (status, reason) = in_words(state.now.as_ref().map(|s| &s.0));
            (status, reason, state.blind.as_ref().map(ToString::to_string), state.arming)
        };
        let sampling = self.look_of().map(|look| SamplingHealth {
            model_fps: look.model_fps,
            aimed_fps: rate.of(look.model_fps),
            slowed_by,
            frames_fps: self.of_late().frames.a_second(now),
        });
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut drops = BTreeMap::from([
            ("decoder_late".to_owned(), self.stats.skipped.get()),
            ("overtaken_before_inference".to_owned(), count(&self.overtaken)),
            ("malformed_packets".to_owned(), self.stats.malformed.get()),
            ("not_classified".to_owned(), count(&self.inference_failures)),
        ]);
        if let Some(counts) = ring.map(RingWatch::counts) {
            drops.insert("ring_oversized_groups".to_owned(), counts.oversized_groups);
            drops.insert("ring_undecodable".to_owned(), counts.undecodable);
            drops.insert("ring_time_falls".to_owned(), counts.time_falls);
        }
        CameraHealth {
            status,
            reason,
            blind,
            arming: arming.and_then(arming_in_words),
            sampling,
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
            ring: ring.map(RingWatch::health),
            camera_clock: self.stats.camera_clock.get().map(|clock| CameraClockHealth {
                offset_ms: clock.offset_ms,
                age_ms: now.since(clock.at).as_millis() as u64,
            }),
        }
    }
}

fn in_words(state: Option<&CameraState>) -> (CameraStatus, Option<String>) {
    match state {
        None | Some(CameraState::Connecting) => (CameraStatus::Starting, None),
        Some(CameraState::Running { .. }) => (CameraStatus::Live, None),
        Some(CameraState::Lost { reason, .. }) => (CameraStatus::Lost, Some(reason.clone())),
        Some(CameraState::Ended) => (CameraStatus::Ended, None),
        Some(CameraState::Failed { reason }) => (CameraStatus::Lost, Some(reason.clone())),
    }
}

/// None for a camera without a schedule.
fn arming_in_words(arming: Arming) -> Option<ArmingState> {
    match arming {
        Arming::Always => None,
        Arming::TimeUnknown => {
            let reason = "the device's clock has not been set yet: its schedule waits for that".to_owned();
            Some(ArmingState { armed: true, until: None, reason: Some(reason) })
        }
        Arming::Scheduled { armed, until } => {
            Some(ArmingState { armed, until: until.map(Wall::rfc3339), reason: None })
        }
        Arming::Wished { armed, until } => {
            let reason = Some("a command said so".to_owned());
            Some(ArmingState { armed, until: until.map(Wall::rfc3339), reason })
        }
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
    use crate::base::clock::ManualClock;

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

    fn live(look: Option<Look>) -> CameraRecord {
        let record = CameraRecord::new(look);
        record.state_is(CameraState::Running { size: None, video: None }, Wall::from_unix_ms(0), Mono::ZERO);
        record
    }

    #[test]
    fn a_failure_that_lasts_is_said_twice_a_minute_and_makes_the_camera_blind_until_a_window_comes() {
        let record = live(Some(Look::of(8.0, 16, 4)));
        let (mut said, mut news) = (0, Vec::new());
        for n in 0..480 {
            let now = Mono::from_millis(n * 125);
            record.frame_came(now, 0);
            said += u32::from(record.inference_failed(now, "NaN".into()));
            news.extend(record.look(now).map(|blind| (now.as_millis(), blind)));
        }
        assert_eq!(said, 2);
        assert_eq!(news, [(10_000, Some(Blind::Failing("NaN".into())))], "said once");
        let now = Mono::from_millis(60_000);
        let health = record.health(now, (Rate::LEAST, Some(SlowedBy::Overload)), None);
        assert_eq!(health.drops["not_classified"], 480);
        assert!(health.blind.is_some_and(|why| why.contains("NaN")));
        assert_eq!(health.sampling.map(|s| (s.aimed_fps, s.slowed_by)), Some((5.0, Some(SlowedBy::Overload))));
        record.window_came(now);
        assert_eq!(record.look(now), Some(None), "it sees again");
        assert_eq!(record.health(now, (Rate::FULL, None), None).blind, None);
    }

    #[test]
    fn a_camera_slower_than_the_model_needs_is_blind_and_one_that_is_lost_is_lost() {
        let record = live(Some(Look::of(8.0, 16, 4)));
        for n in 0..80 {
            record.frame_came(Mono::from_millis(n * 250), 0);
        }
        let now = Mono::from_millis(20_000);
        assert!(matches!(record.look(now), Some(Some(Blind::TooSlow { .. }))));
        let lost = CameraState::Lost { reason: "no route to host".into(), retry_in: Duration::from_secs(1) };
        record.state_is(lost, Wall::from_unix_ms(5), now);
        assert_eq!(record.look(now), Some(None));
        assert_eq!(live(None).look(now), None, "nobody looks at one that is only recorded");
    }

    #[test]
    fn a_lost_camera_says_why_and_since_when_by_the_clock_as_it_was_set_later() {
        let (record, id) = (CameraRecord::new(None), CameraId::new("gate"));
        let clock = ManualClock::new(Wall::from_unix_ms(0));
        let condition = || record.condition(&id, Mono::ZERO, &clock);
        assert_eq!(condition().since, "1970-01-01T00:00:00.000Z");
        clock.advance(Duration::from_secs(5));
        let lost = CameraState::Lost { reason: "no route to host".into(), retry_in: Duration::from_secs(1) };
        record.state_is(lost, clock.wall(), clock.now());
        clock.advance(Duration::from_secs(5));
        assert_eq!(condition().since, "1970-01-01T00:00:05.000Z");
        clock.step_wall(clock.wall() + Duration::from_millis(400));
        assert_eq!(condition().since, "1970-01-01T00:00:05.000Z", "a slew is no news");
        clock.step_wall(Wall::from_unix_ms(1_795_000_000_000));
        assert_eq!(condition().since, "2026-11-18T11:06:35.000Z");
        let condition = condition();
        assert_eq!((condition.status, condition.reason.as_deref()), (CameraStatus::Lost, Some("no route to host")));
        let health = record.health(Mono::ZERO, (Rate::FULL, None), None);
        assert_eq!((health.status, health.reason, health.sampling), (condition.status, condition.reason, None));
    }
}
