//! The durable queue between incident and consumer, as the uplink sees it. The store implements it; a row
//! outlives the process, PUBACK and everything else until it is confirmed or too old.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::base::clock::Wall;
use crate::base::error::Retry;

use super::alert::Alert;
use super::notice::Notice;
use super::topics::DEVICE;
use super::update::UpdateNotice;

#[cfg(test)]
pub mod testing;

/// What takes the way through the outbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[allow(clippy::large_enum_variant, reason = "nearly all of them are the larger one")]
pub enum Dispatch {
    /// About an incident.
    Alert(Alert),
    /// About trouble.
    Notice(Notice),
    /// About a model release.
    Update(UpdateNotice),
}

impl Dispatch {
    /// The level of the topic on which it is said: its camera, or [`DEVICE`].
    pub fn speaker(&self) -> &str {
        match self {
            Dispatch::Alert(alert) => &alert.incident.camera,
            Dispatch::Notice(notice) => notice.notice.camera.as_deref().unwrap_or(DEVICE),
            Dispatch::Update(_) => DEVICE,
        }
    }

    /// UUIDv7 of the message.
    pub fn id(&self) -> Uuid {
        match self {
            Dispatch::Alert(alert) => alert.id,
            Dispatch::Notice(notice) => notice.id,
            Dispatch::Update(update) => update.id,
        }
    }

    /// The id of the incident, of the trouble, or of the offer of a release.
    pub fn subject(&self) -> Uuid {
        match self {
            Dispatch::Alert(alert) => alert.incident.id,
            Dispatch::Notice(notice) => notice.notice.id,
            Dispatch::Update(update) => update.update.id,
        }
    }

    /// The alert, if it is one.
    pub fn alert(&self) -> Option<&Alert> {
        match self {
            Dispatch::Alert(alert) => Some(alert),
            Dispatch::Notice(_) | Dispatch::Update(_) => None,
        }
    }
}

impl From<Alert> for Dispatch {
    fn from(alert: Alert) -> Self {
        Dispatch::Alert(alert)
    }
}

impl From<UpdateNotice> for Dispatch {
    fn from(update: UpdateNotice) -> Self {
        Dispatch::Update(update)
    }
}

impl From<Notice> for Dispatch {
    fn from(notice: Notice) -> Self {
        Dispatch::Notice(notice)
    }
}

/// One message on its way.
#[derive(Debug, Clone, PartialEq)]
pub struct OutboxRow {
    /// Sequence number of this device and route: from 1, without gaps but those told as given up.
    pub seq: u64,
    /// When it was committed.
    pub queued: Wall,
    /// How often it was handed to a broker already.
    pub attempts: u32,
    /// The last row of the same incident before it that no broker is known to have (told of pending rows).
    pub after: Option<u64>,
    /// What to say.
    pub dispatch: Dispatch,
}

/// What a consumer needs to know to find its gaps.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct OutboxStatus {
    /// What the numbers count within; a device that lost its state has another one and begins anew.
    #[serde(default)]
    pub epoch: Uuid,
    /// Newest sequence number given out; 0 before the first.
    pub newest: u64,
    /// Oldest one still kept; none if the outbox is empty.
    pub oldest_kept: Option<u64>,
    /// Rows not yet handed to a broker.
    pub pending: u64,
    /// Rows a broker has, that not every consumer has confirmed.
    pub unconfirmed: u64,
    /// Ranges (first, last) that will not come any more: let go unconfirmed because they were too old, or lost with a
    /// damaged database. A number is never given out twice, so numbers of such a range may also have been no alert's.
    pub given_up: Vec<(u64, u64)>,
}

/// Why the outbox did not answer.
#[derive(Debug, thiserror::Error)]
#[error("the outbox could not {operation}")]
pub struct OutboxError {
    /// What was asked of it.
    pub operation: &'static str,
    /// Whether to ask again.
    pub retry: Retry,
    /// What the database said.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// The uplink's view of the durable queue. Calls may block on the disk: not for an async task's own thread.
pub trait Outbox: Send + Sync {
    /// Rows of sequence number `from` and above that no broker has yet, oldest first, at most `limit`.
    fn pending(&self, from: u64, limit: usize) -> Result<Vec<OutboxRow>, OutboxError>;
    /// Rows from `from` to `to` that are still kept, whatever their state, at most `limit` (for a replay).
    fn range(&self, from: u64, to: u64, limit: usize) -> Result<Vec<OutboxRow>, OutboxError>;
    /// A broker has these rows. With `consumers` empty in the config, that releases them.
    fn mark_sent(&self, seqs: &[u64]) -> Result<(), OutboxError>;
    /// `consumer` has committed everything up to and including `seq`. Unknown consumers change nothing, nor do
    /// numbers that were never given out: a consumer may remember an earlier life of this device.
    fn confirm(&self, consumer: &str, seq: u64) -> Result<(), OutboxError>;
    /// Rows from `from` to `to` that are still kept go to a broker again, as history.
    fn resend(&self, from: u64, to: u64) -> Result<(), OutboxError>;
    /// A version that grows with every [`Outbox::resend`]; `changed()` on it is the wake-up.
    fn rewound(&self) -> tokio::sync::watch::Receiver<u64>;
    /// The state of the queue.
    fn status(&self) -> Result<OutboxStatus, OutboxError>;
    /// The newest row that was added, 0 before the first; `changed()` on it is the wake-up.
    fn added(&self) -> tokio::sync::watch::Receiver<u64>;
    /// Messages that could not be stored and are to be sent once, without a number; they are not kept. `added` wakes for
    /// them too. They come again as rows, with the same id, if the disk comes back. Does not block.
    fn take_volatile(&self) -> Vec<Dispatch> {
        Vec::new()
    }
}
