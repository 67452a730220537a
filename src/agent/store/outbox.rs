//! The durable queue: SQL under `contract::outbox::Outbox`.
//!
//! ```text
//!     append ─► pending ──sent──► unconfirmed ──every consumer confirmed──► gone
//!                  │                   └──too old──► gone, its range in given_up
//!                  ├──every consumer confirmed──► gone (a consumer may be quicker than PUBACK)
//!                  ├──sent, no consumers configured──► gone
//!                  └──too old, or too many bytes and the oldest──► gone, its range in given_up
//! ```

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};
use tokio::sync::watch;
use uuid::Uuid;

use crate::base::clock::Wall;
use crate::contract::alert::ClockState;
use crate::contract::outbox::{Dispatch, Outbox, OutboxError, OutboxRow, OutboxStatus};

use super::age::{self, Made, Present};
use super::error::sql;
use super::order::Order;
use super::{OutboxPolicy, Store, StoreError, reader};

/// The only route of this version.
const ROUTE: &str = "cloudevents";

/// Rows looked at in one retention tick.
const RETIRE_AT_ONCE: i64 = 10_000;

/// Adds a message under the route's next number. `clock` is what the clock is worth that says when: the alert's own is
/// that of its incident's opening, and may be of another boot.
pub(super) fn append(
    conn: &Connection,
    path: &Path,
    dispatch: &Dispatch,
    (queued, clock): (Wall, ClockState),
) -> Result<u64, StoreError> {
    let json = serde_json::to_string(dispatch).map_err(|e| malformed(path, e))?;
    let fail = sql("queue an alert", path);
    let seq: i64 = conn
        .prepare_cached("UPDATE routes SET newest = newest + 1 WHERE name = ?1 RETURNING newest")
        .and_then(|mut s| s.query_row([ROUTE], |r| r.get(0)))
        .map_err(fail)?;
    let aged_from = clock.synchronised.then_some(queued.unix_ms());
    conn.prepare_cached(
        "INSERT INTO outbox (route, seq, incident, queued_ms, aged_from_ms, alert, made_ran_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, (SELECT ms FROM running))",
    )
    .and_then(|mut s| s.execute(params![ROUTE, seq, dispatch.subject().to_string(), queued.unix_ms(), aged_from, json]))
    .map_err(fail)?;
    Ok(seq as u64)
}

/// Newest number given out; 0 before the first.
pub(super) fn newest(conn: &Connection, path: &Path) -> Result<u64, StoreError> {
    conn.query_row("SELECT newest FROM routes WHERE name = ?1", [ROUTE], |r| r.get::<_, i64>(0))
        .map(|n| n as u64)
        .map_err(sql("read the newest sequence number", path))
}

/// What the numbers count within; none in a database that is new.
pub(super) fn stored_epoch(conn: &Connection, path: &Path) -> Result<Option<Uuid>, StoreError> {
    let text: Option<String> = conn
        .query_row("SELECT epoch FROM epoch", [], |r| r.get(0))
        .optional()
        .map_err(sql("read the outbox's epoch", path))?;
    text.map(|t| reader::uuid(path, &t)).transpose()
}

/// They count within this from now on.
pub(super) fn count_within(conn: &Connection, path: &Path, epoch: Uuid) -> Result<(), StoreError> {
    conn.execute("INSERT OR REPLACE INTO epoch (id, epoch) VALUES (0, ?1)", [epoch.to_string()])
        .map(|_| ())
        .map_err(sql("note the outbox's epoch", path))
}

