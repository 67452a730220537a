//! What a roll-out does next: a pure function of the time, of what is stored and of what was heard.
//!
//! ```text
//!   fold what was heard ─► a gate broke? ── yes ─► stopped: call off whoever is at it
//!                               │ no
//!                               ▼
//!        settled, running: offer (this wave and those before it) ─► all ended? ─► soak ─► next wave ─► ... ─► done
//! ```
//!
//! What does not belong here: sending and storing (`manager`). What is to be sent is said again at every step until it is
//! answered: a manager that was killed between storing and sending sends it after its restart.
//!
//! Invariants: offers go to the present wave and those before it, to devices that are there, at most `at_once` of them at
//! work; none after a broken gate, none while paused. The same input twice gives the same, and no change the second time.

use std::collections::BTreeSet;
use std::time::Duration;

use super::gates::{findings, is_silent};
use super::observe::{Answer, Meter, Observations, Seen, Told};
use super::plan::{DeviceId, draw};
use super::state::{Attempt, CommandKind, End, Hold, How, Phase, Record, Report, Rollout, Standing};
use crate::base::clock::Wall;
use crate::contract::command::CommandState;
use crate::contract::update::UpdateState;

/// How old the gates' figures may be in what is stored.
const FINDINGS_EVERY_S: u64 = 30;
/// How much of a device's counters a crash of the manager may lose.
const COUNTERS_EVERY_S: u64 = 600;

/// A command to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The same at every attempt to send it.
    pub id: String,
    /// To whom.
    pub device: DeviceId,
    /// What.
    pub kind: CommandKind,
    /// Who receives it later refuses it.
    pub until: Wall,
}

/// What a step comes to.
#[derive(Debug, Clone, PartialEq)]
pub struct Next {
    /// The roll-out as it is then: to be stored before anything is sent.
    pub rollout: Rollout,
    /// Devices whose records are others than before.
    pub changed: BTreeSet<DeviceId>,
    /// Whether anything is other than before.
    pub is_news: bool,
    /// What is to be sent, if it was not yet.
    pub commands: Vec<Outgoing>,
    /// It is at its end, and no device that is there has to be called off any more.
    pub settled: bool,
}

/// What to do now.
pub fn step(now: Wall, rollout: &Rollout, seen: &Observations) -> Next {
    let mut work = Step { now, seen, next: rollout.clone() };
    let mut commands = Vec::new();
    // Without a connection nothing is known, and nothing can be said.
    if let Some(watching) = seen.watching_since {
        work.fold();
        work.judge(&rollout.devices);
        if work.next.head.phase == Phase::Running && now >= after(watching, work.next.plan.pace.settle_s) {
            work.go_on();
        }
        if matches!(work.next.head.phase, Phase::Stopped { .. } | Phase::Aborted { .. }) {
            work.call_off();
        }
        commands = work.commands();
    }
    let next = work.next;
    let changed: BTreeSet<_> = next
        .devices
        .iter()
        .filter(|(id, record)| rollout.devices.get(*id) != Some(*record))
        .map(|(id, _)| id.clone())
        .collect();
    let is_there = |id: &DeviceId| seen.devices.get(id).is_some_and(|d| d.online);
    let waited_for = next.devices.iter().any(|(id, r)| r.is_under_way() && (is_there(id) || r.cancel.is_none()));
    let settled = match next.head.phase {
        Phase::Running | Phase::Paused { .. } => false,
        Phase::Done => true,
        Phase::Stopped { .. } | Phase::Aborted { .. } => !waited_for,
    };
    Next { is_news: !changed.is_empty() || next.head != rollout.head, rollout: next, changed, commands, settled }
}

fn after(t: Wall, seconds: u64) -> Wall {
    t + Duration::from_secs(seconds)
}

struct Step<'a> {
    now: Wall,
    seen: &'a Observations,
    next: Rollout,
}

