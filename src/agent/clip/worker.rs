//! The stage: takes orders, keeps one [`Job`] for each clip under way, and goes round them. One thread; it holds no
//! lock while it writes, and the rings' locks only to copy a few reference-counted units.
//!
//! One clip's failure is its own. What the ledger does not take is offered again; what it has not taken when the
//! daemon ends is found at the next start, by the rows still recording and the files beside them, and finished by
//! [`Recovery`] whenever no clip under way has anything to do.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use super::job::{Advanced, Job, Mode, Outcome};
use super::plan::{ClipOrder, OrderKind, Rules};
use super::recovery::{Recovery, Step};
use super::{Ledger, LedgerError, Snapshots};
use crate::agent::config::CameraId;
use crate::agent::ring::SharedRing;
use crate::base::clock::{Clock, Mono};
use crate::base::error::{Chain, Retry};
use crate::base::progress::Beat;
use crate::base::queue::{Popped, Queue};
use crate::base::stop::StopToken;

#[cfg(test)]
mod tests;

/// How often rings are looked at while clips are recorded: a part of a fragment's second.
const ROUND: Duration = Duration::from_millis(200);
/// How often the ledger is offered again what it did not take.
const OFFER_EVERY: Duration = Duration::from_secs(1);
/// Outcomes kept for a ledger that does not take them; beyond, the oldest is left to the next start.
const MAX_UNTOLD: usize = 256;
/// How long the end of the daemon waits for clips to be finished.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// What the stage works with.
pub struct Wiring {
    /// The ring of each camera.
    pub rings: BTreeMap<CameraId, SharedRing>,
    /// The durable record.
    pub ledger: Arc<dyn Ledger>,
    /// Where the pictures of peaks come from.
    pub snapshots: Arc<dyn Snapshots>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Files go into `clips/` below it.
    pub state_dir: PathBuf,
    /// What to record; a clip keeps those that were in force when it was ordered.
    pub rules: Arc<RwLock<Rules>>,
}

impl Wiring {
    /// The rules as they stand.
    pub fn rules_now(&self) -> Rules {
        *self.rules.read().expect("nothing panics while it holds the rules")
    }
}

/// See the module's documentation.
pub struct ClipWorker {
    wiring: Wiring,
    jobs: Vec<Job>,
    recovery: Recovery,
    /// Told to the ledger in this order.
    untold: VecDeque<Outcome>,
    offer_at: Mono,
}

impl ClipWorker {
    /// A stage without clips.
    pub fn new(wiring: Wiring) -> Self {
        ClipWorker {
            wiring,
            jobs: Vec::new(),
            recovery: Recovery::default(),
            untold: VecDeque::new(),
            offer_at: Mono::ZERO,
        }
    }

    /// The stage's body: until the queue is closed and empty, or a stop. Clips under way are then cut short and
    /// finished, within five seconds; what is not finished by then stays a `.part` and a row still recording.
    pub fn run(mut self, orders: &Queue<ClipOrder>, stop: &StopToken, beat: &Beat) {
        let mut busy = false;
        self.recovery = Recovery::scan(&self.wiring.state_dir, &*self.wiring.ledger);
        loop {
            beat.beat();
            match orders.pop(if busy { Duration::ZERO } else { ROUND }) {
                Popped::Item(order) => self.order(&order),
                Popped::TimedOut => {}
                Popped::Closed => break,
            }
            while let Popped::Item(order) = orders.pop(Duration::ZERO) {
                self.order(&order);
            }
            if stop.is_stopped() {
                break;
            }
            busy = self.round(Mode::Running, beat);
        }
        self.finish(beat);
        beat.end();
    }

