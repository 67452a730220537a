//! The history of model releases on this device. A step and its message are one transaction.

use rusqlite::params;

use super::apply::Apply;
use super::error::sql;
use super::order::Order;
use super::reader::Reader;
use super::{Store, StoreError};
use crate::agent::incident::new_id;
use crate::contract::alert::Severity;
use crate::contract::update::{UpdateNotice, UpdateReport, UpdateState};

/// Steps that are kept.
const KEEP_STEPS: i64 = 10_000;

impl Store {
    /// Makes a step of a model release durable, with the message that tells of it. Blocks until committed.
    pub fn update_step(&self, report: UpdateReport) -> Result<(), StoreError> {
        self.ask("record a step of a release", Order::Update(Box::new(report)))
    }
}

impl Apply<'_> {
    pub(super) fn update(&mut self, report: &UpdateReport) -> Result<(), StoreError> {
        let path = self.path();
        let text = serde_json::to_string(report).map_err(|e| StoreError::Malformed {
            path: path.to_owned(),
            what: "a step of a release",
            source: std::sync::Arc::new(e),
        })?;
        self.conn()
            .execute(
                "INSERT INTO updates (offer, release, state, at_ms, report) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    report.id.to_string(),
                    report.release as i64,
                    report.state.as_str(),
                    self.wall().unix_ms(),
                    text
                ],
            )
            .and_then(|_| {
                self.conn().execute(
                    "DELETE FROM updates WHERE seq <= (SELECT max(seq) FROM updates) - ?1 AND state != 'committed'",
                    [KEEP_STEPS],
                )
            })
            .map_err(sql("record a step of a release", path))?;
        let (context, now) = (self.context(), self.wall());
        let severity = match report.state {
            UpdateState::RolledBack | UpdateState::Refused => Severity::Moderate,
            _ => Severity::Minor,
        };
        let notice = UpdateNotice {
            id: new_id(now),
            event_time_unix_ms: now,
            clock: (context.clock_state)(),
            severity,
            place: context.labels.place(None),
            site: context.site.clone(),
            device: context.device.clone(),
            update: report.clone(),
        };
        self.queue(&notice.into())
    }
}

impl Reader {
    /// The newest steps, newest first.
    pub fn updates(&self, limit: u32) -> Result<Vec<UpdateReport>, StoreError> {
        self.with(|conn, path| {
            let rows: Vec<String> = conn
                .prepare_cached("SELECT report FROM updates ORDER BY seq DESC LIMIT ?1")
                .and_then(|mut s| s.query_map([limit], |r| r.get(0))?.collect())
                .map_err(sql("read the history of releases", path))?;
            // One that a later version has written in words of its own is left out.
            Ok(rows.iter().filter_map(|text| serde_json::from_str(text).ok()).collect())
        })
    }

    /// The highest release that was ever committed here, 0 if none was.
    pub fn highest_release(&self) -> Result<u64, StoreError> {
        self.with(|conn, path| {
            conn.query_row("SELECT coalesce(max(release), 0) FROM updates WHERE state = 'committed'", [], |r| {
                r.get::<_, i64>(0)
            })
            .map(|n| n as u64)
            .map_err(sql("read the history of releases", path))
        })
    }

    /// Incidents that a model has seen since `from_ms`, and the time that the device has run, at most since then.
    pub fn incidents_since(&self, from_ms: i64) -> Result<u64, StoreError> {
        self.with(|conn, path| {
            let sql_text = "SELECT count(*) FROM incidents WHERE source = 'classifier' AND start_ms >= ?1";
            conn.query_row(sql_text, [from_ms], |r| r.get::<_, i64>(0))
                .map(|n| n as u64)
                .map_err(sql("count incidents", path))
        })
    }

    /// Milliseconds that the device has run, over all its starts.
    pub fn ran_ms(&self) -> Result<u64, StoreError> {
        self.with(|conn, path| {
            conn.query_row("SELECT coalesce(max(ms), 0) FROM running", [], |r| r.get::<_, i64>(0))
                .map(|n| n as u64)
                .map_err(sql("read for how long the device has run", path))
        })
    }
}
