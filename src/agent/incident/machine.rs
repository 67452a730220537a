//! The state machine. One [`Watch`] a camera; test incidents stand beside it.
//!
//! ```text
//!                 a class is active (see `trigger`), and not cooling down
//!     quiet ──────────────────────────────────────────────────────────────► open ─┐ Updated: worse, longer,
//!       ▲                                                                    │ ▲  │ or of another class
//!       │  Closed: Quiet       no active class for max(close_after, merge)   │ └──┘
//!       │          CameraLost  the camera was lost                           │
//!       │          Stopped     the daemon stops                              │
//!       ├────────────────────────────────────────────────────────────────────┤
//!       │                                                                    │
//!       └── (cool-down of its class begins)       Closed: MaxLength, then Opened at once, without cool-down
//! ```
//!
//! Another model may take over (`serve`): its scores decide from then on, by its classes and thresholds. An incident that
//! is open goes on under the thresholds that it was opened by, as far as they know its classes, and says both models.
//!
//! While a camera is disarmed nothing opens on it, and what is seen then does not count towards what opens later. An
//! incident that is open goes on and closes by its own rules; at its maximum length no other follows it.
//!
//! Evidence's own time (`Score::end`) decides; `now` only when scores have stopped coming, and for tests.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use crate::agent::config::{self, CameraId};
use crate::agent::infer::Score;
use crate::base::clock::Mono;
use crate::contract::alert::{ModelRef, NORMAL};

use super::trigger::{Levels, Peak, Run, Trigger, sane};
use super::{CloseReason, EvidenceSource, Incident, Transition};

/// The class that a test incident is reported as.
pub const TEST_CLASS: &str = "Test";

/// How long a test incident lasts: enough for a clip that is more than its rolls.
pub const TEST_LENGTH: Duration = Duration::from_secs(3);

/// No score for so long, and `now` decides in their place.
pub const SCORES_STALE_AFTER: Duration = Duration::from_secs(3);

/// A peak so much above the one last reported is told at once.
pub const PEAK_STEP: f32 = 0.1;

/// Sampled frames between two windows beyond which they are not neighbours (DESIGN section 3).
const GAP_FRAMES: f64 = 2.5;

/// What goes in.
#[derive(Debug, Clone)]
pub enum Input {
    /// One window was classified.
    Score(Score),
    /// A person asks for a test incident.
    Test {
        /// On this camera.
        camera: CameraId,
    },
    /// A camera went away, froze or was taken out.
    CameraLost {
        /// This one.
        camera: CameraId,
    },
    /// Time went on; about once a second.
    Tick,
    /// No more evidence will come.
    Stop,
}

/// The score that a class must reach to open an incident.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Thresholds {
    /// By class, from the model's manifest. A class that has none opens nothing.
    pub model: BTreeMap<String, f32>,
    /// Overrides by camera and class.
    pub cameras: BTreeMap<CameraId, BTreeMap<String, f32>>,
}

impl Thresholds {
    /// The threshold in force; none: the class opens nothing.
    pub fn of(&self, camera: &CameraId, class: &str) -> Option<f32> {
        let own = self.cameras.get(camera).and_then(|by_class| by_class.get(class));
        own.or_else(|| self.model.get(class)).copied().filter(|_| class != NORMAL)
    }
}

/// What was not acted on, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct MachineCounters {
    /// Scores not newer than one already seen of their camera; ignored.
    pub out_of_order: u64,
    /// Windows that would have opened an incident but for the cool-down.
    pub cooled_down: u64,
    /// Windows that would have opened an incident on an armed camera.
    pub disarmed: u64,
}

/// See the module's doc.
#[derive(Debug)]
pub struct Machine {
    rules: Rules,
    watches: BTreeMap<CameraId, Watch>,
    tests: Vec<Incident>,
    counters: MachineCounters,
}

impl Machine {
    /// A machine for a model with these classes, in the manifest's order.
    pub fn new(classes: Vec<String>, settings: config::Incident, thresholds: Thresholds) -> Self {
        Machine {
            rules: Rules { classes, settings, thresholds, model: None },
            watches: BTreeMap::new(),
            tests: Vec::new(),
            counters: MachineCounters::default(),
        }
    }

    /// The same for this model.
    pub fn of_model(mut self, model: ModelRef) -> Self {
        self.rules.model = Some(model);
        self
    }

