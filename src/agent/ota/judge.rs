//! Whether a model has shown what it must: in shadow against the model that serves, on trial against the device's own
//! history. Pure.

use std::time::Duration;

use super::fault::Trouble;
use crate::contract::update::{UpdateFault, UpdateReason};

/// Windows that both have judged before agreement means anything.
const WINDOWS_LEAST: u64 = 20;
/// Passes that may fail, one after the other or not, in a trial.
const ERRORS_MOST: u64 = 3;
/// Share of an interval that inference is busy, above which a model is too slow for this device.
const BUSY_MOST: f64 = 0.95;
/// So many intervals one after the other.
const BUSY_INTERVALS: u32 = 3;
/// Memory that the daemon may take beyond what it took when the trial began, bytes.
const GROWTH_MOST_BYTES: u64 = 400_000_000;

/// What the policy of `[ota]` lets pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// How long a model looks on.
    pub shadow: Duration,
    /// How long it serves before it is committed.
    pub trial: Duration,
    /// Least share of windows on which both raise the same.
    pub min_agreement: f64,
    /// So many times the incidents of the device's history.
    pub max_alert_factor: u32,
    /// Incidents of this device, a second, over its history.
    pub incidents_per_s: f64,
}

impl Policy {
    /// Incidents that may come in so long: what the history knows, times the factor, and what chance may add.
    ///
    /// The history's mean in that time, times the factor, is the mean of a Poisson process; four of its standard deviations
    /// and five more are let pass. A device that has never raised an alert lets five pass.
    pub fn incidents_limit(&self, over: Duration) -> u64 {
        let mean = f64::from(self.max_alert_factor) * self.incidents_per_s * over.as_secs_f64();
        (mean + 4.0 * mean.sqrt()).ceil() as u64 + 5
    }
}

/// What was seen of a model in shadow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShadowSeen {
    /// Windows that both have judged.
    pub windows: u64,
    /// Those on which both would raise the same class, or nothing.
    pub agreed: u64,
    /// Incidents that it would have raised.
    pub incidents: u64,
    /// Passes that failed.
    pub errors: u64,
}

impl ShadowSeen {
    /// Share of windows, 0 to 1; none before there are any.
    pub fn agreement(&self) -> Option<f64> {
        (self.windows > 0).then(|| self.agreed as f64 / self.windows as f64)
    }
}

/// What was seen of a model on trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrialSeen {
    /// Incidents that it has raised, tests not counted.
    pub incidents: u64,
    /// Passes that failed.
    pub errors: u64,
    /// Intervals, one after the other, in which there was no time for all frames.
    pub overrun: u32,
    /// Memory of the daemon beyond what it had when the trial began, bytes.
    pub growth_bytes: u64,
}

impl TrialSeen {
    /// One more interval: the share of it that inference was busy, and frames that were let go.
    pub fn interval(&mut self, busy: f64, let_go: u64) {
        self.overrun = if busy > BUSY_MOST && let_go > 0 { self.overrun + 1 } else { 0 };
    }
}

/// What becomes of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It is looked at further.
    GoesOn,
    /// It has shown what it must.
    Passed,
    /// It has not.
    Failed(UpdateReason),
}

fn failed(fault: UpdateFault, words: String) -> Verdict {
    Verdict::Failed(UpdateReason { fault, words })
}

fn flood(incidents: u64, over: Duration, policy: &Policy) -> Option<Verdict> {
    let limit = policy.incidents_limit(over);
    (incidents > limit).then(|| {
        let words = format!(
            "{incidents} incidents in {} s; this device's history ({:.2} a day) and max_alert_factor = {} let {limit} pass",
            over.as_secs(),
            policy.incidents_per_s * 86_400.0,
            policy.max_alert_factor
        );
        failed(UpdateFault::AlertFlood, words)
    })
}

/// Judges a model that has looked on for so long.
pub fn shadow(policy: &Policy, looked: Duration, seen: &ShadowSeen) -> Verdict {
    if seen.errors > ERRORS_MOST {
        return failed(UpdateFault::EngineErrors, format!("{} passes failed in shadow", seen.errors));
    }
    if let Some(flood) = flood(seen.incidents, looked, policy) {
        return flood;
    }
    if looked < policy.shadow {
        return Verdict::GoesOn;
    }
    match seen.agreement() {
        // Nothing to be seen is no disagreement: a camera may be away. The trial will tell.
        Some(agreement) if seen.windows >= WINDOWS_LEAST && agreement < policy.min_agreement => failed(
            UpdateFault::Disagreement,
            format!(
                "of {} windows it raised the same as the model before it on {:.1} %, and at least {:.1} % are asked for",
                seen.windows,
                agreement * 100.0,
                policy.min_agreement * 100.0
            ),
        ),
        _ => Verdict::Passed,
    }
}