    /// Takes one order in.
    fn order(&mut self, order: &ClipOrder) {
        if let Some(job) = self.jobs.iter_mut().find(|job| job.incident() == order.incident) {
            job.hear(&self.wiring, order);
            return;
        }
        if order.kind != OrderKind::Opened {
            // Its clip is over already, or was lost when it was ordered.
            return;
        }
        let reason = match self.wiring.rings.get(&order.camera) {
            None => format!("no video from the camera: there is no camera {}", order.camera),
            Some(_) if self.jobs.len() >= self.wiring.rules_now().max_open => {
                format!("{} clips are being recorded already", self.jobs.len())
            }
            Some(ring) => {
                self.jobs.push(Job::new(&self.wiring, ring.clone(), order));
                return;
            }
        };
        self.over(Outcome::Lost { incident: order.incident, reason });
    }

    /// Lets every clip do what it can; true if any has more to do at once.
    fn round(&mut self, mode: Mode, beat: &Beat) -> bool {
        let mut busy = false;
        let mut i = 0;
        while let Some(job) = self.jobs.get_mut(i) {
            // Each may wait for a slow disk; all of them together may not look like one that hangs.
            beat.beat();
            match job.advance(&self.wiring, mode) {
                Advanced::Waiting => i += 1,
                Advanced::Busy => (busy, i) = (true, i + 1),
                Advanced::Over(outcome) => {
                    let job = self.jobs.remove(i);
                    if let (Outcome::Lost { .. }, Some(left)) = (&outcome, job.leftover()) {
                        self.recovery.later(left, self.wiring.clock.now());
                    }
                    self.over(outcome);
                }
            }
        }
        // Footage that still comes goes before footage that waits on the disk.
        if !busy && mode == Mode::Running {
            busy = self.recover(beat);
        }
        self.tell();
        busy
    }

    /// Does a piece of what an earlier run, or a full disk, left half done; true if there is more to do.
    fn recover(&mut self, beat: &Beat) -> bool {
        beat.beat();
        match self.recovery.step(self.wiring.clock.now()) {
            Step::Idle => false,
            Step::Busy => true,
            Step::Over(outcome) => {
                self.over(outcome);
                true
            }
        }
    }

    fn over(&mut self, outcome: Outcome) {
        if self.untold.len() == MAX_UNTOLD {
            self.untold.pop_front();
        }
        if self.untold.is_empty() {
            self.offer_at = Mono::ZERO;
        }
        self.untold.push_back(outcome);
    }

    /// Tells the ledger what it does not know yet.
    fn tell(&mut self) {
        let now = self.wiring.clock.now();
        while let Some(outcome) = self.untold.front()
            && now >= self.offer_at
        {
            match self.offer(outcome) {
                Ok(()) => {
                    self.untold.pop_front();
                }
                Err(e) if e.retry == Retry::Never => {
                    // Told again for ever it would only stand in the way of the others.
                    log::error!("{}; the files are kept", Chain(&e));
                    self.untold.pop_front();
                }
                Err(e) => {
                    log::warn!("{}; trying again", Chain(&e));
                    self.offer_at = now + OFFER_EVERY;
                }
            }
        }
    }

    fn offer(&self, outcome: &Outcome) -> Result<(), LedgerError> {
        match outcome {
            Outcome::Done(done) => self.wiring.ledger.done(done),
            Outcome::Lost { incident, reason } => self.wiring.ledger.lost(*incident, reason),
        }
    }

    fn finish(&mut self, beat: &Beat) {
        let deadline = self.wiring.clock.now() + STOP_WITHIN;
        self.offer_at = Mono::ZERO;
        while !self.jobs.is_empty() && self.wiring.clock.now() < deadline {
            self.round(Mode::Stopping, beat);
        }
        while self.wiring.clock.now() < deadline && self.recover(beat) {}
        self.tell();
        if !self.jobs.is_empty() || !self.untold.is_empty() || self.recovery.left() > 0 {
            let (jobs, untold) = (self.jobs.len() + self.recovery.left(), self.untold.len());
            log::warn!("{jobs} clips unfinished and {untold} not told to the store: left to the next start");
        }
    }
}