    /// Another model's scores come from now on, of these classes and under these thresholds; those of cameras stay.
    pub fn serve(&mut self, model: ModelRef, classes: Vec<String>, thresholds: BTreeMap<String, f32>) {
        let thresholds = Thresholds { model: thresholds, cameras: self.rules.thresholds.cameras.clone() };
        let (before, old) = (std::mem::replace(&mut self.rules.thresholds, thresholds), &self.rules.classes);
        for watch in self.watches.values_mut() {
            watch.model_is(old, &classes, &model, &before);
        }
        (self.rules.classes, self.rules.model) = (classes, Some(model));
    }

    /// Other settings from now on. An open incident goes on under them; what it reported stays.
    pub fn reconfigure(&mut self, settings: config::Incident, thresholds: Thresholds) {
        self.rules.settings = settings;
        self.rules.thresholds = thresholds;
    }

    /// Whether incidents open on this camera from now on; at first they do.
    pub fn arm(&mut self, camera: &CameraId, armed: bool) {
        self.watches.entry(camera.clone()).or_default().disarmed = !armed;
    }

    /// What was not acted on.
    pub fn counters(&self) -> MachineCounters {
        self.counters
    }

    /// Incidents open now, tests included.
    pub fn open(&self) -> impl Iterator<Item = &Incident> {
        self.watches.values().filter_map(|w| w.open.as_ref()).map(|o| &o.incident).chain(&self.tests)
    }

    /// Takes one input in at `now`, of the same clock as the scores; `ids` gives each new incident its id.
    /// Transitions are in the order in which they must be told.
    pub fn step(&mut self, now: Mono, input: Input, ids: &mut dyn FnMut() -> Uuid) -> Vec<Transition> {
        let mut out = Vec::new();
        self.end_tests(now, &mut out);
        match input {
            Input::Score(score) => {
                let watch = self.watches.entry(score.camera.clone()).or_default();
                watch.score(&self.rules, &score, &mut self.counters, ids, &mut out);
            }
            Input::Test { camera } => {
                let test = test_incident(camera, now, ids());
                self.tests.push(test.clone());
                out.push(Transition::Opened(test));
            }
            Input::CameraLost { camera } => {
                if let Some(watch) = self.watches.get_mut(&camera) {
                    watch.close(&self.rules, now, CloseReason::CameraLost, &mut out);
                    watch.forget();
                }
            }
            Input::Tick => {
                for watch in self.watches.values_mut() {
                    watch.tick(&self.rules, now, &mut out);
                }
            }
            Input::Stop => {
                for watch in self.watches.values_mut() {
                    watch.close(&self.rules, now, CloseReason::Stopped, &mut out);
                    watch.forget();
                }
                for mut test in self.tests.drain(..) {
                    test.end = test.start.max(now);
                    out.push(Transition::Closed(test, CloseReason::Stopped));
                }
            }
        }
        out
    }

    fn end_tests(&mut self, now: Mono, out: &mut Vec<Transition>) {
        self.tests.retain_mut(|test| {
            let over = now.since(test.start) >= TEST_LENGTH;
            if over {
                test.end = test.start + TEST_LENGTH;
                out.push(Transition::Closed(test.clone(), CloseReason::Quiet));
            }
            !over
        });
    }
}

fn test_incident(camera: CameraId, now: Mono, id: Uuid) -> Incident {
    Incident {
        id,
        camera,
        source: EvidenceSource::Test,
        class: TEST_CLASS.to_owned(),
        start: now,
        end: now,
        peak_score: 1.0,
        peak_at: now,
        peak_scores: BTreeMap::new(),
        peak_fps: 0.0,
        threshold: 0.0,
        windows: 0,
        model: None,
        later_model: None,
    }
}

/// What a watch goes by.
#[derive(Debug)]
struct Rules {
    classes: Vec<String>,
    settings: config::Incident,
    thresholds: Thresholds,
    model: Option<ModelRef>,
}

impl Rules {
    /// `kept` are the thresholds of an incident that was opened under another model.
    fn threshold(&self, camera: &CameraId, class: usize, kept: Option<&Thresholds>) -> Option<f32> {
        let class = &self.classes[class];
        kept.and_then(|kept| kept.of(camera, class)).or_else(|| self.thresholds.of(camera, class))
    }

