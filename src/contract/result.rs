//! What commands answer: the `result` of a status that says SUCCEEDED, one form for each command.
//!
//! Rules of v1 hold here too: fields are added, none is taken away. Times are RFC 3339 in UTC; where an older field gives
//! milliseconds since the Unix epoch, the same time stands beside it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::notice::Trouble;
use super::status::DeviceStatus;
use crate::base::clock::Wall;

/// The `result` of each command, under the command's name. Null where there is nothing to say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "CommandResults")]
pub struct Results {
    /// `test_alert`
    pub test_alert: IncidentRaised,
    /// `replay`
    pub replay: Replayed,
    /// `clip`
    pub clip: ClipSent,
    /// `clip_range`
    pub clip_range: IncidentRaised,
    /// `snapshot`
    pub snapshot: Snapshot,
    /// `arm`
    pub arm: Armed,
    /// `disarm`
    pub disarm: Armed,
    /// `follow_schedule`
    pub follow_schedule: Armed,
    /// `set_thresholds`
    pub set_thresholds: (),
    /// `verdict`
    pub verdict: (),
    /// `update_model`
    pub update_model: UpdateOffered,
    /// `cancel_update`
    pub cancel_update: UpdateOffered,
    /// `install_certificate`
    pub install_certificate: CertificateInstalled,
    /// `reload`
    pub reload: Reloaded,
    /// `restart`
    pub restart: (),
    /// `diagnostics`
    pub diagnostics: Diagnostics,
}

/// A result as it is sent. By way of text, so that a number keeps the digits that it is written with: 0.95 as a 32-bit
/// number, widened to 64, would be 0.949999988079071.
pub fn as_sent<T: Serialize>(result: &T) -> Value {
    let text = serde_json::to_string(result).expect("results are plain data with textual keys");
    serde_json::from_str(&text).expect("it was just written")
}

/// An incident that the command made; its alerts say the rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IncidentRaised {
    /// Its id.
    pub incident: Uuid,
}

/// The offer of a release that the command made or met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UpdateOffered {
    /// Its id: `id` in the `update` messages.
    pub update: Uuid,
}

/// A certificate that the device shows from its next connection on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CertificateInstalled {
    /// Its serial number, hexadecimal.
    pub serial: String,
    /// RFC 3339, UTC: until when it is valid.
    pub not_after: String,
}

/// Messages that go again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Replayed {
    /// How many.
    pub rows: u64,
}

/// Where a clip goes, and where it can be had meanwhile. At least one of both.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct ClipSent {
    /// How its upload stands; absent where the device has no `[upload]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<UploadReport>,
    /// New links to the device itself, good from now on; absent where it has no `[http]` that listens, and while the clip is
    /// still being made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub links: Option<ClipLinks>,
}

/// Links to what there is of an incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClipLinks {
    /// To its clip.
    pub clip: SignedLink,
    /// To the picture of its peak; absent where there is none.
    pub peak: Option<SignedLink>,
}

/// A link, and until when it can be followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SignedLink {
    /// All of it.
    pub url: String,
    /// RFC 3339, UTC.
    pub expires: String,
}

/// How far an upload has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UploadState {
    /// It is to be sent.
    Queued,
    /// It was begun.
    Uploading,
    /// It is there, whole.
    Done,
    /// It is given up.
    Failed,
}

/// The upload of a clip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UploadReport {
    /// How far it has come.
    pub state: UploadState,
    /// Who asked for it; `policy` where all clips are sent.
    pub requested_by: String,
    /// When, in milliseconds since the Unix epoch.
    #[schemars(with = "i64")]
    pub requested_unix_ms: Wall,
    /// When, RFC 3339, UTC.
    pub requested_at: String,
    /// How often it was begun.
    pub attempts: u32,
    /// Where it is.
    pub url: Option<String>,
    /// When it was there, in milliseconds since the Unix epoch.
    #[schemars(with = "Option<i64>")]
    pub done_unix_ms: Option<Wall>,
    /// When it was there, RFC 3339, UTC.
    pub done_at: Option<String>,
    /// What went wrong last.
    pub error: Option<String>,
}

/// A picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Snapshot {
    /// Camera.
    pub camera: String,
    /// RFC 3339, UTC: when it was taken.
    pub time: String,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// The JPEG file in base64 (RFC 4648, section 4).
    pub jpeg_base64: String,
}

/// Cameras that it holds for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Armed {
    /// Their ids.
    pub cameras: Vec<String>,
}

/// A configuration that was read again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reloaded {
    /// For a person: each key that changed, and whether it is in force or needs a restart.
    pub changes: Vec<String>,
}

/// How the device is, in full.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Diagnostics {
    /// What `vedette status` shows, `https.fingerprint_sha256` among it.
    pub status: DeviceStatus,
    /// Trouble that is there now, with the camera that has it, if it is one's.
    pub troubles: Vec<(Option<String>, Trouble)>,
    /// What commands have set instead of the configuration.
    pub overrides: OverridesReport,
    /// What became of records that did not go the usual way, since the start.
    pub store: BTreeMap<String, u64>,
    /// The newest entries of the audit trail.
    pub audit: Vec<AuditReport>,
}

/// What commands have set, by camera.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OverridesReport {
    /// Thresholds by class, instead of all that the configuration has for the camera.
    pub thresholds: BTreeMap<String, BTreeMap<String, f32>>,
    /// Whether it is armed, instead of by its schedule.
    pub arming: BTreeMap<String, ArmingReport>,
}

/// Whether incidents open on a camera, by somebody's word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ArmingReport {
    /// Whether they do.
    pub armed: bool,
    /// Until then, in milliseconds since the Unix epoch; absent: until told otherwise.
    #[schemars(with = "Option<i64>")]
    pub until: Option<Wall>,
    /// Until then, RFC 3339, UTC.
    pub until_time: Option<String>,
}

/// An entry of the audit trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditReport {
    /// When, in milliseconds since the Unix epoch.
    #[schemars(with = "i64")]
    pub at_unix_ms: Wall,
    /// When, RFC 3339, UTC.
    pub at: String,
    /// Who asked: a person, a broker's client, the command line.
    pub who: String,
    /// What was done, in one line.
    pub what: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_the_digits_that_they_are_written_with() {
        let thresholds = BTreeMap::from([("gate", BTreeMap::from([("Fighting", 0.95_f32)]))]);
        assert_eq!(as_sent(&thresholds).to_string(), r#"{"gate":{"Fighting":0.95}}"#);
    }
}
