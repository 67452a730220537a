//! What becomes of a model release on a device, as the fleet hears of it: every step as an event through the outbox,
//! and the latest retained on `.../update`.
//!
//! ```text
//!   offered ─► downloading ─► verified ─► building ─► proving ─► shadow ─► trial ─► committed
//!      │            └───────────┴────────────┴───────────┴──────────┤         └──► rolled_back
//!      └──────────► cancelled                                       └────────────► refused, cancelled
//! ```
//!
//! A release is refused before it has served, rolled back after. Both name what failed ([`UpdateFault`]) and are final on
//! this device for this release. `waiting` says what a step waits for (a network, a window of time, the time of day,
//! room on the disk) while the state stays.
//!
//! What does not belong here: the metadata that signs a release (TUF's own format), how a device decides (`agent::ota`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::alert::{ClockState, ModelRef, Place, Severity};
use super::state::Origin;
use crate::base::clock::Wall;

/// The key below `custom` of a TUF target under which [`ReleaseFacts`] stand.
pub const CUSTOM: &str = "vedette";

/// What the signed targets metadata says of a release, beside length and hash of its manifest: `custom.vedette` of the
/// target `{model}-{version}.manifest.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseFacts {
    /// Its number: from 1, higher for every later release of a repository, whatever its model. A device takes none that is
    /// lower than one that it has committed.
    pub release: u64,
    /// The model's name, as in its manifest.
    pub model: String,
    /// The model's version, as in its manifest.
    pub version: String,
    /// RFC 3339, UTC: when it was signed. A device whose clock shows an earlier time knows that its clock is wrong.
    pub published: String,
    /// Why a model goes back to an earlier version than devices have committed; without it they refuse to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downgrade: Option<String>,
}

/// How far a release has come on a device; see the module's diagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpdateState {
    /// Somebody has asked for it.
    Offered,
    /// It was found in the signed metadata; its files are fetched.
    Downloading,
    /// Every file is there, and is the one that was signed.
    Verified,
    /// It is loaded in a process of its own; where there is a GPU, its plan is built.
    Building,
    /// It is held against its golden vectors, its time and its memory are measured.
    Proving,
    /// It looks at what the cameras see, and nobody hears of it.
    Shadow,
    /// It serves, and is watched.
    Trial,
    /// It serves, and is what the device goes back to.
    Committed,
    /// It served and was taken back.
    RolledBack,
    /// It never served here and will not.
    Refused,
    /// Somebody called it off before it served, or offered another.
    Cancelled,
}

impl UpdateState {
    /// All of them.
    pub const ALL: [UpdateState; 11] = [
        UpdateState::Offered,
        UpdateState::Downloading,
        UpdateState::Verified,
        UpdateState::Building,
        UpdateState::Proving,
        UpdateState::Shadow,
        UpdateState::Trial,
        UpdateState::Committed,
        UpdateState::RolledBack,
        UpdateState::Refused,
        UpdateState::Cancelled,
    ];

    /// Its word on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            UpdateState::Offered => "offered",
            UpdateState::Downloading => "downloading",
            UpdateState::Verified => "verified",
            UpdateState::Building => "building",
            UpdateState::Proving => "proving",
            UpdateState::Shadow => "shadow",
            UpdateState::Trial => "trial",
            UpdateState::Committed => "committed",
            UpdateState::RolledBack => "rolled_back",
            UpdateState::Refused => "refused",
            UpdateState::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more comes of this offer.
    pub fn is_final(self) -> bool {
        self >= UpdateState::Committed
    }
}

/// What was wrong with a release, or with what was said to be one. Those above the line are the attacks of the TUF and
/// Uptane specifications, by their names there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpdateFault {
    /// Something is signed by nobody whom the root trusts for it, or is not what was signed.
    ArbitrarySoftware,
    /// Fewer of the role's keys have signed than its threshold asks.
    KeyThreshold,
    /// Older metadata, or an older release, than this device has seen.
    Rollback,
    /// The metadata has expired and no newer comes.
    IndefiniteFreeze,
    /// Metadata that were not signed together.
    MixAndMatch,
    /// More data than was signed, or than may come.
    EndlessData,
    /// Data come so slowly that they might never end.
    SlowRetrieval,
    /// It is not in the signed metadata, or what is there is no release.
    ExtraneousTarget,
    /// A file is not the one that the manifest binds.
    DamagedFile,
    /// The manifest cannot be used.
    MalformedManifest,
    // ---------------------------------------------------------------------------------------------------------------
    /// It is for other hardware.
    WrongHardware,
    /// It needs a later agent.
    AgentTooOld,
    /// This device's configuration asks for what it does not have.
    Incompatible,
    /// No engine came of its networks.
    BuildFailed,
    /// What was to load it died, hung or took too much memory.
    BuildCrashed,
    /// What it computes is not what its golden vectors say.
    GoldenVectors,
    /// It is too slow for this device's cameras.
    Latency,
    /// It takes more memory than there is.
    Memory,
    /// It sees other things than the model before it, more than the policy lets pass.
    Disagreement,
    /// It raised many more alerts than this device's history knows.
    AlertFlood,
    /// Its passes failed while it served.
    EngineErrors,
    /// The daemon died or hung while it served.
    Restarted,
    /// Its slot on the disk was changed or is gone.
    SlotDamaged,
}

