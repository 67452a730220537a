//! What stops a roll-out, with its figures. Pure.
//!
//! Two rules, chosen so that they hold for the few devices of a first wave as well as for thousands:
//!
//! - **Shares** (failures, rollbacks, silent, latency). Broken if at least two devices (one, in a wave of one) are bad, and
//!   either the wave can no longer end within its limit, or so many bad ones among those that were reached by now come by
//!   chance less than once in 1,000 times with a release that is at its limit (binomial).
//! - **Alerts.** Each device is measured by its own history: expected are `limit` times (its alerts before, and a half) for
//!   the time that the release has served on it. Broken if the sum over the devices comes by chance less than once in 10,000
//!   times (Poisson), and several devices have more than was expected of them: alerts come in clusters, and one place where
//!   something happens is no fault of a release. The half stands for what a short history had no time to show.
//!
//! Each is asked of the present wave alone and of all waves so far.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::observe::{Meter, Observations};
use super::plan::DeviceId;
use super::state::{How, Record, Rollout, Standing};
use super::statistics::{binomial_tail, poisson_tail};
use crate::base::clock::Wall;

const BY_CHANCE: f64 = 1e-3;
const ALERTS_BY_CHANCE: f64 = 1e-4;
/// A history shorter than this is none.
const LEAST_HISTORY_S: u64 = 3600;
/// The counters of a release that has served for less say nothing yet.
const LEAST_SERVED_S: u64 = 60;
/// Slower by less than this is nothing, whatever the ratio.
const LEAST_SLOWER_MS: f32 = 5.0;
/// Part of the devices that must have more alerts than expected; two of them at least.
const SEVERAL: f64 = 0.02;

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// Refused, taken back, given up or never taken.
    Failures,
    /// Taken back after it had served.
    Rollbacks,
    /// Not heard of since the offer.
    Silent,
    /// More alerts than the devices' own histories let expect.
    Alerts,
    /// Slower than before.
    Latency,
}

/// What a gate shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Which.
    pub gate: Gate,
    /// The wave, from 0; none: all so far.
    pub wave: Option<usize>,
    /// Devices that are bad; of `alerts`: alerts.
    pub bad: u64,
    /// Devices that could show it by now; of `alerts`: those with a history.
    pub of: u64,
    /// Devices in the wave or waves.
    pub total: u64,
    /// A share; of `alerts`: how many alerts are expected at the limit.
    pub limit: f64,
    /// How likely that is by chance, for a release at its limit.
    pub chance: f64,
    /// It stops the roll-out.
    pub broken: bool,
}

impl Gate {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Gate::Failures => "failures",
            Gate::Rollbacks => "rollbacks",
            Gate::Silent => "silent",
            Gate::Alerts => "alerts",
            Gate::Latency => "latency",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { gate, bad, of, total, limit, .. } = self;
        match gate {
            Gate::Alerts => write!(f, "{bad} alerts on {of} devices, at most {limit:.1} expected"),
            Gate::Failures => write!(f, "{bad} of {of} failed, limit {} of {total}", percent(*limit)),
            Gate::Rollbacks => write!(f, "{bad} of {of} rolled back, limit {} of {total}", percent(*limit)),
            Gate::Silent => write!(f, "{bad} of {of} silent, limit {} of {total}", percent(*limit)),
            Gate::Latency => write!(f, "{bad} of {of} slower, limit {} of {total}", percent(*limit)),
        }?;
        match self.wave {
            Some(wave) => write!(f, " (wave {})", wave + 1),
            None => f.write_str(" (all waves)"),
        }
    }
}

fn percent(share: f64) -> String {
    format!("{} %", (share * 1000.0).round() / 10.0)
}

