//! From a stream's running times to the capture clock's: where a session begins, what to do about missing or
//! falling time-stamps, and decode times where the container has none. Pure.
//!
//! Invariants, over everything one [`Timeline`] gives and over sessions that hand on [`Timeline::end`]:
//! `dts <= pts`; `dts` never falls; a `pts` is never below a `dts` given before it. Distances are the stream's
//! own, to the nanosecond, but for jumps, and for steps of at most [`STEP_NS`] by which a live session follows
//! the capture clock: a camera's clock runs a few seconds a day faster or slower.

use crate::base::clock::Mono;

/// Assumed between pictures of a stream that doesn't say: 40 ms.
const INTERVAL_NS: i64 = 40_000_000;

/// A live session is set right by at most so much ...
const STEP_NS: i64 = 10_000_000;
/// ... each time that so much has passed.
const STEP_EVERY_NS: i64 = 10_000_000_000;

/// A live stream's time can't be further ahead of the clock than this ...
const AHEAD_MOST_NS: i64 = 3_000_000_000;
/// ... and a stream that is further behind has changed its times; no network holds back so much.
const BEHIND_MOST_NS: i64 = 30_000_000_000;

/// Between two pictures whose times are not the stream's.
const LEAST_NS: i64 = 1_000_000;

/// Where a session's times begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The stream's time zero is this time: files read flat out.
    Zero(Mono),
    /// The first access unit is now, but not before this time: live.
    Arrival {
        /// End of the session before.
        not_before: Mono,
    },
}

/// Times of one access unit or picture on the capture clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Presentation.
    pub pts: Mono,
    /// Decoding.
    pub dts: Mono,
    /// The stream's own times went back here, or away from the clock.
    pub jumped: bool,
}

/// The mapping of one session.
#[derive(Debug)]
pub struct Timeline {
    origin: Origin,
    offset: Option<i64>,
    /// By how many pictures presentation may run behind decoding.
    reorder: usize,
    /// Presentation times that have not served as a decode time yet, rising; at most `reorder` of them.
    waiting: Vec<i64>,
    interval: i64,
    last_in: Option<i64>,
    last_dts: i64,
    max_pts: i64,
    drift: Drift,
}

impl Timeline {
    /// A session that has given nothing yet. Pictures come in presentation order until
    /// [`Self::set_reorder`] says otherwise.
    pub fn new(origin: Origin) -> Self {
        let (Origin::Zero(earliest) | Origin::Arrival { not_before: earliest }) = origin;
        Timeline {
            origin,
            offset: None,
            reorder: 0,
            waiting: Vec::new(),
            interval: INTERVAL_NS,
            last_in: None,
            last_dts: nanos(earliest),
            max_pts: 0,
            drift: Drift::default(),
        }
    }

    /// How many pictures may come between decoding and presentation of one; from the stream's parameters.
    pub fn set_reorder(&mut self, pictures: usize) {
        if self.reorder != pictures {
            self.reorder = pictures;
            self.waiting.clear();
        }
    }

    /// Where the next session may begin: one picture after the last; nothing if there was none.
    pub fn end(&self) -> Option<Mono> {
        self.offset.map(|_| mono(self.max_pts + self.interval))
    }

    /// When something is shown that has this running time in nanoseconds; nothing is known before the first picture.
    pub fn at(&self, running: i64) -> Option<Mono> {
        self.offset.map(|offset| mono(running + offset))
    }

