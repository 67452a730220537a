//! The one writer: takes what is queued, commits it as one transaction, then answers.
//!
//! ```text
//!     queue ─► batch ─► BEGIN, each order in its savepoint, COMMIT ─► answers, wake-up of the uplink
//!       ▲                 │ an order is wrong: its savepoint rolls back, the others go on
//!       │                 │ the disk refuses: all rolls back; callers that wait are told, records are kept
//!       └── kept records ◄┘ and tried again, with backoff; new records are handed back meanwhile
//! ```
//!
//! A damaged database ends the writer: nothing it would say could be trusted.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::watch;

use crate::base::backoff::Backoff;
use crate::base::clock::{Clock, Mono};
use crate::base::error::{Chain, Retry};
use crate::base::progress::Beat;
use crate::base::queue::{Full, Popped, Queue};

use super::apply::Apply;
use super::error::{io, sql};
use super::order::{Envelope, Order};
use super::schema::Lock;
use super::{
    Counters, DeviceContext, QUEUE_CAPACITY, Reader, Shared, Store, StoreError, database_path, outbox, recover, schema,
};

/// Orders in one transaction at most; bounds how long the first of them waits.
const BATCH: usize = 256;

/// How long the writer waits for an order before it goes round.
const IDLE: Duration = Duration::from_millis(500);

/// How often old rows are looked for.
const RETENTION_EVERY: Duration = Duration::from_secs(600);

/// The stage body. Holds the lock on the state directory until it is dropped.
pub struct Writer {
    conn: Connection,
    path: PathBuf,
    context: DeviceContext,
    shared: Arc<Shared>,
    /// Records of a commit that the disk refused, oldest first.
    kept: VecDeque<Envelope>,
    _lock: Lock,
}

/// See [`Store::open`].
pub(super) fn open(
    state_dir: &Path,
    context: DeviceContext,
    clock: Arc<dyn Clock>,
) -> Result<(Store, Writer), StoreError> {
    std::fs::create_dir_all(state_dir).map_err(io("make the state directory", state_dir))?;
    let lock = Lock::take(state_dir)?;
    let path = database_path(state_dir);
    let mut conn = schema::open_writer(&path)?;

    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql("begin", &path))?;
    let mut apply = Apply::new(&tx, &path, &context, clock.as_ref());
    let found = recover::interrupted(&mut apply)?;
    outbox::release(&tx, &path, &context.outbox)?;
    let newest = outbox::newest(&tx, &path)?;
    tx.commit().map_err(sql("commit", &path))?;
    if !found.is_empty() {
        log::warn!(
            "store: an earlier run was killed: {} incidents closed as interrupted, {} clips lost before they were begun",
            found.incidents.len(),
            found.clips.len()
        );
    }

    let shared = Arc::new(Shared {
        queue: Queue::new(QUEUE_CAPACITY, Full::Refuse),
        kept: AtomicUsize::new(0),
        counters: Counters::default(),
        added: watch::Sender::new(newest),
        reader: Reader::open(state_dir)?,
        clock,
    });
    let writer = Writer { conn, path, context, shared: Arc::clone(&shared), kept: VecDeque::new(), _lock: lock };
    Ok((Store(shared), writer))
}

impl Writer {
    /// Commits what is queued until [`Store::close`] and the queue is empty. An error means that the database is
    /// damaged; the process should end and be looked at. Beats twice a second, or as often as the disk lets it.
    pub fn run(mut self, beat: &Beat) -> Result<(), StoreError> {
        let ended = self.rounds(beat);
        self.shared.queue.close();
        // Nobody will commit these any more: say so, so that they are not silently gone.
        while let Popped::Item(envelope) = self.shared.queue.pop(Duration::ZERO) {
            self.kept.push_back(envelope);
        }
        for envelope in std::mem::take(&mut self.kept) {
            self.lose(&envelope, &StoreError::Ended { operation: "commit" });
        }
        if ended.is_ok() {
            self.fold_log();
        }
        beat.end();
        ended
    }

