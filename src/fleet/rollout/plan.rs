//! What a roll-out is to do: which release, to whom, in which waves, how fast, and what stops it. Fixed when it starts.
//!
//! A device's place is drawn by a hash of the plan's salt and its name, and of nothing else: it stays in its wave however
//! the fleet grows or shrinks.
//!
//! What does not belong here: how far it has come (`state`), what is done next (`step`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::contract::topics::{DeviceTopics, TopicError};

/// Longest time that a plan may name: 60 days.
const LONGEST_S: u64 = 60 * 24 * 3600;

/// A device of the fleet: `{site}/{device}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceId(String);

impl DeviceId {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its topics.
    pub fn topics(&self) -> DeviceTopics {
        let (site, device) = self.0.split_once('/').expect("checked when it was made");
        DeviceTopics::new(site, device).expect("checked when it was made")
    }
}

impl From<&DeviceTopics> for DeviceId {
    fn from(topics: &DeviceTopics) -> Self {
        DeviceId(topics.broker_user())
    }
}

impl FromStr for DeviceId {
    type Err = TopicError;

    fn from_str(text: &str) -> Result<Self, TopicError> {
        let (site, device) = text.split_once('/').ok_or_else(|| TopicError::Name(text.into()))?;
        DeviceTopics::new(site, device).map(|topics| DeviceId::from(&topics))
    }
}

impl TryFrom<String> for DeviceId {
    type Error = TopicError;

    fn try_from(text: String) -> Result<Self, TopicError> {
        text.parse()
    }
}

impl From<DeviceId> for String {
    fn from(id: DeviceId) -> String {
        id.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Some devices of the fleet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// Those whose draw is below so many percent, those of earlier waves among them.
    Percent(f64),
    /// Those of a group of the inventory.
    Group(String),
    /// These.
    List(BTreeSet<DeviceId>),
}

/// Some devices, and how long they are watched before the next wave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Wave {
    /// Whom it reaches, beyond the waves before it.
    pub who: Who,
    /// Seconds that it is watched after its last device has ended.
    pub soak_s: u64,
}

/// How fast.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pace {
    /// Most devices that are at it at once: what the network and the file server bear, and what a bad release reaches
    /// before the first of them has failed.
    pub at_once: u64,
    /// Seconds that an offer holds; a device that receives it later refuses it, and gets another when it is back.
    pub offer_holds_s: u64,
    /// Seconds after a connection to the broker before anybody is offered anything: what is retained comes first.
    pub settle_s: u64,
    /// Seconds that a wave waits for those of its devices that are away. They are offered the release later, when they come.
    pub reach_within_s: u64,
    /// Seconds after its offer that a wave waits for a device to end.
    pub end_within_s: u64,
    /// Offers that a device may leave without an answer.
    pub attempts: u32,
    /// Seconds between an offer that came to nothing and the next; between two attempts to call off as well.
    pub retry_s: u64,
    /// Part of a wave that must have committed before the next, 0 to 1.
    pub quorum: f64,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            at_once: 50,
            offer_holds_s: 3600,
            settle_s: 10,
            reach_within_s: 1800,
            end_within_s: 24 * 3600,
            attempts: 3,
            retry_s: 300,
            quorum: 0.5,
        }
    }
}

/// What stops it; none: that is not looked at. Shares are 0 to 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gates {
    /// Share of devices that refused it, took it back, gave it up or never took it.
    pub failures: Option<f64>,
    /// Share of devices that took it back after it had served.
    pub rollbacks: Option<f64>,
    /// Share of devices of which nothing was heard for `silent_after_s` since they were offered it.
    pub silent: Option<f64>,
    /// See `silent`.
    pub silent_after_s: u64,
    /// Alerts for each of those that the devices' own histories let expect.
    pub alerts: Option<f64>,
    /// Times as slow as before, at the 99th percentile of a frame: ...
    pub latency: Option<f64>,
    /// ... the share of devices that may be.
    pub slower: f64,
}

impl Default for Gates {
    fn default() -> Self {
        Gates {
            failures: Some(0.05),
            rollbacks: Some(0.02),
            silent: Some(0.1),
            silent_after_s: 900,
            alerts: Some(2.0),
            latency: Some(1.5),
            slower: 0.2,
        }
    }
}

/// A roll-out as it was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The release's number.
    pub release: u64,
    /// What the draw depends on beside the device's name.
    pub salt: String,
    /// Who takes part at all; none: whoever is in the inventory, or is seen at the broker.
    pub among: Option<Who>,
    /// Its waves.
    pub waves: Vec<Wave>,
    /// How fast.
    pub pace: Pace,
    /// What stops it.
    pub gates: Gates,
    /// The devices there are, with their groups; none: those that are seen at the broker, in no group.
    pub inventory: Option<BTreeMap<DeviceId, BTreeSet<String>>>,
}

