//! How far a roll-out has come: what is stored, and all that is stored.
//!
//! ```text
//!   running ─► done                      a device:  waiting ─► offered ─► under way ─► ended: committed
//!      │ ▲                                             │          │           └──────────────► rolled back, refused,
//!   paused      ─► stopped (a gate broke)              └──────────┴──────────────────────────► cancelled, rejected, ...
//!      └────────── ► aborted (somebody said so)
//! ```
//!
//! What does not belong here: what to do next (`step`); what was heard and is not kept (`observe`).
//!
//! Invariant: done, stopped and aborted are final. After them nobody is offered anything; who is under way is called off.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::gates::Finding;
use super::observe::Meter;
use super::plan::{DeviceId, Plan};
use crate::base::clock::Wall;
use crate::base::digest;
use crate::contract::update::UpdateState;

/// Entries of the history that are kept, the newest.
const HISTORY: usize = 200;

/// A roll-out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// Its name: 1 to 64 of a-z A-Z 0-9 _ -
    pub id: String,
    /// What it is to do.
    pub plan: Arc<Plan>,
    /// Where it is.
    pub head: Head,
    /// The devices that take part, as far as they have been seen.
    pub devices: BTreeMap<DeviceId, Record>,
}

/// Where a roll-out is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// Whether it goes on.
    pub phase: Phase,
    /// The wave that it is at, from 0.
    pub wave: usize,
    /// Since when.
    pub wave_since: Wall,
    /// All of the wave have ended: until when it is watched.
    pub soak_until: Option<Wall>,
    /// Why it does not go on at this moment.
    pub hold: Option<Hold>,
    /// When it was started.
    pub created: Wall,
    /// By whom.
    pub created_by: String,
    /// What the gates showed last.
    pub findings: Vec<Finding>,
    /// When that was.
    pub findings_at: Option<Wall>,
    /// What happened.
    pub history: Vec<Event>,
}

/// Whether a roll-out goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    /// It does.
    Running,
    /// Somebody holds it.
    Paused {
        /// Who.
        by: String,
    },
    /// All waves are through.
    Done,
    /// A gate broke.
    Stopped {
        /// Which, with its figures.
        finding: Finding,
    },
    /// Somebody ended it.
    Aborted {
        /// Who.
        by: String,
        /// In their words.
        why: Option<String>,
    },
}

impl Phase {
    /// Whether it may offer, now or when it is resumed.
    pub fn is_open(&self) -> bool {
        matches!(self, Phase::Running | Phase::Paused { .. })
    }

    /// Its word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Phase::Running => "running",
            Phase::Paused { .. } => "paused",
            Phase::Done => "done",
            Phase::Stopped { .. } => "stopped",
            Phase::Aborted { .. } => "aborted",
        }
    }
}

/// What a roll-out waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "for", rename_all = "snake_case")]
pub enum Hold {
    /// Any device at all to be seen.
    AnyDevice,
    /// Devices of this wave that are at it.
    UnderWay {
        /// How many.
        devices: u64,
    },
    /// Devices of this wave that are away; until then.
    Away {
        /// How many.
        devices: u64,
        /// When it goes on without them.
        until: Wall,
    },
    /// Too few of this wave have committed.
    Quorum {
        /// How many have.
        committed: u64,
        /// How many must.
        needed: u64,
    },
    /// The soak's end: `soak_until`.
    Soak,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub at: Wall,
    /// What, for a person.
    pub what: String,
}

/// A command that was, or is to be, sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// From 1.
    pub number: u32,
    /// When it was decided.
    pub at: Wall,
    /// A device that receives it later refuses it.
    pub until: Wall,
}

/// What a device says of the release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The offer's id, by the device.
    pub id: Uuid,
    /// How far it is.
    pub state: UpdateState,
    /// What it waits for.
    pub waiting: Option<String>,
}

/// How it ended on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// The release serves.
    Committed,
    /// It served and was taken back.
    RolledBack,
    /// It never served.
    Refused,
    /// Called off on the device, by somebody else.
    Cancelled,
    /// The device does not take the command.
    Rejected,
    /// It answered none of the offers, though it was there.
    NoAnswer,
    /// Called off by this roll-out's end.
    CalledOff,
    /// It has a later release already.
    Later,
}

impl How {
    /// Whether it counts against the release.
    pub fn is_failure(self) -> bool {
        matches!(self, How::RolledBack | How::Refused | How::Cancelled | How::Rejected | How::NoAnswer)
    }
}

