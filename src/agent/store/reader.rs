//! The queries: what the page, the API and the command line show. Read-only connections of their own, so that a
//! slow reader never holds up the writer.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::base::clock::Wall;
use crate::contract::alert::{AlertKind, ClipReport, ClockState, IncidentReport};

use super::error::sql;
use super::uploads::{self, StoredUpload};
use super::{AuditEntry, StoreError, StoredVerdict, commands, database_path, outbox, schema};

/// Idle connections kept for the next query.
const IDLE_CONNECTIONS: usize = 4;

/// Whether an incident goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IncidentState {
    /// It does.
    Open,
    /// It is over.
    Closed,
}

/// How far a clip has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClipState {
    /// It is to be made.
    Planned,
    /// Its file is being written.
    Recording,
    /// It is whole and in place.
    Done,
    /// There is none.
    Lost,
    /// It was done and has been deleted since, by age or for room.
    Expired,
}

impl ClipState {
    /// As it stands in the database.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            ClipState::Planned => "planned",
            ClipState::Recording => "recording",
            ClipState::Done => "done",
            ClipState::Lost => "lost",
            ClipState::Expired => "expired",
        }
    }
}

/// Which incidents; what is absent doesn't restrict.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Of this camera.
    #[serde(default)]
    pub camera: Option<String>,
    /// Reported as this class.
    #[serde(default)]
    pub class: Option<String>,
    /// With evidence at or after, milliseconds since the Unix epoch.
    #[serde(default, rename = "since_unix_ms")]
    pub since: Option<Wall>,
    /// That began before, milliseconds since the Unix epoch.
    #[serde(default, rename = "until_unix_ms")]
    pub until: Option<Wall>,
    /// In this state.
    #[serde(default)]
    pub state: Option<IncidentState>,
    /// At most so many, the newest; absent: all.
    #[serde(default)]
    pub limit: Option<u32>,
}

/// An incident as it stands in the store.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StoredIncident {
    /// As consumers see it.
    #[serde(flatten)]
    pub report: IncidentReport,
    /// Whether it goes on.
    pub state: IncidentState,
    /// Start of the first supporting window.
    pub start_unix_ms: Wall,
    /// End of the last supporting window so far.
    pub end_unix_ms: Wall,
    /// Windows that support it.
    pub windows: u32,
    /// What the clock was worth when its times were labelled; unknown for those of version 0.1.0.
    pub clock: Option<ClockState>,
    /// Its clip; absent if none was planned.
    pub clip: Option<StoredClip>,
}

/// A clip as it stands in the store.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StoredClip {
    /// How far it has come.
    pub state: ClipState,
    /// Where it starts, once that is known.
    pub start_unix_ms: Option<Wall>,
    /// As consumers see it.
    #[serde(flatten)]
    pub report: ClipReport,
}

/// An incident with its alerts that are still in the outbox.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IncidentDetail {
    /// The incident.
    #[serde(flatten)]
    pub incident: StoredIncident,
    /// The operator's word on it; absent: there is none.
    pub verdict: Option<StoredVerdict>,
    /// What became of its clip's upload; absent if nobody asked for one.
    pub upload: Option<StoredUpload>,
    /// Its alerts, oldest first; those that were let go are not here any more.
    pub alerts: Vec<QueuedAlert>,
}

/// An alert in the outbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueuedAlert {
    /// Sequence number.
    pub seq: u64,
    /// What it says.
    pub kind: AlertKind,
    /// When it was queued.
    pub queued_unix_ms: Wall,
    /// How often it was handed to a broker.
    pub attempts: u32,
}

/// A clip that was begun and is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedClip {
    /// Its incident.
    pub incident: Uuid,
    /// Its camera.
    pub camera: String,
    /// Where its file is to be, below the state directory.
    pub path: String,
    /// Start of the incident.
    pub incident_start: Wall,
    /// It was given up.
    pub lost: bool,
}

/// Read access to a store, with or without a daemon. Clones share a few idle connections.
#[derive(Clone)]
pub struct Reader(Arc<Pool>);