    /// The next access unit in decode order (or picture, in presentation order), by its running times in
    /// nanoseconds, as far as it has any.
    pub fn stamp(&mut self, pts: Option<i64>, dts: Option<i64>, duration: Option<i64>, now: Mono) -> Stamp {
        if let Some(duration) = duration.filter(|d| *d > 0) {
            self.interval = duration;
        }
        let pts_in = pts.or(dts).unwrap_or_else(|| self.last_in.map_or(0, |last| last + self.interval));
        self.last_in = Some(pts_in);
        let mut dts_in = dts.unwrap_or_else(|| self.decode_time(pts_in));
        let first = self.offset.is_none();
        let offset = *self.offset.get_or_insert(match self.origin {
            Origin::Zero(start) => nanos(start),
            Origin::Arrival { not_before } => nanos(now.max(not_before)) - pts_in,
        });
        let mut pts_out = pts_in + offset;
        // A step of ours is no jump of the stream's.
        let away = self.is_away(pts_out, nanos(now));
        let jumped = !first && (away || pts_out + STEP_NS < self.last_dts);
        if jumped {
            pts_out = self.max_pts + self.interval;
            if away {
                // By steps so small that a stream that jumps all the time doesn't run away from the clock.
                pts_out = nanos(now).max(self.max_pts + LEAST_NS);
                self.drift = Drift::default();
            }
            self.offset = Some(pts_out - pts_in);
            self.waiting.clear();
            dts_in = dts.unwrap_or_else(|| self.decode_time(pts_in));
        }
        let offset = self.offset.unwrap_or(offset);
        let pts_out = pts_out.max(self.last_dts).max(0);
        let dts_out = (dts_in + offset).max(self.last_dts).min(pts_out);
        self.last_dts = dts_out;
        self.max_pts = self.max_pts.max(pts_out);
        if let Origin::Arrival { .. } = self.origin {
            self.offset = Some(offset + self.drift.step(nanos(now), dts_out));
        }
        Stamp { pts: mono(pts_out), dts: mono(dts_out), jumped }
    }

    /// Whether a live stream's time can't be that of what has just arrived.
    fn is_away(&self, pts: i64, now: i64) -> bool {
        let Origin::Arrival { not_before } = self.origin else { return false };
        pts - now.max(nanos(not_before)) > AHEAD_MOST_NS || now - pts > BEHIND_MOST_NS
    }

    /// The decode time of the access unit presented at `pts`: the presentation times in rising order, `reorder`
    /// pictures later. No later picture can be presented before it.
    fn decode_time(&mut self, pts: i64) -> i64 {
        let place = self.waiting.partition_point(|w| *w <= pts);
        self.waiting.insert(place, pts);
        let missing = (self.reorder + 1).saturating_sub(self.waiting.len());
        if missing == 0 { self.waiting.remove(0) } else { self.waiting[0] - missing as i64 * self.interval }
    }
}

/// How far a live stream's times have moved away from the clock since the session began.
///
/// What arrives late says nothing: networks delay. But of many access units the least delayed one is delayed by
/// about as much as ever, unless the clocks disagree.
#[derive(Debug, Default)]
struct Drift {
    /// Least delay at the beginning.
    usual: Option<i64>,
    /// Least delay since the last step, and when that was.
    least: Option<i64>,
    since: Option<i64>,
}

impl Drift {
    /// By how much to move times now, given what has just arrived.
    fn step(&mut self, now: i64, dts: i64) -> i64 {
        let delay = now - dts;
        let least = self.least.map_or(delay, |least| least.min(delay));
        let since = *self.since.get_or_insert(now);
        self.least = Some(least);
        if now - since < STEP_EVERY_NS {
            return 0;
        }
        (self.since, self.least) = (Some(now), None);
        let usual = *self.usual.get_or_insert(least);
        (least - usual).clamp(-STEP_NS, STEP_NS)
    }
}

fn nanos(t: Mono) -> i64 {
    i64::try_from(t.as_nanos()).unwrap_or(i64::MAX / 4)
}

