//! How often the model looks when the machine cannot keep up, or is throttled: the sampling rate of all cameras, in
//! eighths of the model's. Pure; `inference` tells it how each interval went and hands its answer on.
//!
//! ```text
//!          two strained intervals in a row, or throttled: at once, and again while it goes on
//!     8/8 ───────► 7/8 ───────► 6/8 ───────► 5/8    (never below: the model would be shown what it does not know)
//!         ◄───────     ◄───────     ◄───────
//!           so many calm intervals in a row, and the next rate would not strain
//! ```
//!
//! One rate for all: they share one engine and one queue, and a camera that floods cannot take what is others' (each
//! keeps its place in that queue). An interval is *strained* if the engine was busy nearly all the time and frames
//! were let go for it: frames alone (a camera that sends in bursts) and a busy engine alone (one that just manages)
//! are none. *Calm* is an interval neither strained nor throttled. A rise that ends in a fall soon after doubles the calm that the next one takes, so that it doesn't flap;
//! the doubling is bounded and forgotten after a long calm, so that it doesn't stick.
//!
//! Heat asks for less work while the engine still keeps up, so throttling lowers the rate by itself. It is *new* after as
//! much calm as a rise takes: then a step falls at once. After that it takes half a minute of it for each further
//! step, from which time without it is taken off: throttling that comes and goes within seconds costs one step, not all.

use std::time::Duration;

use crate::contract::heartbeat::SlowedBy;

/// How long an interval is.
pub const INTERVAL: Duration = Duration::from_secs(2);

/// Busier than this is nearly all the time.
const BUSY: f32 = 0.9;
/// More frames let go than this part of those that came, and it matters.
const LET_GO: f64 = 0.02;
/// Strained intervals in a row before the rate falls.
const PATIENCE_DOWN: u32 = 2;
/// Calm intervals in a row before it rises: 10 s ...
const PATIENCE_UP: u32 = 5;
/// ... up to 5 minutes after rises that were too early.
const PATIENCE_UP_MOST: u32 = 150;
/// Intervals of throttling, less those without it, that cost one more step: 30 s.
const HEAT: u32 = 15;
/// A fall within so many intervals of a rise says that the rise was too early.
const TOO_EARLY: u32 = 30;
/// So long without strain, and earlier mistakes are forgotten: 10 minutes.
const FORGIVEN: u32 = 300;

/// A sampling rate in eighths of the model's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(u8);

impl Rate {
    /// The model's own.
    pub const FULL: Rate = Rate(8);
    /// The least that the model can be shown.
    pub const LEAST: Rate = Rate(5);

    /// From eighths, as [`Rate::eighths`] gave them; within the bounds whatever they are.
    pub fn from_eighths(eighths: u8) -> Rate {
        Rate(eighths.clamp(Self::LEAST.0, Self::FULL.0))
    }

    /// In eighths of the model's.
    pub fn eighths(self) -> u8 {
        self.0
    }

    /// Frames a second, of a model that is made for `model_fps`.
    pub fn of(self, model_fps: f32) -> f32 {
        model_fps * f32::from(self.0) / 8.0
    }
}

/// How one interval went.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Interval {
    /// Part of the time that the engine worked, 0 to 1.
    pub busy: f32,
    /// Frames that came.
    pub came: u64,
    /// Frames that were let go before the engine had time for them.
    pub let_go: u64,
    /// Something slowed the machine down.
    pub throttled: bool,
}

impl Interval {
    fn strained(&self) -> bool {
        self.busy >= BUSY && self.let_go as f64 > LET_GO * self.came as f64
    }
}

/// See the module's doc.
#[derive(Debug)]
pub struct Pressure {
    rate: Rate,
    strained: u32,
    calm: u32,
    patience_up: u32,
    since_rise: u32,
    /// Intervals of throttling since the last step for it, less those without.
    heat: u32,
    /// Intervals without throttling in a row.
    cool: u32,
    /// What strained or throttled it last.
    last: SlowedBy,
}

impl Default for Pressure {
    fn default() -> Self {
        Pressure {
            rate: Rate::FULL,
            strained: 0,
            calm: 0,
            patience_up: PATIENCE_UP,
            since_rise: TOO_EARLY,
            heat: 0,
            cool: u32::MAX,
            last: SlowedBy::Overload,
        }
    }
}

impl Pressure {
    /// The rate from here on, after an interval that went so.
    pub fn after(&mut self, interval: Interval) -> Rate {
        self.since_rise = self.since_rise.saturating_add(1);
        let too_hot = self.too_hot(interval.throttled);
        self.strained = if interval.strained() { self.strained + 1 } else { 0 };
        if interval.throttled || self.strained > 0 {
            self.calm = 0;
            self.last = if interval.throttled { SlowedBy::Throttling } else { SlowedBy::Overload };
            if (too_hot || self.strained >= PATIENCE_DOWN) && self.rate > Rate::LEAST {
                self.fall();
            }
        } else {
            self.calm = self.calm.saturating_add(1);
            if self.calm >= FORGIVEN {
                self.patience_up = PATIENCE_UP;
            }
            if self.calm >= self.patience_up && self.rate < Rate::FULL && self.would_manage_more(interval.busy) {
                (self.rate, self.calm, self.since_rise) = (Rate(self.rate.0 + 1), 0, 0);
            }
        }
        self.rate
    }