/// What is wrong with a plan.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// Nothing to do.
    #[error("a roll-out has at least one wave: --wave 100%")]
    NoWave,
    /// Release 0.
    #[error("releases are numbered from 1")]
    NoRelease,
    /// Not a share of anything.
    #[error("{what} = {is} is not within {least} to {most}")]
    Range {
        /// Of what.
        what: &'static str,
        /// What it is.
        is: f64,
        /// What it may be.
        least: f64,
        /// What it may be.
        most: f64,
    },
    /// A wave that reaches nobody whom an earlier one did not.
    #[error("wave {wave} ({percent} %) reaches nobody beyond the waves before it: percentages are cumulative and grow")]
    Shrinks {
        /// Which, from 1.
        wave: usize,
        /// What it says.
        percent: f64,
    },
    /// A group without an inventory, or one that nobody is in.
    #[error("nobody is in the group {0:?}: name the devices and their groups with --devices FILE")]
    NoGroup(String),
    /// A name that is in no inventory.
    #[error("{0} is not in the file of --devices")]
    Unknown(DeviceId),
}

impl Plan {
    /// Whether it can be carried out.
    pub fn check(&self) -> Result<(), PlanError> {
        let Pace { at_once, offer_holds_s, settle_s, reach_within_s, end_within_s, attempts, retry_s, quorum } =
            self.pace;
        let Gates { failures, rollbacks, silent, silent_after_s, alerts, latency, slower } = self.gates;
        let long = LONGEST_S as f64;
        if self.release == 0 {
            return Err(PlanError::NoRelease);
        }
        range("at once", at_once as f64, 1.0, 1e6)?;
        range("seconds that an offer holds", offer_holds_s as f64, 1.0, long)?;
        range("seconds to settle", settle_s as f64, 0.0, 3600.0)?;
        range("seconds to reach a device", reach_within_s as f64, 0.0, long)?;
        range("seconds for a device to end", end_within_s as f64, 1.0, long)?;
        range("attempts", attempts.into(), 1.0, 100.0)?;
        range("seconds to the next attempt", retry_s as f64, 1.0, long)?;
        range("seconds of silence", silent_after_s as f64, 1.0, long)?;
        for (what, share) in [
            ("quorum", Some(quorum)),
            ("failures", failures),
            ("rollbacks", rollbacks),
            ("silent", silent),
            ("slower", Some(slower)),
        ] {
            share.map_or(Ok(()), |share| range(what, share, 0.0, 1.0))?;
        }
        for (what, ratio) in [("alerts", alerts), ("latency", latency)] {
            ratio.map_or(Ok(()), |ratio| range(what, ratio, 1.0, 1000.0))?;
        }
        self.check_waves()?;
        self.among.iter().chain(self.waves.iter().map(|w| &w.who)).try_for_each(|who| self.check_names(who))
    }

    fn check_waves(&self) -> Result<(), PlanError> {
        if self.waves.is_empty() {
            return Err(PlanError::NoWave);
        }
        let mut reached = 0.0;
        for (i, wave) in self.waves.iter().enumerate() {
            range("seconds of a soak", wave.soak_s as f64, 0.0, LONGEST_S as f64)?;
            if let Who::Percent(percent) = wave.who {
                range("percentage of a wave", percent, 0.0, 100.0)?;
                if percent <= reached {
                    return Err(PlanError::Shrinks { wave: i + 1, percent });
                }
                reached = percent;
            }
        }
        Ok(())
    }

    fn check_names(&self, who: &Who) -> Result<(), PlanError> {
        match (who, &self.inventory) {
            (Who::Percent(_), _) | (Who::List(_), None) => Ok(()),
            (Who::Group(group), inventory) => match inventory {
                Some(known) if known.values().any(|groups| groups.contains(group)) => Ok(()),
                _ => Err(PlanError::NoGroup(group.clone())),
            },
            (Who::List(list), Some(known)) => match list.iter().find(|id| !known.contains_key(id)) {
                Some(id) => Err(PlanError::Unknown(id.clone())),
                None => Ok(()),
            },
        }
    }

    /// The wave that a device is in, from 0; none: it takes no part.
    pub fn wave_of(&self, id: &DeviceId) -> Option<usize> {
        let known = self.inventory.as_ref().is_none_or(|known| known.contains_key(id));
        if !known || self.among.as_ref().is_some_and(|who| !self.is_among(who, id)) {
            return None;
        }
        self.waves.iter().position(|wave| self.is_among(&wave.who, id))
    }

    fn is_among(&self, who: &Who, id: &DeviceId) -> bool {
        match who {
            Who::Percent(percent) => draw(&self.salt, id) < *percent,
            Who::Group(group) => {
                self.inventory.as_ref().and_then(|known| known.get(id)).is_some_and(|groups| groups.contains(group))
            }
            Who::List(list) => list.contains(id),
        }
    }
}