fn mono(ns: i64) -> Mono {
    Mono::from_nanos(ns.max(0) as u64)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const FRAME: i64 = 40_000_000;
    const NOW: Mono = Mono::from_millis(5_000);

    fn file() -> Timeline {
        Timeline::new(Origin::Zero(Mono::ZERO))
    }

    #[test]
    fn a_file_keeps_its_own_times() {
        let mut line = file();
        let s = line.stamp(Some(3 * FRAME), Some(FRAME), None, NOW);
        assert_eq!((s.pts.as_millis(), s.dts.as_millis(), s.jumped), (120, 40, false));
        assert_eq!(line.end(), Some(Mono::from_millis(160)));
    }

    #[test]
    fn a_live_session_begins_now_but_never_before_the_one_before_it() {
        let mut line = Timeline::new(Origin::Arrival { not_before: Mono::ZERO });
        assert_eq!(line.stamp(Some(77), None, None, NOW).pts, NOW);
        let (soon, next) = (NOW + Duration::from_millis(300), NOW + Duration::from_millis(340));
        let mut line = Timeline::new(Origin::Arrival { not_before: soon });
        assert_eq!(line.stamp(Some(77), None, None, NOW).pts, soon);
        assert_eq!(line.stamp(Some(77 + FRAME), None, None, NOW).pts, next);
        assert_eq!(Timeline::new(Origin::Zero(NOW)).end(), None);
    }

    #[test]
    fn times_that_go_back_go_on_instead() {
        let mut line = file();
        for i in 0..50 {
            assert!(!line.stamp(Some(i * FRAME), Some(i * FRAME), Some(FRAME), NOW).jumped);
        }
        let back = line.stamp(Some(10 * FRAME), Some(10 * FRAME), Some(FRAME), NOW);
        assert_eq!((back.pts.as_millis(), back.jumped), (2_000, true));
        let on = line.stamp(Some(11 * FRAME), Some(11 * FRAME), Some(FRAME), NOW);
        assert_eq!((on.pts.as_millis(), on.jumped), (2_040, false));
    }

    #[test]
    fn without_any_times_pictures_follow_each_other() {
        let mut line = file();
        let times: Vec<u64> = (0..3).map(|_| line.stamp(None, None, Some(100_000_000), NOW).pts.as_millis()).collect();
        assert_eq!(times, [0, 100, 200]);
    }

    #[test]
    fn decode_times_are_derived_from_reordered_pictures() {
        let mut line = Timeline::new(Origin::Arrival { not_before: Mono::ZERO });
        line.set_reorder(2);
        let order = [0, 4, 2, 1, 3, 8, 6, 5, 7];
        let stamps: Vec<Stamp> = order.iter().map(|i| line.stamp(Some(i * FRAME), None, Some(FRAME), NOW)).collect();
        let dts: Vec<u64> = stamps.iter().map(|s| s.dts.as_millis()).collect();
        assert_eq!(dts, [4920, 4960, 5000, 5040, 5080, 5120, 5160, 5200, 5240]);
        assert!(stamps.iter().all(|s| s.dts <= s.pts && !s.jumped));
    }

    /// The error against the clock, in milliseconds, of a camera whose clock is off by `parts_per_million`, after
    /// each of `pictures` that arrive `late_ms` after they were taken.
    fn errors(parts_per_million: i64, pictures: i64, late_ms: impl Fn(i64) -> i64) -> Vec<i64> {
        let mut line = Timeline::new(Origin::Arrival { not_before: Mono::ZERO });
        (0..pictures)
            .map(|i| {
                let taken = i * FRAME;
                let stream = taken + taken / 1_000_000 * parts_per_million;
                let now = Mono::from_nanos((taken + late_ms(i) * 1_000_000) as u64);
                let s = line.stamp(Some(stream), None, Some(FRAME), now);
                assert!(!s.jumped);
                (nanos(s.pts) - taken) / 1_000_000
            })
            .collect()
    }

    #[test]
    fn live_times_follow_the_clock_and_not_the_network() {
        let day = 25 * 3600 * 6;
        for ppm in [-300, 0, 200] {
            let worst = errors(ppm, day, |i| 5 + i * 7 % 90).into_iter().map(i64::abs).max();
            assert!(worst <= Some(100), "{ppm} ppm: {worst:?} ms");
        }
        // A network that holds everything back for five seconds, once, moves nothing by more than a step.
        let stalled = errors(0, 25 * 60, |i| if (500..625).contains(&i) { 5_000 - (i - 500) * 40 } else { 5 });
        assert!(stalled.iter().all(|e| (5..=15).contains(e)), "{:?}", stalled.iter().max());
    }

    #[test]
    fn times_that_run_away_from_the_clock_are_brought_back() {
        for away in [3_600 * 25, -3_600 * 25] {
            let mut line = Timeline::new(Origin::Arrival { not_before: Mono::ZERO });
            let at = |i: i64| Mono::from_nanos((5_000_000_000 + i * FRAME) as u64);
            let mut jumps = 0;
            for i in 0..100 {
                let moved = if i < 50 { i } else { i + away };
                let s = line.stamp(Some(moved * FRAME), None, Some(FRAME), at(i));
                assert_eq!(s.pts, at(i), "picture {i}");
                jumps += usize::from(s.jumped);
            }
            assert_eq!(jumps, 1);
        }
    }

    #[test]
    fn a_stream_that_is_held_back_for_long_catches_up_without_a_jump() {
        let mut line = Timeline::new(Origin::Arrival { not_before: Mono::ZERO });
        for i in 0..500 {
            let now = Mono::from_nanos((5_000_000_000 + i.max(300) * FRAME) as u64);
            let now = if i < 50 { Mono::from_nanos((5_000_000_000 + i * FRAME) as u64) } else { now };
            assert!(!line.stamp(Some(i * FRAME), None, Some(FRAME), now).jumped, "picture {i}");
        }
    }

    proptest! {
        #[test]
        fn live_times_stay_near_the_clock(
            input in prop::collection::vec((-1_000_000_000_000..1_000_000_000_000_i64, 1_000_000..100_000_000_i64), 1..200),
        ) {
            let mut line = Timeline::new(Origin::Arrival { not_before: Mono::ZERO });
            let (mut now, mut last) = (nanos(NOW), 0);
            for (pts, passed) in input {
                now += passed;
                let s = line.stamp(Some(pts), None, None, mono(now));
                let late = now - nanos(s.pts);
                prop_assert!((-AHEAD_MOST_NS - INTERVAL_NS..=BEHIND_MOST_NS).contains(&late), "{late}");
                prop_assert!(nanos(s.dts) >= last && s.dts <= s.pts);
                last = nanos(s.dts);
            }
        }

        #[test]
        fn whatever_comes_the_invariants_hold(
            input in prop::collection::vec(
                (prop::option::of(-FRAME..100 * FRAME), prop::option::of(-FRAME..100 * FRAME)), 1..100),
            reorder in 0_usize..4,
        ) {
            let mut line = file();
            line.set_reorder(reorder);
            let mut last = Mono::ZERO;
            for (pts, dts) in input {
                let s = line.stamp(pts, dts, None, NOW);
                prop_assert!(s.dts <= s.pts);
                prop_assert!(s.dts >= last);
                last = s.dts;
            }
        }

        #[test]
        fn any_legal_reordering_passes_without_a_jump(groups in prop::collection::vec(1_i64..4, 1..40)) {
            // Anchors decoded ahead of 0 to 3 pictures shown before them: reordering of one.
            let mut line = file();
            line.set_reorder(1);
            let mut shown = 0;
            let mut all = vec![line.stamp(Some(0), None, Some(FRAME), NOW)];
            for group in groups {
                all.push(line.stamp(Some((shown + group) * FRAME), None, Some(FRAME), NOW));
                all.extend((1..group).map(|b| line.stamp(Some((shown + b) * FRAME), None, Some(FRAME), NOW)));
                shown += group;
            }
            prop_assert!(all.iter().all(|s| !s.jumped && s.dts <= s.pts));
            prop_assert!(all.windows(2).all(|w| w[0].dts <= w[1].dts));
        }
    }
}
