//! Which clips are to leave the device, how far each has come, and where it went: the rows that a power cut leaves
//! behind for the upload to go on by. What is sent, when and how is decided in `upload`.
//!
//! ```text
//!     request ─► queued ─begin─► uploading ─done─► done, with its clip_uploaded alert in the same transaction
//!                   └────────────┴─ given up, or the clip was deleted ─► failed ─ request ─► queued
//! ```
//!
//! Only a clip that is done is sent; one that is still to be made waits in `queued`. A deleted clip's row is failed in
//! the transaction that records its deletion.

use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::apply::Apply;
use super::error::sql;
use super::order::Order;
use super::reader::{self, ClipState, Reader};
use super::{Store, StoreError};
use crate::base::clock::Wall;
use crate::contract::alert::AlertKind;
pub use crate::contract::result::{UploadReport as StoredUpload, UploadState};

/// A clip that waits to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingUpload {
    /// Its incident.
    pub incident: Uuid,
    /// Its file, below the state directory.
    pub path: String,
    /// Size of the file.
    pub size_bytes: u64,
    /// SHA-256 of the file.
    pub sha256: String,
    /// What a server has of it.
    pub parts: Option<PartsSent>,
}

/// The parts of a file that a server has, under an upload that is not complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartsSent {
    /// Where they are: another target knows nothing of them.
    pub url: String,
    /// The upload, as the server calls it.
    pub id: String,
    /// Size of all of them but the last.
    pub part_bytes: usize,
    /// The server's word for each part that it has, in order.
    pub done: Vec<String>,
}

/// How many uploads are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UploadCounts {
    /// Queued or begun.
    pub pending: u64,
    /// Done.
    pub done: u64,
    /// Given up.
    pub failed: u64,
}

/// Who asks for the clips that leave by policy.
pub const BY_POLICY: &str = "policy";

/// A step of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum UploadStep {
    Request { who: String },
    Begun,
    Parts(Option<PartsSent>),
    Trouble { why: String, give_up: bool },
    Done { url: String },
}

impl Store {
    /// Has a clip sent, for `who`. One that is not made yet is sent when it is; one that was sent stays sent; one that
    /// was given up is tried again. Blocks until committed.
    pub fn request_upload(&self, incident: Uuid, who: &str) -> Result<(), StoreError> {
        self.upload("queue a clip for upload", incident, UploadStep::Request { who: who.to_owned() })
    }

    /// The upload of a clip begins, or goes on.
    pub fn upload_begun(&self, incident: Uuid) -> Result<(), StoreError> {
        self.upload("record that an upload begins", incident, UploadStep::Begun)
    }

    /// What a server has of a clip; none: nothing that is worth going on with.
    pub fn upload_parts(&self, incident: Uuid, parts: Option<PartsSent>) -> Result<(), StoreError> {
        self.upload("record the parts of an upload", incident, UploadStep::Parts(parts))
    }

    /// It went wrong, for now or for good.
    pub fn upload_trouble(&self, incident: Uuid, why: &str, give_up: bool) -> Result<(), StoreError> {
        self.upload(
            "record what is wrong with an upload",
            incident,
            UploadStep::Trouble { why: why.to_owned(), give_up },
        )
    }

    /// A clip is at `url`, whole: with its `clip_uploaded` alert.
    pub fn upload_done(&self, incident: Uuid, url: &str) -> Result<(), StoreError> {
        self.upload("record that a clip is uploaded", incident, UploadStep::Done { url: url.to_owned() })
    }

    fn upload(&self, operation: &'static str, incident: Uuid, step: UploadStep) -> Result<(), StoreError> {
        self.ask(operation, Order::Upload { incident, step })
    }
}

impl Reader {
    /// What became of a clip's upload; none if nobody asked for one.
    pub fn upload(&self, incident: Uuid) -> Result<Option<StoredUpload>, StoreError> {
        self.with(|conn, path| stored(conn, path, incident))
    }

