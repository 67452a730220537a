//! One SQLite database, one writer: incidents, clips, the outbox, audit. An incident and its outbox row are one
//! transaction.
//!
//! ```text
//!     record ──────────┐ never blocks                      ┌─► incidents, clips
//!     clip_* ──────────┤                 group commit      ├─► outbox (seq without gaps) ─► added() wakes the uplink
//!     sent, confirm ───┼─► bounded queue ─► Writer ─────────┼─► confirmations, given_up
//!     audit ───────────┘ answered after the commit          └─► audit
//!     list, show, export, pending, status ─► Reader (its own read-only connections)
//! ```
//!
//! `order` is what can be asked, `writer` the stage that commits it, `apply` the SQL of each order, `outbox` the durable
//! queue, `schema` the file, its lock and its migrations, `recover` what a killed daemon left open, `reader` the
//! queries, `check` the fsck. `uploads` which clips leave the device and how far they have come. `begin` is the start, and with `damaged` and `numbers` the new start after the database
//! was lost; `reserve` and `volatile` are for the day the disk
//! is full, `holders` tells who has a lock. What is kept and what goes: `age` and `retention` decide, `expire` carries it out, `upkeep`
//! says when.
//!
//! What does not belong here: when an incident opens (`incident`), what a clip contains (`clip`), who gets an
//! alert and how (`uplink`).
//!
//! # Invariants
//!
//! - One [`Writer`] a state directory, held by a lock file; it alone writes.
//! - An answer is given after the commit, with `synchronous=FULL`: what was answered `Ok` survives a power cut.
//! - A route's sequence numbers go up by one from 1 and are never used twice, over restarts, kills and the loss of the
//!   database too; what is skipped then is told as given up.
//! - A clip of an open incident is never deleted, nor one that is not delivered while one that is remains.
//! - A row leaves the outbox only when every configured consumer confirmed it, or it is recorded as given up.
//! - What is not recorded is handed back or counted ([`Store::counters`]) and logged, never silently gone.
//!
//! # Locks
//!
//! The queue's, the reader pool's and the limits'; none is held while another is taken or while the disk is waited for.

mod age;
mod apply;
mod begin;
mod check;
mod commands;
mod damaged;
mod error;
mod expire;
mod holders;
mod numbers;
mod order;
mod outbox;
mod reader;
mod recover;
mod reserve;
mod retention;
mod schema;
mod troubles;
mod upkeep;
mod updates;
mod uploads;
mod volatile;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use uuid::Uuid;

use crate::agent::incident::new_id;
use crate::base::clock::{Clock, Wall};
use crate::base::queue::{PushError, Queue};
use crate::contract::alert::{ClockState, Place, Severity};
use crate::contract::notice::{NoticeKind, Trouble};
use crate::contract::outbox::Dispatch;

pub use check::{CheckReport, ClipFault, Repair, check, complaints, condemn};
pub use commands::{CommandRow, StoredVerdict, VerdictCounts, VerdictRow};
pub use error::StoreError;
pub use order::{AuditEntry, ClipDone, ClipIntent, ClipRecording, IncidentRecord, Times};
pub use reader::{
    ClipState, Filter, IncidentDetail, IncidentState, QueuedAlert, Reader, StoredClip, StoredIncident, UnfinishedClip,
};
pub use retention::Limits;
pub use uploads::{BY_POLICY, PartsSent, PendingUpload, StoredUpload, UploadCounts, UploadState};
pub use writer::Writer;

use order::{Envelope, Order};
use troubles::Raised;
use volatile::Volatile;

/// Orders that may wait for the writer. At a few incidents a minute this is hours of a stuck disk.
const QUEUE_CAPACITY: usize = 1024;

/// How long a caller waits for the writer's answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What the store must know of the device it works on.
#[derive(Clone)]
pub struct DeviceContext {
    /// Site.
    pub site: String,
    /// Device.
    pub device: String,
    /// Whether alerts leave the device.
    pub outbox: OutboxPolicy,
    /// What alerts say beside what was seen.
    pub labels: Labels,
    /// Whether the device knows the time; asked when an alert is written.
    pub clock_state: Arc<dyn Fn() -> ClockState + Send + Sync>,
}

/// What the installer knows of what is seen: how bad a class is, and where it happens.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Labels {
    /// By class; others are what [`Severity::of_class`] says.
    pub severities: BTreeMap<String, Severity>,
    /// By camera.
    pub places: BTreeMap<String, Place>,
    /// Of the device, and of every camera that has none of its own.
    pub place: Option<Place>,
}

impl Labels {
    fn severity(&self, class: &str) -> Severity {
        self.severities.get(class).copied().unwrap_or_else(|| Severity::of_class(class))
    }

    fn place(&self, camera: Option<&str>) -> Option<Place> {
        camera.and_then(|c| self.places.get(c)).or(self.place.as_ref()).cloned()
    }
}