struct Pool {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    /// What a query found that says that the database is damaged.
    damage: OnceLock<StoreError>,
}

impl Reader {
    /// Opens the store of a state directory for reading.
    pub fn open(state_dir: &Path) -> Result<Reader, StoreError> {
        let path = database_path(state_dir);
        let first = schema::open_reader(&path)?;
        Ok(Reader(Arc::new(Pool { path, idle: Mutex::new(vec![first]), damage: OnceLock::new() })))
    }

    /// The database.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Incidents that the filter lets through, newest first.
    pub fn incidents(&self, filter: &Filter) -> Result<Vec<StoredIncident>, StoreError> {
        let mut found = Vec::new();
        self.for_each(filter, |incident| {
            found.push(incident);
            true
        })?;
        Ok(found)
    }

    /// As [`Reader::incidents`], one by one, for an export that need not fit into memory. `take` says whether to
    /// go on.
    pub fn for_each(&self, filter: &Filter, mut take: impl FnMut(StoredIncident) -> bool) -> Result<(), StoreError> {
        let state = filter.state.map(|s| match s {
            IncidentState::Open => "open",
            IncidentState::Closed => "closed",
        });
        self.with(|conn, path| {
            let restrict: [&dyn ToSql; 6] = [
                &filter.camera,
                &filter.class,
                &filter.since.map(Wall::unix_ms),
                &filter.until.map(Wall::unix_ms),
                &state,
                &filter.limit.map_or(-1, i64::from),
            ];
            each(
                conn,
                path,
                "WHERE (?1 IS NULL OR i.camera = ?1) AND (?2 IS NULL OR i.class = ?2)
                   AND (?3 IS NULL OR i.end_ms >= ?3) AND (?4 IS NULL OR i.start_ms < ?4)
                   AND (?5 IS NULL OR i.state = ?5)
                 ORDER BY i.start_ms DESC, i.id DESC LIMIT ?6",
                &restrict,
                &mut take,
            )
        })
    }

    /// One incident with its alerts; none if the store does not know it.
    pub fn incident(&self, id: Uuid) -> Result<Option<IncidentDetail>, StoreError> {
        self.with(|conn, path| {
            let Some(incident) = load(conn, path, id)? else { return Ok(None) };
            let fail = sql("read an incident's alerts", path);
            let seqs: Vec<i64> = conn
                .prepare_cached("SELECT seq FROM outbox WHERE incident = ?1 ORDER BY seq")
                .and_then(|mut s| s.query_map([id.to_string()], |r| r.get(0))?.collect())
                .map_err(fail)?;
            let mut alerts = Vec::new();
            for seq in seqs {
                let seq = seq as u64;
                alerts.extend(outbox::rows(conn, path, (seq, seq), false, 1)?.into_iter().filter_map(|row| {
                    let kind = row.dispatch.alert()?.kind;
                    Some(QueuedAlert { seq: row.seq, kind, queued_unix_ms: row.queued, attempts: row.attempts })
                }));
            }
            let (verdict, upload) = (commands::verdict(conn, path, id)?, uploads::stored(conn, path, id)?);
            Ok(Some(IncidentDetail { incident, verdict, upload, alerts }))
        })
    }

