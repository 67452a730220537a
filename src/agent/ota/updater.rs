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

mod stages;
mod way;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use uuid::Uuid;

use super::bench::{Bench, Journal, Ready};
use super::fault::Trouble;
use super::ledger::{Attempt, Ledger};
use super::slots::Slots;
use super::trust::Trust;
use super::updates::{Now, UpdateError, Updates};
use crate::agent::config::Ota;
use crate::agent::infer::model::Model;
use crate::base::backoff::Backoff;
use crate::base::clock::{Clock, Mono};
use crate::base::error::Chain;
use crate::base::stop::StopToken;
use crate::contract::update::{UpdateFigures, UpdateState};

/// Between two tries of a step that waits for something.
const AGAIN_FIRST: Duration = Duration::from_secs(2);
const AGAIN_MOST: Duration = Duration::from_secs(300);

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
        self.updates.tell_steps();
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

    /// Deletes what nobody needs any more.
    fn collect(&self) {
        let ledger = self.updates.now().ledger;
        let incoming = ledger.attempt.as_ref().and_then(|a| a.slot.as_ref()).map(|s| s.digest.as_str());
        if let Err(e) = self.slots.keep_only(&ledger.keeps(), incoming) {
            log::warn!("models that are not needed any more were not deleted: {e}");
        }
    }
}

impl From<UpdateError> for Trouble {
    fn from(e: UpdateError) -> Trouble {
        Trouble::Wait(Chain(&e).to_string())
    }
}
