//! Commands that came over the network: what was asked, how it stands, and whether a broker has been told; and operators'
//! verdicts.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use uuid::Uuid;

use crate::base::clock::Wall;
use crate::contract::command::{CommandReport, CommandState, Verdict};

use super::apply::Apply;
use super::error::sql;
use super::order::Order;
use super::reader::Reader;
use super::{Store, StoreError};

/// The newest commands are remembered, so that one that comes again is known.
const REMEMBERED: i64 = 1_000;

/// A command as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandRow {
    /// The payload as it came; empty if it was not looked at, or was too large to keep of what was rejected.
    pub asked: String,
    /// When it came.
    pub received: Wall,
    /// How it stands.
    pub report: CommandReport,
}

/// An operator's word as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerdictRow {
    /// The incident.
    pub incident: Uuid,
    /// The word.
    pub verdict: Verdict,
    /// In the operator's own words.
    pub words: Option<String>,
    /// Who said it.
    pub who: String,
}

/// The word on an incident, as it stands in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoredVerdict {
    /// The word.
    pub verdict: Verdict,
    /// In the operator's own words.
    pub words: Option<String>,
    /// Who said it.
    pub who: String,
    /// When.
    pub at_unix_ms: Wall,
}

/// Verdicts on the incidents of one camera and class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct VerdictCounts {
    /// Confirmed.
    pub confirmed: u64,
    /// False alarms.
    pub false_alarms: u64,
    /// Neither.
    pub unclear: u64,
}

impl VerdictCounts {
    /// Of those that an operator could judge, the part that was as the alert said; none where nobody judged any.
    pub fn precision(&self) -> Option<f64> {
        let judged = self.confirmed + self.false_alarms;
        (judged > 0).then(|| self.confirmed as f64 / judged as f64)
    }
}

impl Store {
    /// Remembers a command, or how one stands now, and that it is to be said. Blocks until committed.
    pub fn put_command(&self, row: CommandRow) -> Result<(), StoreError> {
        self.ask("record a command", Order::Command(row))
    }

    /// A broker has these, as they stood. Blocks until committed.
    pub fn commands_said(&self, said: Vec<(String, CommandState)>) -> Result<(), StoreError> {
        self.ask("record that a command's status was said", Order::CommandsSaid(said))
    }

    /// Stores an operator's word beside the incident. Blocks until committed.
    pub fn put_verdict(&self, verdict: VerdictRow) -> Result<(), StoreError> {
        self.ask("record a verdict", Order::Verdict(verdict))
    }
}

impl Apply<'_> {
    pub(super) fn command(&self, row: &CommandRow) -> Result<(), StoreError> {
        let fail = sql("record a command", self.path());
        let CommandRow { asked, received, report } = row;
        let result = report.result.as_ref().map(ToString::to_string);
        self.conn()
            .execute(
                "INSERT INTO commands (id, asked, received_ms, state, reason, result, changed_ms, said)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0)
                 ON CONFLICT (id) DO UPDATE SET state = excluded.state, reason = excluded.reason,
                     result = excluded.result, changed_ms = excluded.changed_ms, said = 0",
                params![
                    report.id,
                    asked,
                    received.unix_ms(),
                    report.state.as_str(),
                    report.reason,
                    result,
                    self.wall().unix_ms()
                ],
            )
            .map_err(fail)?;
        self.conn()
            .execute(
                "DELETE FROM commands WHERE state NOT IN ('queued', 'in_progress') AND rowid <=
                     (SELECT rowid FROM commands ORDER BY rowid DESC LIMIT 1 OFFSET ?1)",
                [REMEMBERED],
            )
            .map(|_| ())
            .map_err(fail)
    }

    pub(super) fn commands_said(&self, said: &[(String, CommandState)]) -> Result<(), StoreError> {
        for (id, state) in said {
            self.conn()
                .execute("UPDATE commands SET said = 1 WHERE id = ?1 AND state = ?2", params![id, state.as_str()])
                .map_err(sql("record that a command's status was said", self.path()))?;
        }
        Ok(())
    }

    pub(super) fn verdict(&self, v: &VerdictRow) -> Result<(), StoreError> {
        self.known(v.incident)?;
        self.conn()
            .execute(
                "INSERT INTO verdicts (incident, verdict, words, who, at_ms) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (incident) DO UPDATE SET verdict = excluded.verdict, words = excluded.words,
                     who = excluded.who, at_ms = excluded.at_ms",
                params![v.incident.to_string(), v.verdict.as_str(), v.words, v.who, self.wall().unix_ms()],
            )
            .map(|_| ())
            .map_err(sql("record a verdict", self.path()))
    }
}

impl Reader {
    /// A command by its id.
    pub fn command(&self, id: &str) -> Result<Option<CommandRow>, StoreError> {
        self.with(|conn, path| Ok(select(conn, path, "WHERE id = ?1", params![id])?.pop()))
    }

