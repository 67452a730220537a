//! What the writer is asked to do, in the caller's words. Plain data.

use std::sync::mpsc::SyncSender;

use uuid::Uuid;

use crate::agent::incident::Transition;
use crate::base::clock::Wall;
use crate::contract::alert::{ClockState, Thumbnail};
use crate::contract::command::CommandState;
use crate::contract::notice::Trouble;
use crate::contract::update::UpdateReport;

use super::troubles::Raised;
use super::uploads::UploadStep;
use super::{CommandRow, StoreError, VerdictRow};

/// One incident transition to commit, with what only the caller knows.
#[derive(Debug, Clone, PartialEq)]
pub struct IncidentRecord {
    /// What happened.
    pub transition: Transition,
    /// Its times as wall-clock labels.
    pub times: Times,
    /// What is planned for its clip; read when it opens, ignored later.
    pub clip: ClipIntent,
}

/// Wall-clock labels of an incident's monotonic times, made once, when the transition happened.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Times {
    /// Of `Incident::start`.
    pub start: Wall,
    /// Of `Incident::end`.
    pub end: Wall,
    /// Of `Incident::peak_at`.
    pub peak: Wall,
    /// Capture time of what this transition reports: the alert's event time.
    pub event: Wall,
    /// What the clock was worth that these labels come from.
    pub clock: ClockState,
}

/// What an incident's opening says of its clip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClipIntent {
    /// No clip is made of it.
    None,
    /// One is planned that starts here (incident start less the pre-roll).
    Planned {
        /// Planned start.
        start: Wall,
    },
    /// One should be made and cannot.
    Lost {
        /// Why, for a person.
        because: String,
    },
}

/// A clip whose file is about to come into being.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClipRecording {
    /// The incident.
    pub incident: Uuid,
    /// Final path of the clip, below the state directory; `.part` is appended while it is written.
    pub path: String,
}

/// A clip that is whole and in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClipDone {
    /// The incident.
    pub incident: Uuid,
    /// Where it starts: the last keyframe at or before the planned start that the ring held.
    pub start: Wall,
    /// From the clip's start to the incident's, in milliseconds.
    pub event_offset_ms: i64,
    /// Length in milliseconds.
    pub duration_ms: u64,
    /// Size of the file.
    pub size_bytes: u64,
    /// SHA-256 of the file, lower-case hexadecimal.
    pub sha256: String,
    /// Path of the JPEG of the peak, below the state directory.
    pub peak_jpeg_path: Option<String>,
    /// Goes into the alert that tells of the clip, and is kept nowhere else.
    pub thumbnail: Option<Thumbnail>,
}

/// An entry of the audit trail.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct AuditEntry {
    /// When.
    pub at_unix_ms: Wall,
    /// Who asked: a person, a broker's client, the command line.
    pub who: String,
    /// What was done, in one line.
    pub what: String,
}

/// One thing for the writer to do.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "records of incidents are most of them")]
pub(super) enum Order {
    Record(IncidentRecord),
    ClipRecording(ClipRecording),
    ClipDone(ClipDone),
    ClipLost {
        incident: Uuid,
        because: String,
    },
    Upload {
        incident: Uuid,
        step: UploadStep,
    },
    Sent(Vec<u64>),
    Confirm {
        consumer: String,
        seq: u64,
    },
    Audit(AuditEntry),
    /// Trouble is there (with words), or is not.
    Trouble {
        camera: Option<String>,
        trouble: Trouble,
        /// None: it is over.
        found: Option<Raised>,
    },
    /// A step of a model release.
    Update(Box<UpdateReport>),
    Command(CommandRow),
    CommandsSaid(Vec<(String, CommandState)>),
    Verdict(VerdictRow),
    /// These rows are to be sent again.
    Resend {
        from: u64,
        to: u64,
    },
    /// Nothing: its answer says that everything queued before it is committed.
    Flush,
}

/// An order and where its answer goes; a record wants none.
#[derive(Debug)]
pub(super) struct Envelope {
    pub order: Order,
    pub answer: Option<SyncSender<Result<(), StoreError>>>,
}
