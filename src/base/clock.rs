//! Time, injected. The only file that may read the machine's clocks.
//!
//! Monotonic time ([`Mono`]) decides: order, durations, time-outs. Wall time ([`Wall`]) labels: what a
//! message or a row says to a person. A wall clock that is stepped changes labels and nothing else.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A point in monotonic time, in nanoseconds since an origin that one process (or one replayed file) shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mono(u64);

impl Mono {
    /// The origin itself.
    pub const ZERO: Mono = Mono(0);

    /// From nanoseconds since the origin.
    pub const fn from_nanos(ns: u64) -> Self {
        Mono(ns)
    }

    /// From milliseconds since the origin.
    pub const fn from_millis(ms: u64) -> Self {
        Mono(ms * 1_000_000)
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Milliseconds since the origin, rounded down.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// So much earlier, at the earliest the clock's origin.
    pub fn before(self, by: Duration) -> Mono {
        Mono::from_nanos(self.as_nanos().saturating_sub(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// The time from `earlier` to `self`; zero if `earlier` is later.
    pub fn since(self, earlier: Mono) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// `self` moved back by `d`, not before the origin.
    pub fn back(self, d: Duration) -> Mono {
        Mono(self.0.saturating_sub(d.as_nanos() as u64))
    }
}

impl std::ops::Add<Duration> for Mono {
    type Output = Mono;
    fn add(self, d: Duration) -> Mono {
        Mono(self.0.saturating_add(d.as_nanos() as u64))
    }
}

/// A wall-clock label: milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Wall(i64);

impl Wall {
    /// From milliseconds since the Unix epoch.
    pub const fn from_unix_ms(ms: i64) -> Self {
        Wall(ms)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn unix_ms(self) -> i64 {
        self.0
    }

    /// RFC 3339 in UTC with milliseconds, the form that messages use.
    pub fn rfc3339(self) -> String {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(t) => format!("{t:.3}"),
            // Outside years -9999..=9999 only; a label must never stop the alert that carries it.
            Err(_) => format!("{}ms", self.0),
        }
    }
}

impl std::ops::Add<Duration> for Wall {
    type Output = Wall;
    fn add(self, d: Duration) -> Wall {
        Wall(self.0.saturating_add(i64::try_from(d.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl std::ops::Sub<Duration> for Wall {
    type Output = Wall;
    fn sub(self, d: Duration) -> Wall {
        Wall(self.0.saturating_sub(i64::try_from(d.as_millis()).unwrap_or(i64::MAX)))
    }
}

/// Where time comes from.
pub trait Clock: Send + Sync {
    /// Monotonic now.
    fn now(&self) -> Mono;
    /// Wall-clock now.
    fn wall(&self) -> Wall;
    /// The wall label of a monotonic time, by the wall clock as it stands now.
    fn wall_at(&self, t: Mono) -> Wall {
        let (now, wall) = (self.now(), self.wall());
        if t >= now { wall + t.since(now) } else { wall - now.since(t) }
    }
}

/// The machine's clocks; the monotonic origin is the moment of construction.
#[derive(Debug)]
pub struct SystemClock {
    origin: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts at zero, now.
    #[allow(clippy::disallowed_methods, reason = "this file is where the clocks are read")]
    pub fn new() -> Self {
        SystemClock { origin: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Mono {
        Mono(self.origin.elapsed().as_nanos() as u64)
    }

    #[allow(clippy::disallowed_methods, reason = "this file is where the clocks are read")]
    fn wall(&self) -> Wall {
        let now = SystemTime::now();
        Wall(match now.duration_since(UNIX_EPOCH) {
            Ok(d) => d.as_millis() as i64,
            Err(before) => -(before.duration().as_millis() as i64),
        })
    }
}

/// A clock that moves when told to: tests, and `replay`, where time is the file's own.
#[derive(Debug)]
pub struct ManualClock {
    at: Mutex<(Mono, Wall)>,
}

impl ManualClock {
    /// A clock that stands at monotonic zero and the given wall label.
    pub fn new(wall: Wall) -> Self {
        ManualClock { at: Mutex::new((Mono::ZERO, wall)) }
    }

    /// Moves both clocks on by `d`.
    pub fn advance(&self, d: Duration) {
        let mut at = self.at.lock().expect("no code panics while it holds the clock");
        *at = (at.0 + d, at.1 + d);
    }

    /// Steps the wall clock alone, as NTP does.
    pub fn step_wall(&self, to: Wall) {
        self.at.lock().expect("no code panics while it holds the clock").1 = to;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Mono {
        self.at.lock().expect("no code panics while it holds the clock").0
    }
    fn wall(&self) -> Wall {
        self.at.lock().expect("no code panics while it holds the clock").1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_labels_follow_a_stepped_clock_but_monotonic_time_does_not() {
        let clock = ManualClock::new(Wall::from_unix_ms(1_000_000));
        clock.advance(Duration::from_secs(10));
        let t = clock.now();
        clock.step_wall(Wall::from_unix_ms(5_000_000));
        clock.advance(Duration::from_secs(1));
        assert_eq!(clock.now().since(t), Duration::from_secs(1));
        assert_eq!(clock.wall_at(t).unix_ms(), 5_000_000);
    }

    #[test]
    fn labels_are_rfc3339_with_milliseconds() {
        assert_eq!(Wall::from_unix_ms(1_500).rfc3339(), "1970-01-01T00:00:01.500Z");
        assert_eq!(Wall::from_unix_ms(0).rfc3339(), "1970-01-01T00:00:00.000Z");
    }
}