/// Goes on above `number` in a database that took the place of another, and tells which numbers up to there are not
/// held and will never come.
pub(super) fn go_on_above(conn: &Connection, path: &Path, number: u64, at: Wall) -> Result<(), StoreError> {
    let fail = sql("go on numbering alerts", path);
    let highest = |query: &str| -> rusqlite::Result<u64> {
        conn.query_row(query, [ROUTE], |r| r.get::<_, Option<i64>>(0)).map(|n| n.unwrap_or(0).max(0) as u64)
    };
    let mut newest = number.max(newest(conn, path)?);
    for query in [
        "SELECT max(seq) FROM outbox WHERE route = ?1",
        "SELECT max(seq) FROM confirmations WHERE route = ?1",
        "SELECT max(last_seq) FROM given_up WHERE route = ?1",
    ] {
        newest = newest.max(highest(query).map_err(fail)?);
    }
    conn.execute("UPDATE routes SET newest = ?2 WHERE name = ?1", params![ROUTE, newest as i64]).map_err(fail)?;
    let everyone_has = highest("SELECT min(seq) FROM confirmations WHERE route = ?1").map_err(fail)?;
    let held: Vec<i64> = conn
        .prepare("SELECT seq FROM outbox WHERE route = ?1 AND seq > ?2 ORDER BY seq")
        .and_then(|mut s| s.query_map(params![ROUTE, everyone_has as i64], |r| r.get(0))?.collect())
        .map_err(fail)?;
    conn.execute("DELETE FROM given_up WHERE route = ?1", [ROUTE]).map_err(fail)?;
    let mut next = everyone_has as i64 + 1;
    for seq in held.into_iter().chain([newest as i64 + 1]) {
        if next < seq {
            conn.execute(
                "INSERT INTO given_up (route, first_seq, last_seq, at_ms) VALUES (?1, ?2, ?3, ?4)",
                params![ROUTE, next, seq - 1, at.unix_ms()],
            )
            .map_err(fail)?;
        }
        next = seq + 1;
    }
    Ok(())
}

/// A broker has these rows.
pub(super) fn mark_sent(
    conn: &Connection,
    path: &Path,
    policy: &OutboxPolicy,
    seqs: &[u64],
    now: Wall,
) -> Result<(), StoreError> {
    let fail = sql("mark alerts sent", path);
    let mut mark = conn
        .prepare_cached(
            "UPDATE outbox SET attempts = attempts + 1, sent_ms = coalesce(sent_ms, ?3) WHERE route = ?1 AND seq = ?2",
        )
        .map_err(fail)?;
    for seq in seqs {
        mark.execute(params![ROUTE, *seq as i64, now.unix_ms()]).map_err(fail)?;
    }
    if matches!(policy, OutboxPolicy::Queue { consumers, .. } if consumers.is_empty()) {
        release(conn, path, policy)?;
    }
    Ok(())
}

/// These rows are to go to a broker again.
pub(super) fn resend(conn: &Connection, path: &Path, (from, to): (u64, u64)) -> Result<(), StoreError> {
    conn.execute(
        "UPDATE outbox SET sent_ms = NULL WHERE route = ?1 AND seq BETWEEN ?2 AND ?3",
        params![ROUTE, clamp(from), clamp(to)],
    )
    .map(|_| ())
    .map_err(sql("send alerts again", path))
}

/// A consumer has everything up to `seq`. One that is not configured changes nothing, nor does a number that was
/// never given out: a consumer that remembers an earlier life of this device must not release the new one's rows.
pub(super) fn confirm(
    conn: &Connection,
    path: &Path,
    policy: &OutboxPolicy,
    consumer: &str,
    seq: u64,
) -> Result<(), StoreError> {
    let OutboxPolicy::Queue { consumers, .. } = policy else { return Ok(()) };
    if !consumers.iter().any(|c| c == consumer) {
        log::debug!("store: {consumer} confirms alerts, but is not a configured consumer");
        return Ok(());
    }
    let newest = newest(conn, path)?;
    if seq > newest {
        log::warn!("store: {consumer} confirms alert {seq}, but {newest} is the newest: ignored");
        return Ok(());
    }
    conn.execute(
        "INSERT INTO confirmations (route, consumer, seq) VALUES (?1, ?2, ?3)
         ON CONFLICT (route, consumer) DO UPDATE SET seq = max(seq, excluded.seq)",
        params![ROUTE, consumer, seq as i64],
    )
    .map_err(sql("record a confirmation", path))?;
    release(conn, path, policy)
}

