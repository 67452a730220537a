//! A model that looks at what the cameras see, beside the one that serves, and the switch by which it takes over.
//!
//! It is given the frames that the serving model was given, after it, and only while there is time: what serves is never
//! held up for it. What it would raise is counted and told to nobody. By the time it takes over, its windows are those of
//! the last frames, so that no window is missing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::time::Duration;

use uuid::Uuid;

use crate::agent::capture::Frame;
use crate::agent::config::CameraId;
use crate::agent::incident::{Input, Machine, Thresholds, Transition};
use crate::agent::infer::Score;
use crate::agent::infer::classifier::{Classifier, InferError};
use crate::agent::ota::judge::{ShadowSeen, TrialSeen};
use crate::agent::run::pressure::Interval;
use crate::agent::run::serving::InUse;
use crate::base::clock::Mono;
use crate::contract::alert::NORMAL;

/// A camera that has given no window for so long is not waited for.
const ALIVE: Duration = Duration::from_secs(3);

/// Whether incidents open on a camera now.
pub type Armed = Arc<dyn Fn(&CameraId) -> bool + Send + Sync>;

/// A model that looks on.
pub struct Beside {
    /// What it is.
    pub model: InUse,
    /// Looks.
    pub classifier: Classifier,
    /// Decides what it would raise.
    pub machine: Machine,
    /// What counts as raised by it, and by what serves.
    pub thresholds: (Thresholds, Thresholds),
    /// Classes of what serves.
    pub classes: Vec<String>,
    /// Whether incidents open on a camera now.
    pub armed: Armed,
    cameras: HashMap<CameraId, Seen>,
}

/// When a camera gave a window, of what serves and of what looks on.
#[derive(Default)]
struct Seen {
    /// With what its last window raised.
    serving: Option<(Mono, Option<String>)>,
    beside: Option<Mono>,
}

impl Beside {
    /// A model that has seen nothing yet; `classes` are those of what serves, `thresholds` its own and those of what serves.
    pub fn new(
        model: InUse,
        classifier: Classifier,
        machine: Machine,
        thresholds: (Thresholds, Thresholds),
        (classes, armed): (Vec<String>, Armed),
    ) -> Beside {
        Beside { model, classifier, machine, thresholds, classes, armed, cameras: HashMap::new() }
    }

    /// Looks at frames of which the serving model has made these results.
    fn look(&mut self, now: Mono, frames: &[Frame], served: &[Result<Option<Score>, InferError>], board: &Board) {
        let looked = self.classifier.push_batch(frames);
        let mut seen = ShadowSeen::default();
        for (of_serving, of_beside) in served.iter().zip(looked) {
            let of_serving = of_serving.as_ref().ok().and_then(Option::as_ref);
            if let Some(score) = of_serving {
                let raised = raised(&self.classes, &self.thresholds.1, score);
                self.cameras.entry(score.camera.clone()).or_default().serving = Some((now, raised));
            }
            let score = match of_beside {
                Ok(Some(score)) => score,
                // A picture of which there is no view is the camera's affair.
                Ok(None) | Err(InferError::View { .. }) => continue,
                Err(e) => {
                    log::debug!("the model that looks on: {}", crate::base::error::Chain(&e));
                    seen.errors += 1;
                    continue;
                }
            };
            let of_camera = self.cameras.entry(score.camera.clone()).or_default();
            of_camera.beside = Some(now);
            // Their windows need not end with the same frame: the last one that serves is held against this one.
            if let Some((at, served)) = &of_camera.serving
                && now.since(*at) < ALIVE
            {
                let own = raised(&self.model.manifest.classes, &self.thresholds.0, &score);
                seen.windows += 1;
                seen.agreed += u64::from(own == *served);
            }
            self.machine.arm(&score.camera, (self.armed)(&score.camera));
            let steps = self.machine.step(now, Input::Score(score), &mut Uuid::now_v7);
            seen.incidents += steps.iter().filter(|t| matches!(t, Transition::Opened(_))).count() as u64;
        }
        let warm = self.is_warm(now);
        board.looked(&seen, warm);
    }

    /// Whether every camera of which the serving model makes windows has given one here too.
    fn is_warm(&self, now: Mono) -> bool {
        let alive = |seen: &&Seen| seen.serving.as_ref().is_some_and(|(at, _)| now.since(*at) < ALIVE);
        let mut serving = self.cameras.values().filter(alive).peekable();
        serving.peek().is_some() && serving.all(|seen| seen.beside.is_some())
    }
}

