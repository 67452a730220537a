//! When scores become an incident: a pure state machine, `step(now, input) -> transitions`.
//!
//! It does no I/O, reads no clock and knows no other stage's state; the worker in `run` carries its
//! transitions to the store and to the clip stage.
//!
//! `arming` says whether incidents open at all at this hour.
//!
//! `trigger` turns a class's scores into evidence (smoothing, threshold, hysteresis, minimum of windows);
//! `machine` turns evidence into incidents (closing, merging, cool-down, maximum length, how often to tell).
//!
//! # Invariants
//!
//! - Every `Opened` is followed, at the latest after `Stop`, by exactly one `Closed` of the same id.
//! - `start <= peak_at <= end`, and `end - start` is at most `max_length`.
//! - A camera has at most one open classifier incident; test incidents stand beside it.
//! - A disarmed camera opens nothing but tests. What is open when it is disarmed goes on, to its own end.
//! - `Normal` opens nothing. The same inputs give the same transitions.

pub mod arming;
mod machine;
mod trigger;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use uuid::{NoContext, Timestamp, Uuid};

use crate::agent::config::CameraId;
use crate::base::clock::{Mono, Wall};
use crate::contract::alert::ModelRef;

pub use machine::{
    Input, Machine, MachineCounters, PEAK_STEP, SCORES_STALE_AFTER, TEST_CLASS, TEST_LENGTH, Thresholds,
};

/// What opens or holds an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EvidenceSource {
    /// The model.
    Classifier,
    /// A person who tests the way to the SOC.
    Test,
    /// A person who wants the footage of a time; nothing was seen.
    Request,
}

impl EvidenceSource {
    /// The word for it in messages and rows.
    pub fn as_str(self) -> &'static str {
        match self {
            EvidenceSource::Classifier => "classifier",
            EvidenceSource::Test => "test",
            EvidenceSource::Request => "request",
        }
    }
}

/// One incident as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Incident {
    /// UUIDv7.
    pub id: Uuid,
    /// Camera.
    pub camera: CameraId,
    /// What opened it.
    pub source: EvidenceSource,
    /// The class it is reported as: that of the highest score so far (`Test` for a test).
    pub class: String,
    /// When its first supporting window begins.
    pub start: Mono,
    /// End of the last supporting window.
    pub end: Mono,
    /// Highest smoothed score of `class`.
    pub peak_score: f32,
    /// End of the window that gave it.
    pub peak_at: Mono,
    /// The unsmoothed scores of that window, by class name.
    pub peak_scores: BTreeMap<String, f32>,
    /// Frames a second that that window was made at; 0 for a test, which nobody saw.
    pub peak_fps: f32,
    /// The threshold in force for `class` when it opened.
    pub threshold: f32,
    /// Windows that support it.
    pub windows: u32,
    /// The model that saw it begin; none where nothing was seen.
    pub model: Option<ModelRef>,
    /// The model that has taken over since, if one has.
    pub later_model: Option<ModelRef>,
}

/// What footage that somebody asked for is reported as.
pub const REQUESTED_CLASS: &str = "Requested";

impl Incident {
    /// The footage of a time that somebody asked for.
    pub fn requested(id: Uuid, camera: CameraId, start: Mono, end: Mono) -> Incident {
        Incident {
            id,
            camera,
            source: EvidenceSource::Request,
            class: REQUESTED_CLASS.to_owned(),
            start,
            end,
            peak_score: 0.0,
            peak_at: start,
            peak_scores: BTreeMap::new(),
            peak_fps: 0.0,
            threshold: 0.0,
            windows: 0,
            model: None,
            later_model: None,
        }
    }
}

/// A change that others must hear of.
#[derive(Debug, Clone, PartialEq)]
pub enum Transition {
    /// It has begun.
    Opened(Incident),
    /// It is worse, longer, or of another class than was said.
    Updated(Incident),
    /// It is over.
    Closed(Incident, CloseReason),
}

impl Transition {
    /// The incident as it stands after it.
    pub fn incident(&self) -> &Incident {
        match self {
            Transition::Opened(i) | Transition::Updated(i) | Transition::Closed(i, _) => i,
        }
    }
}

/// Why an incident closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The evidence ended.
    Quiet,
    /// It reached the maximum length; a new one may follow at once.
    MaxLength,
    /// The camera was lost.
    CameraLost,
    /// The daemon stops.
    Stopped,
    /// It is the footage of a time that somebody asked for, and was over before it began.
    Requested,
}

impl CloseReason {
    /// The word for it in messages and rows.
    pub fn as_str(self) -> &'static str {
        match self {
            CloseReason::Quiet => "quiet",
            CloseReason::MaxLength => "max_length",
            CloseReason::CameraLost => "camera_lost",
            CloseReason::Stopped => "stopped",
            CloseReason::Requested => "requested",
        }
    }
}

/// A new UUIDv7 labelled with `at`: what `Machine::step` is given as its source of ids.
pub fn new_id(at: Wall) -> Uuid {
    let ms = u64::try_from(at.unix_ms()).unwrap_or(0);
    let subsec_ns = (ms % 1000) as u32 * 1_000_000;
    Uuid::new_v7(Timestamp::from_unix(NoContext, ms / 1000, subsec_ns))
}
