//! Moves an offered release on, from one state to the next, until it is committed or is not.
//!
//! ```text
//!   look ─► fetch ─► slot verified ─► proven in a child ─► loaded ─► looks on ─► serves on trial ─► committed
//!    │  fault: refused       (each state is on the disk before it is begun: `updates`)   └─► taken back
//!    └─ wait: said, tried again
//! ```
//!
//! Its thread is not one that the watchdog asks: it may wait for minutes on a network or a child, while what serves goes
//! on. Between offers it looks at the signed metadata, so that a repository that is held back, or held still, is noticed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use uuid::Uuid;

use super::bench::{Bench, Journal, Ready};
use super::fault::Trouble;
use super::fetch;
use super::judge::{self, Policy, Verdict};
use super::ledger::{Attempt, Ledger};
use super::remote::Remote;
use super::slots::Slots;
use super::trust::{Listing, Trust};
use super::updates::{Now, UpdateError, Updates};
use crate::agent::config::Ota;
use crate::agent::incident::arming::Arming;
use crate::agent::infer::model::Model;
use crate::base::backoff::Backoff;
use crate::base::clock::{Clock, Mono};
use crate::base::error::Chain;
use crate::base::fail_point;
use crate::base::stop::StopToken;
use crate::contract::notice::Trouble as Notice;
use crate::contract::update::{UpdateFault, UpdateFigures, UpdateReason, UpdateState};

/// How often a model in shadow or on trial is judged.
const JUDGE_EVERY: Duration = Duration::from_millis(500);
/// How often a trial's time is put on the disk.
const SAVE_EVERY_MS: u64 = 30_000;
/// Between two tries of a step that waits for something.
const AGAIN_FIRST: Duration = Duration::from_secs(2);
const AGAIN_MOST: Duration = Duration::from_secs(300);
/// Share of the time between frames that a model may take for all cameras.
const BUDGET_SHARE: f64 = 0.8;

/// What it works with.
pub struct Parts {
    /// `[ota]`.
    pub config: Ota,
    /// `<state>/models`.
    pub dir: PathBuf,
    /// The model that came with the package.
    pub factory: PathBuf,
    /// Cameras that are classified.
    pub cameras: usize,
    /// Classes of hardware that this device counts as.
    pub hardware: Vec<String>,
    /// This boot of the kernel.
    pub boot: String,
    /// Where models look and serve.
    pub bench: Arc<dyn Bench>,
    /// Where it tells of itself.
    pub journal: Arc<dyn Journal>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// For the network.
    pub runtime: Handle,
}

/// See the module's doc.
pub struct Updater {
    updates: Updates,
    parts: Parts,
    slots: Slots,
    trust: Trust,
    backoff: Backoff,
    looked: Option<Mono>,
    /// What is loaded, of which attempt.
    ready: Option<(Uuid, Model, Ready)>,
}

impl Updater {
    /// Over this ledger.
    pub fn new(updates: Updates, parts: Parts) -> Updater {
        let slots = Slots::new(&parts.dir);
        let trust = Trust::new(&parts.dir.join("tuf"), parts.config.root_json.clone());
        let backoff = Backoff::new(AGAIN_FIRST, AGAIN_MOST);
        Updater { updates, parts, slots, trust, backoff, looked: None, ready: None }
    }

    /// Until it is told to end.
    pub fn run(mut self) {
        self.collect();
        while !self.updates.has_ended() {
            let Now { ledger, step: stop, cancelled, asked } = self.updates.now();
            let Some(attempt) = ledger.attempt.clone() else {
                self.ready = None;
                let wait = self.watch(&ledger, &stop);
                self.updates.wait(wait, asked);
                continue;
            };
            let done = if cancelled { self.call_off(&attempt) } else { self.advance(&attempt, &stop) };
            let id = attempt.report.id;
            match done {
                Ok(()) => {
                    self.backoff.reset();
                    self.updates.note(id, |report| report.waiting = None);
                }
                Err(Trouble::Stopped) => {}
                Err(Trouble::Wait(why)) => {
                    if attempt.report.waiting.as_ref() != Some(&why) {
                        log::warn!("release {} waits: {why}", attempt.report.release);
                    }
                    self.updates.note(id, |report| report.waiting = Some(why));
                    self.updates.wait(self.backoff.next_delay(), asked);
                }
                Err(Trouble::Fault(reason)) => {
                    if let Err(e) = self.give_up(&attempt, reason) {
                        log::error!("{}", Chain(&e));
                        self.updates.wait(self.backoff.next_delay(), asked);
                    }
                }
            }
        }
        self.parts.bench.end_shadow();
    }