    /// Clips that are done and wait to be sent, those asked for first, then the oldest.
    pub fn pending_uploads(&self, limit: u32) -> Result<Vec<PendingUpload>, StoreError> {
        self.rows_to_send(
            "u.state IN ('queued', 'uploading') AND c.state = 'done'
             ORDER BY u.requested_by = 'policy', u.requested_ms, u.incident",
            limit,
        )
    }

    /// Uploads that were given up while a server had parts of them.
    pub fn abandoned_uploads(&self, limit: u32) -> Result<Vec<PendingUpload>, StoreError> {
        self.rows_to_send("u.state = 'failed' AND u.parts IS NOT NULL ORDER BY u.incident", limit)
    }

    /// Clips that are done and that nobody has asked for, the oldest first.
    pub fn clips_not_asked_for(&self, limit: u32) -> Result<Vec<Uuid>, StoreError> {
        self.with(|conn, path| {
            let ids: Vec<String> = conn
                .prepare_cached(
                    "SELECT c.incident FROM clips c
                     WHERE c.state = 'done' AND NOT EXISTS (SELECT 1 FROM uploads u WHERE u.incident = c.incident)
                     ORDER BY c.incident LIMIT ?1",
                )
                .and_then(|mut s| s.query_map([limit], |r| r.get(0))?.collect())
                .map_err(sql("look for clips to upload", path))?;
            ids.iter().map(|id| reader::uuid(path, id)).collect()
        })
    }

    /// How many uploads are in which state.
    pub fn upload_counts(&self) -> Result<UploadCounts, StoreError> {
        self.with(|conn, path| {
            conn.query_row(
                "SELECT count(*) FILTER (WHERE state IN ('queued', 'uploading')), count(*) FILTER (WHERE state = 'done'),
                        count(*) FILTER (WHERE state = 'failed') FROM uploads",
                [],
                |r| {
                    let count = |column| r.get::<_, i64>(column).map(|n| n as u64);
                    Ok(UploadCounts { pending: count(0)?, done: count(1)?, failed: count(2)? })
                },
            )
            .map_err(sql("count uploads", path))
        })
    }

    fn rows_to_send(&self, restrict: &str, limit: u32) -> Result<Vec<PendingUpload>, StoreError> {
        self.with(|conn, path| {
            let fail = sql("read what is to be uploaded", path);
            let query = format!(
                "SELECT u.incident, c.path, c.size_bytes, c.sha256, u.parts
                 FROM uploads u JOIN clips c ON c.incident = u.incident WHERE {restrict} LIMIT ?1"
            );
            let mut statement = conn.prepare_cached(&query).map_err(fail)?;
            let rows = statement
                .query_map([limit], |r| {
                    let pending = PendingUpload {
                        incident: Uuid::nil(),
                        path: r.get::<_, Option<String>>(1)?.unwrap_or_default(),
                        size_bytes: r.get::<_, Option<i64>>(2)?.unwrap_or_default() as u64,
                        sha256: r.get::<_, Option<String>>(3)?.unwrap_or_default(),
                        parts: None,
                    };
                    Ok((r.get::<_, String>(0)?, pending, r.get::<_, Option<String>>(4)?))
                })
                .map_err(fail)?;
            rows.map(|row| {
                let (id, pending, parts) = row.map_err(fail)?;
                let malformed = |e| StoreError::Malformed {
                    path: path.to_owned(),
                    what: "the parts of an upload",
                    source: Arc::new(e),
                };
                let parts = parts.as_deref().map(serde_json::from_str).transpose().map_err(malformed)?;
                Ok(PendingUpload { incident: reader::uuid(path, &id)?, parts, ..pending })
            })
            .collect()
        })
    }
}

/// Fails what is left to do of a clip that is gone, in the transaction that says so.
pub(super) fn clip_is_gone(conn: &Connection, path: &Path, incident: Uuid, because: &str) -> Result<(), StoreError> {
    conn.prepare_cached(
        "UPDATE uploads SET state = 'failed', error = ?2 WHERE incident = ?1 AND state IN ('queued', 'uploading')",
    )
    .and_then(|mut s| s.execute(params![incident.to_string(), format!("its clip is gone: {because}")]))
    .map(|_| ())
    .map_err(sql("give an upload up", path))
}

