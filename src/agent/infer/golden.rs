//! The model's own proof: frames, and what the view, the encoder and the head must make of them. An engine is
//! trusted with a camera only after it has passed, so that a wrong build, driver or library is found on the
//! bench and not by a missed incident.
//!
//! ```text
//!   golden/golden.toml    what follows, by name
//!   golden/*.mp4          a short clip
//!   golden/*.png          the frames that capture must make of it        (compared by capture's own test)
//!   view_sha256           of the view of each frame                      (must be equal)
//!   golden/features.f32   features of each view, little-endian [frames,F] (within the manifest's tolerance)
//!   golden/probabilities.f32   of each window [windows,C]                 (likewise)
//! ```

use std::io::Cursor;
use std::path::PathBuf;

use serde::Deserialize;

use crate::agent::capture::Frame;
use crate::agent::config::CameraId;
use crate::base::clock::Mono;
use crate::base::digest;

use super::manifest::{Manifest, Tolerance};
use super::model::{Model, ModelError};
use super::view::{ViewError, ViewState};
use super::{Engine, EngineError, EngineInfo, Slot};

/// The file that lists the vectors.
pub const GOLDEN: &str = "golden/golden.toml";

/// `golden/golden.toml`. Paths are relative to the model directory and listed in its manifest.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    /// A clip whose sampled frames are the ones below.
    clip: String,
    /// Features of each frame's view.
    features: String,
    /// Probabilities of each window.
    probabilities: String,
    /// Index of each window's first frame.
    windows: Vec<usize>,
    /// The frames, in order.
    #[serde(rename = "frame")]
    frames: Vec<ListedFrame>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListedFrame {
    file: String,
    at_ms: u64,
    view_sha256: String,
}

/// The golden vectors of a model, read and verified.
#[derive(Debug, Clone)]
pub struct Golden {
    /// The short clip.
    pub clip: PathBuf,
    /// The frames that capture makes of it at the model's rate and width.
    pub frames: Vec<Frame>,
    view_sha256: Vec<String>,
    features: Vec<f32>,
    windows: Vec<usize>,
    probabilities: Vec<f32>,
}

/// What a passed proof found: the largest differences.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Proof {
    /// Of a feature.
    pub features: f32,
    /// The smallest cosine of a feature vector with the golden one.
    pub features_cosine: f32,
    /// Of a probability.
    pub probabilities: f32,
}

/// Why a model is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// A golden file is missing or was changed.
    #[error("the golden vectors cannot be read")]
    Model(#[from] ModelError),
    /// A golden file does not hold what it should.
    #[error("{}: {what}", path.display())]
    Broken {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A golden frame has no view.
    #[error("no view of golden frame {frame}")]
    View {
        /// Index.
        frame: usize,
        /// Why.
        source: ViewError,
    },
    /// This agent does not make the view that the model was trained with.
    #[error(
        "model {model}: the view of golden frame {frame} has SHA-256 {found}, expected {expected}: agent and model do not fit together"
    )]
    WrongView {
        /// Model.
        model: String,
        /// Index.
        frame: usize,
        /// Of the view made here.
        found: String,
        /// Of the view of training.
        expected: String,
    },
    /// The engine failed.
    #[error("model {model}: the golden vectors could not be run")]
    Engine {
        /// Model.
        model: String,
        /// Why.
        source: EngineError,
    },
    /// The engine computes something else.
    #[error(
        "model {model} on {runtime}: the {what} of golden {item} are off by {found}, and {allowed} is allowed: this \
         engine does not compute the model; it is not used"
    )]
    WrongNumbers {
        /// Model.
        model: String,
        /// What the engine runs on.
        runtime: String,
        /// "features" or "probabilities".
        what: &'static str,
        /// Which frame or window.
        item: String,
        /// Largest absolute difference.
        found: f32,
        /// The manifest's tolerance.
        allowed: f32,
    },
    /// The engine's features point elsewhere.
    #[error(
        "model {model} on {runtime}: the cosine of the features of golden frame {frame} is {found}, and {allowed} is the \
         least: this engine does not compute the model; it is not used"
    )]
    WrongDirection {
        /// Model.
        model: String,
        /// What the engine runs on.
        runtime: String,
        /// Index.
        frame: usize,
        /// Its cosine.
        found: f32,
        /// The manifest's tolerance.
        allowed: f32,
    },
    /// The manifest says nothing about the engine's precision.
    #[error("model {model} has no tolerance for {precision}: it was never meant to run so")]
    NoTolerance {
        /// Model.
        model: String,
        /// The engine's.
        precision: super::manifest::Precision,
    },
}

