//! One class on one camera: its smoothed score, and whether it counts as evidence.
//!
//! ```text
//!            score >= threshold            min_windows in a row
//!     idle ─────────────────────► rising ─────────────────────► active
//!      ▲  ◄────────────────────────┘                               │
//!      │     score < threshold                                     │
//!      └───────────────────────────────────────────────────────────┘
//!                      score < hold level (threshold - hysteresis)
//! ```

use std::sync::Arc;

use crate::agent::infer::Score;
use crate::base::clock::Mono;

/// A window's smoothed score with the unsmoothed scores of all classes behind it.
#[derive(Debug, Clone)]
pub(super) struct Peak {
    pub score: f32,
    pub at: Mono,
    pub probabilities: Arc<[f32]>,
    pub sample_fps: f32,
}

impl Peak {
    pub(super) fn of(window: &Score, score: f32) -> Self {
        let probabilities = Arc::clone(&window.probabilities);
        // As with probabilities: what is no number must not spread.
        let sample_fps = if window.sample_fps.is_finite() { window.sample_fps.max(0.0) } else { 0.0 };
        Peak { score, at: window.end, probabilities, sample_fps }
    }
}

/// Windows in a row that support a class.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub windows: u32,
    pub start: Mono,
    pub peak: Peak,
}

impl Run {
    pub(super) fn first(start: Mono, peak: Peak) -> Self {
        Run { windows: 1, start, peak }
    }

    fn add(&mut self, peak: Peak) {
        self.windows = self.windows.saturating_add(1);
        if peak.score > self.peak.score {
            self.peak = peak;
        }
    }
}

/// The levels that a class has to pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct Levels {
    pub threshold: f32,
    pub hold: f32,
    pub min_windows: u32,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    Rising(Run),
    /// Without a run, the next supporting window begins one: what came before was not to count.
    Active(Option<Run>),
}

/// See the module's doc.
#[derive(Debug, Default)]
pub(super) struct Trigger {
    smoothed: Option<f32>,
    state: State,
}

impl Trigger {
    /// Takes in the class's probability in one window; returns the smoothed score.
    pub(super) fn add(&mut self, window: &Score, class: usize, weight: f32, levels: Option<Levels>) -> f32 {
        let start = window.start.min(window.end);
        let raw = window.probabilities.get(class).copied().map_or(0.0, sane);
        let score = self.smoothed.map_or(raw, |s| weight * raw + (1.0 - weight) * s);
        self.smoothed = Some(score);
        let Some(levels) = levels else {
            self.state = State::Idle;
            return score;
        };
        let peak = || Peak::of(window, score);
        let (above, holds) = (score >= levels.threshold, score >= levels.hold);
        self.state = match std::mem::take(&mut self.state) {
            State::Idle if above => State::Rising(Run::first(start, peak())),
            State::Rising(mut run) if above => {
                run.add(peak());
                State::Rising(run)
            }
            State::Active(Some(mut run)) if holds => {
                run.add(peak());
                State::Active(Some(run))
            }
            State::Active(None) if holds => State::Active(Some(Run::first(start, peak()))),
            _ => State::Idle,
        };
        if let State::Rising(run) = &self.state
            && run.windows >= levels.min_windows
        {
            self.state = State::Active(Some(run.clone()));
        }
        score
    }

    /// Whether the class is evidence in the window taken in last.
    pub(super) fn is_active(&self) -> bool {
        matches!(self.state, State::Active(_))
    }

    /// The windows that support it, if it is active.
    pub(super) fn run(&self) -> Option<&Run> {
        match &self.state {
            State::Active(run) => run.as_ref(),
            _ => None,
        }
    }

    /// Lets the windows so far not count towards an incident that opens later.
    pub(super) fn forget_run(&mut self) {
        if let State::Active(run) = &mut self.state {
            *run = None;
        }
    }
}

/// A probability as it must be. What is not a number is refused upstream; here it must only not spread, through
/// the running mean or into a message.
pub(super) fn sane(probability: f32) -> f32 {
    if probability.is_finite() { probability.clamp(0.0, 1.0) } else { 0.0 }
}
