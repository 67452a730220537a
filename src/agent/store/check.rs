//! The fsck: does the database hold together, and do rows and files agree? Nothing is ever deleted; with repair,
//! rows are made to say what is true.
//!
//! It may look while a daemon runs (what is open then is simply under way); to repair it must be alone.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};
use serde::Serialize;
use uuid::Uuid;

use crate::base::clock::Clock;
use crate::base::digest;
use crate::base::error::{Chain, Retry};

use super::apply::Apply;
use super::error::{io, sql};
use super::reader::{ClipState, Filter, IncidentState, Reader, count};
use super::schema::{self, Lock};
use super::{DeviceContext, StoreError, damaged, database_path, outbox, recover};

/// Where clips are, below the state directory.
const CLIPS_DIR: &str = "clips";

/// Lines of SQLite's integrity check that are reported.
const INTEGRITY_LINES: usize = 100;

/// Whether to put right what can be.
pub enum Repair<'a> {
    /// Only look.
    No,
    /// Close incidents that a killed daemon left open and mark clips whose files are gone or damaged as lost, with
    /// their alerts. Clips that it was recording are `clip::recovery`'s, which comes before.
    Yes {
        /// As for [`super::Store::open`].
        context: &'a DeviceContext,
        /// Labels the alerts.
        clock: &'a dyn Clock,
    },
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct CheckReport {
    /// The database.
    pub database: String,
    /// What SQLite's integrity and foreign key checks complain of; empty: nothing.
    pub integrity: Vec<String>,
    /// A daemon works on the store now, so what is open is not reported.
    pub daemon_running: bool,
    /// Incidents in the store.
    pub incidents: u64,
    /// Clips that should be on disk.
    pub clips_done: u64,
    /// Rows in the outbox.
    pub outbox_rows: u64,
    /// Clips whose row and file disagree.
    pub clip_faults: Vec<ClipFault>,
    /// Files below `clips/` that no row names, below the state directory. They are kept: they may be evidence.
    pub orphan_files: Vec<String>,
    /// Files of clips that were never finished (`.part`), below the state directory.
    pub partial_files: Vec<String>,
    /// Incidents that a killed daemon left open.
    pub open_incidents: Vec<Uuid>,
    /// Clips that a killed daemon left planned or recording.
    pub unfinished_clips: Vec<Uuid>,
    /// What was put right, a line each.
    pub repaired: Vec<String>,
}

impl CheckReport {
    /// Whether nothing is wrong (any more). Files that no row names take room and harm nothing.
    pub fn is_clean(&self) -> bool {
        let wrong = !self.integrity.is_empty()
            || !self.clip_faults.is_empty()
            || !self.open_incidents.is_empty()
            || !self.unfinished_clips.is_empty()
            || (!self.daemon_running && !self.partial_files.is_empty());
        !wrong
    }
}

/// What is wrong with one clip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum ClipFault {
    /// The file is not there.
    Missing {
        /// The incident.
        incident: Uuid,
        /// Below the state directory.
        path: String,
    },
    /// The file has another size or other bytes than were recorded.
    Changed {
        /// The incident.
        incident: Uuid,
        /// Below the state directory.
        path: String,
        /// Recorded size.
        expected_bytes: u64,
        /// Size of the file.
        found_bytes: u64,
        /// Recorded SHA-256.
        expected_sha256: String,
        /// SHA-256 of the file.
        found_sha256: String,
    },
    /// The file cannot be read.
    Unreadable {
        /// The incident.
        incident: Uuid,
        /// Below the state directory.
        path: String,
        /// What the system said.
        because: String,
    },
}

impl std::fmt::Display for ClipFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ClipFault::Missing { incident, path } => write!(f, "incident {incident}: {path} is missing"),
            ClipFault::Changed { incident, path, expected_bytes, found_bytes, .. } => {
                write!(
                    f,
                    "incident {incident}: {path} is not what was recorded ({found_bytes} bytes, recorded {expected_bytes}; see --json for the hashes)"
                )
            }
            ClipFault::Unreadable { incident, path, because } => {
                write!(f, "incident {incident}: {path} cannot be read: {because}")
            }
        }
    }
}