impl Model {
    /// Reads the golden vectors.
    pub fn golden(&self) -> Result<Golden, ProofError> {
        let m = self.manifest();
        let broken = |path: PathBuf, what: String| ProofError::Broken { path, what };
        let path = self.path_of(GOLDEN)?;
        let text = String::from_utf8(self.read(GOLDEN)?).map_err(|e| broken(path.clone(), e.to_string()))?;
        let listing: Listing = toml::from_str(&text).map_err(|e| broken(path.clone(), e.to_string()))?;
        if listing.windows.is_empty() || listing.windows.iter().any(|w| w + m.window > listing.frames.len()) {
            let what = format!("windows {:?} do not lie in {} frames", listing.windows, listing.frames.len());
            return Err(broken(path, what));
        }
        let frames = listing
            .frames
            .iter()
            .map(|f| {
                let (width, height, rgb) =
                    decode_png(&self.read(&f.file)?).map_err(|what| broken(self.dir().join(&f.file), what))?;
                let at = Mono::from_millis(f.at_ms);
                Ok(Frame {
                    camera: CameraId::new("golden"),
                    at,
                    arrival: at,
                    width,
                    height,
                    rgb: rgb.into(),
                    discontinuity: false,
                    sample_fps: m.sample_fps,
                })
            })
            .collect::<Result<Vec<_>, ProofError>>()?;
        let numbers = |file: &str, rows: usize, columns: usize| -> Result<Vec<f32>, ProofError> {
            let values: Vec<f32> =
                self.read(file)?.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            if values.len() == rows * columns {
                return Ok(values);
            }
            Err(broken(self.dir().join(file), format!("{} values, expected {rows} x {columns}", values.len())))
        };
        Ok(Golden {
            clip: self.path_of(&listing.clip)?,
            features: numbers(&listing.features, frames.len(), m.features.size)?,
            probabilities: numbers(&listing.probabilities, listing.windows.len(), m.classes.len())?,
            view_sha256: listing.frames.into_iter().map(|f| f.view_sha256).collect(),
            windows: listing.windows,
            frames,
        })
    }

    /// Runs the golden vectors through this agent's view and `engine`, and compares.
    pub fn prove(&self, engine: &mut Engine) -> Result<Proof, ProofError> {
        self.prove_at(engine, &[1])
    }

    /// The same in passes of so many frames and windows, one size after the other, each twice: an engine may compute each
    /// size in another way, and the first time in another than later.
    pub fn prove_at(&self, engine: &mut Engine, batches: &[usize]) -> Result<Proof, ProofError> {
        let (m, golden) = (self.manifest(), self.golden()?);
        let (model, precision) = (m.title(), engine.info.precision);
        let Some(tolerance) = m.tolerances.get(&precision).copied() else {
            return Err(ProofError::NoTolerance { model, precision });
        };
        let mut views = ViewState::new(&m.view, m.sample_fps);
        let mut bytes = Vec::with_capacity(golden.frames.len());
        for (frame, (picture, expected)) in golden.frames.iter().zip(&golden.view_sha256).enumerate() {
            let view = views.push(picture).map_err(|source| ProofError::View { frame, source })?;
            let found = digest::of_bytes(&view.bytes);
            if found != *expected {
                return Err(ProofError::WrongView { model, frame, found, expected: expected.clone() });
            }
            bytes.push(view.bytes);
        }
        let judge = Judge { m, golden: &golden, tolerance, info: engine.info.clone() };
        let mut worst = Proof { features: 0.0, features_cosine: 1.0, probabilities: 0.0 };
        for batch in batches.iter().flat_map(|batch| [*batch; 2]) {
            let found = judge.pass(engine, &bytes, batch)?;
            worst = Proof {
                features: worst.features.max(found.features),
                features_cosine: worst.features_cosine.min(found.features_cosine),
                probabilities: worst.probabilities.max(found.probabilities),
            };
        }
        Ok(worst)
    }
}

