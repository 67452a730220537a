//! Which decoded pictures a consumer gets: for each tick of a grid over presentation time the nearest picture,
//! each picture once. Pure, and a function of the presentation times alone: the same file gives the same
//! frames at any speed, and the daemon's frames are `replay`'s.
//!
//! A picture's *cell* is the time to which it is the nearest picture: from halfway after the picture before it
//! to halfway before the next one (of two equally near, the later one is taken). A picture is taken if a tick
//! lies in its cell. When the next picture comes is not known before it is there, and to wait for it would hold
//! back most frames by a whole picture; so it is expected as far behind this one as this one came behind the one
//! before, and within a period. What the cell then covers is decided at once. If the next one comes later, the
//! cell grows up to halfway to it; if it comes sooner, what was decided stays decided, and a tick has got a
//! picture that is up to half a period away though a nearer one followed. With a steady camera neither happens.
//!
//! The rate may change while pictures come (the machine can't keep up, and then can again). The grid then goes on from
//! the picture taken last, so that no more time lies between two pictures than a period of the slower of the two rates
//! and a picture, and no run ends.
//!
//! Invariants: times and pictures come out in the order they came in; no picture comes out twice; every tick up
//! to the last picture lies in exactly one cell; the first picture of a run is always taken (it is the origin of
//! the grid); a camera slower than the grid gives all its pictures.

use crate::base::clock::Mono;

/// One consumer's grid, and the picture that may still turn out to be nearest to a tick.
#[derive(Debug)]
pub struct Tap<T> {
    period_ns: u64,
    run: Option<Run<T>>,
}

#[derive(Debug)]
struct Run<T> {
    origin: u64,
    /// Time of the newest picture.
    last: u64,
    /// Time of the picture taken last.
    taken: u64,
    /// Twice the time up to which ticks are decided; the newest picture's cell ends there so far.
    decided2: u128,
    /// The newest picture, if it isn't taken yet.
    held: Option<T>,
}

/// What one picture decided, in order of time: the picture before it, itself, both or none.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken<T> {
    before: Option<(Mono, T)>,
    this: Option<(Mono, T)>,
}

impl<T> Taken<T> {
    /// Neither.
    const NONE: Self = Taken { before: None, this: None };
}

impl<T> IntoIterator for Taken<T> {
    type Item = (Mono, T);
    type IntoIter = std::iter::Chain<std::option::IntoIter<(Mono, T)>, std::option::IntoIter<(Mono, T)>>;

    fn into_iter(self) -> Self::IntoIter {
        self.before.into_iter().chain(self.this)
    }
}

impl<T> Tap<T> {
    /// A grid of `fps` ticks a second. Rates beyond one tick a nanosecond or one a century are taken as those.
    pub fn new(fps: f32) -> Self {
        Tap { period_ns: period_ns(fps), run: None }
    }

    /// A grid of another rate from here on.
    pub fn set_fps(&mut self, fps: f32) {
        if std::mem::replace(&mut self.period_ns, period_ns(fps)) == self.period_ns {
            return;
        }
        if let Some(run) = &mut self.run {
            // Not before what is decided: else a tick that has passed already would put off the picture after it.
            let decided = u64::try_from(run.decided2.div_ceil(2)).unwrap_or(u64::MAX);
            run.origin = run.taken.saturating_add(self.period_ns).max(decided);
        }
    }

    /// The next picture in presentation order. One that isn't later than the one before it is passed over.
    pub fn push(&mut self, at: Mono, picture: T) -> Taken<T> {
        let now = at.as_nanos();
        let Some(run) = &mut self.run else {
            self.run = Some(Run { origin: now, last: now, taken: now, decided2: 2 * u128::from(now) + 1, held: None });
            return Taken { before: None, this: Some((at, picture)) };
        };
        if now <= run.last {
            return Taken::NONE;
        }
        let (last, origin, period) = (run.last, run.origin, self.period_ns);
        // Twice every time, so that the middle between two pictures is a whole number.
        let middle2 = u128::from(last) + u128::from(now);
        let cell2 = middle2.max(run.decided2);
        let expected2 = 2 * u128::from(now) + u128::from((now - last).min(period));
        let held = run.held.take();
        let before = if tick_within(origin, period, run.decided2, middle2) { held } else { None };
        let this = if tick_within(origin, period, cell2, expected2) {
            Some((at, picture))
        } else {
            run.held = Some(picture);
            None
        };
        match (&before, &this) {
            (_, Some(_)) => run.taken = now,
            (Some(_), None) => run.taken = last,
            (None, None) => {}
        }
        (run.last, run.decided2) = (now, cell2.max(expected2));
        Taken { before: before.map(|p| (Mono::from_nanos(last), p)), this }
    }