    fn levels(&self, camera: &CameraId, class: usize, kept: Option<&Thresholds>) -> Option<Levels> {
        let threshold = self.threshold(camera, class, kept)?;
        // A level of zero would hold for ever, so hysteresis reaches at most halfway down.
        let hold = (threshold - self.settings.hysteresis).max(threshold / 2.0);
        Some(Levels { threshold, hold, min_windows: self.settings.min_windows })
    }

    /// How long without evidence closes an incident.
    fn hold_time(&self) -> Duration {
        self.settings.close_after.max(self.settings.merge_within)
    }

    fn by_name(&self, probabilities: &[f32]) -> BTreeMap<String, f32> {
        self.classes.iter().cloned().zip(probabilities.iter().copied().map(sane)).collect()
    }
}

#[derive(Debug)]
struct Open {
    incident: Incident,
    reported_at: Mono,
    reported_peak: f32,
    /// Those of the model that it was opened under, if another has taken over.
    kept: Option<Thresholds>,
}

/// One camera.
#[derive(Debug, Default)]
struct Watch {
    disarmed: bool,
    last_end: Option<Mono>,
    triggers: Vec<Trigger>,
    open: Option<Open>,
    /// Until when a class opens nothing.
    cooling: BTreeMap<String, Mono>,
}

impl Watch {
    /// What is known of a class stays known, by its name.
    fn model_is(&mut self, old: &[String], new: &[String], model: &ModelRef, thresholds: &Thresholds) {
        let mut known: BTreeMap<&String, Trigger> = old.iter().zip(std::mem::take(&mut self.triggers)).collect();
        self.triggers = new.iter().map(|class| known.remove(class).unwrap_or_default()).collect();
        if let Some(open) = &mut self.open {
            open.kept.get_or_insert_with(|| thresholds.clone());
            open.incident.later_model = (open.incident.model.as_ref() != Some(model)).then(|| model.clone());
        }
    }

    /// What was seen before says nothing about what comes next.
    fn forget(&mut self) {
        self.last_end = None;
        self.triggers.clear();
    }

    fn score(
        &mut self,
        rules: &Rules,
        score: &Score,
        counters: &mut MachineCounters,
        ids: &mut dyn FnMut() -> Uuid,
        out: &mut Vec<Transition>,
    ) {
        let (start, end) = (score.start.min(score.end), score.end);
        if let Some(last) = self.last_end {
            if end <= last {
                counters.out_of_order += 1;
                return;
            }
            if start.since(last).as_secs_f64() * f64::from(score.sample_fps) > GAP_FRAMES {
                self.triggers.clear();
                // Nothing was seen in the gap; too long a one ends the incident, whatever comes after it.
                if self.open.as_ref().is_some_and(|o| start.since(o.incident.end) >= rules.hold_time()) {
                    self.close(rules, start, CloseReason::Quiet, out);
                }
            }
        }
        self.last_end = Some(end);
        self.triggers.resize_with(rules.classes.len(), Trigger::default);

        let weight = rules.settings.smoothing;
        let mut strongest: Option<(usize, f32)> = None;
        for (class, trigger) in self.triggers.iter_mut().enumerate() {
            let levels = rules.levels(&score.camera, class, self.open.as_ref().and_then(|o| o.kept.as_ref()));
            let smoothed = trigger.add(score, class, weight, levels);
            if trigger.is_active() && strongest.is_none_or(|(_, s)| smoothed > s) {
                strongest = Some((class, smoothed));
            }
        }

        let Some((class, smoothed)) = strongest else {
            if self.open.as_ref().is_some_and(|o| end.since(o.incident.end) >= rules.hold_time()) {
                self.close(rules, end, CloseReason::Quiet, out);
            }
            return;
        };
        let peak = Peak::of(score, smoothed);
        match &mut self.open {
            None if self.disarmed => self.pass_over(counters),
            None => self.try_open(rules, score, counters, ids, out),
            Some(open) if end.since(open.incident.start) > rules.settings.max_length => {
                self.close(rules, end, CloseReason::MaxLength, out);
                if self.disarmed {
                    self.pass_over(counters);
                    return;
                }
                self.begin(rules, score, class, Run::first(start, peak), ids(), out);
            }
            Some(open) => open.hold(rules, class, peak, out),
        }
    }