/// What an engine's answers are held against.
struct Judge<'a> {
    m: &'a Manifest,
    golden: &'a Golden,
    tolerance: Tolerance,
    info: EngineInfo,
}

impl Judge<'_> {
    /// All golden frames and windows, in passes of `batch`; where they are not a multiple of it, the first ones again.
    fn pass(&self, engine: &mut Engine, views: &[Vec<u8>], batch: usize) -> Result<Proof, ProofError> {
        let (m, golden) = (self.m, self.golden);
        let failed = |source| ProofError::Engine { model: m.title(), source };
        let all = |count: usize| (0..count.next_multiple_of(batch)).map(move |n| n % count).collect::<Vec<_>>();
        let mut slots: Vec<Slot> = Vec::with_capacity(views.len() + batch);
        for frames in all(views.len()).chunks(batch) {
            let views: Vec<&[u8]> = frames.iter().map(|n| &views[*n][..]).collect();
            slots.extend(engine.encoder.encode(&views).map_err(failed)?);
        }
        slots.truncate(views.len());
        let windows: Vec<&[Slot]> = golden.windows.iter().map(|w| &slots[*w..w + m.window]).collect();
        let mut probabilities = Vec::with_capacity(windows.len() + batch);
        for of in all(windows.len()).chunks(batch) {
            let windows: Vec<&[Slot]> = of.iter().map(|n| windows[*n]).collect();
            probabilities.extend(engine.head.classify(&windows).map_err(failed)?);
        }
        let features =
            slots.iter().map(|s| engine.encoder.features(s)).collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let golden_features = golden.features.chunks_exact(m.features.size);
        let features_cosine = self.directions(&mut features.iter().map(|f| &f[..]).zip(golden_features.clone()))?;
        let of_a_feature = match self.tolerance.features_cosine {
            Some(_) if self.info.rounds_elsewhere => f32::INFINITY,
            _ => self.tolerance.features,
        };
        let golden_probabilities = golden.probabilities.chunks_exact(m.classes.len());
        Ok(Proof {
            features: self.differences(
                ("features", "frame"),
                &mut features.iter().map(|f| &f[..]).zip(golden_features),
                of_a_feature,
            )?,
            features_cosine,
            probabilities: self.differences(
                ("probabilities", "window"),
                &mut probabilities.iter().map(|p| &p[..]).zip(golden_probabilities),
                self.tolerance.probabilities,
            )?,
        })
    }

    /// The largest difference.
    fn differences(
        &self,
        (what, item): (&'static str, &str),
        rows: &mut dyn Iterator<Item = (&[f32], &[f32])>,
        allowed: f32,
    ) -> Result<f32, ProofError> {
        let mut worst = 0.0f32;
        for (n, (found, expected)) in rows.enumerate() {
            let off = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            if off > allowed {
                let (model, runtime, item) = (self.m.title(), self.info.runtime.clone(), format!("{item} {n}"));
                return Err(ProofError::WrongNumbers { model, runtime, what, item, found: off, allowed });
            }
            worst = worst.max(off);
        }
        Ok(worst)
    }

    /// The smallest cosine.
    fn directions(&self, rows: &mut dyn Iterator<Item = (&[f32], &[f32])>) -> Result<f32, ProofError> {
        let mut worst = 1.0f32;
        let least = self.tolerance.features_cosine.filter(|_| self.info.rounds_elsewhere);
        for (frame, (found, expected)) in rows.enumerate() {
            let found = cosine(found, expected, self.tolerance.features);
            if let Some(allowed) = least.filter(|allowed| found < *allowed) {
                let (model, runtime) = (self.m.title(), self.info.runtime.clone());
                return Err(ProofError::WrongDirection { model, runtime, frame, found, allowed });
            }
            worst = worst.min(found);
        }
        Ok(worst)
    }
}

