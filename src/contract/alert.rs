//! Alerts: what is said about an incident, before it is a CloudEvent.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::base::clock::Wall;

/// The class that means that nothing happens. It opens nothing.
pub const NORMAL: &str = "Normal";

/// What an alert says of its incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AlertKind {
    /// It has begun.
    Opened,
    /// It is worse, longer, or of another class than was said.
    Updated,
    /// It is over.
    Closed,
    /// Its clip is on the device's disk, whole.
    ClipReady,
    /// Its clip could not be made, or is gone; `clip.lost_because` says why.
    ClipLost,
    /// Its clip is elsewhere too: `clip.url` says where.
    ClipUploaded,
}

impl AlertKind {
    /// All of them.
    pub const ALL: [AlertKind; 6] = [
        AlertKind::Opened,
        AlertKind::Updated,
        AlertKind::Closed,
        AlertKind::ClipReady,
        AlertKind::ClipLost,
        AlertKind::ClipUploaded,
    ];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            AlertKind::Opened => "opened",
            AlertKind::Updated => "updated",
            AlertKind::Closed => "closed",
            AlertKind::ClipReady => "clip_ready",
            AlertKind::ClipLost => "clip_lost",
            AlertKind::ClipUploaded => "clip_uploaded",
        }
    }
}

/// An alert as it is stored: everything but the sequence number and what is only known when it is sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Alert {
    /// UUIDv7 of this message; the same on a resend.
    pub id: Uuid,
    /// What it says.
    pub kind: AlertKind,
    /// Capture time of what it reports, milliseconds since the Unix epoch.
    #[schemars(with = "i64")]
    pub event_time_unix_ms: Wall,
    /// What the clock was worth when the incident opened: all times in here follow from the label that it got then,
    /// also if the clock has been set since.
    pub clock: ClockState,
    /// How bad what it reports would be.
    #[serde(default)]
    pub severity: Severity,
    /// Where the camera is.
    #[serde(default)]
    pub place: Option<Place>,
    /// The incident.
    pub incident: IncidentReport,
    /// Its clip, as far as it is known by now.
    pub clip: Option<ClipReport>,
}

/// How bad something is to life or property, in the words of the Common Alerting Protocol (OASIS CAP 1.2, `severity`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Not known: a test, footage that a command asked for, or a class that nobody has judged.
    #[default]
    Unknown,
    /// Minimal to no known threat.
    Minor,
    /// A possible threat.
    Moderate,
    /// A significant threat.
    Severe,
    /// An extraordinary threat.
    Extreme,
}

impl Severity {
    /// All of them, with their words.
    pub const ALL: [(&'static str, Severity); 5] = [
        ("unknown", Severity::Unknown),
        ("minor", Severity::Minor),
        ("moderate", Severity::Moderate),
        ("severe", Severity::Severe),
        ("extreme", Severity::Extreme),
    ];

    /// What a class is taken for where the config says nothing.
    pub fn of_class(class: &str) -> Severity {
        match class {
            "Explosion" | "Shooting" => Severity::Extreme,
            "Abuse" | "Arson" | "Assault" | "Fighting" | "Road Accidents" | "Robbery" => Severity::Severe,
            "Burglary" => Severity::Moderate,
            _ => Severity::Unknown,
        }
    }

    /// Its word.
    pub fn as_str(self) -> &'static str {
        Severity::ALL.into_iter().find(|(_, s)| *s == self).map_or("unknown", |(word, _)| word)
    }
}

/// Where a camera or a device is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Place {
    /// Degrees north of the equator, WGS 84.
    pub latitude: f64,
    /// Degrees east of Greenwich, WGS 84.
    pub longitude: f64,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Whether the device knew the time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClockState {
    /// A time source (NTP, PTP, GNSS) has set and disciplines the clock.
    pub synchronised: bool,
    /// The kernel's estimate of the error, in milliseconds; absent when it has none.
    pub estimated_error_ms: Option<f64>,
}

/// An incident as consumers see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IncidentReport {
    /// UUIDv7.
    pub id: Uuid,
    /// Site.
    pub site: String,
    /// Device.
    pub device: String,
    /// Camera.
    pub camera: String,
    /// A person raised it to test the way; nothing was seen.
    pub test: bool,
    /// Class of the highest score so far. Nothing was seen where it is `Test`, a test, or `Requested`, footage that a
    /// `clip_range` command asked for: then there are no scores and no model, and severity is `unknown`.
    pub class: String,
    /// RFC 3339, UTC: start of the first supporting window.
    pub start_time: String,
    /// RFC 3339, UTC: end of the last supporting window; absent until it closed.
    pub end_time: Option<String>,
    /// Highest smoothed score of `class`, 0 to 1; nothing was seen: 1 of a test, 0 of footage.
    pub peak_score: f32,
    /// RFC 3339, UTC: end of the window that gave it.
    pub peak_time: String,
    /// Frames a second that that window was made at: below the model's while the machine can't keep up. Absent where
    /// nothing was seen.
    pub peak_fps: Option<f32>,
    /// Unsmoothed scores of that window by class; they sum to 1. Empty where nothing was seen.
    pub scores: BTreeMap<String, f32>,
    /// The threshold that `class` had to pass.
    pub threshold: f32,
    /// Why it closed: `quiet`, `max_length`, `camera_lost`, `stopped`, `interrupted` (the daemon was killed), `requested`
    /// (footage that a command asked for: it was over before it began).
    pub close_reason: Option<String>,
    /// The model that saw it begin; absent where nothing was seen.
    pub model: Option<ModelRef>,
    /// The model that took over while it was open; absent: none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub later_model: Option<ModelRef>,
}

/// Which model, exactly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelRef {
    /// Name from the manifest.
    pub name: String,
    /// Semantic version.
    pub version: String,
    /// SHA-256 of `manifest.toml`, which binds every other file by hash.
    pub digest: String,
}

/// A clip as consumers see it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct ClipReport {
    /// RFC 3339, UTC: where it was planned to start (incident start less the pre-roll).
    pub planned_start: Option<String>,
    /// RFC 3339, UTC: where it does start: the last keyframe at or before the planned start that the ring held.
    pub start: Option<String>,
    /// Length in milliseconds.
    pub duration_ms: Option<u64>,
    /// From the clip's start to the incident's, in milliseconds.
    pub event_offset_ms: Option<i64>,
    /// Path below the device's state directory.
    pub path: Option<String>,
    /// Size of the file.
    pub size_bytes: Option<u64>,
    /// SHA-256 of the file.
    pub sha256: Option<String>,
    /// Path of the JPEG of the peak, below the device's state directory.
    pub peak_jpeg_path: Option<String>,
    /// Why there is none.
    pub lost_because: Option<String>,
    /// Where it can be had: a signed link to the device itself that expires (`clip_ready`, where `http.links_in_alerts` is
    /// set), or where it was uploaded to (`clip_uploaded`): `s3://bucket/key`, or the URL that it was PUT to.
    pub url: Option<String>,
    /// Where the picture of the peak can be had, for as long as the link says; only where `http.links_in_alerts` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_url: Option<String>,
    /// The picture of the peak, small (`clip_ready`, where `mqtt.thumbnails` is set).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thumbnail: Option<Thumbnail>,
}

/// A picture small enough to be in a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Thumbnail {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// The JPEG file in base64 (RFC 4648, section 4), at most 32 KiB.
    pub jpeg_base64: String,
}