impl ClipFault {
    /// The incident that it concerns.
    pub fn incident(&self) -> Uuid {
        match self {
            ClipFault::Missing { incident, .. }
            | ClipFault::Changed { incident, .. }
            | ClipFault::Unreadable { incident, .. } => *incident,
        }
    }

    /// Why the clip counts as lost; an unreadable file may only want other rights.
    fn loss(&self) -> Option<&'static str> {
        match self {
            ClipFault::Missing { .. } => Some("its file is missing"),
            ClipFault::Changed { .. } => Some("its file is not what was recorded"),
            ClipFault::Unreadable { .. } => None,
        }
    }
}

/// What SQLite's own checks complain of; empty: nothing.
pub fn complaints(state_dir: &Path) -> Result<Vec<String>, StoreError> {
    match Reader::open(state_dir) {
        Ok(reader) => reader.with(integrity),
        Err(StoreError::Corrupt { detail, .. }) => Ok(vec![detail]),
        Err(e) => Err(e),
    }
}

/// Has the next [`super::Store::open`] set the database aside and carry over what can be read, whatever it finds itself.
pub fn condemn(state_dir: &Path) -> Result<(), StoreError> {
    damaged::mark(state_dir).map_err(io("write the mark of a damaged database in", state_dir))
}

/// Checks the store of a state directory; reads every clip in full.
pub fn check(state_dir: &Path, repair: Repair<'_>) -> Result<CheckReport, StoreError> {
    let path = database_path(state_dir);
    let mut report = CheckReport { database: path.display().to_string(), ..CheckReport::default() };
    if !path.exists() {
        // Before the lock: looking for a store must not leave a file that its daemon may not open.
        return Err(StoreError::Absent { path });
    }
    let alone = match repair {
        Repair::No => None,
        Repair::Yes { .. } => Some(Lock::take(state_dir)?),
    };
    report.daemon_running = alone.is_none() && Lock::is_held(state_dir)?;

    let reader = match Reader::open(state_dir) {
        Ok(reader) => reader,
        Err(StoreError::Corrupt { detail, .. }) => {
            report.integrity.push(detail);
            return Ok(report);
        }
        Err(e) => return Err(e),
    };
    report.integrity = reader.with(integrity)?;
    if !report.integrity.is_empty() {
        // What else a damaged database says would only mislead.
        return Ok(report);
    }
    match look(state_dir, &reader, &mut report) {
        Ok(()) => (),
        // SQLite has no checksums: a row may be rotten in a page that is well formed.
        Err(e @ (StoreError::Malformed { .. } | StoreError::Sql { .. })) if e.retry() == Retry::Never => {
            report.integrity.push(Chain(&e).to_string());
            return Ok(report);
        }
        Err(e) => return Err(e),
    }
    drop(reader);
    if let Repair::Yes { context, clock } = repair {
        put_right(&path, context, clock, &mut report)?;
    }
    drop(alone);
    Ok(report)
}

/// The complaints of SQLite's own checks, and of ours about the outbox.
fn integrity(conn: &Connection, path: &Path) -> Result<Vec<String>, StoreError> {
    let complaints = (|| -> rusqlite::Result<Vec<String>> {
        let mut found: Vec<String> = conn
            .prepare(&format!("PRAGMA integrity_check({INTEGRITY_LINES})"))?
            .query_map([], |r| r.get(0))?
            .collect::<Result<_, _>>()?;
        found.retain(|line| line != "ok");
        let strays: Vec<String> = conn
            .prepare("PRAGMA foreign_key_check")?
            .query_map([], |r| Ok(format!("a row of {} has no {}", r.get::<_, String>(0)?, r.get::<_, String>(2)?)))?
            .collect::<Result<_, _>>()?;
        found.extend(strays);
        let above: i64 =
            conn.query_row("SELECT count(*) FROM outbox JOIN routes ON name = route WHERE seq > newest", [], |r| {
                r.get(0)
            })?;
        if above > 0 {
            found.push(format!("{above} rows of the outbox have numbers that were never given out"));
        }
        Ok(found)
    })();
    match complaints.map_err(sql("check the database", path)) {
        Err(StoreError::Corrupt { detail, .. }) => Ok(vec![detail]),
        other => other,
    }
}