impl Step<'_> {
    /// Takes in what was heard.
    fn fold(&mut self) {
        let open = self.next.head.phase.is_open();
        for (id, seen) in &self.seen.devices {
            if open && !self.next.devices.contains_key(id) {
                let Some(wave) = self.next.plan.wave_of(id) else { continue };
                self.next.devices.insert(id.clone(), Record::new(wave));
            }
            let Some(mut record) = self.next.devices.remove(id) else { continue };
            self.fold_record(id, seen, &mut record);
            self.next.devices.insert(id.clone(), record);
        }
    }

    fn fold_record(&self, id: &DeviceId, seen: &Seen, record: &mut Record) {
        let release = self.next.plan.release;
        let was = record.report.as_ref().map(|r| (r.id, r.state));
        match &seen.told {
            Some(told) if told.release == release => {
                if self.concerns_us(told, record) {
                    take_report(told, record);
                }
            }
            other => notice_indirectly(release, other.as_ref(), seen, record),
        }
        if record.report.is_none() && record.end.is_none() {
            self.take_answers(id, seen, record);
        }
        let moved = record.report.as_ref().map(|r| (r.id, r.state)) != was;
        take_counters(seen, moved, record);
    }

    /// Whether what a device says of the release is of this roll-out. What it says before it was offered is of another: that
    /// counts if it is final, but for a cancellation, which says nothing of the release.
    fn concerns_us(&self, told: &Told, record: &Record) -> bool {
        let ours = told.rollout.as_deref() == Some(self.next.id.as_str());
        let lasting = told.state.is_final() && told.state != UpdateState::Cancelled;
        record.earlier != Some(told.id) && (ours || record.offer.is_some() || lasting)
    }

    /// What a device says to the command itself, as long as it says nothing of the release.
    fn take_answers(&self, id: &DeviceId, seen: &Seen, record: &mut Record) {
        let answer = |kind, number| seen.answers.get(&self.next.command_id(id, kind, number));
        if let Some(cancel) = &record.cancel {
            // It has nothing to call off, or has called it off before it began.
            if answer(CommandKind::CallOff, cancel.number).is_some_and(is_last) {
                record.end = Some(End { how: How::CalledOff, words: None });
            }
            return;
        }
        let pace = &self.next.plan.pace;
        let Some(offer) = record.offer.as_ref().filter(|o| o.number >= pace.attempts) else { return };
        let bad = answer(CommandKind::Offer, offer.number).filter(|a| is_no(a));
        if let Some(Answer { state, reason }) = bad {
            let words = reason.clone().unwrap_or_else(|| state.as_str().to_owned());
            record.end = Some(End { how: How::Rejected, words: Some(words) });
        } else if seen.online && self.now >= offer.until {
            let words = format!("no answer to {} offers", offer.number);
            record.end = Some(End { how: How::NoAnswer, words: Some(words) });
        }
    }

    /// Looks at the gates, and stops at a broken one.
    fn judge(&mut self, before: &std::collections::BTreeMap<DeviceId, Record>) {
        if !self.next.head.phase.is_open() {
            return;
        }
        let findings = findings(self.now, &self.next, self.seen);
        let broken = findings.iter().find(|f| f.broken).cloned();
        let old = self.next.head.findings_at.is_none_or(|at| self.now >= after(at, FINDINGS_EVERY_S));
        if broken.is_some() || old || *before != self.next.devices {
            (self.next.head.findings, self.next.head.findings_at) = (findings, Some(self.now));
        }
        if let Some(finding) = broken {
            self.next.note(self.now, format!("stopped by the gate {}: {finding}", finding.gate.as_str()));
            self.next.head.phase = Phase::Stopped { finding };
            self.next.head.hold = None;
        }
    }

    /// Offers, and goes from wave to wave.
    fn go_on(&mut self) {
        loop {
            let wave = self.next.head.wave;
            // Nobody at all: the broker may have forgotten everybody.
            if self.next.devices.is_empty() {
                self.next.head.hold = Some(Hold::AnyDevice);
                return;
            }
            self.offer();
            self.next.head.hold = self.hold();
            match self.next.head.hold {
                None => {}
                Some(Hold::Soak) => return self.soak(),
                Some(_) => return,
            }
            if wave + 1 >= self.next.plan.waves.len() {
                let committed = self.count(None, |r| r.standing() == Standing::Ended(How::Committed));
                let all = self.next.devices.len();
                self.next.note(self.now, format!("done: {committed} of {all} devices have committed"));
                self.next.head.phase = Phase::Done;
                return;
            }
            self.next.head.wave = wave + 1;
            self.next.head.wave_since = self.now;
            self.next.head.soak_until = None;
            let size = self.count(Some(wave + 1), |_| true);
            self.next.note(self.now, format!("wave {} begins: {size} devices", wave + 2));
        }
    }

    fn soak(&mut self) {
        if self.next.head.soak_until.is_none() {
            let wave = self.next.head.wave;
            let until = after(self.now, self.next.plan.waves[wave].soak_s);
            self.next.head.soak_until = Some(until);
            self.next.note(self.now, format!("wave {} is watched until {}", wave + 1, until.rfc3339()));
        }
    }

    fn count(&self, wave: Option<usize>, is: impl Fn(&Record) -> bool) -> u64 {
        self.next.devices.values().filter(|r| wave.is_none_or(|w| r.wave == w) && is(r)).count() as u64
    }

    fn is_there(&self, id: &DeviceId) -> bool {
        self.seen.devices.get(id).is_some_and(|d| d.online)
    }

    /// Whether a wave waits for a device that is at it.
    fn is_waited_for(&self, id: &DeviceId, record: &Record) -> bool {
        let late = record.offered_at.is_some_and(|at| self.now >= after(at, self.next.plan.pace.end_within_s));
        record.is_under_way() && !late && !is_silent(self.now, &self.next, self.seen, id, record)
    }

    /// What the present wave waits for; none: nothing.
    fn hold(&self) -> Option<Hold> {
        let (head, pace) = (&self.next.head, &self.next.plan.pace);
        let reached = self.next.devices.iter().filter(|(_, r)| r.wave <= head.wave);
        let working = |id: &DeviceId, r: &Record| {
            self.is_waited_for(id, r) || (r.standing() == Standing::Waiting && self.is_there(id))
        };
        let devices = reached.filter(|(id, r)| working(id, r)).count() as u64;
        if devices > 0 {
            return Some(Hold::UnderWay { devices });
        }
        let devices = self.count(Some(head.wave), |r| r.standing() == Standing::Waiting);
        let until = after(head.wave_since, pace.reach_within_s);
        if devices > 0 && self.now < until {
            return Some(Hold::Away { devices, until });
        }
        let members = self.count(Some(head.wave), |r| r.standing() != Standing::Ended(How::Later));
        let committed = self.count(Some(head.wave), |r| r.standing() == Standing::Ended(How::Committed));
        let needed = (members as f64 * pace.quorum).ceil() as u64;
        if committed < needed {
            return Some(Hold::Quorum { committed, needed });
        }
        // Nobody in it, nothing to watch.
        let watched = members == 0 || head.soak_until.is_some_and(|until| self.now >= until);
        (!watched).then_some(Hold::Soak)
    }

    /// Decides who is offered the release, and who is offered it again.
    fn offer(&mut self) {
        let (wave, pace) = (self.next.head.wave, self.next.plan.pace.clone());
        let working = self.next.devices.iter().filter(|(id, r)| self.is_waited_for(id, r)).count() as u64;
        let mut room = pace.at_once.saturating_sub(working);
        let there = self.next.devices.iter().filter(|(id, r)| r.wave <= wave && self.is_there(id));
        let mut turns: Vec<_> = there
            .filter_map(|(id, r)| match r.standing() {
                Standing::Waiting => Some((r.wave, false, draw(&self.next.plan.salt, id), id.clone())),
                Standing::Offered => self.is_due_again(id, r).then(|| (r.wave, true, 0.0, id.clone())),
                Standing::UnderWay(_) | Standing::Ended(_) => None,
            })
            .collect();
        turns.sort_by(|a, b| (a.0, a.2, &a.3).partial_cmp(&(b.0, b.2, &b.3)).unwrap_or(std::cmp::Ordering::Equal));
        for (_, again, _, id) in turns {
            // Whom it is offered again has its place already.
            if !again {
                if room == 0 {
                    continue;
                }
                room -= 1;
            }
            let seen = self.seen.devices.get(&id);
            let Some(record) = self.next.devices.get_mut(&id) else { continue };
            let number = record.offer.as_ref().map_or(0, |o| o.number) + 1;
            record.offer = Some(Attempt { number, at: self.now, until: after(self.now, pace.offer_holds_s) });
            record.offered_at.get_or_insert(self.now);
            if let Some(seen) = seen {
                let told = seen.told.as_ref().filter(|t| t.release == self.next.plan.release && t.state.is_final());
                record.earlier = told.map(|t| t.id).or(record.earlier);
                seen.reading.iter().for_each(|reading| record.before.take(reading));
            }
        }
    }

    /// Whether an offer came to nothing, and another is to be made.
    fn is_due_again(&self, id: &DeviceId, record: &Record) -> bool {
        let Some(offer) = &record.offer else { return false };
        let pace = &self.next.plan.pace;
        let refused = self.answer(id, CommandKind::Offer, offer.number).is_some_and(is_no);
        let over = self.now >= offer.until || (refused && self.now >= after(offer.at, pace.retry_s));
        over && offer.number < pace.attempts
    }

    fn answer(&self, id: &DeviceId, kind: CommandKind, number: u32) -> Option<&Answer> {
        self.seen.devices.get(id)?.answers.get(&self.next.command_id(id, kind, number))
    }

    /// Calls off whoever is at it; again and again while it is there and does not end: an offer may have been on its way.
    fn call_off(&mut self) {
        let pace = self.next.plan.pace.clone();
        let due: Vec<DeviceId> = self
            .next
            .devices
            .iter()
            .filter(|(id, r)| {
                let again = |c: &Attempt| self.is_there(id) && self.now >= after(c.at, pace.retry_s);
                r.is_under_way() && r.cancel.as_ref().is_none_or(again)
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            let Some(record) = self.next.devices.get_mut(&id) else { continue };
            let number = record.cancel.as_ref().map_or(0, |c| c.number) + 1;
            // It outlasts every offer that may still be on its way.
            let until = after(self.now, pace.offer_holds_s + pace.end_within_s);
            record.cancel = Some(Attempt { number, at: self.now, until });
        }
    }

    /// What is stored and not known to have arrived.
    fn commands(&self) -> Vec<Outgoing> {
        let running = self.next.head.phase == Phase::Running;
        let outgoing = self.next.devices.iter().filter_map(|(id, r)| {
            let (kind, attempt) = match (&r.cancel, &r.offer) {
                (Some(cancel), _) if r.is_under_way() => (CommandKind::CallOff, cancel),
                (None, Some(offer)) if running && r.standing() == Standing::Offered => (CommandKind::Offer, offer),
                _ => return None,
            };
            let arrived = self.answer(id, kind, attempt.number).is_some();
            (self.now < attempt.until && !arrived).then(|| Outgoing {
                id: self.next.command_id(id, kind, attempt.number),
                device: id.clone(),
                kind,
                until: attempt.until,
            })
        });
        outgoing.collect()
    }
}