/// Lets go of every row that the policy no longer keeps.
pub(super) fn release(conn: &Connection, path: &Path, policy: &OutboxPolicy) -> Result<(), StoreError> {
    let OutboxPolicy::Queue { consumers, .. } = policy else { return Ok(()) };
    let fail = sql("release confirmed alerts", path);
    if consumers.is_empty() {
        conn.execute("DELETE FROM outbox WHERE route = ?1 AND sent_ms IS NOT NULL", [ROUTE]).map_err(fail)?;
        return Ok(());
    }
    let mut of =
        conn.prepare_cached("SELECT seq FROM confirmations WHERE route = ?1 AND consumer = ?2").map_err(fail)?;
    let mut everyone_has = i64::MAX;
    for consumer in consumers {
        let has: Option<i64> = of.query_row([ROUTE, consumer], |r| r.get(0)).optional().map_err(fail)?;
        everyone_has = everyone_has.min(has.unwrap_or(0));
    }
    conn.execute("DELETE FROM outbox WHERE route = ?1 AND seq <= ?2", params![ROUTE, everyone_has]).map_err(fail)?;
    // A range that everybody is past helps nobody to find a gap.
    conn.execute("DELETE FROM given_up WHERE route = ?1 AND last_seq <= ?2", params![ROUTE, everyone_has])
        .map_err(fail)?;
    Ok(())
}

/// Gives up what is too old, by [`age::too_old`], and then the oldest while there is more than the policy allows; returns
/// the ranges.
pub(super) fn retire(
    conn: &mut Connection,
    path: &Path,
    policy: &OutboxPolicy,
    wall: Wall,
    now: Present,
) -> Result<GivenUp, StoreError> {
    let OutboxPolicy::Queue { keep, max_bytes, .. } = policy else { return Ok(GivenUp::default()) };
    let fail = sql("give up old alerts", path);
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fail)?;
    if let Some(at) = now.at {
        tx.execute(
            "UPDATE outbox SET aged_from_ms = ?2 WHERE route = ?1 AND aged_from_ms IS NULL",
            params![ROUTE, at.unix_ms()],
        )
        .map_err(fail)?;
    }
    let rows: Vec<age::Row> = tx
        .prepare_cached("SELECT seq, aged_from_ms, made_ran_ms FROM outbox WHERE route = ?1 ORDER BY seq LIMIT ?2")
        .and_then(|mut s| {
            s.query_map(params![ROUTE, RETIRE_AT_ONCE], |r| {
                Ok(age::Row { seq: r.get::<_, i64>(0)? as u64, made: made(r, 1)? })
            })?
            .collect()
        })
        .map_err(fail)?;
    let given_up = GivenUp { too_old: age::too_old(now, *keep, &rows), too_many: Vec::new() };
    for range in &given_up.too_old {
        give_up(&tx, path, *range, wall)?;
    }
    let too_many = beyond(&tx, path, *max_bytes)?;
    for range in &too_many {
        give_up(&tx, path, *range, wall)?;
    }
    tx.commit().map_err(fail)?;
    Ok(GivenUp { too_many, ..given_up })
}

/// Ranges (first, last) that were given up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct GivenUp {
    pub too_old: Vec<(u64, u64)>,
    pub too_many: Vec<(u64, u64)>,
}

/// The oldest rows, as many as are more than may be kept.
fn beyond(conn: &Connection, path: &Path, max_bytes: u64) -> Result<Vec<(u64, u64)>, StoreError> {
    let fail = sql("measure the outbox", path);
    let bytes: i64 = conn.query_row("SELECT bytes FROM routes WHERE name = ?1", [ROUTE], |r| r.get(0)).map_err(fail)?;
    let mut over = u64::try_from(bytes).unwrap_or(0).saturating_sub(max_bytes);
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    let mut oldest = conn
        .prepare_cached("SELECT seq, octet_length(alert) FROM outbox WHERE route = ?1 ORDER BY seq LIMIT ?2")
        .map_err(fail)?;
    let mut rows = oldest.query(params![ROUTE, RETIRE_AT_ONCE]).map_err(fail)?;
    while over > 0
        && let Some(row) = rows.next().map_err(fail)?
    {
        let seq = row.get::<_, i64>(0).map_err(fail)? as u64;
        over = over.saturating_sub(row.get::<_, i64>(1).map_err(fail)?.max(0) as u64);
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == seq => *last = seq,
            _ => ranges.push((seq, seq)),
        }
    }
    Ok(ranges)
}

