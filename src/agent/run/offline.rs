//! The daemon's pipeline over files: `replay`, `evaluate`, `frames`. Same capture, same views, same windows, same
//! incident machine; the file's own time instead of the clock's, and nothing is ever dropped.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::agent::capture::{self, CaptureError, FileSummary, Frame, FrameTap};
use crate::agent::config::{self, CameraId, Precision};
use crate::agent::incident::{Incident, Input, Machine, Thresholds, Transition};
use crate::agent::infer::classifier::{self, Classifier, InferError};
use crate::agent::infer::golden::ProofError;
use crate::agent::infer::input;
use crate::agent::infer::manifest::Manifest;
use crate::agent::infer::model::{Model, ModelError};
use crate::agent::infer::view::{View, ViewError, ViewState};
use crate::agent::infer::window::LEAST_RATE;
use crate::agent::infer::{Engine, Score, onnx};
use crate::base::clock::Mono;
use crate::base::stop::StopToken;
use crate::contract::alert::{ModelRef, NORMAL};

/// How files are looked at.
#[derive(Debug, Clone)]
pub struct Options {
    /// Model directory.
    pub model: PathBuf,
    /// Which of the model's networks.
    pub precision: Precision,
    /// CPU threads for the encoder.
    pub threads: usize,
    /// Frames a second; none: the model's.
    pub sample_fps: Option<f32>,
    /// Frames from one window to the next; none: the model's.
    pub stride: Option<usize>,
}

/// Why a model could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its directory.
    #[error("the model in {} cannot be used", .dir.display())]
    Model {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: Box<ModelError>,
    },
    /// Its networks, or the runtime.
    #[error("the model in {} cannot be loaded", .dir.display())]
    Engine {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: Box<onnx::OnnxError>,
    },
    /// It does not compute what it should.
    #[error("the model in {} does not give what its golden vectors say, on this machine", .dir.display())]
    Proof {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: Box<ProofError>,
    },
    /// None was named and none was found.
    #[error("no model was named and none was found beside the program; looked in {looked}. Name one with --model DIR")]
    NoDefault {
        /// Where it was looked for.
        looked: String,
    },
}