/// Whether a command was not carried out.
fn is_no(answer: &Answer) -> bool {
    matches!(answer.state, CommandState::Rejected | CommandState::Failed | CommandState::TimedOut)
}

/// Whether nothing more comes of a command.
fn is_last(answer: &Answer) -> bool {
    is_no(answer) || answer.state == CommandState::Succeeded
}

/// A device's own word. The offer's id grows from offer to offer and the state within one, so that what comes late or twice
/// is known for it.
fn take_report(told: &Told, record: &mut Record) {
    if let Some(last) = &mut record.report {
        let over = last.id == told.id && last.state.is_final();
        if over || (last.id, last.state) > (told.id, told.state) {
            return;
        }
        if (last.id, last.state) == (told.id, told.state) {
            last.waiting.clone_from(&told.waiting);
            return;
        }
    }
    record.report = Some(Report { id: told.id, state: told.state, waiting: told.waiting.clone() });
    let how = match told.state {
        UpdateState::Committed => Some(How::Committed),
        UpdateState::RolledBack => Some(How::RolledBack),
        UpdateState::Refused => Some(How::Refused),
        UpdateState::Cancelled if record.cancel.is_some() => Some(How::CalledOff),
        UpdateState::Cancelled => Some(How::Cancelled),
        _ => None,
    };
    let words = told.reason.as_ref().map(|r| format!("{}: {}", r.fault.as_str(), r.words));
    record.end = how.map(|how| End { how, words });
}

