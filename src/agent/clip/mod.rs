//! The video of incidents: what to cut ([`plan`], pure), how it is written ([`mp4`]), and the stage that does it
//! ([`worker`]).
//!
//! What does not belong here: when an incident is one (`incident`), what becomes of old clips (`store`), who hears of
//! them (`uplink`). The stage meets the store and the decoder through two small traits, [`Ledger`] and [`Snapshots`].
//!
//! The order in which a clip becomes durable, so that at no instant a file exists that no row tells of:
//!
//! ```text
//! row (recording) ─► x.part, fragment by fragment ─► x.mp4.tmp ─► x.mp4 ─► x.part removed ─► x.jpg ─► row (done)
//!                        each synced                  synced      renamed, directory synced
//! ```
//!
//! Whatever fails on the way, the row gets a reason (lost) and the other clips go on. What a kill or a full disk left
//! half done, [`recovery`] finishes: at the next start, or when there is room again.

use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::agent::config::CameraId;
use crate::base::clock::Wall;
use crate::base::error::Retry;
use crate::contract::alert::Thumbnail;

mod job;
pub mod mp4;
mod paths;
pub mod plan;
pub mod recovery;
#[cfg(test)]
mod testkit;
pub mod worker;

pub use job::Outcome;
pub use plan::{ClipOrder, Ending, OrderKind, Rules};
pub use worker::{ClipWorker, Wiring};

/// A clip that is about to be recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording {
    /// Its incident.
    pub incident: Uuid,
    /// Camera.
    pub camera: CameraId,
    /// Where it should start: the incident's start less the pre-roll.
    pub planned_start: Wall,
    /// Where the file will be, below the state directory.
    pub path: String,
}

/// A clip that is on the disk, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// Its incident.
    pub incident: Uuid,
    /// Camera.
    pub camera: CameraId,
    /// Path below the state directory.
    pub path: String,
    /// Where it does start: the wall label of its first picture, by the clock as it stood when the incident was heard
    /// of. To the second only where a kill left the finished file and nothing else.
    pub start: Wall,
    /// Length in milliseconds.
    pub duration_ms: u64,
    /// From the clip's start to the incident's, in milliseconds; negative where the clip begins too late.
    pub event_offset_ms: i64,
    /// Size of the file.
    pub size_bytes: u64,
    /// SHA-256 of the file in hexadecimal.
    pub sha256: String,
    /// Path of the JPEG of the peak, below the state directory.
    pub peak_jpeg_path: Option<String>,
    /// The same picture, small, where that is wanted and was taken.
    pub thumbnail: Option<Thumbnail>,
    /// Why it ends where it does.
    pub ending: Ending,
    /// Access units that left the ring before they were written: the clip has a hole.
    pub units_lost: u64,
}

/// A clip whose row an earlier run left without a finished file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// Its incident.
    pub incident: Uuid,
    /// Camera.
    pub camera: CameraId,
    /// Where its file is to be, below the state directory.
    pub path: String,
    /// The wall label of the incident's start.
    pub incident_start: Wall,
    /// Said to be lost already: its `.part` may be good for a clip nevertheless.
    pub lost: bool,
}

/// The store would not take it.
#[derive(Debug, thiserror::Error)]
#[error("the store did not take the clip")]
pub struct LedgerError {
    /// Whether it may take it later.
    pub retry: Retry,
    /// What it said.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// The durable record of clips, as this stage needs it. The store implements it; each call returns once the change
/// survives a power cut. A call that failed and may succeed later is made again, so the same change may come twice.
pub trait Ledger: Send + Sync {
    /// A file will be written. Nothing of it exists yet.
    fn recording(&self, clip: &Recording) -> Result<(), LedgerError>;
    /// The file is there.
    fn done(&self, clip: &Done) -> Result<(), LedgerError>;
    /// There will be none; `reason` is for a person. Also comes for incidents that `recording` was never called for.
    fn lost(&self, incident: Uuid, reason: &str) -> Result<(), LedgerError>;
    /// The clips that were being recorded when an earlier run ended, and those it gave up with a file begun. Asked
    /// once, before anything is recorded.
    fn unfinished(&self) -> Result<Vec<Unfinished>, LedgerError>;
}

/// The picture that a camera shows now.
pub trait Snapshots: Send + Sync {
    /// The newest decoded full picture; none if there is none.
    fn latest(&self, camera: &CameraId) -> Option<Snapshot>;
}

/// One picture of a camera.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// In full size, as JPEG.
    pub jpeg: Vec<u8>,
    /// Small, for the alert, where that is wanted.
    pub thumbnail: Option<Thumbnail>,
}

/// Why a clip, or a part of it, could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ClipError {
    /// A file operation failed.
    #[error("could not {operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A box could not be made: what the stream says of itself does not fit the format.
    #[error("could not make the MP4 box {what}")]
    Format {
        /// Which box.
        what: &'static str,
        /// What is wrong with it.
        source: mp4_atom::Error,
    },
    /// The stream can't be stored.
    #[error("cannot be stored as MP4: {0}")]
    Stream(String),
    /// There is no footage in it.
    #[error("no footage for {path}")]
    Empty {
        /// The clip, or its `.part`.
        path: PathBuf,
    },
}

impl ClipError {
    fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        ClipError::Io { operation, path: path.to_path_buf(), source }
    }
}
