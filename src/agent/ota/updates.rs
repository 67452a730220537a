//! The ledger in use: commands put offers into it, the updater moves them on, and whatever changes is on the disk before
//! anybody hears of it.
//!
//! Locks: `telling`, then the one over the ledger and what is asked; the disk is written under it, a few kilobytes at a time.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use uuid::Uuid;

use super::bench::{Bench, Journal};
use super::ledger::{Ledger, NoOffer, Offer, Offered};
use crate::base::clock::{Clock, Wall};
use crate::base::fail_point;
use crate::base::stop::StopToken;
use crate::contract::update::{UpdateReport, UpdateStatus};

/// Why a command came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// The offer is not taken up.
    #[error(transparent)]
    NoOffer(#[from] NoOffer),
    /// There is nothing to call off.
    #[error("{0}")]
    Nothing(String),
    /// The disk.
    #[error("it could not be made durable: {}", path.display())]
    Disk {
        /// The ledger.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

struct Inner {
    ledger: Ledger,
    /// Ends the step that is under way: it was called off, pushed aside, or the daemon ends.
    step: StopToken,
    /// Somebody has called off what is under way.
    cancelled: bool,
    ended: bool,
    /// Grows with whatever is asked: nothing that was asked since is waited away.
    asked: u64,
    /// What is being taken back: it is told as over when what was proven serves.
    taken_back: Option<UpdateReport>,
}

/// The ledger as it is, and what is asked.
pub(super) struct Now {
    pub ledger: Ledger,
    /// Ends the step that is about to be taken.
    pub step: StopToken,
    /// Somebody has called off what is under way.
    pub cancelled: bool,
    /// For [`Updates::wait`].
    pub asked: u64,
}

/// See the module's doc. Cheap to clone.
#[derive(Clone)]
pub struct Updates(Arc<Shared>);

struct Shared {
    path: PathBuf,
    inner: Mutex<Inner>,
    changed: Condvar,
    /// Held while a step is told: each once, in their order.
    telling: Mutex<()>,
    hardware: Vec<String>,
    bench: Arc<dyn Bench>,
    journal: Arc<dyn Journal>,
    clock: Arc<dyn Clock>,
}

impl Updates {
    /// The ledger at `path` as it was read there.
    pub fn new(
        (path, ledger): (PathBuf, Ledger),
        hardware: Vec<String>,
        (bench, journal, clock): (Arc<dyn Bench>, Arc<dyn Journal>, Arc<dyn Clock>),
    ) -> Updates {
        let inner =
            Inner { ledger, step: StopToken::new(), cancelled: false, ended: false, asked: 0, taken_back: None };
        let (inner, changed) = (Mutex::new(inner), Condvar::new());
        let telling = Mutex::default();
        let updates = Updates(Arc::new(Shared { path, inner, changed, telling, hardware, bench, journal, clock }));
        updates.tell();
        updates
    }

    /// Somebody offers a release; the offer's id. The same one again changes nothing.
    pub fn offer(&self, release: u64, rollout: Option<String>, from_dir: Option<PathBuf>) -> Result<Uuid, UpdateError> {
        let from = self.0.bench.serves();
        let offer = Offer { id: Uuid::now_v7(), release, rollout, from, from_dir };
        if self.has_ended() {
            return Err(UpdateError::Nothing("the daemon ends".into()));
        }
        if self.lock().cancelled {
            return Err(UpdateError::Nothing("a release is being called off: ask again in a moment".into()));
        }
        let offered = self.change(|ledger, now| {
            let offered = ledger.offer(offer, now)?;
            if let Offered::New(_, aside) = &offered {
                let begun = ledger.attempt.as_ref().map(|a| a.report.clone());
                ledger.untold.extend(aside.clone().map(|aside| *aside).into_iter().chain(begun));
            }
            Ok::<_, UpdateError>(offered)
        })?;
        match offered {
            Offered::Known(id) => Ok(id),
            Offered::New(id, _) => {
                let mut inner = self.lock();
                // What was under way is another's.
                std::mem::take(&mut inner.step).stop();
                inner.cancelled = false;
                inner.asked += 1;
                drop(inner);
                self.tell_steps();
                self.0.changed.notify_all();
                Ok(id)
            }
        }
    }

    /// Somebody calls a release off; the offer's id. What serves on trial is taken back by the updater.
    pub fn cancel(&self, release: Option<u64>) -> Result<Uuid, UpdateError> {
        let mut inner = self.lock();
        let Some(attempt) = &inner.ledger.attempt else {
            return Err(UpdateError::Nothing("no release is on its way".into()));
        };
        let (id, under_way) = (attempt.report.id, attempt.report.release);
        if release.is_some_and(|r| r != under_way) {
            return Err(UpdateError::Nothing(format!("release {under_way} is on its way, and no other")));
        }
        inner.cancelled = true;
        inner.asked += 1;
        inner.step.stop();
        drop(inner);
        self.0.changed.notify_all();
        Ok(id)
    }

    /// How it stands.
    pub fn status(&self) -> UpdateStatus {
        let inner = self.lock();
        let status = self.status_of(&inner.ledger);
        match &inner.taken_back {
            Some(update) => UpdateStatus { update: Some(update.clone()), ..status },
            None => status,
        }
    }

    /// The updater ends.
    pub fn end(&self) {
        let mut inner = self.lock();
        inner.ended = true;
        inner.asked += 1;
        inner.step.stop();
        drop(inner);
        self.0.changed.notify_all();
    }

    /// The daemon ends in good order: a trial goes on with the next start.
    pub fn mark_orderly(&self) {
        let marked = self.change(|ledger, _| {
            if let Some(attempt) = &mut ledger.attempt {
                attempt.trial.orderly = true;
            }
            Ok::<_, UpdateError>(())
        });
        if let Err(e) = marked {
            log::error!("a model on trial will be taken back: {}", crate::base::error::Chain(&e));
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.lock().ended
    }

    /// What is so now.
    pub(super) fn now(&self) -> Now {
        let inner = self.lock();
        Now { ledger: inner.ledger.clone(), step: inner.step.clone(), cancelled: inner.cancelled, asked: inner.asked }
    }

    /// Waits until something is asked that was not asked before, at most so long.
    pub(super) fn wait(&self, d: Duration, before: u64) {
        let waited = self.0.changed.wait_timeout_while(self.lock(), d, |inner| inner.asked == before);
        drop(waited.expect("nothing panics while it holds the ledger"));
    }

    /// Changes the ledger: on the disk first, then here. `place` names the change for the tests of power cuts. Nothing is
    /// changed, and false comes back, if the attempt is not `of` any more: another was offered.
    pub(super) fn step(
        &self,
        place: &str,
        of: Uuid,
        change: impl FnOnce(&mut Ledger, Wall) -> Option<UpdateReport>,
    ) -> Result<bool, UpdateError> {
        let still = self.put_down(place, of, change)?;
        self.tell_steps();
        Ok(still)
    }

    /// The same of a model that has served and is taken back: it is told when `in_fact` is done, and not before.
    pub(super) fn step_back(
        &self,
        place: &str,
        of: Uuid,
        change: impl FnOnce(&mut Ledger, Wall) -> Option<UpdateReport>,
        in_fact: impl FnOnce(),
    ) -> Result<bool, UpdateError> {
        self.lock().taken_back = self.status().update;
        let put_down = self.put_down(place, of, change);
        // A disk that takes nothing does not keep a bad model serving: it is put down when it can be.
        in_fact();
        self.lock().taken_back = None;
        self.tell();
        self.tell_steps();
        put_down
    }

    fn put_down(
        &self,
        place: &str,
        of: Uuid,
        change: impl FnOnce(&mut Ledger, Wall) -> Option<UpdateReport>,
    ) -> Result<bool, UpdateError> {
        fail_point::reach(&format!("{place}.before"));
        let mut still = false;
        self.change(|ledger, now| {
            still = ledger.attempt.as_ref().is_some_and(|a| a.report.id == of);
            if still {
                let report = change(ledger, now);
                ledger.untold.extend(report);
            }
            Ok::<_, UpdateError>(())
        })?;
        fail_point::reach(&format!("{place}.after"));
        let mut inner = self.lock();
        if inner.ledger.attempt.is_none() && !inner.ended {
            // What was called off is over.
            (inner.cancelled, inner.step) = (false, StopToken::new());
        }
        Ok(still)
    }

    /// Tells the steps that were not told: those just taken, and those that a power cut or a full disk has kept back. One
    /// that was told and could not be noted as told is told again.
    pub(super) fn tell_steps(&self) {
        let _turn = self.0.telling.lock().expect("nothing panics while it tells");
        loop {
            let Some(next) = self.lock().ledger.untold.first().cloned() else { return };
            if !self.0.journal.step(&next) {
                return;
            }
            let noted = self.change(|ledger, _| {
                ledger.untold.retain(|r| *r != next);
                Ok::<_, UpdateError>(())
            });
            if let Err(e) = noted {
                return log::warn!("a step will be told again: {}", crate::base::error::Chain(&e));
            }
        }
    }

    /// Changes what is known of the repository.
    pub(super) fn looked(&self, change: impl FnOnce(&mut Ledger, Wall)) -> Result<(), UpdateError> {
        self.change(|ledger, now| {
            change(ledger, now);
            Ok(())
        })
    }

    /// Changes what is known of an attempt's way, in memory alone: progress, and what is waited for.
    pub(super) fn note(&self, of: Uuid, change: impl FnOnce(&mut UpdateReport)) {
        let mut inner = self.lock();
        let Some(attempt) = inner.ledger.attempt.as_mut().filter(|a| a.report.id == of) else { return };
        let before = attempt.report.clone();
        change(&mut attempt.report);
        let news = attempt.report != before;
        drop(inner);
        if news {
            self.tell();
        }
    }

    fn change<T, E: From<UpdateError>>(&self, change: impl FnOnce(&mut Ledger, Wall) -> Result<T, E>) -> Result<T, E> {
        let mut inner = self.lock();
        let mut new = inner.ledger.clone();
        let done = change(&mut new, self.0.clock.wall())?;
        if new != inner.ledger {
            let path = self.0.path.clone();
            new.save(&path).map_err(|source| UpdateError::Disk { path, source })?;
            inner.ledger = new;
        }
        drop(inner);
        self.tell();
        Ok(done)
    }

    fn tell(&self) {
        let status = self.status();
        self.0.journal.status(status);
    }

    fn status_of(&self, ledger: &Ledger) -> UpdateStatus {
        let serves = self.0.bench.serves();
        let slots = [&ledger.current, &ledger.previous].into_iter().flatten();
        let on_trial = ledger.attempt.as_ref().and_then(|a| a.slot.as_ref());
        let release = slots.chain(on_trial).find(|s| s.digest == serves.digest).map(|s| s.release);
        // While a model is on trial, what was committed is what the device goes back to.
        let before = if ledger.current.as_ref().is_some_and(|c| c.digest == serves.digest) {
            &ledger.previous
        } else {
            &ledger.current
        };
        UpdateStatus {
            previous: before.as_ref().map(super::ledger::Slot::report),
            current: crate::contract::update::SlotReport { model: serves, release },
            floor: ledger.floor,
            hardware: self.0.hardware.clone(),
            update: ledger.attempt.as_ref().map(|a| a.report.clone()).or_else(|| ledger.last.clone()),
            refused: ledger.refused.iter().rev().take(16).map(|r| r.release).rev().collect(),
            checked: ledger.checked.map(Wall::rfc3339),
            trouble: ledger.trouble.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().expect("nothing panics while it holds the ledger")
    }
}
