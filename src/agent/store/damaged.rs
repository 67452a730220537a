//! A damaged database is set aside, never deleted, and a fresh one takes its place with every row of the old one that
//! can still be read. Clips lie beside it in files of their own, and the numbers of the outbox go on ([`super::numbers`]).
//!
//! What belongs here: moving the files, and carrying rows over. That it is damaged others find: at the start, by the
//! check of an unclean end; in use, by whatever query meets it, which leaves a [`mark`] for the next start.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, params_from_iter};
use uuid::Uuid;

use super::error::{io as io_error, sql};
use super::schema::beside;
use super::{StoreError, outbox, reader};
use crate::base::atomic_file;
use crate::base::clock::Wall;

/// Says that the database is damaged, or, with a name in it, that it was set aside under that name and its rows may not
/// have been carried over yet; in the state directory.
const MARK: &str = "vedette.db-damaged";

/// In this order, so that what a row refers to is there before it. The routes' numbers are the caller's.
const TABLES: [&str; 11] = [
    "incidents",
    "clips",
    "uploads",
    "outbox",
    "confirmations",
    "given_up",
    "audit",
    "running",
    "troubles",
    "verdicts",
    "commands",
];

/// Has the next start take the database for damaged, whatever it finds.
pub(super) fn mark(state_dir: &Path) -> io::Result<()> {
    atomic_file::write(&state_dir.join(MARK), b"")
}

/// What an earlier run said of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mark {
    /// Nothing is wrong.
    None,
    /// It is damaged.
    Damaged,
    /// It was set aside as this, and its rows are to be carried over.
    Aside(PathBuf),
}

/// Reads the mark.
pub(super) fn marked(state_dir: &Path) -> Mark {
    match fs::read_to_string(state_dir.join(MARK)) {
        Err(_) => Mark::None,
        Ok(name) => match state_dir.join(&name) {
            aside if !name.is_empty() && aside.exists() => Mark::Aside(aside),
            _ => Mark::Damaged,
        },
    }
}

/// The rows are carried over: nothing is wrong any more.
pub(super) fn unmark(state_dir: &Path) {
    if let Err(e) = fs::remove_file(state_dir.join(MARK)) {
        log::warn!("store: {} stays: {e}", state_dir.join(MARK).display());
    }
}

/// Moves the database with its log out of the way, under a name of its own; where it is now.
pub(super) fn set_aside(state_dir: &Path, path: &Path, now: Wall) -> Result<PathBuf, StoreError> {
    let at = jiff::Timestamp::from_millisecond(now.unix_ms()).unwrap_or_default();
    let name = beside(path, &format!(".damaged-{}", at.strftime("%Y%m%dT%H%M%SZ")));
    let numbered = (2..100).map(|n| beside(&name, &format!("-{n}")));
    let aside = std::iter::once(name.clone()).chain(numbered).find(|to| !to.exists()).unwrap_or(name);
    let file_name = aside.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let mark = state_dir.join(MARK);
    atomic_file::write(&mark, file_name.as_bytes()).map_err(io_error("write", &mark))?;
    // The database itself last: until it has moved, all of it is moved at the next start.
    for suffix in ["-wal", "-shm", ""] {
        let from = beside(path, suffix);
        match fs::rename(&from, beside(&aside, suffix)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(io_error("set aside", &from))?,
        }
    }
    atomic_file::sync_parent(path).map_err(io_error("set aside", path))?;
    Ok(aside)
}

/// What was carried over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Salvaged {
    pub incidents: u64,
    pub clips: u64,
    pub alerts: u64,
    /// The highest number of the outbox that the old database shows; 0 if it shows none.
    pub newest: u64,
}

