//! Notices: that a camera or the device itself is in trouble, and that it is over. They take the way of alerts, with a
//! number of the same count, so that trouble is as hard to lose as an incident.
//!
//! What does not belong here: when something is trouble (`run::health` says that).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::alert::{ClockState, Place, Severity};
use crate::base::clock::Wall;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// No video comes from a camera.
    CameraLost,
    /// Video comes, and nothing on it can be detected.
    CameraBlind,
    /// The disk refused records or alerts.
    StorageFailing,
    /// The disk is nearly full: clips are being deleted for room, or soon will be.
    DiskLow,
    /// Clips were deleted whose alerts nobody had confirmed.
    ClipsDeleted,
    /// Alerts were let go that nobody had confirmed: too old, or too many.
    AlertsGivenUp,
    /// The device is so hot that it slows itself down.
    Throttled,
    /// The time of day is not known.
    ClockUnset,
    /// What signs model releases has expired, or is not what it should be: somebody may be keeping updates from the device.
    UpdatesFrozen,
    /// A model on the disk was changed or is gone; another one serves.
    ModelDamaged,
}

impl Trouble {
    /// All of them.
    pub const ALL: [Trouble; 10] = [
        Trouble::CameraLost,
        Trouble::CameraBlind,
        Trouble::StorageFailing,
        Trouble::DiskLow,
        Trouble::ClipsDeleted,
        Trouble::AlertsGivenUp,
        Trouble::Throttled,
        Trouble::ClockUnset,
        Trouble::UpdatesFrozen,
        Trouble::ModelDamaged,
    ];

    /// Its word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Trouble::CameraLost => "camera_lost",
            Trouble::CameraBlind => "camera_blind",
            Trouble::StorageFailing => "storage_failing",
            Trouble::DiskLow => "disk_low",
            Trouble::ClipsDeleted => "clips_deleted",
            Trouble::AlertsGivenUp => "alerts_given_up",
            Trouble::Throttled => "throttled",
            Trouble::ClockUnset => "clock_unset",
            Trouble::UpdatesFrozen => "updates_frozen",
            Trouble::ModelDamaged => "model_damaged",
        }
    }

    /// What it means for those whom the device guards.
    pub fn severity(self) -> Severity {
        match self {
            Trouble::CameraLost | Trouble::CameraBlind | Trouble::StorageFailing | Trouble::AlertsGivenUp => {
                Severity::Severe
            }
            Trouble::DiskLow | Trouble::ClipsDeleted | Trouble::UpdatesFrozen | Trouble::ModelDamaged => {
                Severity::Moderate
            }
            Trouble::Throttled | Trouble::ClockUnset => Severity::Minor,
        }
    }
}

/// Whether trouble begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NoticeKind {
    /// It has begun.
    Raised,
    /// It is over.
    Cleared,
}

impl NoticeKind {
    /// All of them.
    pub const ALL: [NoticeKind; 2] = [NoticeKind::Raised, NoticeKind::Cleared];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            NoticeKind::Raised => "raised",
            NoticeKind::Cleared => "cleared",
        }
    }
}

/// A notice as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Notice {
    /// UUIDv7 of this message; the same on a resend.
    pub id: Uuid,
    /// Whether it begins or ends.
    pub kind: NoticeKind,
    /// When the device saw it, milliseconds since the Unix epoch.
    #[schemars(with = "i64")]
    pub event_time_unix_ms: Wall,
    /// What the clock was worth then.
    pub clock: ClockState,
    /// What it means for those whom the device guards.
    pub severity: Severity,
    /// Where the camera, or the device, is.
    pub place: Option<Place>,
    /// The trouble.
    pub notice: TroubleReport,
}

/// Trouble as consumers see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TroubleReport {
    /// UUIDv7 of the trouble: the same from when it is raised until it is cleared.
    pub id: Uuid,
    /// Site.
    pub site: String,
    /// Device.
    pub device: String,
    /// The camera that has it; absent: the device.
    pub camera: Option<String>,
    /// What is wrong.
    pub trouble: Trouble,
    /// In words for a person.
    pub detail: String,
    /// RFC 3339, UTC: since when.
    pub since: String,
}
