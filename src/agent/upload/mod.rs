//! Clips leave the device: which, when, how fast, and what a power cut leaves to go on with.
//!
//! ```text
//!     policy, requests ─► store (rows: queued, parts sent) ─► plan ─► worker ─► remote ─► S3, or HTTP PUT
//!                              ▲                              when,     │         └─ pace (kbit/s)
//!                              └── done, with clip_uploaded ◄─ which ───┘
//! ```
//!
//! `plan` decides (pure), `remote` is the server through `object_store`, `line` the HTTP under it with its bandwidth and
//! its patience, `base::pace` the bandwidth, `worker` does one clip at a time.
//!
//! What does not belong here: who may ask (`control`), what a clip contains (`clip`), the rows (`store`).
//!
//! # Invariants
//!
//! - What was sent is what was recorded: the file's SHA-256 is compared with its row's before anything is sent.
//! - A part that a server acknowledged, and whose row was committed, is not sent again, whatever happens in between.
//! - `done` is said, and announced, only after the server was asked for the object's size and gave the file's.
//! - A server that is away, or refuses, delays all clips and loses none; a clip that goes wrong lets others past it.

mod line;
mod plan;
mod remote;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use uuid::Uuid;

use crate::agent::config::{self, Device};
use crate::agent::store::{Store, StoreError, StoredUpload};
use crate::base::clock::Clock;
use crate::base::progress::Beat;
use crate::base::stop::StopToken;

pub use plan::Pacing;
pub use remote::RemoteError;
pub use worker::run;

/// Why a clip is not sent.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The config lets none leave.
    #[error("this device sends no clips: upload.policy is \"never\"")]
    Never,
    /// There is none, or the store did not take the request.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where requests for clips go. Clones share the store.
#[derive(Clone)]
pub struct Uploads {
    store: Store,
    /// Clips may leave.
    allowed: bool,
}

impl Uploads {
    /// Over this store; `upload` is the config's section.
    pub fn new(store: Store, upload: Option<&config::Upload>) -> Uploads {
        Uploads { store, allowed: upload.is_some() }
    }

    /// Has the clip of an incident sent, for `who`; how it stands then. Blocks until the request is durable.
    pub fn request(&self, incident: Uuid, who: &str) -> Result<StoredUpload, RequestError> {
        if !self.allowed {
            return Err(RequestError::Never);
        }
        self.store.request_upload(incident, who)?;
        let stored = self.store.reader().upload(incident)?;
        stored.ok_or(RequestError::Store(StoreError::UnknownIncident(incident)))
    }
}

/// What is counted since the start.
#[derive(Debug, Default)]
pub struct UploadCounters {
    /// Bytes of clips that were handed to the network, those of attempts that failed included.
    pub sent_bytes: AtomicU64,
    /// Attempts that failed.
    pub failures: AtomicU64,
}

/// What the task works with.
pub struct Parts {
    /// The config's section.
    pub upload: config::Upload,
    /// Part of every object's name.
    pub device: Device,
    /// Where clips are.
    pub state_dir: PathBuf,
    /// Where the rows are.
    pub store: Store,
    /// Whether the time of day can be gone by.
    pub knows_time_of_day: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// How long it waits after what.
    pub pacing: Pacing,
    /// What is counted.
    pub counters: Arc<UploadCounters>,
    /// Ends the task.
    pub stop: StopToken,
    /// The watchdog's.
    pub beat: Beat,
}
