//! The inference stage's thread: frames in, scores out to the incident stage.
//!
//! What several cameras have queued by the time a pass begins goes into that pass. An engine that gains by batches (a GPU)
//! waits a few milliseconds for a camera whose frame is due (`company`), the CPU for none. How often the model is shown a picture when there is too little time for all is `pressure`'s affair; here the time is taken.

pub mod beside;
pub mod company;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use self::beside::{Board, Gallery};
use self::company::Company;
use super::engines::{Broken, End, Handover};
use super::events::{Event, Events};
use super::health::Health;
use super::incidents::{Inbox, Work};
use super::pressure::{INTERVAL, Interval, Pressure};
use super::serving::Serving;
use crate::agent::capture::Frame;
use crate::agent::infer::classifier::{Classifier, InferError};
use crate::agent::infer::{Engine, EngineError, Network, Score};
use crate::base::clock::{Clock, Mono};
use crate::base::error::Chain;
use crate::base::progress::Beat;
use crate::base::queue::{Popped, Queue};

/// The longest wait between two rounds.
const ROUND: Duration = Duration::from_millis(200);
/// So many frames one after the other of which nothing came, or windows without a score, and another engine is asked for.
const FAILED_FRAMES: u32 = 8;
const FAILED_WINDOWS: u32 = 3;
/// Frames in one pass.
const BATCH: usize = 8;

/// See the module's doc.
pub struct Inference {
    /// What comes in.
    pub frames: Queue<Frame>,
    /// Views, engine, windows.
    pub classifier: Classifier,
    /// Where scores go.
    pub inbox: Inbox,
    /// Who watches.
    pub events: Events,
    /// Times and failures are reported here.
    pub health: Arc<Health>,
    /// For those times.
    pub clock: Arc<dyn Clock>,
    /// Where another engine may come from.
    pub handover: Arc<Handover>,
    /// Whom a pass may wait for.
    pub company: Company,
    /// What another model is asked to do, and what is seen of it.
    pub board: Arc<Board>,
    /// The model that looks on, if one does.
    pub gallery: Gallery,
    /// The model that serves, for everybody else.
    pub serving: Arc<Serving>,
}

impl Inference {
    /// Runs until the queue is closed and empty.
    pub fn run(mut self, beat: &Beat) {
        let mut watch = Watch { began: self.clock.now(), ..Watch::default() };
        while self.round(&mut watch).is_continue() {
            beat.beat();
        }
        self.board.close();
        beat.end();
    }

    /// Waits for frames and looks at them; a break: none will come.
    fn round(&mut self, watch: &mut Watch) -> ControlFlow<()> {
        if let Some(engine) = self.handover.take() {
            self.take_over(engine, watch);
        }
        self.attend(watch);
        match self.frames.pop(ROUND) {
            Popped::Item(first) => watch.busy += self.pass(first, &mut watch.failures),
            Popped::TimedOut => {}
            Popped::Closed => return ControlFlow::Break(()),
        }
        if let Some(interval) = watch.interval(self.clock.now(), &self.health) {
            self.board.interval(&interval);
            let rate = watch.pressure.after(interval);
            self.health.interval(interval, rate, watch.pressure.slowed_by());
        }
        ControlFlow::Continue(())
    }

    /// What goes into one pass.
    fn batch(&mut self, first: Frame) -> Vec<Frame> {
        let mut batch = vec![first];
        let until = self.clock.now() + company::WAIT;
        while batch.len() < BATCH {
            let now = self.clock.now();
            let wait = self.classifier.engine().gains_by_batches && self.company.awaits(&batch, now, until);
            match self.frames.pop(if wait { until.since(now) } else { Duration::ZERO }) {
                Popped::Item(frame) => batch.push(frame),
                Popped::TimedOut | Popped::Closed => break,
            }
        }
        let now = self.clock.now();
        batch.iter().for_each(|frame| self.company.came(frame, now));
        batch
    }

    /// Lets an engine serve that was handed over.
    fn take_over(&mut self, engine: Engine, watch: &mut Watch) {
        let info = engine.info.clone();
        let began = self.clock.now();
        match self.classifier.replace(engine) {
            Ok(old) => {
                let took = self.clock.now().since(began).as_millis();
                log::info!("{} serves now, and not {}; it took over in {took} ms", info.runtime, old.info.runtime);
                self.health.engine_is(info);
                // One that failed is not let go here: that may wait for a GPU that answers nobody.
                self.handover.keep(old, watch.failures.told);
            }
            Err((engine, e)) => {
                let why = Chain(&e).to_string();
                log::error!("{} cannot take over: {why}", info.runtime);
                if e.is_lost() {
                    self.handover.keep(engine, End::Lost);
                    self.handover.is_broken(Broken::Lost(why));
                } else {
                    self.handover.is_broken(Broken::Fails);
                }
            }
        }
        watch.failures = Failures::default();
    }