    /// Folds the log into the database: an empty log is how the next start knows that this one ended well. The
    /// readers' connections outlive the writer's, and being read-only they could not do it.
    fn fold_log(&self) {
        let folded = self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |r| r.get::<_, i64>(0));
        if !matches!(folded, Ok(0)) {
            log::warn!("store: the log could not be folded into the database; the next start will check it");
        }
    }

    fn rounds(&mut self, beat: &Beat) -> Result<(), StoreError> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut retry_at = Mono::ZERO;
        let mut retention_at = self.shared.clock.now();
        loop {
            beat.beat();
            let mut batch = Vec::new();
            let closed = match self.shared.queue.pop(IDLE) {
                Popped::Item(first) => {
                    batch.push(first);
                    while batch.len() < BATCH
                        && let Popped::Item(next) = self.shared.queue.pop(Duration::ZERO)
                    {
                        batch.push(next);
                    }
                    false
                }
                Popped::TimedOut => false,
                Popped::Closed => true,
            };
            let now = self.shared.clock.now();
            if !batch.is_empty() || (!self.kept.is_empty() && (closed || now >= retry_at)) {
                if self.commit(batch)? {
                    backoff.reset();
                } else {
                    retry_at = now + backoff.next_delay();
                }
            }
            if closed {
                return Ok(());
            }
            if now >= retention_at {
                retention_at = now + RETENTION_EVERY;
                self.retire()?;
            }
        }
    }

    /// One transaction over the kept records and `batch`. False when the disk refused it; an error when the
    /// database is damaged.
    fn commit(&mut self, batch: Vec<Envelope>) -> Result<bool, StoreError> {
        let mut orders: Vec<Envelope> = self.kept.drain(..).collect();
        orders.extend(batch);
        let committed = transaction(&mut self.conn, &self.path, &self.context, &self.shared, &orders);
        let failure = match committed {
            Ok((results, newest)) => {
                self.shared.kept.store(0, Ordering::Release);
                if let Some(newest) = newest {
                    self.shared.added.send_replace(newest);
                }
                for (envelope, result) in orders.into_iter().zip(results) {
                    match (&envelope.answer, &result) {
                        (None, Err(e)) => self.lose(&envelope, e),
                        _ => answer(envelope, result),
                    }
                }
                return Ok(true);
            }
            Err(e) => e,
        };
        self.shared.counters.failed_commits.fetch_add(1, Ordering::Relaxed);
        log::error!("store: a commit failed, {} orders in it: {}", orders.len(), Chain(&failure));
        for envelope in orders {
            if envelope.answer.is_none() {
                self.kept.push_back(envelope);
            } else {
                answer(envelope, Err(failure.clone()));
            }
        }
        self.shared.kept.store(self.kept.len(), Ordering::Release);
        if failure.is_corruption() { Err(failure) } else { Ok(false) }
    }

    /// Lets go of rows that are too old.
    fn retire(&mut self) -> Result<(), StoreError> {
        let now = self.shared.clock.wall();
        let synchronised = (self.context.clock_state)().synchronised;
        match outbox::retire(&mut self.conn, &self.path, &self.context.outbox, now, synchronised) {
            Ok(ranges) => {
                for (first, last) in ranges {
                    log::warn!("store: alerts {first} to {last} were never confirmed and are too old: given up");
                }
                Ok(())
            }
            Err(e) if e.is_corruption() => Err(e),
            Err(e) => {
                log::error!("store: {}", Chain(&e));
                Ok(())
            }
        }
    }

    fn lose(&self, envelope: &Envelope, why: &StoreError) {
        if let Order::Record(record) = &envelope.order {
            self.shared.counters.lost.fetch_add(1, Ordering::Relaxed);
            log::error!("store: lost, {}: {:?}", Chain(why), record.transition);
        }
    }
}

/// Applies the orders and commits them; each order's own result, and the newest sequence number if rows were added.
#[allow(clippy::type_complexity, reason = "used in one place")]
fn transaction(
    conn: &mut Connection,
    path: &Path,
    context: &DeviceContext,
    shared: &Shared,
    orders: &[Envelope],
) -> Result<(Vec<Result<(), StoreError>>, Option<u64>), StoreError> {
    let mut tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql("begin", path))?;
    let mut results = Vec::with_capacity(orders.len());
    let mut newest = None;
    for envelope in orders {
        let save = tx.savepoint().map_err(sql("begin", path))?;
        let mut apply = Apply::new(&save, path, context, shared.clock.as_ref());
        match apply.order(&envelope.order) {
            Ok(()) => {
                newest = apply.newest().or(newest);
                save.commit().map_err(sql("commit", path))?;
                results.push(Ok(()));
            }
            // The disk, or the database: the same would meet every other order.
            Err(e) if e.retry() == Retry::Later || e.is_corruption() => return Err(e),
            Err(e) => {
                save.finish().map_err(sql("roll back", path))?;
                results.push(Err(e));
            }
        }
    }
    tx.commit().map_err(sql("commit", path))?;
    Ok((results, newest))
}

fn answer(envelope: Envelope, result: Result<(), StoreError>) {
    if let Some(to) = envelope.answer
        && to.send(result).is_err()
    {
        log::debug!("store: nobody waited for the answer to {:?}", envelope.order);
    }
}

#[cfg(test)]
impl Writer {
    /// Gives up at once where another connection holds the lock.
    pub(super) fn impatient(&self) {
        self.conn.busy_timeout(Duration::from_millis(1)).expect("settable");
    }

    /// Lets the database grow no further, as a full disk would.
    pub(super) fn full(&self) {
        let pages: i64 = self.conn.pragma_query_value(None, "page_count", |r| r.get(0)).expect("readable");
        let _: i64 = self.conn.pragma_update_and_check(None, "max_page_count", pages, |r| r.get(0)).expect("settable");
    }
}
