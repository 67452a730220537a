//! Carries out what [`super::retention`] decides, in bounded steps: the files first, then their rows in one
//! transaction. On a full disk only that order helps; and what a kill leaves between the two (rows whose files are gone)
//! the next step puts right.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior, params};

use super::age::Present;
use super::apply::Apply;
use super::error::{io as io_error, sql};
use super::retention::{Candidate, Limits, Usage, Why, plan};
use super::{DeviceContext, StoreError, outbox, reader};
use crate::agent::health::Sensors;
use crate::base::clock::{Clock, Wall};

/// Clips deleted in one step.
const AT_ONCE: usize = 16;
/// Clips looked at in one step.
const CANDIDATES: usize = 256;
/// Rows of old incidents deleted in one step.
const ROWS_AT_ONCE: usize = 500;

/// What one step did.
#[derive(Debug, Default)]
pub(super) struct Expired {
    /// What was deleted.
    pub clips: Vec<(Candidate, Why)>,
    /// There is more to delete at once.
    pub more: bool,
    /// The floor is not kept, and no clip is left to delete: what is free.
    pub short_of_space: Option<u64>,
    /// Newest sequence number, if alerts were written.
    pub newest: Option<u64>,
}

/// One step. `state_dir` is where `clips/` lies.
pub(super) fn step(
    conn: &mut Connection,
    (path, state_dir): (&Path, &Path),
    context: &DeviceContext,
    clock: &dyn Clock,
    (limits, now): (&Limits, Present),
) -> Result<Expired, StoreError> {
    let usage = Usage { clips_bytes: bytes_of_clips(conn, path)?, free_bytes: free_bytes(state_dir) };
    let mut clips = plan(now, limits, usage, &candidates(conn, path)?);
    let more = clips.len() > AT_ONCE;
    clips.truncate(AT_ONCE);
    let short = usage.free_bytes.filter(|&free| clips.is_empty() && free < limits.min_free_bytes);
    let mut done = Expired { more, short_of_space: short, ..Expired::default() };
    if clips.is_empty() {
        return Ok(done);
    }
    for (clip, _) in &clips {
        let files = files_of(conn, path, clip)?;
        for file in files.iter().map(|f| state_dir.join(f)) {
            delete(&file).map_err(io_error("delete", &file))?;
            prune(&file, &state_dir.join("clips"));
        }
    }
    let fail = sql("record what was deleted", path);
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fail)?;
    let mut apply = Apply::new(&tx, path, context, clock);
    for (clip, why) in &clips {
        apply.clip_expired(clip.incident, &format!("deleted: {}", why.as_str()), clip.delivered)?;
    }
    done.newest = apply.newest();
    tx.commit().map_err(fail)?;
    done.clips = clips;
    Ok(done)
}

/// From when on a clip without a known age counts: now, since the clock is right.
pub(super) fn start_ageing(conn: &Connection, path: &Path, at: Wall) -> Result<(), StoreError> {
    conn.execute(
        "UPDATE clips SET aged_from_ms = ?1 WHERE aged_from_ms IS NULL AND state = 'done'",
        params![at.unix_ms()],
    )
    .map(|_| ())
    .map_err(sql("record the age of clips", path))
}

