//! From frames to scores: view, encoder once a frame, head over the features of the last window.
//!
//! `model` reads and verifies a model directory, `bounds` says what a network may be at most, `manifest` is its format, `input` the part of it that decides the
//! pixels; `view` is what the encoder sees; `window` keeps the last features of a camera; `classifier` puts them together
//! for many cameras; `onnx` is the CPU engine; `golden` proves an engine against the model's own vectors before it is
//! trusted; `measure` says how long it takes. `tensorrt` is the Jetson's.
//!
//! What belongs here: everything between a [`Frame`](crate::agent::capture::Frame) and a [`Score`]. What does
//! not: deciding what a score means (that is `incident`'s work) and where frames come from.
//!
//! An engine owns the features: on a GPU they never leave it. Others hold a [`Slot`] and give it back by
//! dropping it. Threads: an [`Engine`] and a [`classifier::Classifier`] belong to one thread at a time and take
//! no locks that another thread could hold for long.

use std::sync::Arc;

use crate::agent::config::CameraId;
use crate::base::clock::Mono;

pub mod bounds;
pub mod classifier;
pub mod golden;
pub mod input;
pub mod manifest;
pub mod measure;
pub mod model;
mod motion;
pub mod onnx;
pub mod scripted;
pub mod slot;
#[cfg(feature = "tensorrt")]
pub mod tensorrt;
pub mod view;
pub mod window;

#[cfg(test)]
mod engine_contract;
#[cfg(test)]
mod test_model;

pub use slot::Slot;

/// The class probabilities of one window, with the time span that it covers.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// Camera.
    pub camera: CameraId,
    /// Presentation time of the window's first frame.
    pub start: Mono,
    /// Presentation time of its last.
    pub end: Mono,
    /// When the access unit of its last frame came into the process.
    pub arrival: Mono,
    /// One for each class, in the manifest's order; sums to 1.
    pub probabilities: Arc<[f32]>,
    /// Frames a second the window was made at.
    pub sample_fps: f32,
    /// The video was too short: its last frame stands in for what is missing.
    pub padded: bool,
}

/// The CNN: one view in, one feature vector out.
pub trait Encoder: Send {
    /// Encodes a batch of views, each height x width x channels bytes as the manifest says, in one pass.
    /// One slot for each view, in their order.
    fn encode(&mut self, views: &[&[u8]]) -> Result<Vec<Slot>, EngineError>;

    /// Copies a feature vector out of the engine: to prove and to explain, never on the way to a score.
    fn features(&self, slot: &Slot) -> Result<Vec<f32>, EngineError>;
}

/// The LSTM: the features of a window in, class probabilities out.
pub trait Head: Send {
    /// Classifies a batch of windows, each the manifest's number of slots, oldest first. Probabilities for each
    /// window in the manifest's order of classes.
    fn classify(&mut self, windows: &[&[Slot]]) -> Result<Vec<Arc<[f32]>>, EngineError>;
}

/// A model made ready for this machine.
pub struct Engine {
    /// What it is made of.
    pub info: EngineInfo,
    /// The CNN.
    pub encoder: Box<dyn Encoder>,
    /// The LSTM; it reads the encoder's slots.
    pub head: Box<dyn Head>,
}

/// What an engine says of itself in logs, `doctor` and the heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    /// The runtime and its version.
    pub runtime: String,
    /// What it computes in.
    pub precision: manifest::Precision,
    /// Its arithmetic is not that of the engine that made the golden vectors: it may round elsewhere.
    pub rounds_elsewhere: bool,
    /// A pass over several frames costs it little more than one over one.
    pub gains_by_batches: bool,
}

/// Which of a model's two networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// The CNN.
    Encoder,
    /// The LSTM.
    Head,
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Network::Encoder => "encoder",
            Network::Head => "head",
        })
    }
}

/// Why an engine gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The network gave NaN or an infinity: that is no score.
    #[error("the {network} gave a value that is not a finite number for item {item} of its batch")]
    NotFinite {
        /// Which one.
        network: Network,
        /// Index in the batch.
        item: usize,
    },
    /// The caller gave it something that does not fit the model.
    #[error("the {network} was given {found}, and takes {expected}")]
    Input {
        /// Which one.
        network: Network,
        /// What came.
        found: String,
        /// What was to come.
        expected: String,
    },
    /// The head was given a slot of another engine.
    #[error("a slot belongs to another engine")]
    ForeignSlot,
    /// The runtime failed.
    #[error("the runtime could not run the {network}")]
    Run {
        /// Which one.
        network: Network,
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What it runs on is of no more use to this process, whatever is tried.
    #[error("the {network} could not be run, and nothing can on its device before this program is started anew")]
    Lost {
        /// Which one.
        network: Network,
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl EngineError {
    /// Whether no engine on the same device can be had in this process any more.
    pub fn is_lost(&self) -> bool {
        matches!(self, EngineError::Lost { .. })
    }
}

/// Refuses NaN and infinities; `width` values belong to each item of the batch.
fn all_finite(network: Network, values: &[f32], width: usize) -> Result<(), EngineError> {
    match values.iter().position(|v| !v.is_finite()) {
        Some(at) => Err(EngineError::NotFinite { network, item: at / width.max(1) }),
        None => Ok(()),
    }
}