/// The class that a window raises by itself, if it does.
fn raised(classes: &[String], thresholds: &Thresholds, score: &Score) -> Option<String> {
    let above = classes
        .iter()
        .zip(score.probabilities.iter())
        .filter(|(class, p)| *class != NORMAL && thresholds.of(&score.camera, class).is_some_and(|t| **p >= t));
    above.max_by(|a, b| a.1.total_cmp(b.1)).map(|(class, _)| class.clone())
}

/// What the inference stage is asked to do before its next pass.
enum Asked {
    /// Let this one look on, in place of whichever does.
    Look(Box<Beside>),
    /// Let go of what looks on.
    End,
    /// Let it serve; what served comes back, to be let go elsewhere. Nothing comes if none looks on.
    Promote(mpsc::SyncSender<Classifier>),
}

/// Between the updater and the inference stage.
///
/// Locks: one, held for a moment.
#[derive(Default)]
pub struct Board(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    asked: Vec<Asked>,
    shadow: ShadowSeen,
    warm: bool,
    trial: TrialSeen,
    /// Nobody will do what is asked.
    closed: bool,
}

impl Board {
    /// Lets a model look on.
    pub fn look(&self, beside: Beside) {
        let mut inner = self.lock();
        (inner.shadow, inner.warm) = (ShadowSeen::default(), false);
        inner.asked.push(Asked::Look(Box::new(beside)));
    }

    /// Lets go of what looks on.
    pub fn end(&self) {
        self.lock().asked.push(Asked::End);
    }

    /// Lets what looks on serve; what served comes through the channel when it does.
    pub fn promote(&self) -> mpsc::Receiver<Classifier> {
        let (send, served) = mpsc::sync_channel(1);
        let mut inner = self.lock();
        if !inner.closed {
            inner.asked.push(Asked::Promote(send));
        }
        served
    }

    /// Takes back that something is to serve, if nobody has done it yet.
    pub fn unpromote(&self) {
        self.lock().asked.retain(|asked| !matches!(asked, Asked::Promote(_)));
    }

    /// The inference stage has ended.
    pub fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        inner.asked.clear();
    }

    /// What has been seen of what looks on.
    pub fn shadow(&self) -> ShadowSeen {
        self.lock().shadow
    }

    /// Whether it could take over without a window missing.
    pub fn is_warm(&self) -> bool {
        self.lock().warm
    }

    /// What has been seen of what serves since it does.
    pub fn trial(&self) -> TrialSeen {
        self.lock().trial
    }

    /// A pass of what serves has failed.
    pub fn failed(&self) {
        self.lock().trial.errors += 1;
    }

    /// An interval of inference is over.
    pub fn interval(&self, interval: &Interval) {
        self.lock().trial.interval(interval.busy.into(), interval.let_go);
    }

    fn looked(&self, seen: &ShadowSeen, warm: bool) {
        let mut inner = self.lock();
        inner.shadow.windows += seen.windows;
        inner.shadow.agreed += seen.agreed;
        inner.shadow.incidents += seen.incidents;
        inner.shadow.errors += seen.errors;
        inner.warm = warm;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("nothing panics under this lock")
    }
}

/// What looks on in the inference stage, if anything does.
#[derive(Default)]
pub struct Gallery(Option<Box<Beside>>);

impl Gallery {
    /// Does what was asked; the model that takes over, with its classifier, and where what served goes.
    pub fn attend(&mut self, board: &Board) -> Option<(Box<Beside>, mpsc::SyncSender<Classifier>)> {
        let asked = std::mem::take(&mut board.lock().asked);
        let mut takes_over = None;
        for asked in asked {
            match asked {
                Asked::Look(beside) => self.0 = Some(beside),
                Asked::End => self.0 = None,
                Asked::Promote(back) => takes_over = self.0.take().map(|beside| (beside, back)),
            }
        }
        if takes_over.is_some() {
            board.lock().trial = TrialSeen::default();
        }
        takes_over
    }

    /// Shows what looks on the frames of a pass.
    pub fn look(&mut self, now: Mono, frames: &[Frame], served: &[Result<Option<Score>, InferError>], board: &Board) {
        if let Some(beside) = &mut self.0 {
            beside.look(now, frames, served, board);
        }
    }

    /// Whether anything looks on.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}