/// What follows from a device's state where it says nothing of the release itself.
fn notice_indirectly(release: u64, other: Option<&Told>, seen: &Seen, record: &mut Record) {
    if record.end.is_some() || !seen.updates {
        return;
    }
    let mut end = |how, words: Option<String>| record.end = Some(End { how, words });
    if seen.current == Some(release) {
        return end(How::Committed, None);
    }
    match (&record.report, &record.offer) {
        // Another offer has taken its place.
        (Some(report), _) => {
            if let Some(told) = other.filter(|told| told.id > report.id) {
                end(How::Cancelled, Some(format!("release {} was offered instead", told.release)));
            }
        }
        (None, _) if seen.refused.contains(&release) => end(How::Refused, Some("refused earlier".to_owned())),
        (None, None) if seen.floor >= release => end(How::Later, Some(format!("has committed {}", seen.floor))),
        (None, _) => {}
    }
}

/// A device's counters: up to when the release serves, and from then on. Not at every heartbeat: each is a write.
fn take_counters(seen: &Seen, moved: bool, record: &mut Record) {
    let Some(reading) = &seen.reading else { return };
    if record.after.is_none() && record.offer.is_some() && moved {
        let Some(state) = record.report.as_ref().map(|r| r.state) else { return };
        let serves = matches!(state, UpdateState::Trial | UpdateState::Committed | UpdateState::RolledBack);
        // The reading may be from after the switch, which is not seen in the same instant.
        let since = seen.told.as_ref().and_then(|t| t.since);
        if !serves || (state == UpdateState::Trial && reading.said < since) {
            record.before.take(reading);
        }
        if serves {
            record.after = Some(Meter::after(record.before.last.as_ref().unwrap_or(reading)));
        }
    }
    if let Some(after) = &mut record.after {
        let long = after.last.as_ref().is_none_or(|last| reading.uptime_s >= last.uptime_s + COUNTERS_EVERY_S);
        if after.restarts(reading) || long {
            after.take(reading);
        }
    }
}

#[cfg(test)]
mod tests;
