//! A model, looked at as a device will: its directory opened, every network held against the golden vectors in the real
//! runtime, its time measured; and on labelled clips, through the real pipeline, against a baseline.
//!
//! What does not belong here: printing, and whether a device of another kind is fast enough (it measures for itself).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::baseline::{Metrics, Minimum};
use crate::agent::config::Precision;
use crate::agent::infer::EngineError;
use crate::agent::infer::golden::ProofError;
use crate::agent::infer::manifest::MANIFEST;
use crate::agent::infer::measure::measure;
use crate::agent::infer::model::{Model, ModelError};
use crate::agent::infer::onnx::{self, OnnxError};
use crate::agent::run::clips_csv::{self, Clip, ClipsError};
use crate::agent::run::metrics::{self, Labelled};
use crate::agent::run::offline::{LoadError, Options, Pipeline};
use crate::base::clock::Clock;
use crate::base::error::Chain;
use crate::contract::alert::ModelRef;

/// Batches at which a network is proven: a camera alone, and a device full of them.
const BATCHES: [usize; 2] = [1, 8];
/// Passes that are measured.
const PASSES: usize = 20;

/// Why a model could not be looked at, or did not hold.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Its directory.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A network, or the runtime.
    #[error("the {precision} networks cannot be loaded")]
    Load {
        /// Which.
        precision: Precision,
        /// Why.
        source: Box<OnnxError>,
    },
    /// It does not compute what it should.
    #[error("the {precision} networks do not give what the golden vectors say")]
    Proof {
        /// Which.
        precision: Precision,
        /// Why.
        source: Box<ProofError>,
    },
    /// It failed while it was measured.
    #[error("the model failed while its time was measured")]
    Measure(#[from] EngineError),
    /// It holds no networks for a CPU.
    #[error("the model has no tolerances for fp32: no device could run it on its CPU while a GPU's engine is built")]
    NoFp32,
    /// The pipeline.
    #[error(transparent)]
    Pipeline(#[from] LoadError),
    /// The list of clips.
    #[error(transparent)]
    Clips(#[from] ClipsError),
    /// The directory of clips.
    #[error("{} holds neither clips.csv nor a directory for each class with clips in it", dir.display())]
    NoClips {
        /// Which.
        dir: PathBuf,
    },
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The baseline.
    #[error("{} is no baseline: {what}", path.display())]
    Baseline {
        /// Which.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// It asks for what only clips show.
    #[error("the baseline asks for what only clips show: name them with --clips")]
    NeedsClips,
    /// A report is of another model, or of one that was refused.
    #[error("{} does not speak for this model: {what}; check it again (vedette-fleet release check)", path.display())]
    Report {
        /// Which.
        path: PathBuf,
        /// Why.
        what: String,
    },
}

/// What is to be looked at beside the model itself.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// A CSV file, or a directory with one or with a directory for each class.
    pub clips: Option<PathBuf>,
    /// Labels of the clips that count as another class.
    pub map: BTreeMap<String, String>,
    /// A TOML file of minima, a report of an earlier check, or a model directory.
    pub baseline: Option<PathBuf>,
    /// How much worse than a baseline model (or its report) is no worse.
    pub margin: f64,
    /// CPU threads.
    pub threads: usize,
    /// The runtime's library; none: where it is looked for.
    pub onnxruntime: Option<PathBuf>,
}

/// How near one precision's networks are to the golden vectors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proven {
    /// fp32, fp16, int8
    pub precision: String,
    /// Largest difference of a feature.
    pub features: f32,
    /// Smallest cosine of a feature vector.
    pub features_cosine: f32,
    /// Largest difference of a probability.
    pub probabilities: f32,
}

/// How long fp32 takes on this machine's CPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Took {
    /// Frames, or windows, in a pass.
    pub batch: usize,
    /// Median of a pass of the encoder, milliseconds.
    pub encoder_ms: f64,
    /// 99 of 100 took less.
    pub encoder_p99_ms: f64,
    /// Median of a pass of the head, milliseconds.
    pub head_ms: f64,
    /// 99 of 100 took less.
    pub head_p99_ms: f64,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The model; its digest binds all of it.
    pub model: ModelRef,
    /// Version of the program that looked.
    pub agent: String,
    /// RFC 3339, UTC.
    pub checked: String,
    /// Every precision that it comes in.
    pub proven: Vec<Proven>,
    /// On this machine.
    pub took: Vec<Took>,
    /// On labelled clips.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Metrics>,
    /// Clips that could not be decoded.
    #[serde(default)]
    pub failed_clips: Vec<String>,
    /// What was asked of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<Minimum>,
    /// Why it is refused; empty: it is not.
    pub refused: Vec<String>,
}

