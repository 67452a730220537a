//! The one writer: takes what is queued, commits it as one transaction, then answers.
//!
//! ```text
//!     queue ─► batch ─► BEGIN, each order in its savepoint, COMMIT ─► answers, wake-up of the uplink
//!       ▲                 │ an order is wrong: its savepoint rolls back, the others go on
//!       │                 │ the disk refuses: all rolls back; callers that wait are told, records are kept
//!       └── kept records ◄┘ and tried again, with backoff; new records are handed back meanwhile
//! ```
//!
//! A disk that is full is given the [`Reserve`] before anybody is told. A damaged database ends the writer: nothing it
//! would say could be trusted. The next start sets it aside (see [`super::damaged`]).

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
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
use super::numbers::Numbers;
use super::order::{Envelope, Order};
use super::reserve::Reserve;
use super::schema::Lock;
use super::upkeep::{Site, Upkeep};
use super::volatile::{self, Volatile};
use super::{
    Counters, DeviceContext, QUEUE_CAPACITY, Reader, Shared, Store, StoreError, begin, damaged, database_path,
};

/// Orders in one transaction at most; bounds how long the first of them waits.
const BATCH: usize = 256;

/// How long the writer waits for an order before it goes round.
const IDLE: Duration = Duration::from_millis(500);

/// The stage body. Holds the lock on the state directory until it is dropped.
pub struct Writer {
    conn: Connection,
    path: PathBuf,
    state_dir: PathBuf,
    shared: Arc<Shared>,
    upkeep: Upkeep,
    numbers: Numbers,
    reserve: Reserve,
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
    let reserve = Reserve::of(state_dir);
    let begin = || begin::begin(state_dir, &path, &context, clock.as_ref());
    let (conn, numbers, newest) = match begin() {
        // Also the start needs room: for SQLite's log, and to close what was left open.
        Err(e) if e.retry() == Retry::Later && reserve.release_if_full() => begin()?,
        begun => begun?,
    };
    reserve.fill();
    let shared = Arc::new(Shared {
        queue: Queue::new(QUEUE_CAPACITY, Full::Refuse),
        kept: AtomicUsize::new(0),
        counters: Counters::default(),
        added: watch::Sender::new(newest),
        rewound: watch::Sender::new(0),
        limits: RwLock::default(),
        volatile: Volatile::default(),
        failing: AtomicBool::new(false),
        context,
        reader: Reader::open(state_dir)?,
        clock,
    });
    let writer = Writer {
        upkeep: Upkeep::new(&conn, &path, shared.clock.now())?,
        conn,
        path,
        state_dir: state_dir.to_path_buf(),
        shared: Arc::clone(&shared),
        numbers,
        reserve,
        kept: VecDeque::new(),
        _lock: lock,
    };
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
        if let Err(e) = &ended
            && e.is_corruption()
            && let Err(e) = damaged::mark(&self.state_dir)
        {
            log::error!("store: the next start may not see that the database is damaged: {e}");
        }
        if ended.is_ok() {
            if let Err(e) = self.upkeep.count(&self.conn, &self.path, self.shared.clock.now()) {
                log::warn!("store: {}", Chain(&e));
            }
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
                self.upkeep.count_roughly(&self.conn, &self.path, now);
                if self.commit(batch)? {
                    backoff.reset();
                } else {
                    retry_at = now + backoff.next_delay();
                }
            }
            if closed {
                return Ok(());
            }
            // What a reader met the writer need not have.
            if let Some(damage) = self.shared.reader.damage() {
                return Err(damage);
            }
            let (path, state_dir) = (&*self.path, &*self.state_dir);
            let (conn, shared, reserve) = (&mut self.conn, &*self.shared, &self.reserve);
            self.upkeep.round(&mut Site { conn, path, state_dir, shared, reserve })?;
        }
    }

    /// One transaction over the kept records and `batch`. False when the disk refused it; an error when the
    /// database is damaged.
    fn commit(&mut self, batch: Vec<Envelope>) -> Result<bool, StoreError> {
        let mut orders: Vec<Envelope> = self.kept.drain(..).collect();
        let told = orders.len();
        orders.extend(batch);
        let mut committed = self.transaction(&orders);
        if matches!(&committed, Err(e) if e.retry() == Retry::Later) && self.reserve.release_if_full() {
            committed = self.transaction(&orders);
        }
        let failure = match committed {
            Ok((results, newest)) => {
                if self.shared.failing.swap(false, Ordering::AcqRel) {
                    log::warn!("store: commits succeed again; {} orders that waited are written", orders.len());
                }
                self.shared.kept.store(0, Ordering::Release);
                for envelope in &orders[..told] {
                    if let Order::Record(record) = &envelope.order {
                        self.shared.volatile.forget(volatile::message_of(record));
                    }
                }
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
        if self.shared.failing.swap(true, Ordering::AcqRel) {
            log::debug!("store: a commit failed again, {} orders in it: {}", orders.len(), Chain(&failure));
        } else {
            log::error!(
                "store: commits fail; alerts go out unstored (durable: false), up to {QUEUE_CAPACITY} records wait in memory \
                 and are tried again: {}",
                Chain(&failure)
            );
        }
        for (n, envelope) in orders.into_iter().enumerate() {
            if let Order::Record(record) = &envelope.order
                && n >= told
            {
                self.shared.pass_by(record);
            }
            if envelope.answer.is_none() {
                self.kept.push_back(envelope);
            } else {
                answer(envelope, Err(failure.clone()));
            }
        }
        self.shared.kept.store(self.kept.len(), Ordering::Release);
        if failure.is_corruption() { Err(failure) } else { Ok(false) }
    }

    /// Applies the orders and commits them; each order's own result, and the newest sequence number if rows were added.
    #[allow(clippy::type_complexity, reason = "used in one place")]
    fn transaction(&mut self, orders: &[Envelope]) -> Result<(Vec<Result<(), StoreError>>, Option<u64>), StoreError> {
        let path = &*self.path;
        let mut tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql("begin", path))?;
        let mut results = Vec::with_capacity(orders.len());
        let mut newest = None;
        for envelope in orders {
            let save = tx.savepoint().map_err(sql("begin", path))?;
            let mut apply = Apply::new(&save, path, &self.shared.context, self.shared.clock.as_ref());
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
        if let Some(newest) = newest
            && let Err(e) = self.numbers.cover(newest)
        {
            // It matters only if the database is lost as well, and is made good with the next alert.
            log::debug!("store: the outbox's numbers are not noted: {e}");
        }
        tx.commit().map_err(sql("commit", path))?;
        Ok((results, newest))
    }

    fn lose(&self, envelope: &Envelope, why: &StoreError) {
        if let Order::Record(record) = &envelope.order {
            self.shared.counters.lost.fetch_add(1, Ordering::Relaxed);
            log::error!("store: lost, {}: {:?}", Chain(why), record.transition);
        }
    }
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