/// Two vectors as good as nothing, each number of them below `nothing`, point the same way; 0 where one is and the other is
/// not, or where either holds what is no number.
fn cosine(a: &[f32], b: &[f32], nothing: f32) -> f32 {
    if a.iter().chain(b).all(|v| v.abs() <= nothing) {
        return 1.0;
    }
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    if cosine.is_finite() { cosine as f32 } else { 0.0 }
}

/// Width, height and packed RGB of an 8-bit RGB PNG.
fn decode_png(bytes: &[u8]) -> Result<(u32, u32, Vec<u8>), String> {
    let mut reader = png::Decoder::new(Cursor::new(bytes)).read_info().map_err(|e| e.to_string())?;
    let mut rgb = vec![0; reader.output_buffer_size().ok_or("a picture too large")?];
    let info = reader.next_frame(&mut rgb).map_err(|e| e.to_string())?;
    if (info.color_type, info.bit_depth) != (png::ColorType::Rgb, png::BitDepth::Eight) {
        return Err(format!("{:?} of {:?} bits, expected 8-bit RGB", info.color_type, info.bit_depth));
    }
    rgb.truncate(info.buffer_size());
    Ok((info.width, info.height, rgb))
}

#[cfg(test)]
pub(super) mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::agent::capture::{self, FrameTap};
    use crate::agent::infer::manifest::Precision;
    use crate::agent::infer::onnx;
    use crate::agent::infer::test_model::{self, Tiny, png};
    use crate::base::stop::StopToken;

    /// Frame `n` of a bright square that moves over a dark ground.
    pub fn moving_square(n: u64) -> Frame {
        let inside = |i: u64| (n * 10..n * 10 + 40).contains(&(i % 480)) && (20..90).contains(&(i / 480));
        let at = Mono::from_millis(n * 125);
        Frame {
            camera: CameraId::new("golden"),
            at,
            arrival: at,
            width: 480,
            height: 135,
            rgb: (0..480 * 135)
                .flat_map(|i| if inside(i) { [220, 180, 90] } else { [30, 35, (i % 64) as u8] })
                .collect(),
            discontinuity: false,
            sample_fps: 8.0,
        }
    }

    fn prove(tiny: &Tiny) -> Result<Proof, ProofError> {
        let (_dir, model) = tiny.open();
        model.prove(&mut test_model::load(&model))
    }

    #[test]
    fn a_good_engine_passes_and_its_frames_can_be_had() {
        let tiny = Tiny::new().with_golden();
        let proof = prove(&tiny).expect("the engine that made the vectors");
        assert!(proof.features < 1e-5 && proof.probabilities < 1e-5, "{proof:?}");
        let (_dir, model) = tiny.open();
        let golden = model.golden().expect("it was just proved");
        assert_eq!(golden.frames.len(), 18);
        assert_eq!(golden.frames[3].rgb, moving_square(3).rgb);
        assert!(golden.clip.ends_with("golden/clip.mp4"));
    }

    #[test]
    fn another_number_than_expected_is_an_engine_not_to_be_used() {
        // The file, its rows, and what is said of its second row.
        let cases = [
            ("golden/f.f32", 18, "features of golden frame 1"),
            ("golden/p.f32", 2, "probabilities of golden window 1"),
        ];
        for (file, rows, what) in cases {
            let mut tiny = Tiny::new().with_golden();
            let numbers = tiny.files.get_mut(file).expect("it was made");
            let at = numbers.len() / rows;
            numbers[at..at + 4].copy_from_slice(&0.987f32.to_le_bytes());
            let e = prove(&tiny).expect_err("the engine is off").to_string();
            assert!(e.contains(what) && e.contains("tiny 1.2.3") && e.contains("0.0001 is allowed"), "{e}");
        }
    }

    #[test]
    fn a_cosine_is_of_directions_and_nothing_points_nowhere() {
        assert!((cosine(&[1.0, 2.0], &[2.0, 4.0], 1e-6) - 1.0).abs() < 1e-6);
        assert!((cosine(&[1.0, 0.0], &[1.0, 1.0], 1e-6) - 0.5f32.sqrt()).abs() < 1e-6);
        assert_eq!(cosine(&[0.0, 1e-7], &[-1e-7, 0.0], 1e-6), 1.0);
        assert_eq!(cosine(&[0.0, 0.0], &[0.5, 0.0], 1e-6), 0.0);
        assert_eq!(cosine(&[f32::NAN, 1.0], &[1.0, 1.0], 1e-6), 0.0);
    }

    #[test]
    fn another_view_is_an_agent_that_does_not_fit() {
        let tiny = Tiny::new().with_golden().edited("noise_floor = 6", "noise_floor = 200");
        let e = prove(&tiny).expect_err("the box does not move any more").to_string();
        assert!(e.contains("the view of golden frame") && e.contains("do not fit together"), "{e}");
    }

    #[test]
    fn broken_golden_files_are_named() {
        let cases: [(&str, Vec<u8>, &str); 4] = [
            ("golden/f.f32", vec![0; 12], "f.f32: 3 values, expected 18 x 4"),
            ("golden/05.png", b"no picture".to_vec(), "05.png: "),
            ("golden/golden.toml", b"clips = 3".to_vec(), "golden.toml: "),
            (
                "golden/golden.toml",
                b"clip = 'c'\nfeatures = 'f'\nprobabilities = 'p'\nwindows = [7]\nframe = []".to_vec(),
                "windows [7] do not lie in 0 frames",
            ),
        ];
        for (file, bytes, expected) in cases {
            let mut tiny = Tiny::new().with_golden();
            tiny.files.insert(file, bytes);
            let e = prove(&tiny).expect_err(expected).to_string();
            assert!(e.contains(expected), "{e} lacks {expected}");
        }
        let mut again = Tiny::new().with_golden();
        again.files.insert("golden/05.png", png(480, 135, &moving_square(5).rgb));
        prove(&again).expect("the same picture, written again");
        let e = prove(&Tiny::new()).expect_err("no golden vectors");
        assert!(matches!(e, ProofError::Model(ModelError::NotListed { .. })), "{e}");
    }

    #[test]
    fn a_precision_without_tolerance_is_not_trusted() {
        let tiny = Tiny::new().with_golden();
        let mut fp32 = test_model::load(&tiny.open().1);
        let (_dir, model) = tiny.edited("fp32 = {", "fp16 = {").open();
        assert!(matches!(model.prove(&mut fp32), Err(ProofError::NoTolerance { .. })));
    }

    /// The model that is in the repository: from its golden clip through capture, view, encoder and head, in every
    /// precision that it comes in.
    #[test]
    fn the_default_model_holds_from_clip_to_probabilities() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("engines/activity-v1");
        let model = Model::open(&dir).expect("it is in the repository");
        let golden = model.golden().expect("likewise");
        let tap = FrameTap { sample_fps: model.manifest().sample_fps, region: None };
        let mut captured = Vec::new();
        let id = CameraId::new("golden");
        capture::read_file(&golden.clip, &id, tap, &StopToken::new(), |f| {
            captured.push(f);
            ControlFlow::Continue(())
        })
        .expect("an H.264 clip");
        assert_eq!(captured.len(), golden.frames.len());
        for (n, (found, expected)) in captured.iter().zip(&golden.frames).enumerate() {
            assert_eq!((found.at, found.width, found.height), (expected.at, expected.width, expected.height));
            assert!(found.rgb == expected.rgb, "capture makes other pixels of frame {n}");
        }
        let proof = model.prove(&mut test_model::load(&model)).expect("the vectors were made for it");
        assert!(proof.features < 1e-4 && proof.probabilities < 1e-4, "ten times closer than allowed: {proof:?}");
        let precisions: Vec<_> = model.manifest().tolerances.keys().copied().collect();
        assert!(precisions.contains(&Precision::Fp16), "TensorRT 10 and later run it so: {precisions:?}");
        for precision in precisions {
            let mut engine = onnx::load(&model, precision, 1, None).expect("both networks are there");
            model.prove(&mut engine).unwrap_or_else(|e| panic!("{precision}: {e}"));
        }
    }
}