pub(super) fn stored(conn: &Connection, path: &Path, incident: Uuid) -> Result<Option<StoredUpload>, StoreError> {
    conn.prepare_cached(
        "SELECT state, requested_by, requested_ms, attempts, url, done_ms, error FROM uploads WHERE incident = ?1",
    )
    .and_then(|mut s| {
        s.query_row([incident.to_string()], |r| {
            let requested = Wall::from_unix_ms(r.get(2)?);
            let done = r.get::<_, Option<i64>>(5)?.map(Wall::from_unix_ms);
            Ok(StoredUpload {
                state: match r.get_ref(0)?.as_str()? {
                    "queued" => UploadState::Queued,
                    "uploading" => UploadState::Uploading,
                    "done" => UploadState::Done,
                    // The schema's CHECK leaves nothing else.
                    _ => UploadState::Failed,
                },
                requested_by: r.get(1)?,
                requested_unix_ms: requested,
                requested_at: requested.rfc3339(),
                attempts: r.get(3)?,
                url: r.get(4)?,
                done_unix_ms: done,
                done_at: done.map(Wall::rfc3339),
                error: r.get(6)?,
            })
        })
        .optional()
    })
    .map_err(sql("read an upload", path))
}

impl Apply<'_> {
    /// One step of an upload. A step that comes twice, or too late, changes nothing and says nothing.
    pub(super) fn upload(&mut self, incident: Uuid, step: &UploadStep) -> Result<(), StoreError> {
        let (id, now) = (incident.to_string(), self.now().unix_ms());
        let fail = sql("record an upload", self.path());
        let unfinished = "incident = ?1 AND state IN ('queued', 'uploading')";
        match step {
            UploadStep::Request { who } => {
                let stored = self.known(incident)?;
                if let Some(found) = match stored.clip.map(|c| c.state) {
                    None => Some("none: it was never planned"),
                    Some(state @ (ClipState::Lost | ClipState::Expired)) => Some(state.as_str()),
                    Some(_) => None,
                } {
                    return Err(StoreError::ClipState { incident, found });
                }
                self.conn()
                    .execute(
                        "INSERT INTO uploads (incident, state, requested_by, requested_ms) VALUES (?1, 'queued', ?2, ?3)
                         ON CONFLICT (incident) DO UPDATE SET state = 'queued', requested_by = excluded.requested_by,
                             requested_ms = excluded.requested_ms, error = NULL
                         WHERE state = 'failed' OR (state = 'queued' AND requested_by = 'policy')",
                        params![id, who, now],
                    )
                    .map_err(fail)?;
            }
            UploadStep::Begun => {
                let query =
                    format!("UPDATE uploads SET state = 'uploading', attempts = attempts + 1 WHERE {unfinished}");
                self.conn().execute(&query, [id]).map_err(fail)?;
            }
            UploadStep::Parts(parts) => {
                let json =
                    parts.as_ref().map(serde_json::to_string).transpose().map_err(|e| StoreError::Malformed {
                        path: self.path().to_owned(),
                        what: "the parts of an upload",
                        source: Arc::new(e),
                    })?;
                self.conn()
                    .execute("UPDATE uploads SET parts = ?2 WHERE incident = ?1 AND state != 'done'", params![id, json])
                    .map_err(fail)?;
            }
            UploadStep::Trouble { why, give_up } => {
                let state = if *give_up { "failed" } else { "uploading" };
                let query = format!("UPDATE uploads SET state = ?2, error = ?3 WHERE {unfinished}");
                self.conn().execute(&query, params![id, state, why]).map_err(fail)?;
            }
            UploadStep::Done { url } => {
                let changed = self
                    .conn()
                    .execute(
                        "UPDATE uploads SET state = 'done', url = ?2, done_ms = ?3, parts = NULL, error = NULL
                         WHERE incident = ?1 AND state != 'done'",
                        params![id, url, now],
                    )
                    .map_err(fail)?;
                if changed > 0 {
                    let at = self.now();
                    self.alert(AlertKind::ClipUploaded, incident, at)?;
                }
            }
        }
        Ok(())
    }
}
