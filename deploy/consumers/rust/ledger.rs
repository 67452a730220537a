//! What has come and what is missing: SQLite, and nothing of MQTT. `../cases.json` is its contract.
//!
//! Nothing here is specific to one process: workers that share the load share the database.

use rusqlite::{Connection, OptionalExtension, Result, named_params, params};
use serde_json::Value;

const TABLES: &str = "
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS events (source TEXT, id TEXT, epoch TEXT, seq INTEGER, payload TEXT, PRIMARY KEY (source, id));
-- One for each life of a device's numbers. All up to `upto` are here or lost; `newest` is the highest known to be sent.
CREATE TABLE IF NOT EXISTS streams (source TEXT, epoch TEXT, upto INTEGER, newest INTEGER, PRIMARY KEY (source, epoch));
CREATE TABLE IF NOT EXISTS current (source TEXT PRIMARY KEY, epoch TEXT);
-- Numbers that are here, above a gap.
CREATE TABLE IF NOT EXISTS ahead (source TEXT, epoch TEXT, seq INTEGER, PRIMARY KEY (source, epoch, seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lost (source TEXT, epoch TEXT, first INTEGER, last INTEGER, why TEXT);
";

/// Numbers from the first to the second.
pub type Span = (i64, i64);

/// The books of one consumer. Whoever calls `begin` calls `commit`, and tells nobody before that.
pub struct Ledger(Connection);

impl Ledger {
    /// Opens a database, or makes it.
    pub fn open(path: &str) -> Result<Ledger> {
        let db = Connection::open(path)?;
        db.busy_timeout(std::time::Duration::from_secs(30))?;
        db.execute_batch(TABLES)?;
        Ok(Ledger(db))
    }

    /// Begins a batch, unless one has begun.
    pub fn begin(&self) -> Result<()> {
        if self.0.is_autocommit() { self.0.execute_batch("BEGIN IMMEDIATE") } else { Ok(()) }
    }

    /// Makes it durable.
    pub fn commit(&self) -> Result<()> {
        if self.0.is_autocommit() { Ok(()) } else { self.0.execute_batch("COMMIT") }
    }

    /// Takes a CloudEvent in; whether it is the first time, or none if it is not one.
    pub fn alert(&self, event: &Value) -> Result<Option<bool>> {
        let (Some(source), Some(id)) = (event["source"].as_str(), event["id"].as_str()) else { return Ok(None) };
        let epoch = event["epoch"].as_str().unwrap_or_default();
        // One that the device could not store has no number; it may come again with one, and with the same id.
        let seq: Option<i64> = event["sequence"].as_str().and_then(|s| s.parse().ok());
        let insert = "INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?)";
        let new = self.0.execute(insert, params![source, id, epoch, seq, event.to_string()])? == 1;
        if let Some(seq) = seq {
            self.0.execute("INSERT OR IGNORE INTO current VALUES (?, ?)", (source, epoch))?;
            let (upto, newest) = self.stream(source, epoch)?;
            if seq > upto {
                self.0.execute("INSERT OR IGNORE INTO ahead VALUES (?, ?, ?)", (source, epoch, seq))?;
                self.settle(source, epoch, upto, newest.max(seq))?;
            }
        }
        Ok(Some(new))
    }

    /// Takes in what the device says of its queue; whether that was understood.
    pub fn outbox(&self, source: &str, state: &Value) -> Result<bool> {
        let (Some(newest), Some(pending)) = (state["newest"].as_i64(), state["pending"].as_i64()) else {
            return Ok(false);
        };
        let epoch = state["epoch"].as_str().unwrap_or_default();
        if let Some(before) = self.current(source)?.filter(|before| before != epoch) {
            // Its database was lost or wiped: numbers start anew, and what is missing of the old ones is nowhere.
            for gap in self.missing(source, &before)? {
                self.write_off(source, &before, gap, "the device has lost its database")?;
            }
        }
        self.0.execute("INSERT OR REPLACE INTO current VALUES (?, ?)", (source, epoch))?;
        let (upto, known) = self.stream(source, epoch)?;
        let given_up: Vec<Span> = serde_json::from_value(state["given_up"].clone()).unwrap_or_default();
        let not_kept = (1, state["oldest_kept"].as_i64().map_or(newest, |oldest| oldest - 1));
        let given_up = given_up.into_iter().map(|span| (span, "given up by the device"));
        for ((first, last), why) in given_up.chain([(not_kept, "no longer kept by the device")]) {
            for gap in self.gaps(source, epoch, (first.max(upto + 1), last), usize::MAX)? {
                self.write_off(source, epoch, gap, why)?;
            }
        }
        // What no broker has yet is not missing: it is on its way.
        let sent = if pending == 0 { newest } else { 0 };
        self.settle(source, epoch, upto, known.max(sent))?;
        Ok(true)
    }

    /// The epoch of a device's present numbers.
    pub fn current(&self, source: &str) -> Result<Option<String>> {
        self.0.query_row("SELECT epoch FROM current WHERE source = ?", [source], |row| row.get(0)).optional()
    }

    /// Source, epoch and the number to confirm, of every device.
    pub fn confirmable(&self) -> Result<Vec<(String, String, i64)>> {
        let mut select =
            self.0.prepare_cached("SELECT source, epoch, upto FROM streams NATURAL JOIN current ORDER BY source")?;
        select.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
    }

    /// Ranges that were sent and are not here.
    pub fn missing(&self, source: &str, epoch: &str) -> Result<Vec<Span>> {
        let (upto, newest) = self.stream(source, epoch)?;
        self.gaps(source, epoch, (upto + 1, newest), usize::MAX)
    }

    fn stream(&self, source: &str, epoch: &str) -> Result<(i64, i64)> {
        let mut select = self.0.prepare_cached("SELECT upto, newest FROM streams WHERE source = ? AND epoch = ?")?;
        Ok(select.query_row((source, epoch), |row| Ok((row.get(0)?, row.get(1)?))).optional()?.unwrap_or_default())
    }

    /// What of a range is neither here nor written off; at most so many of its parts.
    fn gaps(&self, source: &str, epoch: &str, (first, last): Span, most: usize) -> Result<Vec<Span>> {
        let mut select = self.0.prepare_cached(
            "SELECT seq, seq FROM ahead WHERE source = :s AND epoch = :e AND seq BETWEEN :f AND :l \
             UNION ALL SELECT first, last FROM lost WHERE source = :s AND epoch = :e AND last >= :f AND first <= :l \
             ORDER BY 1",
        )?;
        let mut held = select.query(named_params! {":s": source, ":e": epoch, ":f": first, ":l": last})?;
        let (mut gaps, mut want) = (Vec::new(), first);
        while let Some(row) = held.next()? {
            let (start, end): Span = (row.get(0)?, row.get(1)?);
            if start > want {
                gaps.push((want, start - 1));
                if gaps.len() == most {
                    return Ok(gaps);
                }
            }
            want = want.max(end + 1);
        }
        if want <= last {
            gaps.push((want, last));
        }
        Ok(gaps)
    }

    fn write_off(&self, source: &str, epoch: &str, (first, last): Span, why: &str) -> Result<usize> {
        self.0.execute("INSERT INTO lost VALUES (?, ?, ?, ?, ?)", params![source, epoch, first, last, why])
    }

    /// Moves `upto` to just below the first gap.
    fn settle(&self, source: &str, epoch: &str, upto: i64, newest: i64) -> Result<()> {
        let mut most = self.0.prepare_cached("SELECT max(last) FROM lost WHERE source = ? AND epoch = ?")?;
        let lost: Option<i64> = most.query_row((source, epoch), |row| row.get(0))?;
        let top = newest.max(lost.unwrap_or(0));
        let upto = match self.gaps(source, epoch, (upto + 1, top), 1)?.first() {
            Some((first, _)) => first - 1,
            None => upto.max(top),
        };
        let passed = "DELETE FROM ahead WHERE source = ? AND epoch = ? AND seq <= ?";
        self.0.execute(passed, (source, epoch, upto))?;
        self.0
            .execute("INSERT OR REPLACE INTO streams VALUES (?, ?, ?, ?)", (source, epoch, upto, newest.max(upto)))?;
        Ok(())
    }
}