    /// Why the rate is below the model's, if it is.
    pub fn slowed_by(&self) -> Option<SlowedBy> {
        (self.rate < Rate::FULL).then_some(self.last)
    }

    /// Whether throttling, or its lasting, costs a step now.
    fn too_hot(&mut self, throttled: bool) -> bool {
        if !throttled {
            (self.heat, self.cool) = (self.heat.saturating_sub(1), self.cool.saturating_add(1));
            return false;
        }
        let new = self.cool >= self.patience_up;
        (self.heat, self.cool) = (self.heat + 1, 0);
        if new || self.heat >= HEAT {
            self.heat = 0;
            return true;
        }
        false
    }

    fn fall(&mut self) {
        if self.since_rise < TOO_EARLY {
            self.patience_up = (self.patience_up * 2).min(PATIENCE_UP_MOST);
        }
        (self.rate, self.strained) = (Rate(self.rate.0 - 1), 0);
    }

    fn would_manage_more(&self, busy: f32) -> bool {
        busy * f32::from(self.rate.0 + 1) / f32::from(self.rate.0) < BUSY
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STRAIN: Interval = Interval { busy: 1.0, came: 100, let_go: 50, throttled: false };
    const HOT: Interval = Interval { busy: 0.3, came: 100, let_go: 0, throttled: true };
    const COOL: Interval = Interval { throttled: false, ..HOT };

    /// The eighths after so many such intervals.
    fn eighths(p: &mut Pressure, interval: Interval, intervals: usize) -> Vec<u8> {
        (0..intervals).map(|_| p.after(interval).eighths()).collect()
    }

    /// A machine that can do so many frames a second, with cameras that ask for `wanted_fps` of it at the full rate.
    fn interval(rate: Rate, wanted_fps: f32, able_fps: f32) -> Interval {
        let load = rate.of(wanted_fps);
        let seconds = INTERVAL.as_secs_f32();
        Interval {
            busy: (load / able_fps).min(1.0),
            came: (load * seconds).round() as u64,
            let_go: ((load - able_fps).max(0.0) * seconds).round() as u64,
            throttled: false,
        }
    }

    /// The rates over so many intervals on such a machine.
    fn on(p: &mut Pressure, wanted_fps: f32, able_fps: f32, intervals: usize) -> Vec<Rate> {
        (0..intervals)
            .map(|_| {
                let rate = p.rate;
                p.after(interval(rate, wanted_fps, able_fps))
            })
            .collect()
    }

    #[test]
    fn a_machine_half_as_fast_as_it_should_be_falls_to_the_least_and_comes_back() {
        let mut p = Pressure::default();
        let falling: Vec<_> = on(&mut p, 32.0, 16.0, 10).into_iter().map(Rate::eighths).collect();
        assert_eq!(falling, [8, 7, 7, 6, 6, 5, 5, 5, 5, 5], "a step in four seconds");
        let rising: Vec<_> = on(&mut p, 32.0, 64.0, 16).into_iter().map(Rate::eighths).collect();
        assert_eq!(rising, [5, 5, 5, 5, 6, 6, 6, 6, 6, 7, 7, 7, 7, 7, 8, 8], "a step in ten");
    }

    #[test]
    fn bursts_and_a_machine_that_just_manages_are_no_strain() {
        let mut p = Pressure::default();
        let bursts = Interval { busy: 0.3, came: 100, let_go: 40, throttled: false };
        let just = Interval { busy: 0.99, came: 100, let_go: 1, throttled: false };
        for _ in 0..100 {
            assert_eq!((p.after(bursts), p.after(just)), (Rate::FULL, Rate::FULL));
        }
    }

    #[test]
    fn a_load_that_comes_and_goes_is_followed_ever_more_slowly() {
        // Calm whenever the rate is low, strained whenever it is full, and the engine says nothing of it.
        let mut p = Pressure::default();
        let mut falls = 0;
        for _ in 0..1800 {
            let before = p.rate;
            let strained = before == Rate::FULL;
            let i = if strained { STRAIN } else { Interval::default() };
            falls += u32::from(p.after(i) < before);
        }
        assert!(falls <= 20, "{falls} times in an hour");
    }

    #[test]
    fn heat_lowers_the_rate_at_once_and_slowly_from_there_and_lets_it_rise_when_it_is_over() {
        let mut p = Pressure::default();
        assert_eq!((p.after(HOT).eighths(), p.slowed_by()), (7, Some(SlowedBy::Throttling)));
        let lasting = eighths(&mut p, HOT, 45);
        let (first, second) = (lasting.iter().position(|r| *r == 6), lasting.iter().position(|r| *r == 5));
        assert_eq!((first, second, lasting[44]), (Some(14), Some(29), 5), "a step in half a minute, and never below");
        assert_eq!(eighths(&mut p, COOL, 15), [5, 5, 5, 5, 6, 6, 6, 6, 6, 7, 7, 7, 7, 7, 8], "a step in ten seconds");
        assert_eq!(p.slowed_by(), None);
    }

    #[test]
    fn overload_in_the_heat_lowers_it_further_without_waiting() {
        let mut p = Pressure::default();
        let strained = Interval { throttled: true, ..STRAIN };
        assert_eq!(eighths(&mut p, strained, 5), [7, 7, 6, 6, 5]);
        assert_eq!(p.slowed_by(), Some(SlowedBy::Throttling), "which is why it cannot keep up");
        eighths(&mut p, STRAIN, 1);
        assert_eq!(p.slowed_by(), Some(SlowedBy::Overload));
    }

    #[test]
    fn throttling_for_a_moment_now_and_then_costs_one_step() {
        let mut p = Pressure::default();
        let hour: Vec<_> = (0..1800).map(|n| p.after(if n % 4 == 0 { HOT } else { COOL }).eighths()).collect();
        assert!(hour.iter().all(|r| *r == 7), "{hour:?}");
    }

    proptest! {
        #[test]
        fn while_throttled_it_never_rises(
            past in prop::collection::vec((any::<bool>(), 0.0_f32..=1.0, 0_u64..100), 0..200),
            then in prop::collection::vec((0.0_f32..=1.0, 0_u64..100), 1..200),
        ) {
            let mut p = Pressure::default();
            for (throttled, busy, let_go) in past {
                p.after(Interval { busy, came: 100, let_go, throttled });
            }
            for (busy, let_go) in then {
                let before = p.rate;
                let rate = p.after(Interval { busy, came: 100, let_go, throttled: true });
                prop_assert!(rate <= before && before.eighths() - rate.eighths() <= 1);
                prop_assert_eq!(p.slowed_by(), (rate < Rate::FULL).then_some(SlowedBy::Throttling));
            }
            prop_assert!(p.rate < Rate::FULL);
        }

        #[test]
        fn throttling_that_comes_and_goes_within_seconds_does_not_make_it_swing(on in 1_usize..6, off in 1_usize..5) {
            let mut p = Pressure::default();
            let hour: Vec<_> =
                (0..1800).map(|n| p.after(if n % (on + off) < on { HOT } else { COOL }).eighths()).collect();
            prop_assert!(hour.windows(2).all(|w| w[0] >= w[1]), "{hour:?}");
        }

        #[test]
        fn throttling_that_comes_and_goes_makes_it_swing_ever_less(on in 1_usize..60, off in 1_usize..30) {
            let mut p = Pressure::default();
            let hour: Vec<_> =
                (0..1800).map(|n| p.after(if n % (on + off) < on { HOT } else { COOL }).eighths()).collect();
            let rises = hour.windows(2).filter(|w| w[0] < w[1]).count();
            prop_assert!(rises <= 10, "{rises} in an hour: {hour:?}");
        }

        #[test]
        fn under_constant_overload_it_only_falls(wanted in 8.0_f32..256.0, able in 0.05_f32..0.55) {
            let mut p = Pressure::default();
            let rates = on(&mut p, wanted, wanted * able, 500);
            prop_assert!(rates.windows(2).all(|w| w[0] >= w[1]), "{:?}", rates);
            prop_assert_eq!(p.rate, Rate::LEAST);
        }

        #[test]
        fn under_any_constant_load_it_settles_where_the_machine_manages(wanted in 8.0_f32..256.0, able in 0.66_f32..2.0) {
            let mut p = Pressure::default();
            on(&mut p, wanted, wanted * able, 1000);
            let settled = on(&mut p, wanted, wanted * able, 500);
            prop_assert!(settled.iter().all(|r| *r == settled[0]), "it flaps: {:?}", settled);
            prop_assert!(!interval(p.rate, wanted, wanted * able).strained());
        }

        #[test]
        fn it_never_leaves_its_bounds_and_comes_back_to_full_after_whatever_there_was(
            past in prop::collection::vec((0.0_f32..=1.0, 0_u64..200, 0_u64..200, any::<bool>()), 0..400),
        ) {
            let mut p = Pressure::default();
            for (busy, came, let_go, throttled) in past {
                let rate = p.after(Interval { busy, came, let_go: let_go.min(came), throttled });
                prop_assert!((Rate::LEAST..=Rate::FULL).contains(&rate));
                prop_assert!(rate.of(8.0) >= 5.0 && rate.of(8.0) <= 8.0);
            }
            on(&mut p, 32.0, 64.0, 3 * PATIENCE_UP_MOST as usize);
            prop_assert_eq!(p.rate, Rate::FULL);
        }
    }
}
