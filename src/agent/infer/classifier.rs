//! Views, engine and windows put together for many cameras: frames in, scores out.
//!
//! Every frame is encoded exactly once; frames of several cameras that come together share one encoder pass.
//!
//! Invariants: a score's window holds neighbouring frames of one camera only. One camera's trouble is its own: a
//! frame that fails starts its camera's window anew and leaves the others' results as they would have been
//! alone. No value that is not finite becomes a score.
//!
//! What does not belong here: queues, threads, and waiting for other cameras' frames (`run`).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::agent::capture::Frame;
use crate::agent::config::CameraId;

use super::manifest::Manifest;
use super::view::{View, ViewError, ViewState};
use super::window::{Item, Snapshot, Window};
use super::{Engine, EngineError, EngineInfo, Network, Score, Slot};

/// What a caller may choose differently from the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Options {
    /// Frames a second that the tap aims at; decides what is a gap, and what is too slow for a window. None: the manifest's.
    pub sample_fps: Option<f32>,
    /// Frames from one window to the next. None: the manifest's.
    pub stride: Option<usize>,
    /// Keeps the views of each camera's window, so that another engine can take over without a gap.
    pub replaceable: bool,
}

/// Why a frame or a window gave no score.
#[derive(Debug, thiserror::Error)]
pub enum InferError {
    /// There was nothing to encode.
    #[error("camera {camera}, frame at {at_ms} ms: no view of it")]
    View {
        /// Camera.
        camera: CameraId,
        /// Presentation time.
        at_ms: u64,
        /// Why.
        source: ViewError,
    },
    /// The model gave NaN or an infinity.
    #[error(
        "model {model} gave a value that is not a finite number ({network}, camera {camera}, frame at {at_ms} ms): no \
         score is made of it"
    )]
    NotFinite {
        /// Model.
        model: String,
        /// Which network.
        network: Network,
        /// Camera.
        camera: CameraId,
        /// Presentation time of the frame, or of a window's last.
        at_ms: u64,
    },
    /// The engine failed.
    #[error("model {model} could not classify camera {camera}, frame at {at_ms} ms")]
    Engine {
        /// Model.
        model: String,
        /// Camera.
        camera: CameraId,
        /// Presentation time of the frame, or of a window's last.
        at_ms: u64,
        /// Why.
        source: EngineError,
    },
}

struct Camera {
    views: ViewState,
    window: Window<Slot>,
    /// The views of the window's frames, if the engine is replaceable.
    seen: VecDeque<Vec<u8>>,
}

impl Camera {
    fn restart(&mut self) {
        self.window.restart();
        self.seen.clear();
    }
}

/// One engine and the state of every camera that it serves.
pub struct Classifier {
    engine: Engine,
    manifest: Arc<Manifest>,
    sample_fps: f32,
    stride: usize,
    replaceable: bool,
    cameras: HashMap<CameraId, Camera>,
    encoded: u64,
}

impl Classifier {
    /// A classifier with no cameras yet; each is taken up with its first frame.
    pub fn new(manifest: Arc<Manifest>, engine: Engine, options: Options) -> Self {
        Classifier {
            engine,
            sample_fps: options.sample_fps.unwrap_or(manifest.sample_fps),
            stride: options.stride.unwrap_or(manifest.stride),
            replaceable: options.replaceable,
            manifest,
            cameras: HashMap::new(),
            encoded: 0,
        }
    }

    /// What it classifies with.
    pub fn engine(&self) -> &EngineInfo {
        &self.engine.info
    }

    /// Lets another engine of the same model take over: it encodes the frames of every camera's window, so that the next
    /// score is of as many frames as the last. If it cannot, nothing changes, and it comes back with the reason.
    pub fn replace(&mut self, mut engine: Engine) -> Result<Engine, (Engine, EngineError)> {
        let mut represented = Vec::new();
        for (id, camera) in &self.cameras {
            let views: Vec<&[u8]> = camera.seen.iter().map(|view| &view[..]).collect();
            match engine.encoder.encode(&views) {
                Ok(slots) => represented.push((id.clone(), slots)),
                Err(e) => return Err((engine, e)),
            }
        }
        for (id, slots) in represented {
            if let Some(camera) = self.cameras.get_mut(&id) {
                camera.window.represent(slots);
            }
        }
        Ok(std::mem::replace(&mut self.engine, engine))
    }

    /// Frames encoded so far.
    pub fn encoded(&self) -> u64 {
        self.encoded
    }

    /// The next frame of a camera; a score if a window is due.
    pub fn push(&mut self, frame: &Frame) -> Result<Option<Score>, InferError> {
        self.push_batch(std::slice::from_ref(frame)).pop().expect("one frame, one result")
    }

