//! The SQL of each order, within the writer's transaction. Every change of an incident or a clip that others must
//! hear of writes its alert here too, so that one cannot be without the other.
//!
//! Orders may come twice (a caller that timed out asks again): the second time changes nothing and says nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, params};
use uuid::Uuid;

use crate::agent::incident::{Incident, new_id};
use crate::base::clock::{Clock, Wall};
use crate::contract::alert::{Alert, AlertKind, ModelRef};
use crate::contract::outbox::Dispatch;

use super::error::sql;
use super::order::{ClipDone, ClipIntent, ClipRecording, IncidentRecord, Order, Times};
use super::reader::{self, ClipState, StoredIncident};
use super::{DeviceContext, OutboxPolicy, StoreError, outbox, uploads, volatile};

/// Carries orders out on one open transaction or savepoint.
pub(super) struct Apply<'a> {
    conn: &'a Connection,
    path: &'a Path,
    context: &'a DeviceContext,
    clock: &'a dyn Clock,
    newest: Option<u64>,
}

impl<'a> Apply<'a> {
    pub(super) fn new(conn: &'a Connection, path: &'a Path, context: &'a DeviceContext, clock: &'a dyn Clock) -> Self {
        Apply { conn, path, context, clock, newest: None }
    }

    /// Sequence number of the last alert written, if any was.
    pub(super) fn newest(&self) -> Option<u64> {
        self.newest
    }