/// Lets go of a range and keeps account of it.
fn give_up(conn: &Connection, path: &Path, (first, last): (u64, u64), wall: Wall) -> Result<(), StoreError> {
    let fail = sql("give up alerts", path);
    let (first, last) = (clamp(first), clamp(last));
    conn.execute("DELETE FROM outbox WHERE route = ?1 AND seq BETWEEN ?2 AND ?3", params![ROUTE, first, last])
        .map_err(fail)?;
    let grown = conn
        .execute(
            "UPDATE given_up SET last_seq = ?3, at_ms = ?4 WHERE route = ?1 AND last_seq = ?2 - 1",
            params![ROUTE, first, last, wall.unix_ms()],
        )
        .map_err(fail)?;
    if grown == 0 {
        conn.execute(
            "INSERT INTO given_up (route, first_seq, last_seq, at_ms) VALUES (?1, ?2, ?3, ?4)",
            params![ROUTE, first, last, wall.unix_ms()],
        )
        .map_err(fail)?;
    }
    Ok(())
}

/// Columns `aged_from_ms, made_ran_ms` from `column` on.
pub(super) fn made(r: &Row<'_>, column: usize) -> rusqlite::Result<Made> {
    let at = r.get::<_, Option<i64>>(column)?.map(Wall::from_unix_ms);
    Ok(Made { at, ran: Duration::from_millis(r.get::<_, i64>(column + 1)?.max(0) as u64) })
}

/// Rows of `seq` from `from` to `to`, ascending; only those that no broker has, or all.
pub(super) fn rows(
    conn: &Connection,
    path: &Path,
    (from, to): (u64, u64),
    unsent_only: bool,
    limit: usize,
) -> Result<Vec<OutboxRow>, StoreError> {
    let fail = sql("read the outbox", path);
    // Two statements, so that the partial index serves the one that runs all the time.
    let query = if unsent_only {
        "SELECT seq, queued_ms, attempts, alert,
                (SELECT max(e.seq) FROM outbox e
                 WHERE e.route = o.route AND e.incident = o.incident AND e.seq < o.seq AND e.sent_ms IS NULL)
         FROM outbox o
         WHERE route = ?1 AND seq BETWEEN ?2 AND ?3 AND sent_ms IS NULL ORDER BY seq LIMIT ?4"
    } else {
        "SELECT seq, queued_ms, attempts, alert, NULL FROM outbox
         WHERE route = ?1 AND seq BETWEEN ?2 AND ?3 ORDER BY seq LIMIT ?4"
    };
    let mut statement = conn.prepare_cached(query).map_err(fail)?;
    let found = statement
        .query_map(params![ROUTE, clamp(from), clamp(to), i64::try_from(limit).unwrap_or(i64::MAX)], raw_row)
        .map_err(fail)?;
    found
        .map(|row| {
            let (seq, queued, attempts, json, after) = row.map_err(fail)?;
            let dispatch = serde_json::from_str(&json).map_err(|e| malformed(path, e))?;
            let after = after.map(|seq| seq as u64);
            Ok(OutboxRow { seq: seq as u64, queued: Wall::from_unix_ms(queued), attempts, after, dispatch })
        })
        .collect()
}

/// Reads every row, for the check; how many there are.
pub(super) fn read_all(conn: &Connection, path: &Path) -> Result<u64, StoreError> {
    let (mut from, mut count) = (0, 0);
    loop {
        let page = rows(conn, path, (from, u64::MAX), false, 1000)?;
        let Some(last) = page.last() else { return Ok(count) };
        (from, count) = (last.seq + 1, count + page.len() as u64);
    }
}

fn raw_row(r: &Row<'_>) -> rusqlite::Result<(i64, i64, u32, String, Option<i64>)> {
    Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?))
}