    /// The clips that were begun and are not done: being recorded, or given up. What to do about those of an earlier
    /// run is `clip::recovery`'s to say.
    pub fn unfinished_clips(&self) -> Result<Vec<UnfinishedClip>, StoreError> {
        self.with(|conn, path| {
            let fail = sql("read unfinished clips", path);
            let mut statement = conn
                .prepare_cached(
                    "SELECT i.id, i.camera, c.path, i.start_ms, c.state = 'lost' FROM clips c
                     JOIN incidents i ON i.id = c.incident
                     WHERE c.state IN ('recording', 'lost') AND c.path IS NOT NULL ORDER BY i.start_ms",
                )
                .map_err(fail)?;
            let rows = statement
                .query_map([], |r| Ok((r.get::<_, String>(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?)))
                .map_err(fail)?;
            rows.map(|row| {
                let (id, camera, file, start, lost) = row.map_err(fail)?;
                let incident_start = Wall::from_unix_ms(start);
                Ok(UnfinishedClip { incident: uuid(path, &id)?, camera, path: file, incident_start, lost })
            })
            .collect()
        })
    }

    /// The newest entries of the audit trail, newest first.
    pub fn audit(&self, limit: u32) -> Result<Vec<AuditEntry>, StoreError> {
        self.with(|conn, path| {
            conn.prepare_cached("SELECT at_ms, who, what FROM audit ORDER BY id DESC LIMIT ?1")
                .and_then(|mut s| {
                    s.query_map([limit], |r| {
                        Ok(AuditEntry { at_unix_ms: Wall::from_unix_ms(r.get(0)?), who: r.get(1)?, what: r.get(2)? })
                    })?
                    .collect()
                })
                .map_err(sql("read the audit trail", path))
        })
    }

    /// Runs a query on an idle connection, or on a new one.
    pub(super) fn with<T>(
        &self,
        query: impl FnOnce(&Connection, &Path) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let idle = self.idle().pop();
        let conn = match idle {
            Some(conn) => conn,
            None => schema::open_reader(&self.0.path)?,
        };
        // A connection that failed is closed with its error, not used again.
        let result = query(&conn, &self.0.path).inspect_err(|e| {
            if e.is_corruption() {
                self.0.damage.set(e.clone()).ok();
            }
        })?;
        let mut idle = self.idle();
        if idle.len() < IDLE_CONNECTIONS {
            idle.push(conn);
        }
        Ok(result)
    }

    /// What a query met that says that the database is damaged.
    pub(super) fn damage(&self) -> Option<StoreError> {
        self.0.damage.get().cloned()
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.0.idle.lock().expect("nothing panics under this lock")
    }
}

/// One incident with its clip.
pub(super) fn load(conn: &Connection, path: &Path, id: Uuid) -> Result<Option<StoredIncident>, StoreError> {
    let mut found = None;
    each(conn, path, "WHERE i.id = ?1", params![id.to_string()], &mut |incident| {
        found = Some(incident);
        false
    })?;
    Ok(found)
}

/// A text column that holds an incident's id.
pub(super) fn uuid(path: &Path, text: &str) -> Result<Uuid, StoreError> {
    text.parse().map_err(|_| StoreError::Corrupt {
        path: path.to_owned(),
        detail: format!("{text:?} stands where an incident's id should"),
    })
}

const COLUMNS: &str = "i.id, i.site, i.device, i.camera, i.source, i.state, i.close_reason, i.class, i.start_ms,
    i.end_ms, i.peak_ms, i.peak_score, i.scores, i.threshold, i.windows, i.model,
    c.state, c.planned_start_ms, c.start_ms, c.event_offset_ms, c.duration_ms, c.path, c.size_bytes, c.sha256,
    c.peak_jpeg_path, c.lost_because, i.peak_fps, i.clock, u.url, i.later_model";

fn each(
    conn: &Connection,
    path: &Path,
    restrict: &str,
    values: &[&dyn ToSql],
    take: &mut dyn FnMut(StoredIncident) -> bool,
) -> Result<(), StoreError> {
    let fail = sql("read incidents", path);
    let mut statement = conn
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM incidents i LEFT JOIN clips c ON c.incident = i.id
             LEFT JOIN uploads u ON u.incident = i.id AND u.state = 'done' {restrict}"
        ))
        .map_err(fail)?;
    let mut rows = statement.query(values).map_err(fail)?;
    while let Some(row) = rows.next().map_err(fail)? {
        let raw = RawIncident::read(row).map_err(fail)?;
        if !take(raw.validate(path)?) {
            break;
        }
    }
    Ok(())
}

/// A row before its text columns are parsed.
struct RawIncident {
    id: String,
    scores: String,
    model: Option<String>,
    later_model: Option<String>,
    clock: Option<String>,
    stored: StoredIncident,
}