    /// One state on.
    fn advance(&mut self, attempt: &Attempt, stop: &StopToken) -> Result<(), Trouble> {
        match attempt.report.state {
            UpdateState::Offered | UpdateState::Downloading => self.fetch(attempt, stop),
            UpdateState::Verified | UpdateState::Building | UpdateState::Proving => self.prove(attempt, stop),
            UpdateState::Shadow => self.shadow(attempt, stop),
            UpdateState::Trial => self.trial(attempt, stop),
            UpdateState::Committed | UpdateState::RolledBack | UpdateState::Refused | UpdateState::Cancelled => Ok(()),
        }
    }

    fn to(&self, attempt: &Attempt, state: UpdateState) -> Result<(), Trouble> {
        self.step(state.as_str(), attempt, |ledger, now| ledger.advance(state, now))
    }

    /// A change of the ledger that is of this attempt.
    fn step(
        &self,
        place: &str,
        attempt: &Attempt,
        change: impl FnOnce(&mut Ledger, crate::base::clock::Wall) -> Option<crate::contract::update::UpdateReport>,
    ) -> Result<(), Trouble> {
        match self.updates.step(place, attempt.report.id, change) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Trouble::Stopped),
            Err(e) => Err(Trouble::Wait(Chain(&e).to_string())),
        }
    }

    fn figures(&self, attempt: &Attempt, change: impl FnOnce(&mut UpdateFigures)) {
        self.updates.note(attempt.report.id, |report| change(&mut report.figures));
    }

    /// Whether releases may be fetched and put in now.
    fn window_is_open(&self) -> Result<(), Trouble> {
        let (schedule, now) = (self.parts.config.schedule.as_ref(), self.parts.clock.wall());
        match Arming::at(schedule, now, self.parts.bench.knows_time_of_day()) {
            Arming::TimeUnknown => Err(Trouble::Wait("its schedule needs the time of day, which is not known".into())),
            arming if arming.is_armed() => Ok(()),
            _ => Err(Trouble::Wait("ota.schedule: not within its spans now".into())),
        }
    }

    /// Looks at what is signed.
    fn look(
        &self,
        ledger: &Ledger,
        from_dir: Option<&PathBuf>,
        stop: &StopToken,
    ) -> Result<(Listing, Remote), Trouble> {
        if !self.parts.bench.knows_time_of_day() {
            return Err(Trouble::Wait("the device does not know the time: nothing signed can be judged".into()));
        }
        let remote = match from_dir {
            Some(dir) => Remote::directory(dir, Arc::clone(&self.parts.clock)),
            None => Remote::of(&self.parts.config, Arc::clone(&self.parts.clock)),
        };
        let remote = remote.map_err(|e| Trouble::of_remote(&e))?;
        let now = self.parts.clock.wall();
        let newest = ledger.newest_signed.unwrap_or(crate::base::clock::Wall::from_unix_ms(0));
        let looked = self.parts.runtime.block_on(async {
            tokio::select! {
                looked = self.trust.look(&remote, now, newest) => looked,
                () = stop.stopped() => Err(Trouble::Stopped),
            }
        });
        self.judge_the_way(&looked, from_dir.is_some())?;
        Ok((looked?, remote))
    }

    /// What a look says of the repository itself. Of a USB stick nothing is said: it is gone tomorrow.
    fn judge_the_way(&self, looked: &Result<Listing, Trouble>, stick: bool) -> Result<(), Trouble> {
        let frozen = |words: String| Some(UpdateReason { fault: UpdateFault::IndefiniteFreeze, words });
        let ledger = self.updates.now().ledger;
        let trouble = match looked {
            Ok(_) => None,
            Err(Trouble::Stopped) => return Ok(()),
            _ if stick => return Ok(()),
            Err(Trouble::Fault(reason)) => Some(reason.clone()),
            // Nothing newer comes, and what there was has expired: held back, or a network that has been gone for too long.
            Err(Trouble::Wait(why)) => match ledger.expires {
                Some(expires) if expires < self.parts.clock.wall() && self.parts.bench.knows_time_of_day() => frozen(
                    format!("what is signed has expired on {}, and nothing newer comes: {why}", expires.rfc3339()),
                ),
                _ => ledger.trouble.clone(),
            },
        };
        let words = trouble.as_ref().map(|t| format!("{}: {}", t.fault.as_str(), t.words));
        if ledger.trouble.is_none()
            && let Some(words) = &words
        {
            log::error!("the repository of models: {words}; the model that serves goes on");
        }
        let changed = self.updates.looked(|ledger, now| {
            if let Ok(listing) = looked {
                ledger.newest_signed = Some(listing.newest_signed);
                if !stick {
                    (ledger.checked, ledger.expires) = (Some(now), Some(listing.expires));
                }
            }
            ledger.trouble = trouble;
        });
        self.parts.journal.trouble(Notice::UpdatesFrozen, words);
        changed.map_err(|e| Trouble::Wait(Chain(&e).to_string()))
    }

    /// Between offers: looks from time to time; how long until the next.
    fn watch(&mut self, ledger: &Ledger, stop: &StopToken) -> Duration {
        let every = self.parts.config.check_every;
        let now = self.parts.clock.now();
        if let Some(left) = self.looked.map(|at| every.saturating_sub(now.since(at))).filter(|left| !left.is_zero()) {
            return left;
        }
        match self.look(ledger, None, stop) {
            Ok(_) | Err(Trouble::Fault(_)) => {
                self.looked = Some(now);
                self.backoff.reset();
                every
            }
            Err(Trouble::Stopped) => Duration::ZERO,
            Err(Trouble::Wait(why)) => {
                log::debug!("the repository of models: {why}");
                self.backoff.next_delay().min(every)
            }
        }
    }

    fn fetch(&mut self, attempt: &Attempt, stop: &StopToken) -> Result<(), Trouble> {
        self.window_is_open()?;
        let ledger = self.updates.now().ledger;
        let (listing, remote) = self.look(&ledger, attempt.from_dir.as_ref(), stop)?;
        let release = listing.release(attempt.report.release)?.clone();
        let mut refused = None;
        self.step("downloading", attempt, |ledger, now| match ledger.identify(&release) {
            Ok(()) if attempt.report.state == UpdateState::Downloading => None,
            Ok(()) => ledger.advance(UpdateState::Downloading, now),
            Err(reason) => {
                refused = Some(reason);
                None
            }
        })?;
        if let Some(reason) = refused {
            return Err(Trouble::Fault(reason));
        }
        let runtime = self.parts.runtime.clone();
        let manifest = runtime.block_on(listing.manifest(&release))?;
        let incoming = self.slots.begin(&release.digest, &manifest)?;
        let m = &incoming.manifest;
        if (m.name.as_str(), m.version.to_string()) != (release.facts.model.as_str(), release.facts.version.clone()) {
            let words = format!(
                "it is signed as {} {}, and its manifest says {}",
                release.facts.model,
                release.facts.version,
                m.title()
            );
            return Err(Trouble::fault(UpdateFault::MalformedManifest, words));
        }
        let fits = m.hardware.is_empty() || m.hardware.iter().any(|h| self.parts.hardware.contains(h));
        if !fits {
            let words =
                format!("it is for {}; this device is {}", m.hardware.join(", "), self.parts.hardware.join(", "));
            return Err(Trouble::fault(UpdateFault::WrongHardware, words));
        }
        self.parts.bench.fits(m).map_err(|words| Trouble::fault(UpdateFault::Incompatible, words))?;
        let size_bytes = m.files.iter().fold(0u64, |sum, f| sum.saturating_add(f.size_bytes));
        if size_bytes > self.parts.config.max_model_bytes {
            let words = format!(
                "its files have {} MB, and {} MB are allowed (ota.max_model_mb)",
                size_bytes / 1_000_000,
                self.parts.config.max_model_bytes / 1_000_000
            );
            return Err(Trouble::fault(UpdateFault::EndlessData, words));
        }
        self.figures(attempt, |f| f.size_bytes = Some(size_bytes));
        let mut tell = |bytes| self.figures(attempt, |f| f.fetched_bytes = Some(bytes));
        let filled = runtime.block_on(async {
            tokio::select! {
                filled = fetch::fill(&incoming, &self.slots, (&remote, &self.parts.factory), stop, &mut tell) => filled,
                () = stop.stopped() => Err(Trouble::Stopped),
            }
        });
        filled?;
        fail_point::reach("slot.before");
        incoming.finish()?;
        fail_point::reach("slot.after");
        self.to(attempt, UpdateState::Verified)
    }

    fn prove(&mut self, attempt: &Attempt, stop: &StopToken) -> Result<(), Trouble> {
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

    fn budget_ms(&self, sample_fps: f32) -> f64 {
        BUDGET_SHARE * 1e3 / f64::from(sample_fps) / self.parts.cameras.max(1) as f64
    }

    fn policy(&self) -> Policy {
        let c = &self.parts.config;
        Policy {
            shadow: c.shadow,
            trial: c.trial,
            min_agreement: c.min_agreement.into(),
            max_alert_factor: c.max_alert_factor,
            incidents_per_s: self.parts.bench.incidents_per_s(),
        }
    }

    fn shadow(&mut self, attempt: &Attempt, stop: &StopToken) -> Result<(), Trouble> {
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
    fn begin_trial(&mut self, attempt: &Attempt, stop: &StopToken) -> Result<(), Trouble> {
        let model = self.slots.open(&slot_of(attempt)?)?;
        let hot = self.parts.bench.is_hot(model.manifest());
        if stop.is_stopped() {
            return Err(Trouble::Stopped);
        }
        let boot = self.parts.boot.clone();
        self.step("trial", attempt, |ledger, now| {
            if let Some(attempt) = &mut ledger.attempt {
                attempt.trial.boot = boot;
                // A switch that needs a start is one in good order.
                attempt.trial.orderly = !hot;
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

    fn trial(&mut self, attempt: &Attempt, stop: &StopToken) -> Result<(), Trouble> {
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
        self.step("committed", attempt, Ledger::commit)?;
        log::info!("release {} is committed: {}", attempt.report.release, slot);
        self.parts.journal.trouble(Notice::ModelDamaged, None);
        self.collect();
        Ok(())
    }

    /// It failed: what was committed serves, whatever it was at.
    fn give_up(&mut self, attempt: &Attempt, reason: UpdateReason) -> Result<(), Trouble> {
        log::error!(
            "release {} is given up: {}: {}; the model that was proven goes on",
            attempt.report.release,
            reason.fault.as_str(),
            reason.words
        );
        self.undo(attempt, "failed", |ledger, now| ledger.fail(reason, now))
    }

    fn call_off(&mut self, attempt: &Attempt) -> Result<(), Trouble> {
        log::info!("release {} is called off", attempt.report.release);
        self.undo(attempt, "cancelled", Ledger::cancel)
    }

    /// First on the disk, then in fact: a power cut in between serves what was committed.
    fn undo(
        &mut self,
        attempt: &Attempt,
        place: &str,
        change: impl FnOnce(&mut Ledger, crate::base::clock::Wall) -> Option<crate::contract::update::UpdateReport>,
    ) -> Result<(), Trouble> {
        self.parts.bench.end_shadow();
        self.ready = None;
        if attempt.report.state == UpdateState::Trial {
            self.updates.step_back(place, attempt.report.id, change, || self.take_back())?;
        } else {
            self.step(place, attempt, change)?;
        }
        self.collect();
        Ok(())
    }

    /// What was committed serves again; if it cannot, what served before, and at last what came with the package.
    fn take_back(&self) {
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

    /// Deletes what nobody needs any more.
    fn collect(&self) {
        let ledger = self.updates.now().ledger;
        let incoming = ledger.attempt.as_ref().and_then(|a| a.slot.as_ref()).map(|s| s.digest.as_str());
        if let Err(e) = self.slots.keep_only(&ledger.keeps(), incoming) {
            log::warn!("models that are not needed any more were not deleted: {e}");
        }
    }
}

fn slot_of(attempt: &Attempt) -> Result<String, Trouble> {
    let slot = attempt.slot.as_ref().map(|s| s.digest.clone());
    slot.ok_or_else(|| Trouble::fault(UpdateFault::SlotDamaged, "nothing says which slot it is"))
}

impl From<UpdateError> for Trouble {
    fn from(e: UpdateError) -> Trouble {
        Trouble::Wait(Chain(&e).to_string())
    }
}