    /// Lets another model look on, or serve.
    fn attend(&mut self, watch: &mut Watch) {
        let Some((beside, back)) = self.gallery.attend(&self.board) else { return };
        let info = beside.classifier.engine().clone();
        let old = std::mem::replace(&mut self.classifier, beside.classifier);
        self.serving.is(beside.model.clone());
        // In the order of the scores: those before it are the other model's.
        self.inbox.push(Work::Model(Box::new(beside.model.clone())));
        self.health.model_is(&beside.model, info.clone());
        log::info!("model {} serves now, on {}", beside.model.manifest.title(), info.runtime);
        watch.failures = Failures::default();
        if let Err(unwanted) = back.send(old) {
            drop(unwanted);
        }
    }

    /// One pass; what it took.
    fn pass(&mut self, first: Frame, failures: &mut Failures) -> Duration {
        let batch = self.batch(first);
        let began = self.clock.now();
        let results = self.classifier.push_batch(&batch);
        let took = self.clock.now().since(began);
        if !self.gallery.is_empty() && self.frames.len() <= batch.len() {
            self.gallery.look(self.clock.now(), &batch, &results, &self.board);
        }
        if results.iter().any(|r| matches!(r, Err(e) if !matches!(e, InferError::View { .. }))) {
            self.board.failed();
        }
        failures.count(&results);
        if let Some(how) = failures.too_many(&results) {
            self.handover.is_broken(how);
        }
        self.health.inferred(batch.iter().map(|f| f.arrival), took);
        for (frame, result) in batch.iter().zip(results) {
            match result {
                Ok(Some(score)) => {
                    self.health.scored(&frame.camera);
                    self.inbox.push(Work::Score(score.clone()));
                    self.events.announce(Event::Score(score));
                }
                Ok(None) => {}
                Err(e) => {
                    // An engine that fails may fail eight times a second; the counter tells the rest.
                    let why = Chain(&e).to_string();
                    if self.health.inference_failed(&frame.camera, why.clone()) {
                        log::error!(camera:% = frame.camera; "{why}");
                    }
                }
            }
        }
        took
    }
}

/// What an engine has failed of, one time after the other.
#[derive(Default)]
struct Failures {
    /// Frames of which nothing came.
    frames: u32,
    /// Windows that were due and gave no score.
    windows: u32,
    /// What was said of it.
    told: End,
}

impl Failures {
    fn count(&mut self, results: &[Result<Option<Score>, InferError>]) {
        for result in results {
            match result {
                Ok(Some(_)) => *self = Failures::default(),
                // Its frame was encoded; whether a window would have been scored is not said.
                Ok(None) => self.frames = 0,
                Err(InferError::View { .. }) => {}
                Err(e) if is_of_the_head(e) => self.windows += 1,
                Err(_) => self.frames += 1,
            }
        }
    }

    /// What is to be said of the engine; once.
    fn too_many(&mut self, results: &[Result<Option<Score>, InferError>]) -> Option<Broken> {
        if self.told != End::Good {
            return None;
        }
        // One is enough: nothing else will come of it.
        let lost = results.iter().filter_map(|r| r.as_ref().err()).find(|e| is_lost(e));
        if let Some(e) = lost {
            self.told = End::Lost;
            return Some(Broken::Lost(Chain(e).to_string()));
        }
        let many = self.frames >= FAILED_FRAMES || self.windows >= FAILED_WINDOWS;
        self.told = if many { End::Failed } else { End::Good };
        many.then_some(Broken::Fails)
    }
}

fn is_lost(e: &InferError) -> bool {
    matches!(e, InferError::Engine { source, .. } if source.is_lost())
}

fn is_of_the_head(e: &InferError) -> bool {
    match e {
        InferError::NotFinite { network, .. } => *network == Network::Head,
        InferError::Engine { source: EngineError::Run { network, .. }, .. } => *network == Network::Head,
        InferError::Engine { .. } | InferError::View { .. } => false,
    }
}

/// The time of one interval after another.
#[derive(Default)]
struct Watch {
    pressure: Pressure,
    began: Mono,
    busy: Duration,
    failures: Failures,
    /// Frames that had come, and been let go, when it began.
    frames: (u64, u64),
}

impl Watch {
    /// The interval that is over, if one is.
    fn interval(&mut self, now: Mono, health: &Health) -> Option<Interval> {
        let length = now.since(self.began);
        if length < INTERVAL {
            return None;
        }
        let (came, let_go) = health.frames();
        let interval = Interval {
            busy: (self.busy.as_secs_f32() / length.as_secs_f32()).min(1.0),
            came: came - self.frames.0,
            let_go: let_go - self.frames.1,
            throttled: health.is_throttled(),
        };
        (self.began, self.busy, self.frames) = (now, Duration::ZERO, (came, let_go));
        Some(interval)
    }
}

#[cfg(test)]
mod tests;