/// The end on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// How.
    pub how: How,
    /// Why, for a person.
    pub words: Option<String>,
}

/// A device that takes part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its wave, from 0; fixed when it was first seen.
    pub wave: usize,
    /// The latest offer to it.
    pub offer: Option<Attempt>,
    /// When it was first offered.
    pub offered_at: Option<Wall>,
    /// What it says.
    pub report: Option<Report>,
    /// The latest command that calls it off.
    pub cancel: Option<Attempt>,
    /// How it ended.
    pub end: Option<End>,
    /// What it had said of this release before it was offered: an earlier roll-out's end, and not ours.
    pub earlier: Option<Uuid>,
    /// Its counters before the release served.
    pub before: Meter,
    /// And since; none: it has not served.
    pub after: Option<Meter>,
}

/// Where a device stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It was offered nothing.
    Waiting,
    /// It was, and has said nothing of it.
    Offered,
    /// It is at it.
    UnderWay(UpdateState),
    /// Nothing more comes of it.
    Ended(How),
}

impl Record {
    /// One that was offered nothing.
    pub fn new(wave: usize) -> Record {
        Record {
            wave,
            offer: None,
            offered_at: None,
            report: None,
            cancel: None,
            end: None,
            earlier: None,
            before: Meter::default(),
            after: None,
        }
    }

    /// Where it stands.
    pub fn standing(&self) -> Standing {
        match (&self.end, &self.report, &self.offer) {
            (Some(end), ..) => Standing::Ended(end.how),
            (None, Some(report), _) => Standing::UnderWay(report.state),
            (None, None, Some(_)) => Standing::Offered,
            (None, None, None) => Standing::Waiting,
        }
    }

    /// Whether something may still come of an offer.
    pub fn is_under_way(&self) -> bool {
        matches!(self.standing(), Standing::Offered | Standing::UnderWay(_))
    }

    /// Whether it counts as reached: something came of its offer, or is to come.
    pub fn was_reached(&self) -> bool {
        self.offer.is_some() || self.end.as_ref().is_some_and(|end| end.how.is_failure())
    }
}

impl Rollout {
    /// One that has just been started.
    pub fn new(id: String, plan: Plan, by: String, now: Wall) -> Rollout {
        let what = format!("started by {by}: release {}, {} waves", plan.release, plan.waves.len());
        let head = Head {
            phase: Phase::Running,
            wave: 0,
            wave_since: now,
            soak_until: None,
            hold: None,
            created: now,
            created_by: by,
            findings: Vec::new(),
            findings_at: None,
            history: vec![Event { at: now, what }],
        };
        // Whom the inventory names is waited for, also if it was never seen.
        let known = plan.inventory.iter().flat_map(|known| known.keys());
        let devices = known.filter_map(|id| Some((id.clone(), Record::new(plan.wave_of(id)?)))).collect();
        Rollout { id, plan: Arc::new(plan), head, devices }
    }

    /// Notes what happened.
    pub fn note(&mut self, at: Wall, what: String) {
        let history = &mut self.head.history;
        history.push(Event { at, what });
        history.drain(..history.len().saturating_sub(HISTORY));
    }

    /// Whether nothing more comes of it: a manager can leave it alone.
    pub fn is_over(&self) -> bool {
        match self.head.phase {
            Phase::Running | Phase::Paused { .. } => false,
            Phase::Done => true,
            Phase::Stopped { .. } | Phase::Aborted { .. } => !self.devices.values().any(Record::is_under_way),
        }
    }

    /// The id of a command: the same from every manager, at every attempt to send it.
    pub fn command_id(&self, device: &DeviceId, what: CommandKind, number: u32) -> String {
        let named = format!("{}\n{device}\n{}\n{}\n{number}", self.id, self.plan.release, what.as_str());
        let digest = digest::of_bytes(named.as_bytes());
        format!("{}{}", super::observe::COMMAND_PREFIX, &digest[..40])
    }
}

/// What is asked of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CommandKind {
    /// To take the release.
    Offer,
    /// To leave it.
    CallOff,
}

impl CommandKind {
    /// Its word, in ids.
    pub fn as_str(self) -> &'static str {
        match self {
            CommandKind::Offer => "offer",
            CommandKind::CallOff => "call_off",
        }
    }
}
