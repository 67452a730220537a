//! How long to wait before the next connection. Decisions only; the waiting is done in `mod`.
//!
//! A broker that comes back after a restart has lost all its devices in the same instant. Each of them waits first a time
//! of its own within [`RETURN_WITHIN`], so that a fleet comes back spread over it and not as one.

use std::time::Duration;

use super::error::{Pace, SessionError};
use crate::base::backoff::Backoff;

/// The first try after a lost connection comes within so long, evenly spread. Shorter than the will's delay: a device that
/// loses its connection for a moment is not called offline for it.
pub(super) const RETURN_WITHIN: Duration = Duration::from_secs(3);
const SOON: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
const SLOWLY: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(300));
/// A connection that lasted so long was a good one: the next failure starts with short delays again.
const GOOD_AFTER: Duration = Duration::from_secs(30);

/// The pace of one device.
#[derive(Debug)]
pub(super) struct Pacing {
    soon: Backoff,
    slowly: Backoff,
    /// Brokers that have failed one after the other.
    failed: usize,
    /// All there are.
    brokers: usize,
}

/// What to do after a failure.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Next {
    /// Wait so long,
    pub(super) delay: Duration,
    /// and then try the next broker, not the same again.
    pub(super) move_on: bool,
}

impl Pacing {
    pub(super) fn new(brokers: usize) -> Self {
        Pacing { soon: Backoff::new(SOON.0, SOON.1), slowly: Backoff::new(SLOWLY.0, SLOWLY.1), failed: 0, brokers }
    }

    /// A connection, or the attempt at one, failed after so long.
    pub(super) fn failed(&mut self, e: &SessionError, lasted: Duration) -> Next {
        let stood = matches!(e, SessionError::Lost { .. } | SessionError::Silent { .. });
        if lasted >= GOOD_AFTER {
            self.soon.reset();
            self.slowly.reset();
            self.failed = 0;
            if stood {
                return Next { delay: spread(), move_on: false };
            }
        }
        self.failed += 1;
        // As long as one of them has not been tried, it may be better.
        let untried = !self.failed.is_multiple_of(self.brokers);
        let delay = match e.pace() {
            Pace::Slowly if !untried => self.slowly.next_delay(),
            _ => self.soon.next_delay(),
        };
        let delay = if stood { delay + spread() } else { delay };
        Next { delay, move_on: self.brokers > 1 }
    }
}

fn spread() -> Duration {
    RETURN_WITHIN.mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost() -> SessionError {
        SessionError::Lost { broker: "b".into(), source: "gone".into() }
    }

    fn refused() -> SessionError {
        SessionError::Refused { broker: "b".into(), why: "banned".into(), pace: Pace::Slowly }
    }

    #[test]
    fn a_fleet_that_lost_its_broker_comes_back_spread_out() {
        let good = Duration::from_secs(3600);
        let mut delays: Vec<Duration> = (0..1000).map(|_| Pacing::new(1).failed(&lost(), good).delay).collect();
        delays.sort();
        assert!(delays[999] <= RETURN_WITHIN);
        // None of ten equal spans holds more than twice its share.
        for tenth in 0..10 {
            let span =
                RETURN_WITHIN.mul_f64(f64::from(tenth) / 10.0)..RETURN_WITHIN.mul_f64(f64::from(tenth + 1) / 10.0);
            assert!(delays.iter().filter(|d| span.contains(*d)).count() < 200, "{span:?}");
        }
    }

    #[test]
    fn a_connection_that_never_lasts_is_made_ever_more_rarely() {
        let mut pacing = Pacing::new(1);
        let last = (0..20).map(|_| pacing.failed(&lost(), Duration::from_secs(1)).delay).last().unwrap();
        assert!(last >= SOON.1 / 2, "{last:?}");
        let after_a_good_one = pacing.failed(&lost(), GOOD_AFTER).delay;
        assert!(after_a_good_one <= RETURN_WITHIN);
    }

    #[test]
    fn brokers_are_tried_in_turn_and_one_that_worked_is_tried_again() {
        let mut pacing = Pacing::new(3);
        assert!(!pacing.failed(&lost(), GOOD_AFTER).move_on, "it worked: the same again");
        for _ in 0..2 {
            let next = pacing.failed(&refused(), Duration::ZERO);
            assert!(next.move_on && next.delay < SLOWLY.0 / 2, "another may be better: {next:?}");
        }
        assert!(pacing.failed(&refused(), Duration::ZERO).delay >= SLOWLY.0 / 2, "none is");
        assert!(!Pacing::new(1).failed(&refused(), Duration::ZERO).move_on);
    }
}