    /// The next frames of several cameras (of one camera: in their order) in one pass; one result for each.
    pub fn push_batch(&mut self, frames: &[Frame]) -> Vec<Result<Option<Score>, InferError>> {
        let views: Vec<_> = frames.iter().map(|f| self.view(f)).collect();
        let bytes: Vec<&[u8]> = views.iter().flatten().map(|v| &v.bytes[..]).collect();
        self.encoded += bytes.len() as u64;
        let mut encoded = together(&bytes, |b| self.engine.encoder.encode(b)).into_iter();
        let snapshots: Vec<_> = frames
            .iter()
            .zip(views)
            .map(|(frame, view)| {
                let view = view?;
                match encoded.next().expect("every view has a result") {
                    Ok(slot) => Ok(self.advance(frame, view, slot)),
                    Err(e) => Err(self.failed(e, &frame.camera, frame.at.as_millis())),
                }
            })
            .collect();
        let windows: Vec<&[Slot]> = snapshots.iter().flatten().flatten().map(|s| &s.features[..]).collect();
        let mut scored = together(&windows, |w| self.engine.head.classify(w)).into_iter();
        frames
            .iter()
            .zip(snapshots)
            .map(|(frame, snapshot)| match snapshot? {
                None => Ok(None),
                Some(s) => match scored.next().expect("every window has a result") {
                    Ok(probabilities) => Ok(Some(score(&frame.camera, &s, probabilities))),
                    Err(e) => Err(self.failed(e, &frame.camera, s.end.as_millis())),
                },
            })
            .collect()
    }

    /// The end of a camera's video: the padded score of one too short for any window. Forgets the camera.
    pub fn finish(&mut self, camera: &CameraId) -> Result<Option<Score>, InferError> {
        let Some(snapshot) = self.cameras.remove(camera).and_then(|c| c.window.finish()) else { return Ok(None) };
        match self.engine.head.classify(&[&snapshot.features]) {
            Ok(mut p) => Ok(Some(score(camera, &snapshot, p.pop().expect("one window, one result")))),
            Err(e) => Err(self.failed(e, camera, snapshot.end.as_millis())),
        }
    }

    /// Forgets what a camera has shown: its next frame starts anew.
    pub fn reset(&mut self, camera: &CameraId) {
        self.cameras.remove(camera);
    }

    fn view(&mut self, frame: &Frame) -> Result<View, InferError> {
        if !self.cameras.contains_key(&frame.camera) {
            let views = ViewState::new(&self.manifest.view, self.sample_fps);
            let window = Window::new(self.manifest.window, self.stride, self.sample_fps);
            self.cameras.insert(frame.camera.clone(), Camera { views, window, seen: VecDeque::new() });
        }
        let camera = self.cameras.get_mut(&frame.camera).expect("inserted above");
        camera.views.push(frame).map_err(|source| {
            camera.restart();
            InferError::View { camera: frame.camera.clone(), at_ms: frame.at.as_millis(), source }
        })
    }

    fn advance(&mut self, frame: &Frame, view: View, slot: Slot) -> Option<Snapshot<Slot>> {
        let camera = self.cameras.get_mut(&frame.camera)?;
        if view.restarted {
            camera.restart();
        }
        if self.replaceable {
            if camera.seen.len() == self.manifest.window {
                camera.seen.pop_front();
            }
            camera.seen.push_back(view.bytes);
        }
        camera.window.push(Item { features: slot, at: frame.at, arrival: frame.arrival, sample_fps: frame.sample_fps })
    }

    /// Says what failed, and lets the camera's window start anew: it would have a hole.
    fn failed(&mut self, error: EngineError, camera: &CameraId, at_ms: u64) -> InferError {
        if let Some(c) = self.cameras.get_mut(camera) {
            c.views.restart();
            c.restart();
        }
        let (model, camera) = (self.manifest.title(), camera.clone());
        match error {
            EngineError::NotFinite { network, .. } => InferError::NotFinite { model, network, camera, at_ms },
            source => InferError::Engine { model, camera, at_ms, source },
        }
    }
}

/// Runs a batch; if that fails, each item alone, so that only those fail that are the cause.
fn together<I, T>(
    items: &[I],
    mut run: impl FnMut(&[I]) -> Result<Vec<T>, EngineError>,
) -> Vec<Result<T, EngineError>> {
    if items.is_empty() {
        return Vec::new();
    }
    match run(items) {
        Ok(results) => {
            assert_eq!(results.len(), items.len(), "an engine answers for every item");
            results.into_iter().map(Ok).collect()
        }
        Err(e) if items.len() == 1 => vec![Err(e)],
        Err(_) => items.chunks(1).map(|one| run(one).map(|mut r| r.pop().expect("one item, one result"))).collect(),
    }
}

fn score(camera: &CameraId, window: &Snapshot<Slot>, probabilities: Arc<[f32]>) -> Score {
    Score {
        camera: camera.clone(),
        start: window.start,
        end: window.end,
        arrival: window.arrival,
        probabilities,
        sample_fps: window.sample_fps,
        padded: window.padded,
    }
}

#[cfg(test)]
mod tests;