impl Report {
    /// Median time of a frame and its share of a window, alone, milliseconds.
    pub fn frame_ms(&self, stride: usize) -> Option<f64> {
        self.took.first().map(|t| t.encoder_ms + t.head_ms / stride.max(1) as f64)
    }
}

/// Looks at a model directory.
pub fn check(dir: &Path, wishes: &Wishes, clock: &dyn Clock) -> Result<Report, CheckError> {
    let model = Model::open(dir)?;
    let manifest = model.manifest();
    if !manifest.tolerances.contains_key(&Precision::Fp32) {
        return Err(CheckError::NoFp32);
    }
    let (mut proven, mut took) = (Vec::new(), Vec::new());
    for precision in manifest.tolerances.keys().copied() {
        let mut engine = onnx::load(&model, precision, wishes.threads.max(1), wishes.onnxruntime.as_deref())
            .map_err(|e| CheckError::Load { precision, source: Box::new(e) })?;
        let proof =
            model.prove_at(&mut engine, &BATCHES).map_err(|e| CheckError::Proof { precision, source: Box::new(e) })?;
        proven.push(Proven {
            precision: precision.to_string(),
            features: proof.features,
            features_cosine: proof.features_cosine,
            probabilities: proof.probabilities,
        });
        if precision == Precision::Fp32 {
            for batch in BATCHES {
                let times = measure(manifest, &mut engine, (batch, PASSES), clock)?;
                let ms = |d: Duration| d.as_secs_f64() * 1000.0;
                took.push(Took {
                    batch,
                    encoder_ms: ms(times.encoder.p50()),
                    encoder_p99_ms: ms(times.encoder.p99()),
                    head_ms: ms(times.head.p50()),
                    head_p99_ms: ms(times.head.p99()),
                });
            }
        }
    }
    let mut report = Report {
        model: model.reference(),
        agent: env!("CARGO_PKG_VERSION").into(),
        checked: clock.wall().rfc3339(),
        proven,
        took,
        metrics: None,
        failed_clips: Vec::new(),
        minimum: None,
        refused: Vec::new(),
    };
    if let Some(clips) = &wishes.clips {
        let (metrics, failed) = judge(dir, clips, wishes)?;
        report.metrics = Some(metrics);
        // A clip that this model's pipeline cannot read is no clip that it got right.
        let said = |clip: &String| format!("a clip could not be judged: {clip}");
        report.refused.extend(failed.iter().map(said));
        report.failed_clips = failed;
    }
    if let Some(path) = &wishes.baseline {
        let minimum = baseline(path, wishes)?;
        if minimum.needs_clips() && report.metrics.is_none() {
            return Err(CheckError::NeedsClips);
        }
        let frame_ms = report.frame_ms(manifest.stride);
        report.refused.extend(minimum.shortfalls(report.metrics.as_ref(), frame_ms));
        report.minimum = Some(minimum);
    }
    Ok(report)
}