/// What all gates show, each once: of the present wave or of all, whichever is worse.
pub fn findings(now: Wall, rollout: &Rollout, seen: &Observations) -> Vec<Finding> {
    let gates = &rollout.plan.gates;
    let mut all = Vec::new();
    let scopes = [Some(rollout.head.wave), None].map(|wave| Scope::new(now, rollout, seen, wave));
    let mut worst = |of: &dyn Fn(&Scope<'_>) -> Finding| {
        let [wave, whole] = scopes.each_ref().map(of);
        all.push(if whole.broken && !wave.broken { whole } else { wave });
    };
    if let Some(limit) = gates.failures {
        worst(&|scope| scope.ended(Gate::Failures, limit, How::is_failure));
    }
    if let Some(limit) = gates.rollbacks {
        worst(&|scope| scope.ended(Gate::Rollbacks, limit, |how| how == How::RolledBack));
    }
    if let Some(limit) = gates.silent {
        worst(&|scope| scope.silent(limit));
    }
    if let Some(ratio) = gates.alerts {
        worst(&|scope| scope.alerts(ratio));
    }
    if let Some(ratio) = gates.latency {
        worst(&|scope| scope.latency(ratio, gates.slower));
    }
    all
}

/// Whether nothing was heard of a device for so long since it was offered the release, in all of which somebody listened.
pub fn is_silent(now: Wall, rollout: &Rollout, seen: &Observations, id: &DeviceId, record: &Record) -> bool {
    let (Some(offered), Some(watching)) = (record.offered_at, seen.watching_since) else { return false };
    let heard = seen.devices.get(id).map_or(watching, |d| d.heard);
    let quiet_ms = now.unix_ms().saturating_sub(heard.max(offered).max(watching).unix_ms());
    quiet_ms >= i64::try_from(rollout.plan.gates.silent_after_s).unwrap_or(i64::MAX).saturating_mul(1000)
}

/// The rule of shares; see the module.
fn share_is_broken(bad: u64, of: u64, total: u64, limit: f64) -> (bool, f64) {
    let chance = binomial_tail(bad, of, limit);
    let enough = if limit == 0.0 { 1 } else { total.min(2) };
    let beyond = bad as f64 > limit * total as f64;
    (bad > 0 && bad >= enough && (beyond || chance < BY_CHANCE), chance)
}

/// The devices that a gate looks at.
struct Scope<'a> {
    now: Wall,
    rollout: &'a Rollout,
    seen: &'a Observations,
    wave: Option<usize>,
    records: Vec<(&'a DeviceId, &'a Record)>,
}

impl<'a> Scope<'a> {
    fn new(now: Wall, rollout: &'a Rollout, seen: &'a Observations, wave: Option<usize>) -> Self {
        let within = |r: &Record| wave.map_or(r.wave <= rollout.head.wave, |wave| r.wave == wave);
        let records = rollout.devices.iter().filter(|(_, r)| within(r)).collect();
        Scope { now, rollout, seen, wave, records }
    }

    fn share(&self, gate: Gate, bad: u64, of: u64, limit: f64) -> Finding {
        let total = self.records.len() as u64;
        let (broken, chance) = share_is_broken(bad, of, total, limit);
        Finding { gate, wave: self.wave, bad, of, total, limit, chance, broken }
    }

    fn ended(&self, gate: Gate, limit: f64, is_bad: impl Fn(How) -> bool) -> Finding {
        // Those under way count: who fails ends sooner than who commits, and the first to end are not a sample of all.
        let reached = self.records.iter().filter(|(_, r)| r.was_reached());
        let (bad, of) = reached.fold((0, 0), |(bad, of), (_, r)| match r.standing() {
            Standing::Ended(how) => (bad + u64::from(is_bad(how)), of + 1),
            _ => (bad, of + 1),
        });
        self.share(gate, bad, of, limit)
    }

    fn silent(&self, limit: f64) -> Finding {
        let offered = self.records.iter().filter(|(_, r)| r.offered_at.is_some());
        let (bad, of) = offered.fold((0, 0), |(bad, of), (id, r)| {
            (bad + u64::from(is_silent(self.now, self.rollout, self.seen, id, r)), of + 1)
        });
        self.share(Gate::Silent, bad, of, limit)
    }