/// Judges a model that has served for so long.
pub fn trial(policy: &Policy, served: Duration, seen: &TrialSeen) -> Verdict {
    if seen.errors > ERRORS_MOST {
        return failed(UpdateFault::EngineErrors, format!("{} passes failed while it served", seen.errors));
    }
    if seen.overrun >= BUSY_INTERVALS {
        let words = format!("in {} intervals one after the other there was no time for all frames", seen.overrun);
        return failed(UpdateFault::Latency, words);
    }
    if seen.growth_bytes > GROWTH_MOST_BYTES {
        let words = format!("the daemon took {} MB more than before it", seen.growth_bytes / 1_000_000);
        return failed(UpdateFault::Memory, words);
    }
    if let Some(flood) = flood(seen.incidents, served, policy) {
        return flood;
    }
    if served < policy.trial { Verdict::GoesOn } else { Verdict::Passed }
}

impl From<UpdateReason> for Trouble {
    fn from(reason: UpdateReason) -> Trouble {
        Trouble::Fault(reason)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn policy(incidents_a_day: f64) -> Policy {
        let incidents_per_s = incidents_a_day / 86_400.0;
        Policy { shadow: S(600), trial: S(1800), min_agreement: 0.8, max_alert_factor: 3, incidents_per_s }
    }

    fn fault(verdict: Verdict) -> UpdateFault {
        match verdict {
            Verdict::Failed(reason) => reason.fault,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_model_in_shadow_is_judged_by_what_it_would_have_raised() {
        let p = policy(2.0);
        let seen = ShadowSeen { windows: 100, agreed: 90, incidents: 1, errors: 0 };
        assert_eq!(shadow(&p, S(599), &seen), Verdict::GoesOn);
        assert_eq!(shadow(&p, S(600), &seen), Verdict::Passed);
        assert_eq!(fault(shadow(&p, S(600), &ShadowSeen { agreed: 79, ..seen })), UpdateFault::Disagreement);
        assert_eq!(shadow(&p, S(600), &ShadowSeen { windows: 19, agreed: 0, ..seen }), Verdict::Passed);
        assert_eq!(shadow(&p, S(600), &ShadowSeen::default()), Verdict::Passed);
        // A flood is not waited out.
        assert_eq!(fault(shadow(&p, S(5), &ShadowSeen { incidents: 12, ..seen })), UpdateFault::AlertFlood);
        assert_eq!(fault(shadow(&p, S(5), &ShadowSeen { errors: 4, ..seen })), UpdateFault::EngineErrors);
    }

    #[test]
    fn a_model_on_trial_is_taken_back_for_each_of_its_failures() {
        let p = policy(24.0);
        let well = TrialSeen { incidents: 5, ..TrialSeen::default() };
        assert_eq!(trial(&p, S(1799), &well), Verdict::GoesOn);
        assert_eq!(trial(&p, S(1800), &well), Verdict::Passed);
        for (seen, why) in [
            (TrialSeen { incidents: 60, ..well }, UpdateFault::AlertFlood),
            (TrialSeen { errors: 4, ..well }, UpdateFault::EngineErrors),
            (TrialSeen { overrun: 3, ..well }, UpdateFault::Latency),
            (TrialSeen { growth_bytes: 500_000_000, ..well }, UpdateFault::Memory),
        ] {
            assert_eq!(fault(trial(&p, S(60), &seen)), why);
        }
        let mut busy = TrialSeen::default();
        [(0.99, 3), (0.99, 1), (0.99, 0), (0.99, 2)].iter().for_each(|(b, n)| busy.interval(*b, *n));
        assert_eq!(busy.overrun, 1, "one interval without a frame let go begins it anew");
    }

    proptest! {
        #[test]
        fn the_limit_grows_with_time_history_and_factor(
            a_day in 0.0_f64..200.0, more in 0.0_f64..50.0, seconds in 1_u64..100_000, factor in 1_u32..20,
        ) {
            let p = Policy { max_alert_factor: factor, ..policy(a_day) };
            let limit = p.incidents_limit(S(seconds));
            prop_assert!(limit >= 5);
            prop_assert!(p.incidents_limit(S(seconds * 2)) >= limit);
            prop_assert!(policy_with(p, a_day + more).incidents_limit(S(seconds)) >= limit);
            // What the history itself brings in the mean is always let pass.
            prop_assert!(limit as f64 > a_day / 86_400.0 * seconds as f64);
        }
    }

    fn policy_with(p: Policy, a_day: f64) -> Policy {
        Policy { incidents_per_s: a_day / 86_400.0, ..p }
    }
}