    /// The end of the run: the next picture begins a new one with its own origin.
    pub fn restart(&mut self) {
        self.run = None;
    }
}

fn period_ns(fps: f32) -> u64 {
    // The cast saturates; a rate that isn't a positive number has been refused by the configuration.
    ((1e9 / f64::from(fps)).round() as u64).clamp(1, 1 << 61)
}

/// Whether twice a tick lies in `from2..to2`.
fn tick_within(origin: u64, period: u64, from2: u128, to2: u128) -> bool {
    let (origin2, period2) = (2 * u128::from(origin), 2 * u128::from(period));
    let ticks_before = from2.saturating_sub(origin2).div_ceil(period2);
    origin2 + ticks_before * period2 < to2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Everything a tap gives for pictures at `times`, the end included.
    fn taken(fps: f32, times: &[u64]) -> Vec<u64> {
        let mut tap = Tap::new(fps);
        let mut out: Vec<u64> = Vec::new();
        for &t in times {
            out.extend(tap.push(Mono::from_nanos(t), t).into_iter().map(|(at, p)| {
                assert_eq!(at.as_nanos(), p);
                p
            }));
        }
        out
    }

    fn steady(fps: f64, seconds: u64) -> Vec<u64> {
        (0..).map(|i| (f64::from(i) * 1e9 / fps) as u64).take_while(|t| *t < seconds * SECOND).collect()
    }

    /// What the rule says, by looking at the whole: the picture nearest to each tick up to the last picture.
    fn by_definition(fps: f32, times: &[u64]) -> Vec<u64> {
        let period = (1e9 / f64::from(fps)).round() as u64;
        let (first, last) = (times[0], times[times.len() - 1]);
        let mut nearest: Vec<u64> = (0..)
            .map(|k| first + k * period)
            .take_while(|tick| *tick <= last)
            .map(|tick| *times.iter().rev().min_by_key(|t| t.abs_diff(tick)).expect("pictures"))
            .collect();
        nearest.dedup();
        nearest
    }

    #[test]
    fn usual_cameras_give_the_rate_asked_for() {
        for camera in [25.0, 30.0, 29.97, 50.0, 60.0] {
            let frames = taken(8.0, &steady(camera, 10));
            assert!((79..=81).contains(&frames.len()), "{camera} fps gave {}", frames.len());
            let most = frames.windows(2).map(|w| w[1] - w[0]).max().expect("frames");
            assert!(most as f64 <= 125e6 + 1e9 / camera + 1.0, "{camera} fps left {most} ns");
        }
    }

    #[test]
    fn a_camera_slower_than_the_grid_gives_what_it_has() {
        for camera in [7.0, 5.0, 1.0] {
            let times = steady(camera, 10);
            assert_eq!(taken(8.0, &times), times);
        }
        assert_eq!(taken(12.5, &steady(12.5, 10)), steady(12.5, 10));
    }

    #[test]
    fn a_steady_camera_is_never_waited_for() {
        for camera in [8.0, 15.0, 25.0, 29.97, 30.0] {
            let (times, mut tap) = (steady(camera, 10), Tap::new(8.0));
            let mut decided = Vec::new();
            for t in &times {
                for (at, _) in tap.push(Mono::from_nanos(*t), ()) {
                    assert_eq!(at.as_nanos(), *t, "{camera} fps: decided late");
                    decided.push(*t);
                }
            }
            let due = by_definition(8.0, &times);
            // Only the end can differ: the last picture may be taken for a tick just after it.
            assert!(
                decided == due || decided.split_last() == Some((&times[times.len() - 1], &due[..])),
                "{camera} fps"
            );
        }
    }

    #[test]
    fn a_picture_that_is_late_leaves_the_ticks_before_it_to_the_one_before() {
        let (mut tap, ms) = (Tap::new(10.0), Mono::from_millis);
        assert_eq!(tap.push(ms(500), 0).into_iter().count(), 1);
        assert_eq!(tap.push(ms(530), 1).into_iter().count(), 0);
        assert_eq!(tap.push(ms(560), 2).into_iter().count(), 0, "590 ms is expected");
        let both: Vec<_> = tap.push(ms(700), 3).into_iter().collect();
        assert_eq!(both, [(ms(560), 2), (ms(700), 3)]);
    }

    #[test]
    fn a_picture_that_is_early_does_not_get_a_tick_that_is_decided() {
        let (mut tap, ms) = (Tap::new(10.0), Mono::from_millis);
        tap.push(ms(500), 0);
        tap.push(ms(550), 1);
        assert_eq!(tap.push(ms(590), 2).into_iter().collect::<Vec<_>>(), [(ms(590), 2)], "630 ms is expected");
        assert_eq!(tap.push(ms(601), 3).into_iter().count(), 0);
        assert_eq!(tap.push(ms(690), 4).into_iter().collect::<Vec<_>>(), [(ms(690), 4)]);
    }

    #[test]
    fn of_two_equally_near_the_later_is_taken() {
        // 10 ms, 30 ms, ... 990 ms, 1010 ms: the tick at 1 s lies in the middle.
        let times: Vec<u64> = std::iter::once(0).chain((0..51).map(|k| (10 + 20 * k) * 1_000_000)).collect();
        assert_eq!(taken(1.0, &times), [0, 1_010_000_000]);
    }

    #[test]
    fn a_new_run_has_its_own_origin() {
        let mut tap = Tap::new(8.0);
        let taken = [0, 40, 80, 120].map(|t| tap.push(Mono::from_millis(t), t).into_iter().count());
        assert_eq!(taken, [1, 0, 0, 1]);
        tap.restart();
        assert_eq!(tap.push(Mono::from_millis(133), 9).into_iter().count(), 1);
    }

    #[test]
    fn a_slower_grid_goes_on_from_the_last_picture_and_a_faster_one_too() {
        let (mut tap, mut out) = (Tap::new(8.0), Vec::new());
        for t in steady(25.0, 20) {
            match t / SECOND {
                5 => tap.set_fps(5.0),
                12 => tap.set_fps(8.0),
                _ => {}
            }
            out.extend(tap.push(Mono::from_nanos(t), ()).into_iter().map(|(at, ())| at.as_nanos()));
        }
        let within = |from: u64, to: u64| out.iter().filter(|t| (from..to).contains(&(**t / SECOND))).count();
        assert!((39..=41).contains(&within(0, 5)), "{}", within(0, 5));
        assert!((34..=36).contains(&within(5, 12)), "{}", within(5, 12));
        assert!((63..=65).contains(&within(12, 20)), "{}", within(12, 20));
        let most = out.windows(2).map(|w| w[1] - w[0]).max().expect("pictures");
        assert!(most <= 240_000_000, "a change is no gap: {most} ns");
    }

    proptest! {
        #[test]
        fn a_change_of_rate_makes_no_gap_and_no_picture_twice(
            camera in 8.0_f64..60.0,
            changes in prop::collection::vec((1_usize..60, prop::sample::select(vec![5.0_f32, 6.0, 7.0, 8.0])), 0..12),
        ) {
            let (mut tap, mut out, mut times) = (Tap::new(8.0), Vec::new(), steady(camera, 40).into_iter());
            for (pictures, fps) in changes {
                for t in times.by_ref().take(pictures) {
                    out.extend(tap.push(Mono::from_nanos(t), ()).into_iter().map(|(at, ())| at.as_nanos()));
                }
                tap.set_fps(fps);
            }
            for t in times {
                out.extend(tap.push(Mono::from_nanos(t), ()).into_iter().map(|(at, ())| at.as_nanos()));
            }
            prop_assert!(out.windows(2).all(|w| w[0] < w[1]));
            let most = out.windows(2).map(|w| w[1] - w[0]).max().expect("pictures");
            prop_assert!(most as f64 <= 2e8 + 1.5e9 / camera + 10.0, "{} ns", most);
        }

        #[test]
        fn every_tick_gets_its_nearest_picture_or_one_within_half_a_period(
            steps in prop::collection::vec(1_u64..400_000_000, 1..200),
            first in 0_u64..10 * SECOND,
            fps in prop::sample::select(vec![1.0_f32, 5.0, 7.5, 8.0, 12.5, 29.97]),
        ) {
            let times: Vec<u64> = steps.iter().scan(first, |t, s| { *t += s; Some(*t) }).collect();
            let (got, last) = (taken(fps, &times), times[times.len() - 1]);
            prop_assert!(got.windows(2).all(|w| w[0] < w[1]));
            let period = (1e9 / f64::from(fps)).round() as u64;
            let mut ticks = 0;
            for tick in (0..).map(|k| times[0] + k * period).take_while(|t| *t <= last) {
                let away = |of: &[u64]| of.iter().map(|t| t.abs_diff(tick)).min().expect("pictures");
                prop_assert!(away(&got) == away(&times) || 2 * away(&got) <= period, "tick {tick} of {got:?}");
                ticks += 1;
            }
            // The last picture may be taken for a tick just after it.
            prop_assert!(got.len() <= ticks + 1, "{} pictures for {ticks} ticks", got.len());
        }
    }
}