impl RawIncident {
    fn read(r: &Row<'_>) -> rusqlite::Result<RawIncident> {
        let wall = |column| r.get(column).map(Wall::from_unix_ms);
        let label = |column| r.get::<_, Option<i64>>(column).map(|ms| ms.map(Wall::from_unix_ms));
        let (start, end) = (wall(8)?, wall(9)?);
        let close_reason: Option<String> = r.get(6)?;
        let closed = r.get_ref(5)?.as_str()? == "closed";
        let clip_state = match r.get::<_, Option<String>>(16)?.as_deref() {
            None => None,
            Some("planned") => Some(ClipState::Planned),
            Some("recording") => Some(ClipState::Recording),
            Some("done") => Some(ClipState::Done),
            Some("expired") => Some(ClipState::Expired),
            // The schema's CHECK leaves nothing else.
            Some(_) => Some(ClipState::Lost),
        };
        let clip = match clip_state {
            None => None,
            Some(state) => Some(StoredClip {
                state,
                start_unix_ms: label(18)?,
                report: ClipReport {
                    peak_url: None,
                    thumbnail: None,
                    planned_start: label(17)?.map(Wall::rfc3339),
                    start: label(18)?.map(Wall::rfc3339),
                    duration_ms: r.get::<_, Option<i64>>(20)?.map(|ms| ms as u64),
                    event_offset_ms: r.get(19)?,
                    path: r.get(21)?,
                    size_bytes: r.get::<_, Option<i64>>(22)?.map(|b| b as u64),
                    sha256: r.get(23)?,
                    peak_jpeg_path: r.get(24)?,
                    lost_because: r.get(25)?,
                    url: r.get(28)?,
                },
            }),
        };
        let report = IncidentReport {
            id: Uuid::nil(),
            site: r.get(1)?,
            device: r.get(2)?,
            camera: r.get(3)?,
            test: r.get_ref(4)?.as_str()? == "test",
            class: r.get(7)?,
            start_time: start.rfc3339(),
            end_time: closed.then(|| end.rfc3339()),
            peak_score: r.get(11)?,
            peak_fps: r.get(26)?,
            peak_time: wall(10)?.rfc3339(),
            scores: Default::default(),
            threshold: r.get(13)?,
            close_reason,
            model: None,
            later_model: None,
        };
        let stored = StoredIncident {
            report,
            state: if closed { IncidentState::Closed } else { IncidentState::Open },
            start_unix_ms: start,
            end_unix_ms: end,
            windows: r.get(14)?,
            clock: None,
            clip,
        };
        Ok(RawIncident {
            id: r.get(0)?,
            scores: r.get(12)?,
            model: r.get(15)?,
            later_model: r.get(29)?,
            clock: r.get(27)?,
            stored,
        })
    }

    fn validate(self, path: &Path) -> Result<StoredIncident, StoreError> {
        let malformed = |what| move |e| StoreError::Malformed { path: path.to_owned(), what, source: Arc::new(e) };
        let mut stored = self.stored;
        stored.report.id = uuid(path, &self.id)?;
        stored.report.scores = serde_json::from_str(&self.scores).map_err(malformed("scores"))?;
        let model = |text: Option<String>| text.as_deref().map(serde_json::from_str).transpose();
        stored.report.model = model(self.model).map_err(malformed("a model"))?;
        stored.report.later_model = model(self.later_model).map_err(malformed("a model"))?;
        stored.clock = self.clock.as_deref().map(serde_json::from_str).transpose().map_err(malformed("a clock"))?;
        Ok(stored)
    }
}

/// How many rows a table has; for the check's report.
pub(super) fn count(conn: &Connection, path: &Path, table: &'static str) -> Result<u64, StoreError> {
    conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |r| r.get::<_, i64>(0))
        .optional()
        .map(|n| n.unwrap_or(0) as u64)
        .map_err(sql("count rows", path))
}