    /// The counters before and since, of a device on which the release has served for long enough to say something.
    fn served(&self) -> impl Iterator<Item = (&Meter, Meter)> {
        self.records.iter().filter_map(|(id, r)| {
            let mut after = r.after.clone()?;
            if let Some(reading) = self.seen.devices.get(*id).and_then(|d| d.reading.as_ref()) {
                after.take(reading);
            }
            (after.seconds() >= LEAST_SERVED_S).then_some((&r.before, after))
        })
    }

    fn alerts(&self, ratio: f64) -> Finding {
        let (mut alerts, mut devices, mut above, mut expected) = (0, 0u64, 0u64, 0.0);
        for (before, after) in self.served().filter(|(before, _)| before.seconds() >= LEAST_HISTORY_S) {
            let rate = (before.incidents() as f64 + 0.5) / before.seconds() as f64;
            let own = ratio * rate * after.seconds() as f64;
            expected += own;
            alerts += after.incidents();
            devices += 1;
            above += u64::from(after.incidents() as f64 > own);
        }
        let several = ((devices as f64 * SEVERAL).ceil() as u64).max(2).min(devices);
        let chance = poisson_tail(alerts, expected);
        let broken = devices > 0 && above >= several && chance < ALERTS_BY_CHANCE;
        let total = self.records.len() as u64;
        Finding {
            gate: Gate::Alerts,
            wave: self.wave,
            bad: alerts,
            of: devices,
            total,
            limit: expected,
            chance,
            broken,
        }
    }

    fn latency(&self, ratio: f64, limit: f64) -> Finding {
        let both = self.served().filter_map(|(before, after)| Some((before.p99_ms()?, after.p99_ms()?)));
        let (bad, of) = both.fold((0, 0), |(bad, of), (was, is)| {
            let slower = f64::from(is) > ratio * f64::from(was) && is - was > LEAST_SLOWER_MS;
            (bad + u64::from(slower), of + 1)
        });
        self.share(Gate::Latency, bad, of, limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(bad: u64, of: u64, total: u64, limit: f64) -> bool {
        share_is_broken(bad, of, total, limit).0
    }

    #[test]
    fn a_share_is_judged_early_where_it_is_plain_and_late_where_it_is_not() {
        assert!(broken(3, 3, 1000, 0.05), "all that ended failed");
        assert!(!broken(2, 2, 1000, 0.05), "that happens");
        assert!(!broken(1, 1, 10, 0.05), "one is no share");
        assert!(broken(2, 9, 10, 0.05), "cannot end within 5 % of 10");
        assert!(!broken(5, 60, 100, 0.05));
        assert!(broken(6, 100, 100, 0.05));
        assert!(broken(1, 1, 1, 0.05), "a wave of one");
        assert!(broken(1, 1, 50, 0.0), "none at all may fail");
        assert!(!broken(0, 0, 0, 0.0));
    }

    #[test]
    fn more_bad_ones_never_mend_it() {
        for total in [1u64, 2, 10, 300] {
            for of in 1..=total {
                let first = (0..=of).position(|bad| broken(bad, of, total, 0.05));
                if let Some(first) = first {
                    assert!((first as u64..=of).all(|bad| broken(bad, of, total, 0.05)), "{of} of {total}");
                }
            }
        }
    }

    #[test]
    fn a_finding_says_its_figures() {
        let finding = Finding {
            gate: Gate::Failures,
            wave: Some(0),
            bad: 3,
            of: 5,
            total: 50,
            limit: 0.05,
            chance: 0.001,
            broken: true,
        };
        assert_eq!(finding.to_string(), "3 of 5 failed, limit 5 % of 50 (wave 1)");
        let all = Finding { gate: Gate::Alerts, wave: None, bad: 90, limit: 20.25, ..finding };
        assert_eq!(all.to_string(), "90 alerts on 5 devices, at most 20.2 expected (all waves)");
    }
}