    pub(super) fn conn(&self) -> &'a Connection {
        self.conn
    }

    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    pub(super) fn now(&self) -> Wall {
        self.clock.wall()
    }

    /// Carries out one order.
    pub(super) fn order(&mut self, order: &Order) -> Result<(), StoreError> {
        match order {
            Order::Record(record) => self.record(record),
            Order::ClipRecording(clip) => self.clip_recording(clip),
            Order::ClipDone(clip) => self.clip_done(clip),
            Order::ClipLost { incident, because } => self.clip_lost(*incident, because),
            Order::Upload { incident, step } => self.upload(*incident, step),
            Order::Sent(seqs) => outbox::mark_sent(self.conn, self.path, &self.context.outbox, seqs, self.clock.wall()),
            Order::Confirm { consumer, seq } => {
                outbox::confirm(self.conn, self.path, &self.context.outbox, consumer, *seq)
            }
            Order::Audit(entry) => self
                .conn
                .execute(
                    "INSERT INTO audit (at_ms, who, what) VALUES (?1, ?2, ?3)",
                    params![entry.at_unix_ms.unix_ms(), entry.who, entry.what],
                )
                .map(|_| ())
                .map_err(sql("write the audit trail", self.path)),
            Order::Trouble { camera, trouble, found } => self.trouble(camera.as_deref(), *trouble, found.clone()),
            Order::Update(report) => self.update(report),
            Order::Command(row) => self.command(row),
            Order::CommandsSaid(said) => self.commands_said(said),
            Order::Verdict(verdict) => self.verdict(verdict),
            Order::Resend { from, to } => outbox::resend(self.conn, self.path, (*from, *to)),
            Order::Flush => Ok(()),
        }
    }

    fn record(&mut self, record: &IncidentRecord) -> Result<(), StoreError> {
        let (incident, (kind, reason)) = (record.transition.incident(), volatile::kind_of(&record.transition));
        let known = reader::load(self.conn, self.path, incident.id)?;
        if known.is_some() && kind == AlertKind::Opened {
            return Ok(());
        }
        if !self.put_incident(incident, &record.times, reason)? {
            return Ok(());
        }
        let lost = kind == AlertKind::Opened && self.intend_clip(incident.id, &record.clip)?;
        self.alert_as(volatile::message_of(record), kind, incident.id, record.times.event)?;
        if lost { self.alert(AlertKind::ClipLost, incident.id, record.times.event) } else { Ok(()) }
    }

    /// Inserts or updates the row. False if the incident was closed before: a late word about it changes nothing.
    /// One that the store never saw open (its opening was refused) is inserted whole.
    fn put_incident(&self, i: &Incident, times: &Times, reason: Option<&str>) -> Result<bool, StoreError> {
        let malformed = |what| move |e| StoreError::Malformed { path: self.path.to_owned(), what, source: Arc::new(e) };
        let scores = serde_json::to_string(&i.peak_scores).map_err(malformed("scores"))?;
        let text = |model: &Option<ModelRef>| model.as_ref().map(serde_json::to_string).transpose();
        let model = text(&i.model).map_err(malformed("a model"))?;
        let later_model = text(&i.later_model).map_err(malformed("a model"))?;
        let clock = serde_json::to_string(&times.clock).map_err(malformed("a clock"))?;
        let changed = self
            .conn
            .prepare_cached(
                "INSERT INTO incidents (id, site, device, camera, source, state, close_reason, class, start_ms, end_ms,
                                        peak_ms, peak_score, scores, threshold, windows, model, peak_fps, clock,
                                        later_model)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)
                 ON CONFLICT (id) DO UPDATE SET
                     state = excluded.state, close_reason = excluded.close_reason, class = excluded.class,
                     end_ms = excluded.end_ms, peak_ms = excluded.peak_ms, peak_score = excluded.peak_score,
                     scores = excluded.scores, threshold = excluded.threshold, windows = excluded.windows,
                     peak_fps = excluded.peak_fps, later_model = excluded.later_model
                 WHERE state = 'open'",
            )
            .and_then(|mut s| {
                s.execute(params![
                    i.id.to_string(),
                    self.context.site,
                    self.context.device,
                    &*i.camera.0,
                    i.source.as_str(),
                    if reason.is_some() { "closed" } else { "open" },
                    reason,
                    i.class,
                    times.start.unix_ms(),
                    times.end.unix_ms(),
                    times.peak.unix_ms(),
                    i.peak_score,
                    scores,
                    i.threshold,
                    i.windows,
                    model,
                    (i.peak_fps > 0.0).then_some(i.peak_fps),
                    clock,
                    later_model,
                ])
            })
            .map_err(sql("record an incident", self.path))?;
        Ok(changed > 0)
    }

    /// Writes the clip row of a new incident; true if its clip is lost already.
    fn intend_clip(&self, incident: Uuid, intent: &ClipIntent) -> Result<bool, StoreError> {
        let (state, planned_start, because) = match intent {
            ClipIntent::None => return Ok(false),
            ClipIntent::Planned { start } => (ClipState::Planned, Some(start.unix_ms()), None),
            ClipIntent::Lost { because } => (ClipState::Lost, None, Some(because)),
        };
        self.conn
            .execute(
                "INSERT INTO clips (incident, state, planned_start_ms, lost_because) VALUES (?1, ?2, ?3, ?4)",
                params![incident.to_string(), state.as_str(), planned_start, because],
            )
            .map_err(sql("record a planned clip", self.path))?;
        Ok(state == ClipState::Lost)
    }

    fn clip_recording(&self, clip: &ClipRecording) -> Result<(), StoreError> {
        self.known(clip.incident)?;
        let changed = self
            .conn
            .execute(
                "INSERT INTO clips (incident, state, path) VALUES (?1, 'recording', ?2)
                 ON CONFLICT (incident) DO UPDATE SET state = 'recording', path = excluded.path
                 WHERE state IN ('planned', 'recording')",
                params![clip.incident.to_string(), clip.path],
            )
            .map_err(sql("record that a clip begins", self.path))?;
        if changed == 0 { Err(self.settled(clip.incident)?) } else { Ok(()) }
    }

    fn clip_done(&mut self, clip: &ClipDone) -> Result<(), StoreError> {
        let stored = self.known(clip.incident)?;
        if stored.clip.as_ref().is_some_and(|c| matches!(c.state, ClipState::Done | ClipState::Expired)) {
            return Ok(());
        }
        // One given up too early is welcome back: footage that exists is worth more than a tidy history.
        let changed = self
            .conn
            .execute(
                "UPDATE clips SET state = 'done', duration_ms = ?2, size_bytes = ?3, sha256 = ?4, peak_jpeg_path = ?5,
                                  start_ms = ?6, event_offset_ms = ?7, lost_because = NULL, aged_from_ms = ?8,
                                  made_ran_ms = (SELECT ms FROM running)
                 WHERE incident = ?1 AND state IN ('recording', 'lost') AND path IS NOT NULL",
                params![
                    clip.incident.to_string(),
                    clip.duration_ms as i64,
                    clip.size_bytes as i64,
                    clip.sha256,
                    clip.peak_jpeg_path,
                    clip.start.unix_ms(),
                    clip.event_offset_ms,
                    (self.context.clock_state)().synchronised.then(|| self.clock.wall().unix_ms()),
                ],
            )
            .map_err(sql("record that a clip is done", self.path))?;
        if changed == 0 {
            return Err(self.settled(clip.incident)?);
        }
        let until = clip.start + Duration::from_millis(clip.duration_ms);
        let mut alert = self.alert_of(new_id(self.clock.wall()), AlertKind::ClipReady, clip.incident, until)?;
        if let Some(report) = &mut alert.clip {
            report.thumbnail.clone_from(&clip.thumbnail);
        }
        self.queue(&alert.into())
    }

    /// See [`super::Store::clip_lost`].
    pub(super) fn clip_lost(&mut self, incident: Uuid, because: &str) -> Result<(), StoreError> {
        let stored = self.known(incident)?;
        let changed = self
            .conn
            .execute(
                "INSERT INTO clips (incident, state, lost_because) VALUES (?1, 'lost', ?2)
                 ON CONFLICT (incident) DO UPDATE SET state = 'lost', lost_because = excluded.lost_because
                 WHERE state IN ('planned', 'recording')",
                params![incident.to_string(), because],
            )
            .map_err(sql("record that a clip is lost", self.path))?;
        if changed == 0 {
            return Ok(());
        }
        uploads::clip_is_gone(self.conn, self.path, incident, because)?;
        self.alert(AlertKind::ClipLost, incident, stored.end_unix_ms)
    }

    /// Marks a clip that was done as lost: its file is gone or is no longer what it was.
    pub(super) fn clip_gone(&mut self, incident: Uuid, because: &str) -> Result<(), StoreError> {
        let stored = self.known(incident)?;
        self.conn
            .execute(
                "UPDATE clips SET state = 'lost', lost_because = ?2 WHERE incident = ?1 AND state = 'done'",
                params![incident.to_string(), because],
            )
            .map_err(sql("record that a clip is gone", self.path))?;
        uploads::clip_is_gone(self.conn, self.path, incident, because)?;
        self.alert(AlertKind::ClipLost, incident, stored.end_unix_ms)
    }

    /// Marks a clip that was done as deleted. Who was told that there is one is told that it is gone, unless all that
    /// was to be told of its incident has been confirmed.
    pub(super) fn clip_expired(&mut self, incident: Uuid, because: &str, delivered: bool) -> Result<(), StoreError> {
        let changed = self
            .conn
            .execute(
                "UPDATE clips SET state = 'expired', lost_because = ?2 WHERE incident = ?1 AND state = 'done'",
                params![incident.to_string(), because],
            )
            .map_err(sql("record that a clip was deleted", self.path))?;
        uploads::clip_is_gone(self.conn, self.path, incident, because)?;
        if changed == 0 || delivered {
            return Ok(());
        }
        let stored = self.known(incident)?;
        self.alert(AlertKind::ClipLost, incident, stored.end_unix_ms)
    }

    /// Queues an alert about an incident as its rows now stand.
    pub(super) fn alert(&mut self, kind: AlertKind, incident: Uuid, event: Wall) -> Result<(), StoreError> {
        self.alert_as(new_id(self.clock.wall()), kind, incident, event)
    }

    pub(super) fn alert_as(
        &mut self,
        id: Uuid,
        kind: AlertKind,
        incident: Uuid,
        event: Wall,
    ) -> Result<(), StoreError> {
        let alert = self.alert_of(id, kind, incident, event)?;
        self.queue(&alert.into())
    }

    fn alert_of(&self, id: Uuid, kind: AlertKind, incident: Uuid, event: Wall) -> Result<Alert, StoreError> {
        let stored = self.known(incident)?;
        let labels = &self.context.labels;
        Ok(Alert {
            id,
            kind,
            event_time_unix_ms: event,
            // All times in it follow from the label that the incident got when it opened.
            clock: stored.clock.unwrap_or_else(|| (self.context.clock_state)()),
            severity: labels.severity(&stored.report.class),
            place: labels.place(Some(&stored.report.camera)),
            incident: stored.report,
            clip: stored.clip.map(|c| c.report),
        })
    }

    /// Puts a message into the outbox, if there is one.
    pub(super) fn queue(&mut self, dispatch: &Dispatch) -> Result<(), StoreError> {
        if self.context.outbox != OutboxPolicy::LocalOnly {
            let queued = (self.clock.wall(), (self.context.clock_state)());
            self.newest = Some(outbox::append(self.conn, self.path, dispatch, queued)?);
        }
        Ok(())
    }

    pub(super) fn context(&self) -> &'a DeviceContext {
        self.context
    }

    pub(super) fn wall(&self) -> Wall {
        self.clock.wall()
    }

    pub(super) fn known(&self, incident: Uuid) -> Result<StoredIncident, StoreError> {
        reader::load(self.conn, self.path, incident)?.ok_or(StoreError::UnknownIncident(incident))
    }

    fn settled(&self, incident: Uuid) -> Result<StoreError, StoreError> {
        let found = self.known(incident)?.clip.map(|c| c.state);
        Ok(StoreError::ClipState { incident, found: found.map_or("not begun", ClipState::as_str) })
    }
}