impl UpdateFault {
    /// Its word on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            UpdateFault::ArbitrarySoftware => "arbitrary_software",
            UpdateFault::KeyThreshold => "key_threshold",
            UpdateFault::Rollback => "rollback",
            UpdateFault::IndefiniteFreeze => "indefinite_freeze",
            UpdateFault::MixAndMatch => "mix_and_match",
            UpdateFault::EndlessData => "endless_data",
            UpdateFault::SlowRetrieval => "slow_retrieval",
            UpdateFault::ExtraneousTarget => "extraneous_target",
            UpdateFault::DamagedFile => "damaged_file",
            UpdateFault::MalformedManifest => "malformed_manifest",
            UpdateFault::WrongHardware => "wrong_hardware",
            UpdateFault::AgentTooOld => "agent_too_old",
            UpdateFault::Incompatible => "incompatible",
            UpdateFault::BuildFailed => "build_failed",
            UpdateFault::BuildCrashed => "build_crashed",
            UpdateFault::GoldenVectors => "golden_vectors",
            UpdateFault::Latency => "latency",
            UpdateFault::Memory => "memory",
            UpdateFault::Disagreement => "disagreement",
            UpdateFault::AlertFlood => "alert_flood",
            UpdateFault::EngineErrors => "engine_errors",
            UpdateFault::Restarted => "restarted",
            UpdateFault::SlotDamaged => "slot_damaged",
        }
    }
}

/// Why a release was refused or rolled back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UpdateReason {
    /// What failed.
    pub fault: UpdateFault,
    /// With its figures, for a person.
    pub words: String,
}

/// What was measured of a release on this device, as far as it has come.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct UpdateFigures {
    /// Bytes that its files have, and those of them that were fetched (others were there).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// Bytes fetched so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetched_bytes: Option<u64>,
    /// Median time of a frame and its share of a window, milliseconds, alone on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame_ms: Option<f64>,
    /// The most that it may take for this device's cameras, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_ms: Option<f64>,
    /// Memory of the process that proved it, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Windows that both models have judged in shadow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow_windows: Option<u64>,
    /// Share of them on which both would raise the same class, or nothing; 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<f64>,
    /// Incidents of the model in shadow or trial so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incidents: Option<u64>,
    /// Most of them that this device's history lets pass in that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incidents_limit: Option<u64>,
}

/// A release on a device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UpdateReport {
    /// UUIDv7 of the offer: the same from offered to its end.
    pub id: Uuid,
    /// The release's number.
    pub release: u64,
    /// Name of its model; absent until the signed metadata were read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Version of its model; absent until the signed metadata were read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The roll-out that it is part of, as the offer said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<String>,
    /// How far it is.
    pub state: UpdateState,
    /// Why it ended badly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<UpdateReason>,
    /// What it waits for, for a person; absent: for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
    /// What served when it was offered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<ModelRef>,
    /// What was measured.
    #[serde(default)]
    pub figures: UpdateFigures,
    /// RFC 3339, UTC: since when it is in this state.
    pub since: String,
}

/// A step of a release, as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UpdateNotice {
    /// UUIDv7 of this message; the same on a resend.
    pub id: Uuid,
    /// When the device took the step, milliseconds since the Unix epoch.
    #[schemars(with = "i64")]
    pub event_time_unix_ms: Wall,
    /// What the clock was worth then.
    pub clock: ClockState,
    /// What it means for those whom the device guards.
    pub severity: Severity,
    /// Where the device is.
    pub place: Option<Place>,
    /// Site.
    pub site: String,
    /// Device.
    pub device: String,
    /// The step.
    pub update: UpdateReport,
}

/// A model that a device has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SlotReport {
    /// Which.
    pub model: ModelRef,
    /// The release that it came with; absent: it came with the package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<u64>,
}

/// How a device stands with its updates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UpdateStatus {
    /// What serves.
    pub current: SlotReport,
    /// What it goes back to; absent: what came with the package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<SlotReport>,
    /// The highest release that was committed: no lower one is taken.
    pub floor: u64,
    /// Hardware classes that it counts as.
    pub hardware: Vec<String>,
    /// What is under way, or ended last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<UpdateReport>,
    /// Releases that it refused or rolled back, the newest 16.
    #[serde(default)]
    pub refused: Vec<u64>,
    /// RFC 3339, UTC: when the signed metadata were last found valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked: Option<String>,
    /// What is wrong with the repository, for a person, with the attack that it looks like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<UpdateReason>,
}

/// `.../update`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Update")]
pub struct UpdateMessage {
    /// Who says it.
    #[serde(flatten)]
    pub origin: Origin,
    /// How it stands.
    #[serde(flatten)]
    pub status: UpdateStatus,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_the_one_on_the_wire_and_the_order_is_that_of_the_diagram() {
        for state in UpdateState::ALL {
            assert_eq!(serde_json::to_value(state).expect("a word"), state.as_str());
            assert_eq!(
                state.is_final(),
                ["committed", "rolled_back", "refused", "cancelled"].contains(&state.as_str())
            );
        }
        assert!(UpdateState::ALL.is_sorted());
        for fault in [UpdateFault::ArbitrarySoftware, UpdateFault::IndefiniteFreeze, UpdateFault::SlotDamaged] {
            assert_eq!(serde_json::to_value(fault).expect("a word"), fault.as_str());
        }
    }
}
