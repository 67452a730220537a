//! A roll-out as people and programs look at it: counts by wave and state, the gates with their figures, what it waits for.
//! Pure; `cli` makes a table or JSON of it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::gates::Finding;
use super::plan::{DeviceId, Who};
use super::state::{Event, Hold, How, Phase, Record, Rollout, Standing};
use crate::base::clock::Wall;
use crate::contract::update::UpdateState;

/// A roll-out at a moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct View {
    /// Its name.
    pub id: String,
    /// The release.
    pub release: u64,
    /// Whether it goes on.
    #[serde(flatten)]
    pub phase: Phase,
    /// RFC 3339, UTC.
    pub created: String,
    /// By whom.
    pub created_by: String,
    /// The present wave, from 1.
    pub wave: usize,
    /// What it waits for.
    pub hold: Option<Hold>,
    /// RFC 3339, UTC: the end of the soak.
    pub soak_until: Option<String>,
    /// Its waves.
    pub waves: Vec<WaveView>,
    /// What the gates showed last.
    pub gates: Vec<GateView>,
    /// RFC 3339, UTC: when that was.
    pub gates_at: Option<String>,
    /// Devices on which it failed, and why.
    pub failures: BTreeMap<DeviceId, Failure>,
    /// Devices that are at it and wait for something, in their words.
    pub waiting: BTreeMap<DeviceId, String>,
    /// What happened.
    pub history: Vec<EventView>,
}

/// A wave.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WaveView {
    /// From 1.
    pub wave: usize,
    /// Whom it reaches, in words.
    pub who: String,
    /// Its soak, in seconds.
    pub soak_s: u64,
    /// Devices in it.
    pub devices: usize,
    /// By where they stand; none of a kind: absent.
    pub counts: BTreeMap<&'static str, u64>,
}

/// A gate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GateView {
    /// Its figures.
    #[serde(flatten)]
    pub finding: Finding,
    /// In words.
    pub words: String,
}

/// A device on which it failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// How.
    pub how: How,
    /// Why.
    pub words: Option<String>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EventView {
    /// RFC 3339, UTC.
    pub at: String,
    /// What.
    pub what: String,
}

/// The columns of a wave, in the order of a device's way.
pub const STANDINGS: [&str; 17] = [
    "waiting",
    "offered",
    "accepted",
    "downloading",
    "verified",
    "building",
    "proving",
    "shadow",
    "trial",
    "committed",
    "rolled_back",
    "refused",
    "cancelled",
    "rejected",
    "no_answer",
    "called_off",
    "later",
];

/// A standing's word.
pub fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::Waiting => "waiting",
        Standing::Offered => "offered",
        // The device has it from us: not what was only sent.
        Standing::UnderWay(UpdateState::Offered) => "accepted",
        Standing::UnderWay(state) => state.as_str(),
        Standing::Ended(How::Committed) => "committed",
        Standing::Ended(How::RolledBack) => "rolled_back",
        Standing::Ended(How::Refused) => "refused",
        Standing::Ended(How::Cancelled) => "cancelled",
        Standing::Ended(How::Rejected) => "rejected",
        Standing::Ended(How::NoAnswer) => "no_answer",
        Standing::Ended(How::CalledOff) => "called_off",
        Standing::Ended(How::Later) => "later",
    }
}

/// How a roll-out looks.
pub fn view(rollout: &Rollout) -> View {
    let Rollout { id, plan, head, devices } = rollout;
    let waves = plan.waves.iter().enumerate().map(|(i, wave)| {
        let mut counts = BTreeMap::new();
        let members = devices.values().filter(|r| r.wave == i);
        let devices = members.map(|r| *counts.entry(word(r.standing())).or_insert(0) += 1).count();
        WaveView { wave: i + 1, who: who(&wave.who), soak_s: wave.soak_s, devices, counts }
    });
    let failed = |r: &Record| {
        let end = r.end.as_ref().filter(|end| end.how.is_failure())?;
        Some(Failure { how: end.how, words: end.words.clone() })
    };
    let waits = |r: &Record| r.report.as_ref().filter(|_| r.is_under_way())?.waiting.clone();
    View {
        id: id.clone(),
        release: plan.release,
        phase: head.phase.clone(),
        created: head.created.rfc3339(),
        created_by: head.created_by.clone(),
        wave: head.wave + 1,
        hold: head.hold.clone(),
        soak_until: head.soak_until.map(Wall::rfc3339),
        waves: waves.collect(),
        gates: head.findings.iter().map(|f| GateView { finding: f.clone(), words: f.to_string() }).collect(),
        gates_at: head.findings_at.map(Wall::rfc3339),
        failures: devices.iter().filter_map(|(id, r)| Some((id.clone(), failed(r)?))).collect(),
        waiting: devices.iter().filter_map(|(id, r)| Some((id.clone(), waits(r)?))).collect(),
        history: head
            .history
            .iter()
            .map(|Event { at, what }| EventView { at: at.rfc3339(), what: what.clone() })
            .collect(),
    }
}

fn who(who: &Who) -> String {
    match who {
        Who::Percent(percent) => format!("{percent}%"),
        Who::Group(group) => format!("group {group}"),
        Who::List(list) => format!("{} named", list.len()),
    }
}
