//! From frames to scores: view, encoder once a frame, head over the features of the last window.
//!
//! `manifest` reads and verifies a model directory; `view` is what the encoder sees; `window` keeps the last
//! features of a camera and knows about gaps; `classifier` puts them together for many cameras; `onnx` is the
//! CPU engine. TensorRT will stand beside `onnx`.
//!
//! An engine owns the features: on a GPU they never leave it. Others hold a [`Slot`] and give it back by
//! dropping it.

use std::sync::Arc;

use crate::agent::config::CameraId;
use crate::base::clock::Mono;

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