/// Deletes the rows of incidents long over whose clip is gone and whose alerts are, and the audit trail of that time;
/// how many incidents.
pub(super) fn old_rows(conn: &mut Connection, path: &Path, now: Wall, keep: Duration) -> Result<usize, StoreError> {
    let fail = sql("delete old rows", path);
    let before = (now - keep).unix_ms();
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fail)?;
    let old: Vec<String> = tx
        .prepare_cached(
            "SELECT i.id FROM incidents i LEFT JOIN clips c ON c.incident = i.id
             WHERE i.start_ms < ?1 AND i.end_ms < ?1 AND i.state = 'closed'
               AND (c.state IS NULL OR c.state IN ('lost', 'expired'))
               AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.incident = i.id) ORDER BY i.start_ms LIMIT ?2",
        )
        .and_then(|mut s| s.query_map(params![before, ROWS_AT_ONCE as i64], |r| r.get(0))?.collect())
        .map_err(fail)?;
    for id in &old {
        tx.execute("DELETE FROM clips WHERE incident = ?1", [id]).map_err(fail)?;
        tx.execute("DELETE FROM uploads WHERE incident = ?1", [id]).map_err(fail)?;
        tx.execute("DELETE FROM incidents WHERE id = ?1", [id]).map_err(fail)?;
    }
    tx.execute(
        "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at_ms < ?1 ORDER BY id LIMIT ?2)",
        params![before, ROWS_AT_ONCE as i64],
    )
    .map_err(fail)?;
    tx.commit().map_err(fail)?;
    Ok(old.len())
}

/// What can still be written to the disk of the state directory; none if that cannot be told.
pub(super) fn free_bytes(state_dir: &Path) -> Option<u64> {
    Sensors::of_machine(state_dir).disk().ok().map(|disk| disk.free_bytes)
}

fn bytes_of_clips(conn: &Connection, path: &Path) -> Result<u64, StoreError> {
    conn.prepare_cached("SELECT coalesce(sum(size_bytes), 0) FROM clips WHERE state = 'done'")
        .and_then(|mut s| s.query_row([], |r| r.get::<_, i64>(0)))
        .map(|bytes| bytes.max(0) as u64)
        .map_err(sql("count what clips take", path))
}

/// Those that would go first. The undelivered are among them only when all others are.
fn candidates(conn: &Connection, path: &Path) -> Result<Vec<Candidate>, StoreError> {
    let fail = sql("look for clips to delete", path);
    let mut statement = conn
        .prepare_cached(
            "SELECT c.incident, c.size_bytes, i.start_ms, c.aged_from_ms, c.made_ran_ms,
                    NOT EXISTS (SELECT 1 FROM outbox o WHERE o.incident = c.incident) AS delivered,
                    EXISTS (SELECT 1 FROM uploads u WHERE u.incident = c.incident AND u.state = 'done') AS uploaded
             FROM clips c JOIN incidents i ON i.id = c.incident
             WHERE c.state = 'done' AND i.state = 'closed'
             ORDER BY delivered DESC, uploaded DESC, i.start_ms, c.incident LIMIT ?1",
        )
        .map_err(fail)?;
    let rows = statement
        .query_map([CANDIDATES as i64], |r| {
            Ok((r.get::<_, String>(0)?, r.get::<_, i64>(1)?, r.get(2)?, outbox::made(r, 3)?, r.get(5)?, r.get(6)?))
        })
        .map_err(fail)?;
    rows.map(|row| {
        let (id, bytes, start, made, delivered, uploaded) = row.map_err(fail)?;
        let (incident, bytes) = (reader::uuid(path, &id)?, bytes.max(0) as u64);
        Ok(Candidate { incident, bytes, start: Wall::from_unix_ms(start), made, delivered, uploaded })
    })
    .collect()
}

/// The clip and its picture, below the state directory.
fn files_of(conn: &Connection, path: &Path, clip: &Candidate) -> Result<Vec<String>, StoreError> {
    let files: (Option<String>, Option<String>) = conn
        .prepare_cached("SELECT path, peak_jpeg_path FROM clips WHERE incident = ?1")
        .and_then(|mut s| s.query_row([clip.incident.to_string()], |r| Ok((r.get(0)?, r.get(1)?))))
        .map_err(sql("look for a clip's files", path))?;
    Ok(files.0.into_iter().chain(files.1).collect())
}

/// Deletes a file; one that is gone already is no error.
fn delete(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes the directories above a file, below `top`, that are empty now.
fn prune(file: &Path, top: &Path) {
    for dir in file.ancestors().skip(1).take_while(|dir| dir.starts_with(top) && *dir != top) {
        if fs::remove_dir(dir).is_err() {
            return;
        }
    }
}
