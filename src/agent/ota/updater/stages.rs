//! What a model must show on this device: proven, looking on, on trial; and what becomes of one that does not.

use std::time::Duration;

use super::Updater;
use crate::agent::infer::model::Model;
use crate::agent::ota::fault::Trouble;
use crate::agent::ota::judge::{self, Policy, Verdict};
use crate::agent::ota::ledger::{Attempt, Ledger, Trial};
use crate::base::error::Chain;
use crate::base::stop::StopToken;
use crate::contract::notice::Trouble as Notice;
use crate::contract::update::{UpdateFault, UpdateReason, UpdateReport, UpdateState};

/// How often a model in shadow or on trial is judged.
const JUDGE_EVERY: Duration = Duration::from_millis(500);
/// How often a trial's time is put on the disk.
const SAVE_EVERY_MS: u64 = 30_000;
/// Share of the time between frames that a model may take for all cameras.
const BUDGET_SHARE: f64 = 0.8;

impl Updater {
    pub(super) fn prove(&mut self, attempt: &Attempt, stop: &StopToken) -> Result<(), Trouble> {
        self.window_is_open()?;
        let slot = attempt.slot.as_ref().ok_or_else(|| Trouble::Wait("nothing says what it is".into()))?;
        let model = self.slots.open(&slot.digest)?;
        let m = model.manifest();
        self.parts.bench.fits(m).map_err(|words| Trouble::fault(UpdateFault::Incompatible, words))?;
        if attempt.report.state != UpdateState::Building {
            self.to(attempt, UpdateState::Building)?;
        }
        let mut loaded = || {
            if let Err(e) = self.to(attempt, UpdateState::Proving) {
                log::warn!("{e}");
            }
        };
        let found = self.parts.bench.prove(&model, stop, &mut loaded)?;
        let ready = self.parts.bench.ready(&model, stop)?;
        let (frame_ms, budget_ms) = (ready.frame_ms.unwrap_or(found.frame_ms), self.budget_ms(m.sample_fps));
        self.figures(attempt, |f| {
            (f.frame_ms, f.budget_ms) = (Some(frame_ms), Some(budget_ms));
            f.memory_bytes = Some(found.memory_bytes);
        });
        if frame_ms > budget_ms {
            let words = format!(
                "a frame takes {frame_ms:.1} ms, and {} cameras at {} a second leave {budget_ms:.1} ms for each",
                self.parts.cameras, m.sample_fps
            );
            return Err(Trouble::fault(UpdateFault::Latency, words));
        }
        let hot = self.parts.bench.is_hot(m);
        self.ready = Some((attempt.report.id, model, ready));
        match hot {
            true => self.to(attempt, UpdateState::Shadow),
            // It sees other pixels than those that are sampled now: it cannot look on.
            false => self.begin_trial(attempt, stop),
        }
    }

    pub(super) fn budget_ms(&self, sample_fps: f32) -> f64 {
        BUDGET_SHARE * 1e3 / f64::from(sample_fps) / self.parts.cameras.max(1) as f64
    }

    pub(super) fn policy(&self) -> Policy {
        let c = &self.parts.config;
        Policy {
            shadow: c.shadow,
            trial: c.trial,
            min_agreement: c.min_agreement.into(),
            max_alert_factor: c.max_alert_factor,
            incidents_per_s: self.parts.bench.incidents_per_s(),
        }
    }

    pub(super) fn shadow(&mut self, attempt: &Attempt, stop: &StopToken) -> Result<(), Trouble> {
        let Some((_, model, ready)) = self.ready.take().filter(|(id, ..)| *id == attempt.report.id) else {
            // The daemon was started anew: what was loaded is gone.
            return self.prove(attempt, stop);
        };
        self.parts.bench.shadow(&model, ready.engine);
        let policy = self.policy();
        let began = self.parts.clock.now();
        loop {
            if stop.wait(JUDGE_EVERY) {
                self.parts.bench.end_shadow();
                return Err(Trouble::Stopped);
            }
            let (seen, looked) = (self.parts.bench.shadow_seen(), self.parts.clock.now().since(began));
            self.figures(attempt, |f| {
                (f.shadow_windows, f.agreement) = (Some(seen.windows), seen.agreement());
                (f.incidents, f.incidents_limit) = (Some(seen.incidents), Some(policy.incidents_limit(looked)));
            });
            match judge::shadow(&policy, looked, &seen) {
                Verdict::GoesOn => {}
                Verdict::Passed => return self.begin_trial(attempt, stop),
                Verdict::Failed(reason) => return Err(reason.into()),
            }
        }
    }