fn range(what: &'static str, is: f64, least: f64, most: f64) -> Result<(), PlanError> {
    // A number that is none is in no range.
    if is >= least && is <= most { Ok(()) } else { Err(PlanError::Range { what, is, least, most }) }
}

/// A device's draw: from 0, below 100.
pub fn draw(salt: &str, id: &DeviceId) -> f64 {
    let digest = Sha256::new().chain_update(salt).chain_update([0]).chain_update(id.as_str()).finalize();
    let first: [u8; 8] = digest[..8].try_into().expect("a digest is longer");
    // 53 bits: what a double holds exactly, so that no draw is rounded up to 100.
    (u64::from_be_bytes(first) >> 11) as f64 / (1u64 << 53) as f64 * 100.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(n: usize) -> DeviceId {
        format!("site-{}/device-{n}", n % 7).parse().expect("a name")
    }

    fn plan(waves: &[Who]) -> Plan {
        Plan {
            release: 7,
            salt: "s".into(),
            among: None,
            waves: waves.iter().map(|who| Wave { who: who.clone(), soak_s: 60 }).collect(),
            pace: Pace::default(),
            gates: Gates::default(),
            inventory: None,
        }
    }

    #[test]
    fn waves_have_about_the_size_that_was_asked_for_and_are_cumulative() {
        let plan = plan(&[Who::Percent(1.0), Who::Percent(10.0), Who::Percent(100.0)]);
        plan.check().expect("a plan");
        let mut sizes = [0; 3];
        (0..20_000).for_each(|n| sizes[plan.wave_of(&id(n)).expect("a wave")] += 1);
        for (size, expected) in sizes.into_iter().zip([200.0f64, 1800.0, 18_000.0]) {
            assert!((f64::from(size) - expected).abs() < 5.0 * expected.sqrt(), "{sizes:?}");
        }
        let mut other = plan.clone();
        other.salt = "another".into();
        assert!((0..20_000).any(|n| plan.wave_of(&id(n)) != other.wave_of(&id(n))));
    }

    #[test]
    fn groups_and_lists_come_first_where_they_stand_first() {
        let mut plan =
            plan(&[Who::List([id(3)].into()), Who::Group("canary".into()), Who::Percent(50.0), Who::Percent(100.0)]);
        let canary = |n| (id(n), BTreeSet::from(["canary".to_owned()]));
        plan.inventory = Some((0..100).map(|n| if n < 10 { canary(n) } else { (id(n), BTreeSet::new()) }).collect());
        plan.check().expect("a plan");
        assert_eq!(plan.wave_of(&id(3)), Some(0));
        assert!((0..10).filter(|n| *n != 3).all(|n| plan.wave_of(&id(n)) == Some(1)));
        assert!((10..100).all(|n| plan.wave_of(&id(n)).is_some_and(|w| w >= 2)));
        assert_eq!(plan.wave_of(&id(100)), None, "not in the inventory");
        plan.among = Some(Who::Group("canary".into()));
        assert_eq!(plan.wave_of(&id(50)), None);
        assert_eq!(plan.wave_of(&id(5)), Some(1));
    }

    #[test]
    fn what_cannot_be_carried_out_is_refused_by_name() {
        let of = |waves: &[Who]| plan(waves).check().expect_err("no plan").to_string();
        assert!(of(&[]).contains("at least one wave"));
        assert!(of(&[Who::Percent(10.0), Who::Percent(10.0)]).contains("wave 2"));
        assert!(of(&[Who::Percent(101.0)]).contains("101"));
        assert!(of(&[Who::Percent(f64::NAN)]).contains("NaN"));
        assert!(of(&[Who::Group("nobody".into())]).contains("nobody"));
        let mut stranger = plan(&[Who::List([id(1)].into())]);
        stranger.inventory = Some(BTreeMap::new());
        assert!(stranger.check().expect_err("no plan").to_string().contains("site-1/device-1"));
        let mut bad = plan(&[Who::Percent(100.0)]);
        bad.gates.failures = Some(5.0);
        assert!(bad.check().expect_err("no plan").to_string().contains("failures = 5"));
        for bad in ["", "a", "a/b/c", "a/+", "/b"] {
            assert!(bad.parse::<DeviceId>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_device_stays_where_it_is_whoever_comes_or_goes(
            salt in ".{0,12}", n in 0usize..5000, first in 0.1f64..50.0, gone in proptest::collection::btree_set(0usize..5000, 0..20)
        ) {
            let mut plan = plan(&[Who::Percent(first), Who::Percent(100.0)]);
            plan.salt = salt;
            let before = plan.wave_of(&id(n));
            plan.inventory = Some((0..5000).filter(|i| *i == n || !gone.contains(i)).map(|i| (id(i), BTreeSet::new())).collect());
            prop_assert_eq!(plan.wave_of(&id(n)), before);
            let place = draw(&plan.salt, &id(n));
            prop_assert!((0.0..100.0).contains(&place));
        }
    }
}