/// Whether, and for whom, alerts are queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutboxPolicy {
    /// No `[mqtt]`: incidents and clips stay on the device; no rows are written, those of before are kept.
    LocalOnly,
    /// Every alert is queued.
    Queue {
        /// Who must confirm a row before it is let go; empty: a broker's acknowledgement releases it.
        consumers: Vec<String>,
        /// An unconfirmed row is given up after so long.
        keep: Duration,
        /// All rows together may take so much; beyond, the oldest are given up.
        max_bytes: u64,
    },
}

/// What became of records that did not go the usual way, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct StoreCounters {
    /// Handed back to the caller of [`Store::record`].
    pub refused: u64,
    /// Taken, and not writable (a broken row, or the disk still failing at the end); each was logged.
    pub lost: u64,
    /// Commits that failed and were tried again.
    pub failed_commits: u64,
    /// Clips deleted because they were too old.
    pub expired_by_age: u64,
    /// Clips deleted to make room.
    pub expired_for_room: u64,
    /// Of those, clips of incidents that nobody had confirmed.
    pub expired_undelivered: u64,
    /// Alerts that nobody had confirmed, let go because they were too old or too many.
    pub given_up: u64,
}

/// A record that the store did not take, handed back whole.
#[derive(Debug, thiserror::Error)]
#[error("the incident was not recorded: {because}")]
pub struct Unrecorded {
    /// The record.
    pub record: IncidentRecord,
    /// Why.
    pub because: Refusal,
}

/// Why a record was handed back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The queue is full.
    #[error("the store's queue is full")]
    Full,
    /// Commits fail, and as many records wait already as are kept.
    #[error("the disk is failing")]
    Failing,
    /// The writer has ended.
    #[error("the store has ended")]
    Ended,
}

#[derive(Debug, Default)]
struct Counters {
    refused: AtomicU64,
    lost: AtomicU64,
    failed_commits: AtomicU64,
    expired_by_age: AtomicU64,
    expired_for_room: AtomicU64,
    expired_undelivered: AtomicU64,
    given_up: AtomicU64,
}

/// What handle and writer share.
struct Shared {
    queue: Queue<Envelope>,
    /// Records that wait in the writer for a disk that refuses them.
    kept: AtomicUsize,
    /// The disk did not take the last that was to be written.
    failing: AtomicBool,
    counters: Counters,
    /// Newest sequence number of the outbox; moved on after the commit.
    added: watch::Sender<u64>,
    /// Grows when rows are to be sent again.
    rewound: watch::Sender<u64>,
    /// What may be kept.
    limits: RwLock<Limits>,
    /// Alerts that the disk refuses, on their way past it.
    volatile: Volatile,
    context: DeviceContext,
    reader: Reader,
    clock: Arc<dyn Clock>,
}

impl Shared {
    /// Sends an alert out that is not stored, and may never be.
    fn pass_by(&self, record: &IncidentRecord) {
        if self.context.outbox != OutboxPolicy::LocalOnly {
            self.pass(volatile::alert_of(record, &self.context).into());
        }
    }

    fn pass(&self, message: Dispatch) {
        self.volatile.push(message);
        self.added.send_modify(|_| {});
    }

    fn limits(&self) -> Limits {
        *self.limits.read().expect("nothing panics under this lock")
    }
}

/// A handle on the store; clones are cheap and share it. See the module's doc.
#[derive(Clone)]
pub struct Store(Arc<Shared>);

impl Store {
    /// Opens (or makes) the database in `state_dir`, brings its schema up to date, closes what a killed daemon
    /// left open, and locks other daemons out for as long as the [`Writer`] lives. Run the writer on a stage.
    pub fn open(
        state_dir: &Path,
        context: DeviceContext,
        clock: Arc<dyn Clock>,
    ) -> Result<(Store, Writer), StoreError> {
        writer::open(state_dir, context, clock)
    }

    /// Queues a transition for the next commit; never blocks. Its alert is written in the same transaction.
    /// What cannot be taken comes back, counted and logged.
    pub fn record(&self, record: IncidentRecord) -> Result<(), Box<Unrecorded>> {
        if self.0.kept.load(Ordering::Acquire) >= QUEUE_CAPACITY {
            return Err(self.refuse(record, Refusal::Failing));
        }
        match self.0.queue.push(Envelope { order: Order::Record(record), answer: None }) {
            Ok(()) => Ok(()),
            Err(PushError::Full(e)) => Err(self.hand_back(e, Refusal::Full)),
            Err(PushError::Closed(e)) => Err(self.hand_back(e, Refusal::Ended)),
        }
    }