/// The state of the queue, of one instant.
pub(super) fn status(conn: &Connection, path: &Path) -> Result<OutboxStatus, StoreError> {
    let fail = sql("read the state of the outbox", path);
    let tx = conn.unchecked_transaction().map_err(fail)?;
    let newest = newest(&tx, path)?;
    // Each from an index or a count that is kept: none reads the rows themselves.
    let (oldest_kept, pending, kept) = tx
        .query_row(
            "SELECT (SELECT min(seq) FROM outbox WHERE route = ?1),
                    (SELECT count(*) FROM outbox WHERE route = ?1 AND sent_ms IS NULL),
                    (SELECT kept FROM routes WHERE name = ?1)",
            [ROUTE],
            |r| Ok((r.get::<_, Option<i64>>(0)?, r.get::<_, i64>(1)?, r.get::<_, i64>(2)?)),
        )
        .map_err(fail)?;
    let given_up = tx
        .prepare_cached("SELECT first_seq, last_seq FROM given_up WHERE route = ?1 ORDER BY first_seq")
        .and_then(|mut s| {
            s.query_map([ROUTE], |r| Ok((r.get::<_, i64>(0)? as u64, r.get::<_, i64>(1)? as u64)))?.collect()
        })
        .map_err(fail)?;
    Ok(OutboxStatus {
        epoch: stored_epoch(&tx, path)?.unwrap_or_default(),
        newest,
        oldest_kept: oldest_kept.map(|s| s as u64),
        pending: pending as u64,
        unconfirmed: (kept - pending) as u64,
        given_up,
    })
}

fn malformed(path: &Path, e: serde_json::Error) -> StoreError {
    StoreError::Malformed { path: path.to_owned(), what: "an alert", source: Arc::new(e) }
}

/// SQLite counts to 2^63 - 1; no sequence number ever gets there.
fn clamp(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

fn outbox_error(operation: &'static str) -> impl Fn(StoreError) -> OutboxError {
    move |e| OutboxError { operation, retry: e.retry(), source: Box::new(e) }
}

impl Store {
    /// How many rows from `from` to `to` are kept.
    pub fn kept(&self, from: u64, to: u64) -> Result<u64, StoreError> {
        self.reader().with(|conn, path| {
            conn.query_row(
                "SELECT count(*) FROM outbox WHERE route = ?1 AND seq BETWEEN ?2 AND ?3",
                params![ROUTE, clamp(from), clamp(to)],
                |r| r.get::<_, i64>(0),
            )
            .map(|n| n.max(0) as u64)
            .map_err(sql("count alerts", path))
        })
    }
}

impl Outbox for Store {
    fn pending(&self, from: u64, limit: usize) -> Result<Vec<OutboxRow>, OutboxError> {
        self.reader()
            .with(|conn, path| rows(conn, path, (from, u64::MAX), true, limit))
            .map_err(outbox_error("read what is pending"))
    }

    fn range(&self, from: u64, to: u64, limit: usize) -> Result<Vec<OutboxRow>, OutboxError> {
        self.reader()
            .with(|conn, path| rows(conn, path, (from, to), false, limit))
            .map_err(outbox_error("read a range"))
    }

    fn mark_sent(&self, seqs: &[u64]) -> Result<(), OutboxError> {
        if seqs.is_empty() {
            return Ok(());
        }
        self.ask("mark alerts sent", Order::Sent(seqs.to_vec())).map_err(outbox_error("mark alerts sent"))
    }

    fn confirm(&self, consumer: &str, seq: u64) -> Result<(), OutboxError> {
        self.ask("record a confirmation", Order::Confirm { consumer: consumer.to_owned(), seq })
            .map_err(outbox_error("record a confirmation"))
    }

    fn resend(&self, from: u64, to: u64) -> Result<(), OutboxError> {
        self.ask("send alerts again", Order::Resend { from, to }).map_err(outbox_error("send alerts again"))?;
        self.0.rewound.send_modify(|version| *version += 1);
        Ok(())
    }

    fn rewound(&self) -> watch::Receiver<u64> {
        self.0.rewound.subscribe()
    }

    fn status(&self) -> Result<OutboxStatus, OutboxError> {
        self.reader().with(status).map_err(outbox_error("read its state"))
    }

    fn added(&self) -> watch::Receiver<u64> {
        self.0.added.subscribe()
    }

    fn take_volatile(&self) -> Vec<Dispatch> {
        self.0.volatile.take()
    }
}