    /// Lets a window that would have opened an incident not count.
    fn pass_over(&mut self, counters: &mut MachineCounters) {
        self.triggers.iter_mut().for_each(Trigger::forget_run);
        counters.disarmed += 1;
    }

    /// Opens an incident of the active class with the highest peak, of those that are not cooling down.
    fn try_open(
        &mut self,
        rules: &Rules,
        score: &Score,
        counters: &mut MachineCounters,
        ids: &mut dyn FnMut() -> Uuid,
        out: &mut Vec<Transition>,
    ) {
        self.cooling.retain(|_, until| score.end < *until);
        let mut best: Option<(usize, Run)> = None;
        for (class, trigger) in self.triggers.iter_mut().enumerate() {
            if self.cooling.contains_key(&rules.classes[class]) {
                trigger.forget_run();
            } else if let Some(run) = trigger.run()
                && best.as_ref().is_none_or(|(_, b)| run.peak.score > b.peak.score)
            {
                best = Some((class, run.clone()));
            }
        }
        match best {
            Some((class, run)) => self.begin(rules, score, class, run, ids(), out),
            None => counters.cooled_down += 1,
        }
    }

    fn begin(&mut self, rules: &Rules, score: &Score, class: usize, run: Run, id: Uuid, out: &mut Vec<Transition>) {
        // A run may be longer than an incident may be (many windows wanted, a short maximum).
        let start = run.start.max(score.end.back(rules.settings.max_length));
        let mut incident = Incident {
            id,
            camera: score.camera.clone(),
            source: EvidenceSource::Classifier,
            class: rules.classes[class].clone(),
            start,
            end: score.end,
            peak_score: 0.0,
            peak_at: score.end,
            peak_scores: BTreeMap::new(),
            peak_fps: 0.0,
            threshold: rules.thresholds.of(&score.camera, &rules.classes[class]).unwrap_or(1.0),
            windows: run.windows,
            model: rules.model.clone(),
            later_model: None,
        };
        incident.set_peak(rules, &run.peak);
        incident.peak_at = incident.peak_at.max(start);
        out.push(Transition::Opened(incident.clone()));
        self.open = Some(Open { reported_at: score.end, reported_peak: incident.peak_score, kept: None, incident });
    }

    /// Without scores nothing else would ever close an incident.
    fn tick(&mut self, rules: &Rules, now: Mono, out: &mut Vec<Transition>) {
        let stale = self.last_end.is_some_and(|last| now.since(last) >= SCORES_STALE_AFTER);
        if stale && self.open.as_ref().is_some_and(|o| now.since(o.incident.end) >= rules.hold_time()) {
            self.close(rules, now, CloseReason::Quiet, out);
        }
    }

    fn close(&mut self, rules: &Rules, at: Mono, reason: CloseReason, out: &mut Vec<Transition>) {
        let Some(open) = self.open.take() else { return };
        if reason != CloseReason::MaxLength && !rules.settings.cool_down.is_zero() {
            self.cooling.insert(open.incident.class.clone(), at + rules.settings.cool_down);
        }
        out.push(Transition::Closed(open.incident, reason));
    }
}

impl Open {
    /// Takes in a window that supports it; `peak` is that of the strongest active class.
    fn hold(&mut self, rules: &Rules, class: usize, peak: Peak, out: &mut Vec<Transition>) {
        let incident = &mut self.incident;
        incident.end = peak.at;
        incident.windows = incident.windows.saturating_add(1);
        let mut class_changed = false;
        if peak.score > incident.peak_score {
            class_changed = incident.class != rules.classes[class];
            if class_changed {
                incident.class.clone_from(&rules.classes[class]);
                incident.threshold = rules.threshold(&incident.camera, class, self.kept.as_ref()).unwrap_or(1.0);
            }
            incident.set_peak(rules, &peak);
        }
        let worse = incident.peak_score >= self.reported_peak + PEAK_STEP;
        if class_changed || worse || incident.end.since(self.reported_at) >= rules.settings.update_every {
            self.reported_at = incident.end;
            self.reported_peak = incident.peak_score;
            out.push(Transition::Updated(incident.clone()));
        }
    }
}

impl Incident {
    fn set_peak(&mut self, rules: &Rules, peak: &Peak) {
        self.peak_score = peak.score;
        self.peak_at = peak.at;
        self.peak_scores = rules.by_name(&peak.probabilities);
        self.peak_fps = peak.sample_fps;
    }
}