/// Carries over every row of the database at `from` that can be read and that fits. `into` is a transaction on a fresh
/// database at `path`.
pub(super) fn salvage(from: &Path, into: &Connection, path: &Path) -> Result<Salvaged, StoreError> {
    let fail = sql("carry rows over", path);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut newest = 0;
    if let Ok(old) = Connection::open_with_flags(from, flags) {
        // A row at a time may be torn away from what it refers to; such rows go below.
        into.execute_batch("PRAGMA defer_foreign_keys = ON; DELETE FROM running").map_err(fail)?;
        for table in TABLES {
            carry_over(&old, into, table).map_err(fail)?;
        }
        let routes = old.query_row("SELECT max(newest) FROM routes", [], |r| r.get::<_, Option<i64>>(0));
        newest = routes.ok().flatten().unwrap_or(0).max(0) as u64;
    }
    into.execute_batch(
        "DELETE FROM clips WHERE incident NOT IN (SELECT id FROM incidents);
         DELETE FROM verdicts WHERE incident NOT IN (SELECT id FROM incidents);
         DELETE FROM uploads WHERE incident NOT IN (SELECT id FROM incidents);
         INSERT OR IGNORE INTO running VALUES (0, 0)",
    )
    .map_err(fail)?;
    drop_unreadable(into, path)?;
    let count = |table| reader::count(into, path, table);
    Ok(Salvaged { incidents: count("incidents")?, clips: count("clips")?, alerts: count("outbox")?, newest })
}

/// Copies a table from both of its ends, as far as each can be read. The error is the fresh database's.
fn carry_over(old: &Connection, into: &Connection, table: &str) -> rusqlite::Result<()> {
    let columns = |conn: &Connection| -> rusqlite::Result<Vec<String>> {
        conn.prepare(&format!("PRAGMA table_info({table})"))?.query_map([], |r| r.get(1))?.collect()
    };
    let Ok(theirs) = columns(old) else { return Ok(()) };
    let ours: Vec<String> = columns(into)?.into_iter().filter(|c| theirs.contains(c)).collect();
    if ours.is_empty() {
        return Ok(());
    }
    let (names, places) = (ours.join(", "), vec!["?"; ours.len()].join(", "));
    let mut insert = into.prepare(&format!("INSERT OR IGNORE INTO {table} ({names}) VALUES ({places})"))?;
    let mut seen = BTreeSet::new();
    for direction in ["ASC", "DESC"] {
        let query = format!("SELECT rowid, {names} FROM {table} NOT INDEXED ORDER BY rowid {direction}");
        let Ok(mut select) = old.prepare(&query) else { return Ok(()) };
        let Ok(mut rows) = select.query([]) else { return Ok(()) };
        // Up to where the damage is, or to where the other end came.
        while let Ok(Some(row)) = rows.next() {
            let Ok(rowid) = row.get::<_, i64>(0) else { break };
            if !seen.insert(rowid) {
                break;
            }
            let values: rusqlite::Result<Vec<Value>> = (1..=ours.len()).map(|i| row.get(i)).collect();
            let Ok(values) = values else { continue };
            match insert.execute(params_from_iter(values)) {
                Ok(_) => {}
                // The row does not fit: rotten.
                Err(e) if matches!(e.sqlite_error_code(), Some(rusqlite::ErrorCode::ConstraintViolation)) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
}

/// A row that SQLite can read need not say anything: one that does not would stand in the way of every list.
fn drop_unreadable(into: &Connection, path: &Path) -> Result<(), StoreError> {
    let fail = sql("look through what was carried over", path);
    let all = |query: &str| -> Result<Vec<Value>, StoreError> {
        into.prepare(query).and_then(|mut s| s.query_map([], |r| r.get(0))?.collect()).map_err(fail)
    };
    for id in all("SELECT id FROM incidents")? {
        let Value::Text(id) = id else { continue };
        let reads = Uuid::parse_str(&id).is_ok_and(|uuid| matches!(reader::load(into, path, uuid), Ok(Some(_))));
        if !reads {
            into.execute("DELETE FROM clips WHERE incident = ?1", [&id]).map_err(fail)?;
            into.execute("DELETE FROM uploads WHERE incident = ?1", [&id]).map_err(fail)?;
            into.execute("DELETE FROM incidents WHERE id = ?1", [&id]).map_err(fail)?;
        }
    }
    for seq in all("SELECT seq FROM outbox")? {
        let Value::Integer(seq) = seq else { continue };
        if outbox::rows(into, path, (seq as u64, seq as u64), false, 1).is_err() {
            into.execute("DELETE FROM outbox WHERE seq = ?1", [seq]).map_err(fail)?;
        }
    }
    Ok(())
}
