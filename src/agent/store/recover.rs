//! What a killed daemon left open is closed, and said so: at the next start, and by `store check` with repair.
//!
//! A clip that was never begun is lost. One that was being written has a file: what becomes of it is
//! `clip::recovery`'s to find out.

use uuid::Uuid;

use crate::base::clock::Wall;
use crate::contract::alert::AlertKind;

use super::StoreError;
use super::apply::Apply;
use super::error::sql;
use super::volatile;

/// `close_reason` of an incident whose daemon was killed.
const INTERRUPTED: &str = "interrupted";

/// What was found open.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Interrupted {
    pub incidents: Vec<Uuid>,
    pub clips: Vec<Uuid>,
}

impl Interrupted {
    pub(super) fn is_empty(&self) -> bool {
        self.incidents.is_empty() && self.clips.is_empty()
    }
}

/// Closes them, in the caller's transaction, with their alerts. No daemon may run.
pub(super) fn interrupted(apply: &mut Apply<'_>) -> Result<Interrupted, StoreError> {
    let (conn, path) = (apply.conn(), apply.path());
    let fail = sql("close what an earlier run left open", path);
    let mut found = Interrupted::default();

    let open: Vec<(String, i64)> = conn
        .prepare("SELECT id, end_ms FROM incidents WHERE state = 'open' ORDER BY id")
        .and_then(|mut s| s.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect())
        .map_err(fail)?;
    for (id, end_ms) in open {
        conn.execute("UPDATE incidents SET state = 'closed', close_reason = ?2 WHERE id = ?1", [&id, INTERRUPTED])
            .map_err(fail)?;
        let id = super::reader::uuid(path, &id)?;
        let end = Wall::from_unix_ms(end_ms);
        // Its end may have gone out from memory, while the disk failed: it is the same message.
        apply.alert_as(volatile::message_id(id, AlertKind::Closed, end), AlertKind::Closed, id, end)?;
        found.incidents.push(id);
    }

    let unfinished: Vec<String> = conn
        .prepare("SELECT incident FROM clips WHERE state = 'planned' ORDER BY incident")
        .and_then(|mut s| s.query_map([], |r| r.get(0))?.collect())
        .map_err(fail)?;
    for id in unfinished {
        let id = super::reader::uuid(path, &id)?;
        apply.clip_lost(id, "the daemon was killed before the clip was begun")?;
        found.clips.push(id);
    }
    Ok(found)
}