/// Why a file was not classified to its end.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// It could not be read as video.
    #[error("cannot be analysed")]
    Capture(#[from] CaptureError),
    /// The model failed on it.
    #[error("cannot be classified")]
    Infer(#[from] InferError),
    /// A view could not be cut.
    #[error("no view could be cut from a frame")]
    View(#[from] ViewError),
    /// It has no picture at all.
    #[error("no picture could be decoded")]
    NoPicture,
    /// Its pictures are too far apart for the model.
    #[error("it has {found_fps:.1} pictures a second and the model needs {least_fps:.1}: record it at a higher rate")]
    TooSlow {
        /// What it has, in the mean.
        found_fps: f64,
        /// What the model needs.
        least_fps: f32,
    },
}

/// Opens and verifies a model directory. Its networks stay on the disk.
pub fn open_model(dir: &Path) -> Result<Model, LoadError> {
    Model::open(dir).map_err(|e| LoadError::Model { dir: dir.to_owned(), source: Box::new(e) })
}

/// Loads a model's networks and proves them against its golden vectors.
pub fn load_engine(
    model: &Model,
    precision: Precision,
    threads: usize,
    onnxruntime: Option<&Path>,
) -> Result<Engine, LoadError> {
    let dir = || model.dir().to_owned();
    let mut engine = onnx::load(model, precision, threads, onnxruntime)
        .map_err(|e| LoadError::Engine { dir: dir(), source: Box::new(e) })?;
    let proof = model.prove(&mut engine).map_err(|e| LoadError::Proof { dir: dir(), source: Box::new(e) })?;
    log::info!(
        "model {} on {}: proven against its golden vectors (largest difference of a probability {:.1e})",
        model.manifest().title(),
        engine.info.runtime,
        proof.probabilities
    );
    Ok(engine)
}

/// The model that came with the program: beside it (a package, a source tree's build), or below the working directory.
pub fn default_model() -> Result<PathBuf, LoadError> {
    const IN_TREE: &str = "engines/activity-v1";
    const INSTALLED: &str = "share/vedette/models/default";
    let exe = std::env::current_exe().ok();
    // /usr/bin/vedette has it in /usr/share; target/debug/vedette some directories above.
    let installed = exe.iter().filter_map(|e| e.parent()?.parent()).map(|d| d.join(INSTALLED));
    let above = exe.iter().flat_map(|e| e.ancestors().skip(1).take(5)).map(|d| d.join(IN_TREE));
    let candidates: Vec<PathBuf> = installed.chain(above).chain([PathBuf::from(IN_TREE)]).collect();
    candidates.iter().find(|d| d.join("manifest.toml").is_file()).cloned().ok_or_else(|| LoadError::NoDefault {
        looked: candidates.iter().map(|d| d.display().to_string()).collect::<Vec<_>>().join(", "),
    })
}

/// What `replay` brings.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "each is handed on at once, none is kept")]
pub enum Replayed {
    /// A window was scored.
    Window(Score),
    /// An incident is over.
    Incident(Incident),
}

/// A loaded model and what is done with files on it. One is made for any number of files.
pub struct Pipeline {
    classifier: Classifier,
    manifest: Arc<Manifest>,
    reference: ModelRef,
    sample_fps: f32,
}

impl Pipeline {
    /// Loads a model for files.
    pub fn load(options: &Options) -> Result<Pipeline, LoadError> {
        let model = open_model(&options.model)?;
        let engine = load_engine(&model, options.precision, options.threads, None)?;
        let manifest = Arc::new(model.manifest().clone());
        let chosen = classifier::Options { sample_fps: options.sample_fps, stride: options.stride, replaceable: false };
        Ok(Pipeline {
            classifier: Classifier::new(Arc::clone(&manifest), engine, chosen),
            reference: model.reference(),
            sample_fps: options.sample_fps.unwrap_or(manifest.sample_fps),
            manifest,
        })
    }

    /// Classes in the model's order.
    pub fn classes(&self) -> &[String] {
        &self.manifest.classes
    }

    /// Which model it is.
    pub fn model_ref(&self) -> ModelRef {
        self.reference.clone()
    }

    /// Every window of a file, in order. `take` says whether to go on.
    pub fn scores(&mut self, path: &Path, take: &mut dyn FnMut(Score) -> bool) -> Result<FileSummary, OfflineError> {
        let camera = CameraId::new("file");
        self.classifier.reset(&camera);
        let (mut failed, mut go_on, mut windows) = (None, true, 0);
        let (mut frames, mut last) = (0_u32, Mono::ZERO);
        let classifier = &mut self.classifier;
        let summary = capture::read_file(path, &camera, tap(self.sample_fps), &StopToken::new(), |frame: Frame| {
            (frames, last) = (frames + 1, frame.at);
            match classifier.push(&frame) {
                Ok(None) => {}
                Ok(Some(score)) => {
                    windows += 1;
                    go_on = take(score);
                }
                Err(e) => failed = Some(e),
            }
            if go_on && failed.is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        if let Some(e) = failed {
            return Err(e.into());
        }
        match self.classifier.finish(&camera)? {
            Some(padded) => {
                take(padded);
            }
            None if windows == 0 && frames == 0 => return Err(OfflineError::NoPicture),
            None if windows == 0 => {
                let found_fps = f64::from(frames - 1) / last.since(Mono::ZERO).as_secs_f64();
                return Err(OfflineError::TooSlow { found_fps, least_fps: LEAST_RATE * self.sample_fps });
            }
            None => {}
        }
        Ok(summary)
    }

    /// Every window, and every incident that the daemon would have made of them with the model's thresholds and
    /// the default `[incident]` settings.
    pub fn replay(&mut self, path: &Path, take: &mut dyn FnMut(Replayed) -> bool) -> Result<FileSummary, OfflineError> {
        let mut machine = Machine::new(
            self.manifest.classes.clone(),
            config::Incident::default(),
            Thresholds { model: self.manifest.thresholds.clone(), ..Thresholds::default() },
        );
        let mut end = Mono::ZERO;
        let ended = self.scores(path, &mut |score| {
            end = score.end;
            let closed = closed(machine.step(end, Input::Score(score.clone()), &mut Uuid::now_v7));
            take(Replayed::Window(score)) && closed.into_iter().all(|i| take(Replayed::Incident(i)))
        });
        // Also of a file that could not be read to its end: what was seen by then was seen.
        for incident in closed(machine.step(end, Input::Stop, &mut Uuid::now_v7)) {
            take(Replayed::Incident(incident));
        }
        ended
    }

    /// The probabilities of the window with the highest 1 - P(Normal): a clip's own, for judging.
    pub fn clip_probabilities(&mut self, path: &Path) -> Result<Vec<f32>, OfflineError> {
        let normal = self.manifest.classes.iter().position(|c| c == NORMAL);
        let mut best: Option<Score> = None;
        self.scores(path, &mut |score| {
            let quiet = |s: &Score| normal.map_or(0.0, |n| s.probabilities[n]);
            if best.as_ref().is_none_or(|b| quiet(&score) < quiet(b)) {
                best = Some(score);
            }
            true
        })?;
        Ok(best.map(|s| s.probabilities.to_vec()).expect("a file without a window is an error above"))
    }
}

fn tap(sample_fps: f32) -> FrameTap {
    FrameTap { sample_fps, region: None }
}

fn closed(transitions: Vec<Transition>) -> Vec<Incident> {
    let over = |t| match t {
        Transition::Closed(incident, _) => Some(incident),
        Transition::Opened(_) | Transition::Updated(_) => None,
    };
    transitions.into_iter().filter_map(over).collect()
}

/// The frames of a file as capture hands them on, each with the view that the encoder would get. No engine needed.
pub fn frames(
    input: &input::Input,
    path: &Path,
    take: &mut dyn FnMut(&Frame, &View) -> bool,
) -> Result<FileSummary, OfflineError> {
    let mut views = ViewState::new(&input.view, input.sample_fps);
    let mut failed = None;
    let summary =
        capture::read_file(path, &CameraId::new("file"), tap(input.sample_fps), &StopToken::new(), |frame: Frame| {
            match views.push(&frame) {
                Ok(view) if take(&frame, &view) => return ControlFlow::Continue(()),
                Ok(_) => {}
                Err(e) => failed = Some(e),
            }
            ControlFlow::Break(())
        })?;
    match failed {
        Some(e) => Err(e.into()),
        None if summary.frames == 0 => Err(OfflineError::NoPicture),
        None => Ok(summary),
    }
}