/// Compares rows with files.
fn look(state_dir: &Path, reader: &Reader, report: &mut CheckReport) -> Result<(), StoreError> {
    report.incidents = reader.with(|conn, path| count(conn, path, "incidents"))?;
    report.outbox_rows = reader.with(outbox::read_all)?;
    let mut named = BTreeSet::new();
    let mut stored = reader.incidents(&Filter::default())?;
    stored.reverse();
    for incident in stored {
        let id = incident.report.id;
        if incident.state == IncidentState::Open && !report.daemon_running {
            report.open_incidents.push(id);
        }
        let Some(clip) = incident.clip else { continue };
        named.extend(clip.report.path.clone());
        named.extend(clip.report.peak_jpeg_path.clone());
        match clip.state {
            ClipState::Done => {
                report.clips_done += 1;
                let path = clip.report.path.unwrap_or_default();
                let recorded = (clip.report.size_bytes.unwrap_or(0), clip.report.sha256.unwrap_or_default());
                report.clip_faults.extend(compare(state_dir, id, path, recorded));
            }
            ClipState::Planned | ClipState::Recording if !report.daemon_running => report.unfinished_clips.push(id),
            _ => (),
        }
    }
    let mut files = BTreeSet::new();
    walk(state_dir, &state_dir.join(CLIPS_DIR), &mut files)?;
    for file in files.difference(&named) {
        let list = if file.ends_with(".part") { &mut report.partial_files } else { &mut report.orphan_files };
        list.push(file.clone());
    }
    Ok(())
}

/// Compares one clip's file with what was recorded of it.
fn compare(state_dir: &Path, incident: Uuid, path: String, recorded: (u64, String)) -> Option<ClipFault> {
    let (expected_bytes, expected_sha256) = recorded;
    match digest::of_file(&state_dir.join(&path)) {
        Ok((found_sha256, found_bytes)) if found_sha256 != expected_sha256 || found_bytes != expected_bytes => {
            Some(ClipFault::Changed { incident, path, expected_bytes, found_bytes, expected_sha256, found_sha256 })
        }
        Ok(_) => None,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Some(ClipFault::Missing { incident, path }),
        Err(e) => Some(ClipFault::Unreadable { incident, path, because: e.to_string() }),
    }
}

/// Collects the files below `dir`, as paths below `base`. A directory that is not there has none.
fn walk(base: &Path, dir: &Path, files: &mut BTreeSet<String>) -> Result<(), StoreError> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(io("list", dir))?,
    };
    for entry in entries {
        let entry = entry.map_err(io("list", dir))?;
        let path = entry.path();
        // Links are reported, not followed.
        if entry.file_type().map_err(io("look at", &path))?.is_dir() {
            walk(base, &path, files)?;
        } else {
            files.insert(path.strip_prefix(base).unwrap_or(&path).to_string_lossy().into_owned());
        }
    }
    Ok(())
}

/// Makes the rows say what is true, in one transaction, with the alerts that go with it.
fn put_right(
    path: &Path,
    context: &DeviceContext,
    clock: &dyn Clock,
    report: &mut CheckReport,
) -> Result<(), StoreError> {
    let mut conn = schema::open_writer(path)?;
    let fail = sql("repair the store", path);
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fail)?;
    let mut apply = Apply::new(&tx, path, context, clock);
    let found = recover::interrupted(&mut apply)?;
    let mut repaired = Vec::new();
    repaired.extend(found.incidents.iter().map(|id| format!("incident {id} closed as interrupted")));
    repaired.extend(found.clips.iter().map(|id| format!("clip of {id} marked lost: it was never begun")));
    let mut faults = Vec::new();
    for fault in std::mem::take(&mut report.clip_faults) {
        match fault.loss() {
            Some(because) => {
                apply.clip_gone(fault.incident(), because)?;
                repaired.push(format!("clip of {} marked lost: {because}", fault.incident()));
            }
            None => faults.push(fault),
        }
    }
    tx.commit().map_err(fail)?;
    report.clip_faults = faults;
    report.open_incidents.clear();
    report.unfinished_clips.retain(|id| !found.clips.contains(id));
    report.repaired = repaired;
    Ok(())
}