    /// From here on it serves: first on the disk, then in fact.
    pub(super) fn begin_trial(&mut self, attempt: &Attempt, stop: &StopToken) -> Result<(), Trouble> {
        let model = self.slots.open(&slot_of(attempt)?)?;
        let hot = self.parts.bench.is_hot(model.manifest());
        if stop.is_stopped() {
            return Err(Trouble::Stopped);
        }
        let boot = self.parts.boot.clone();
        self.step("trial", attempt, |ledger, now| {
            if let Some(attempt) = &mut ledger.attempt {
                // A switch that needs a start is one in good order.
                attempt.trial = Trial { boot, orderly: !hot, ..Trial::default() };
                attempt.report.figures.incidents = None;
            }
            ledger.advance(UpdateState::Trial, now)
        })?;
        if !hot {
            log::warn!("release {} samples other pixels: the daemon starts anew for it", attempt.report.release);
            self.parts.bench.restart();
            // Until the start.
            while !stop.wait(JUDGE_EVERY) {}
            return Err(Trouble::Stopped);
        }
        self.parts.bench.promote(&model)
    }

    pub(super) fn trial(&mut self, attempt: &Attempt, stop: &StopToken) -> Result<(), Trouble> {
        let slot = slot_of(attempt)?;
        if self.parts.bench.serves().digest != slot {
            // It was to serve, and does not: the switch was broken off.
            let words = "it could not take over".to_owned();
            return Err(Trouble::fault(UpdateFault::EngineErrors, words));
        }
        let policy = self.policy();
        let (began, before) = (self.parts.clock.now(), attempt.trial.served_ms);
        let mut saved = before;
        loop {
            if stop.wait(JUDGE_EVERY) {
                return Err(Trouble::Stopped);
            }
            let served_ms = before + self.parts.clock.now().since(began).as_millis() as u64;
            if served_ms - saved >= SAVE_EVERY_MS {
                saved = served_ms;
                self.step("served", attempt, |ledger, _| {
                    ledger.attempt.as_mut()?.trial.served_ms = served_ms;
                    None
                })?;
            }
            let (seen, served) = (self.parts.bench.trial_seen(), Duration::from_millis(served_ms));
            self.figures(attempt, |f| {
                (f.incidents, f.incidents_limit) = (Some(seen.incidents), Some(policy.incidents_limit(served)));
            });
            match judge::trial(&policy, served, &seen) {
                Verdict::GoesOn => {}
                Verdict::Passed => break,
                Verdict::Failed(reason) => return Err(reason.into()),
            }
        }
        if self.updates.now().cancelled {
            return Err(Trouble::Stopped);
        }
        self.step("committed", attempt, Ledger::commit)?;
        log::info!("release {} is committed: {}", attempt.report.release, slot);
        self.parts.journal.trouble(Notice::ModelDamaged, None);
        self.collect();
        Ok(())
    }

    /// It failed: what was committed serves, whatever it was at.
    pub(super) fn give_up(&mut self, attempt: &Attempt, reason: UpdateReason) -> Result<(), Trouble> {
        log::error!(
            "release {} is given up: {}: {}; the model that was proven goes on",
            attempt.report.release,
            reason.fault.as_str(),
            reason.words
        );
        self.undo(attempt, "failed", |ledger, now| ledger.fail(reason, now))
    }

    pub(super) fn call_off(&mut self, attempt: &Attempt) -> Result<(), Trouble> {
        log::info!("release {} is called off", attempt.report.release);
        self.undo(attempt, "cancelled", Ledger::cancel)
    }

    /// First on the disk, then in fact: a power cut in between serves what was committed.
    pub(super) fn undo(
        &mut self,
        attempt: &Attempt,
        place: &str,
        change: impl FnOnce(&mut Ledger, crate::base::clock::Wall) -> Option<UpdateReport>,
    ) -> Result<(), Trouble> {
        self.parts.bench.end_shadow();
        self.ready = None;
        // As it is now: it may have come to its trial since this step began.
        let now = self.updates.now().ledger.attempt;
        let on_trial = now.is_some_and(|a| a.report.id == attempt.report.id && a.report.state == UpdateState::Trial);
        if on_trial {
            self.updates.step_back(place, attempt.report.id, change, || self.take_back())?;
        } else {
            self.step(place, attempt, change)?;
        }
        self.collect();
        Ok(())
    }

    /// What was committed serves again; if it cannot, what served before, and at last what came with the package.
    pub(super) fn take_back(&self) {
        let ledger = self.updates.now().ledger;
        let slots = [&ledger.current, &ledger.previous].into_iter().flatten();
        let opened = slots
            .map(|s| self.slots.open(&s.digest))
            .chain([Model::open(&self.parts.factory).map_err(|e| Trouble::Wait(Chain(&e).to_string()))]);
        for model in opened {
            match model.and_then(|model| self.parts.bench.take_back(&model)) {
                Ok(()) => return,
                Err(e) => log::error!("{e}"),
            }
        }
        // A start finds its way by the same ledger.
        self.parts.bench.restart();
    }
}

fn slot_of(attempt: &Attempt) -> Result<String, Trouble> {
    let slot = attempt.slot.as_ref().map(|s| s.digest.clone());
    slot.ok_or_else(|| Trouble::fault(UpdateFault::SlotDamaged, "nothing says which slot it is"))
}