/// A report that was written before, if it speaks for this model and for nothing against it.
pub fn already(path: &Path, model: &Model) -> Result<Report, CheckError> {
    let wrong = |what: String| CheckError::Report { path: path.to_owned(), what };
    let text = fs::read_to_string(path).map_err(|source| CheckError::Read { path: path.to_owned(), source })?;
    let report: Report = serde_json::from_str(&text).map_err(|e| wrong(format!("it is no report ({e})")))?;
    if report.model.digest != model.reference().digest {
        return Err(wrong(format!(
            "it is of {} {}, manifest {}",
            report.model.name, report.model.version, report.model.digest
        )));
    }
    match report.refused.first() {
        Some(why) => Err(wrong(format!("the model was refused ({why})"))),
        None => Ok(report),
    }
}

fn baseline(path: &Path, wishes: &Wishes) -> Result<Minimum, CheckError> {
    let wrong = |what: String| CheckError::Baseline { path: path.to_owned(), what };
    if path.join(MANIFEST).is_file() {
        let clips = wishes.clips.as_ref().ok_or(CheckError::NeedsClips)?;
        let (metrics, _) = judge(path, clips, wishes)?;
        return Ok(Minimum::of(&metrics, wishes.margin));
    }
    let text = fs::read_to_string(path).map_err(|source| CheckError::Read { path: path.to_owned(), source })?;
    if path.extension().is_some_and(|e| e == "json") {
        let report: Report = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        let metrics = report.metrics.ok_or_else(|| wrong("it is a report of a check without clips".into()))?;
        return Ok(Minimum::of(&metrics, wishes.margin));
    }
    toml::from_str(&text).map_err(|e| wrong(e.to_string()))
}

fn judge(dir: &Path, clips: &Path, wishes: &Wishes) -> Result<(Metrics, Vec<String>), CheckError> {
    let options = Options {
        model: dir.to_owned(),
        precision: Precision::Fp32,
        threads: wishes.threads.max(1),
        sample_fps: None,
        stride: None,
    };
    let mut pipeline = Pipeline::load(&options)?;
    let classes = pipeline.classes().to_vec();
    let clips = list(clips, &classes, &wishes.map)?;
    let by_source = clips.iter().any(|c| c.source.is_some());
    let (mut judged, mut failed) = (Vec::new(), Vec::new());
    for clip in clips {
        match pipeline.clip_probabilities(&clip.path) {
            Ok(probabilities) => {
                let source = clip.source.unwrap_or(clip.name);
                judged.push(Labelled { label: clip.label, probabilities, source });
            }
            Err(e) => failed.push(format!("{}: {}", clip.path.display(), Chain(&e))),
        }
    }
    Ok((Metrics::from(&metrics::table(&classes, &judged, by_source)), failed))
}

fn list(path: &Path, classes: &[String], map: &BTreeMap<String, String>) -> Result<Vec<Clip>, CheckError> {
    if !path.is_dir() {
        return Ok(clips_csv::read(path, classes, map)?);
    }
    let csv = path.join("clips.csv");
    if csv.is_file() {
        return Ok(clips_csv::read(&csv, classes, map)?);
    }
    let unreadable = |at: &Path| {
        let path = at.to_owned();
        move |source| CheckError::Read { path, source }
    };
    let mut clips = Vec::new();
    let names = classes.iter().map(|c| (c, c)).chain(map.iter());
    for (name, class) in names {
        let (dir, label) = (path.join(name), classes.iter().position(|c| c == class));
        let Some(label) = label.filter(|_| dir.is_dir()) else { continue };
        for entry in fs::read_dir(&dir).map_err(unreadable(&dir))? {
            let path = entry.map_err(unreadable(&dir))?.path();
            if path.is_file() {
                let name = format!("{name}/{}", path.file_name().unwrap_or_default().to_string_lossy());
                clips.push(Clip { name, path, label, source: None });
            }
        }
    }
    clips.sort_by(|a, b| a.name.cmp(&b.name));
    if clips.is_empty() { Err(CheckError::NoClips { dir: path.to_owned() }) } else { Ok(clips) }
}