    /// Queues that a camera (or, without one, the device) is in trouble, with words for a person and for how long it has
    /// been, or with `None` that it is not; never blocks. What the store knows already changes nothing, so that it can be
    /// said again, also after a restart. Its notice is written in the same transaction; while the disk fails it goes out
    /// from memory besides. False: say it again later.
    pub fn trouble(&self, camera: Option<&str>, trouble: Trouble, found: Option<(&str, Duration)>) -> bool {
        let now = self.wall();
        let raised =
            |(detail, ago): (&str, Duration)| Raised { id: new_id(now), detail: detail.into(), since: now - ago };
        let found = found.map(raised);
        let order = Order::Trouble { camera: camera.map(str::to_owned), trouble, found: found.clone() };
        if self.0.queue.push(Envelope { order, answer: None }).is_err() {
            return false;
        }
        // Only of what will be stored, and so once, under the ids that its row will have.
        if let Some(raised) = found
            && self.is_failing()
            && self.0.context.outbox != OutboxPolicy::LocalOnly
        {
            let notice = troubles::notice(&self.0.context, NoticeKind::Raised, (camera, trouble), raised, now);
            self.0.pass(notice.into());
        }
        true
    }

    /// Makes durable that a clip is being recorded; call it before the file exists. Blocks until committed.
    pub fn clip_recording(&self, clip: ClipRecording) -> Result<(), StoreError> {
        self.ask("record that a clip begins", Order::ClipRecording(clip))
    }

    /// Marks a clip done, with its `clip_ready` alert; call it after the file is in place. Blocks until committed.
    pub fn clip_done(&self, clip: ClipDone) -> Result<(), StoreError> {
        self.ask("record that a clip is done", Order::ClipDone(clip))
    }

    /// Marks a clip lost, with its `clip_lost` alert. A clip that is done stays done. Blocks until committed.
    pub fn clip_lost(&self, incident: Uuid, because: &str) -> Result<(), StoreError> {
        self.ask("record that a clip is lost", Order::ClipLost { incident, because: because.to_owned() })
    }

    /// Adds to the audit trail, dated now. Blocks until committed.
    pub fn audit(&self, who: &str, what: &str) -> Result<(), StoreError> {
        let entry = AuditEntry { at_unix_ms: self.wall(), who: who.to_owned(), what: what.to_owned() };
        self.ask("write the audit trail", Order::Audit(entry))
    }

    /// Blocks until everything queued before is committed.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.ask("flush", Order::Flush)
    }

    /// What may be kept from now on; before the first call, everything.
    pub fn keep(&self, limits: Limits) {
        *self.0.limits.write().expect("nothing panics under this lock") = limits;
    }

    /// What may be kept now.
    pub fn limits(&self) -> Limits {
        self.0.limits()
    }

    /// Ends the writer once it has committed what is queued. Later calls are refused.
    pub fn close(&self) {
        self.0.queue.close();
    }

    /// The queries, on connections of their own.
    pub fn reader(&self) -> &Reader {
        &self.0.reader
    }

    /// What did not go the usual way.
    pub fn counters(&self) -> StoreCounters {
        let c = &self.0.counters;
        StoreCounters {
            refused: c.refused.load(Ordering::Relaxed),
            lost: c.lost.load(Ordering::Relaxed),
            failed_commits: c.failed_commits.load(Ordering::Relaxed),
            expired_by_age: c.expired_by_age.load(Ordering::Relaxed),
            expired_for_room: c.expired_for_room.load(Ordering::Relaxed),
            expired_undelivered: c.expired_undelivered.load(Ordering::Relaxed),
            given_up: c.given_up.load(Ordering::Relaxed),
        }
    }

    /// Whether records wait because the disk refuses them.
    pub fn is_failing(&self) -> bool {
        self.0.failing.load(Ordering::Acquire)
    }

    fn wall(&self) -> Wall {
        self.0.clock.wall()
    }

    fn hand_back(&self, envelope: Envelope, because: Refusal) -> Box<Unrecorded> {
        match envelope.order {
            Order::Record(record) => self.refuse(record, because),
            _ => unreachable!("record() pushes records only"),
        }
    }

    fn refuse(&self, record: IncidentRecord, because: Refusal) -> Box<Unrecorded> {
        self.0.counters.refused.fetch_add(1, Ordering::Relaxed);
        log::error!("store: not recorded, {because}: {:?}", record.transition);
        if because != Refusal::Ended {
            self.0.pass_by(&record);
        }
        Box::new(Unrecorded { record, because })
    }

    /// Queues an order and waits for its answer.
    fn ask(&self, operation: &'static str, order: Order) -> Result<(), StoreError> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.0.queue.push(Envelope { order, answer: Some(answer) }).map_err(|e| match e {
            PushError::Full(_) => StoreError::Busy { operation },
            PushError::Closed(_) => StoreError::Ended { operation },
        })?;
        match answered.recv_timeout(ANSWER_WITHIN) {
            Ok(result) => result,
            Err(mpsc::RecvTimeoutError::Timeout) => Err(StoreError::TimedOut { operation, within: ANSWER_WITHIN }),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(StoreError::Ended { operation }),
        }
    }
}

/// Where the database of a state directory is.
pub fn database_path(state_dir: &Path) -> PathBuf {
    state_dir.join("vedette.db")
}