    /// Commands that were begun and not ended, oldest first.
    pub fn open_commands(&self) -> Result<Vec<CommandRow>, StoreError> {
        self.with(|conn, path| {
            select(conn, path, "WHERE state IN ('queued', 'in_progress') ORDER BY received_ms, rowid", &[])
        })
    }

    /// Statuses that no broker has, at most `limit`.
    pub fn unsaid_commands(&self, limit: usize) -> Result<Vec<CommandReport>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.with(|conn, path| select(conn, path, "WHERE said = 0 LIMIT ?1", params![limit]))?;
        Ok(rows.into_iter().map(|row| row.report).collect())
    }

    /// Verdicts by camera and class, on incidents that began from `since` to before `until`; tests are left out.
    pub fn verdicts(
        &self,
        since: Option<Wall>,
        until: Option<Wall>,
    ) -> Result<BTreeMap<String, BTreeMap<String, VerdictCounts>>, StoreError> {
        self.with(|conn, path| {
            let fail = sql("count verdicts", path);
            let mut statement = conn
                .prepare_cached(
                    "SELECT i.camera, i.class, v.verdict, count(*) FROM verdicts v JOIN incidents i ON i.id = v.incident
                     WHERE i.source != 'test' AND (?1 IS NULL OR i.start_ms >= ?1) AND (?2 IS NULL OR i.start_ms < ?2)
                     GROUP BY 1, 2, 3",
                )
                .map_err(fail)?;
            let mut rows =
                statement.query(params![since.map(Wall::unix_ms), until.map(Wall::unix_ms)]).map_err(fail)?;
            let mut counts: BTreeMap<String, BTreeMap<String, VerdictCounts>> = BTreeMap::new();
            while let Some(row) = rows.next().map_err(fail)? {
                let read = |r: &Row<'_>| Ok((r.get(0)?, r.get(1)?, r.get::<_, String>(2)?, r.get::<_, i64>(3)?));
                let (camera, class, verdict, count) = read(row).map_err(fail)?;
                let of: &mut VerdictCounts = counts.entry(camera).or_default().entry(class).or_default();
                let which = match verdict.as_str() {
                    "confirmed" => &mut of.confirmed,
                    "false_alarm" => &mut of.false_alarms,
                    _ => &mut of.unclear,
                };
                *which = count.max(0) as u64;
            }
            Ok(counts)
        })
    }
}

/// The verdict on an incident.
pub(super) fn verdict(conn: &Connection, path: &Path, incident: Uuid) -> Result<Option<StoredVerdict>, StoreError> {
    conn.query_row("SELECT verdict, words, who, at_ms FROM verdicts WHERE incident = ?1", [incident.to_string()], |r| {
        let word: String = r.get(0)?;
        // The schema's CHECK leaves nothing else.
        let verdict = Verdict::ALL.into_iter().find(|v| v.as_str() == word).unwrap_or(Verdict::Unclear);
        Ok(StoredVerdict { verdict, words: r.get(1)?, who: r.get(2)?, at_unix_ms: Wall::from_unix_ms(r.get(3)?) })
    })
    .optional()
    .map_err(sql("read a verdict", path))
}

fn select(
    conn: &Connection,
    path: &Path,
    restrict: &str,
    values: &[&dyn rusqlite::ToSql],
) -> Result<Vec<CommandRow>, StoreError> {
    let fail = sql("read commands", path);
    let columns = "SELECT id, asked, received_ms, state, reason, result, changed_ms FROM commands";
    let mut statement = conn.prepare_cached(&format!("{columns} {restrict}")).map_err(fail)?;
    let mut rows = statement.query(values).map_err(fail)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().map_err(fail)? {
        let (report, result) = raw(row).map_err(fail)?;
        let malformed =
            |e| StoreError::Malformed { path: path.to_owned(), what: "a command's result", source: Arc::new(e) };
        let result = result.map(|r| serde_json::from_str(&r)).transpose().map_err(malformed)?;
        found.push(CommandRow { report: CommandReport { result, ..report.report }, ..report });
    }
    Ok(found)
}

fn raw(r: &Row<'_>) -> rusqlite::Result<(CommandRow, Option<String>)> {
    let word: String = r.get(3)?;
    let report = CommandReport {
        id: r.get(0)?,
        // The schema's CHECK leaves nothing else.
        state: CommandState::ALL.into_iter().find(|s| s.as_str() == word).unwrap_or(CommandState::Failed),
        reason: r.get(4)?,
        result: None,
        since: Wall::from_unix_ms(r.get(6)?).rfc3339(),
    };
    Ok((CommandRow { asked: r.get(1)?, received: Wall::from_unix_ms(r.get(2)?), report }, r.get(5)?))
}
