//! `manifest.toml`: the format, its limits, and errors that say what was found and what is allowed. Reading files and
//! verifying them is `model`'s work.
//!
//! Compatibility: fields are added with a higher `minimum_agent`, which is looked at before everything else, so
//! that an old agent says "too old" and not "unknown field".

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use semver::Version;
use serde::Deserialize;

pub use crate::agent::config::Precision;

use super::input::{Input, Pixels, ViewSpec};
use crate::contract::alert::NORMAL;

/// The file that binds all others.
pub const MANIFEST: &str = "manifest.toml";
/// The kind of model that this agent classifies with.
pub const CNN_LSTM: &str = "cnn-lstm";

/// `manifest.toml`, validated.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Name of the model; `a-z 0-9 -`.
    pub name: String,
    /// Its version.
    pub version: Version,
    /// [`CNN_LSTM`].
    pub kind: String,
    /// The oldest agent that understands this model.
    pub minimum_agent: Version,
    /// Classes of hardware that it is for, of which a device counts as at least one; empty: any. `x86_64`, `aarch64`,
    /// `jetson-orin-nano`, ... (see `health::hardware`), or what a device's `[ota] hardware` says.
    #[serde(default)]
    pub hardware: Vec<String>,
    /// Classes in the order of the head's output; at least two, one of them [`NORMAL`].
    pub classes: Vec<String>,
    /// Frames a second that it was trained at; above 0, at most 60.
    pub sample_fps: f32,
    /// Frames in a window, 2 to 64.
    pub window: usize,
    /// Frames from one window to the next, 1 to `window`.
    pub stride: usize,
    /// Licence of the weights.
    pub licence: String,
    /// What it was trained with, and by what right.
    pub data: String,
    /// How a decoded picture becomes a frame.
    pub pixels: Pixels,
    /// How a frame becomes the encoder's input.
    pub view: ViewSpec,
    /// What the encoder gives.
    pub features: Features,
    /// From which score on a class is evidence, above 0, at most 1: every class but [`NORMAL`].
    pub thresholds: BTreeMap<String, f32>,
    /// How far an engine may be from the golden vectors, for each precision that the directory holds.
    pub tolerances: BTreeMap<Precision, Tolerance>,
    /// Every file of the model but the manifest itself.
    #[serde(rename = "file")]
    pub files: Vec<FileEntry>,
}

/// `[features]`: what the encoder gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Features {
    /// Length of a feature vector: the channels of `map`.
    pub size: usize,
    /// Rows and columns of `map`, whose mean over cells the features are.
    pub map: [usize; 2],
}

/// `[tolerances.<precision>]`: how far an engine may be from the golden vectors.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tolerance {
    /// Largest absolute difference of a feature. Holds for the engine that the vectors were made with, whose arithmetic is
    /// known to the last bit; for another one `features_cosine` holds, where it is given.
    pub features: f32,
    /// Smallest cosine of a feature vector with the golden one, above 0, below 1: for engines that round elsewhere, such as
    /// TensorRT.
    #[serde(default)]
    pub features_cosine: Option<f32>,
    /// Largest absolute difference of a probability.
    pub probabilities: f32,
}

/// `[[file]]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Below the model directory, `/` between parts.
    pub path: String,
    /// In lower-case hexadecimal.
    pub sha256: String,
    /// Size.
    pub size_bytes: u64,
}

/// Why a manifest is not used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is not TOML, or has an unknown field or a wrong type.
    #[error("{} is not a manifest that this agent understands", path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A value in it is out of bounds, or contradicts another.
    #[error("{}: {key} is {found}; it has to be {expected}", path.display())]
    Value {
        /// Which file.
        path: PathBuf,
        /// Which key.
        key: String,
        /// What it is.
        found: String,
        /// What it may be.
        expected: String,
    },
    /// The model was made for a later agent.
    #[error("{} needs vedette {needs} or later, and this is {have}: install it, or use an earlier version of the model", path.display())]
    AgentTooOld {
        /// Which file says so.
        path: PathBuf,
        /// What it says.
        needs: Version,
        /// This agent.
        have: Version,
    },
}

/// A key, what was found there, and what may stand there.
pub(super) type Rejected = (String, String, &'static str);

impl ManifestError {
    pub(super) fn of(path: &Path, (key, found, expected): Rejected) -> Self {
        ManifestError::Value { path: path.into(), key, found, expected: expected.into() }
    }
}

impl Manifest {
    /// Parses and validates the text of the manifest at `path` (which is only named, not read).
    pub fn parse(path: &Path, text: &str) -> Result<Manifest, ManifestError> {
        /// What is looked at first, whatever else a later format holds.
        #[derive(Deserialize)]
        struct Head {
            minimum_agent: Version,
        }
        let bad = |source| ManifestError::Syntax { path: path.into(), source: Box::new(source) };
        let head: Head = toml::from_str(text).map_err(bad)?;
        let have = Version::parse(env!("CARGO_PKG_VERSION")).expect("Cargo checked this package's version");
        if head.minimum_agent > have {
            return Err(ManifestError::AgentTooOld { path: path.into(), needs: head.minimum_agent, have });
        }
        let manifest: Manifest = toml::from_str(text).map_err(bad)?;
        manifest.validate().map_err(|r| ManifestError::of(path, r))?;
        Ok(manifest)
    }

    /// Index of [`NORMAL`].
    pub fn normal(&self) -> usize {
        self.classes.iter().position(|c| c == NORMAL).expect("validated: every model has it")
    }

    /// What decides its pixels.
    pub fn input(&self) -> Input {
        Input { sample_fps: self.sample_fps, pixels: self.pixels.clone(), view: self.view.clone() }
    }

    /// "name version", as people and messages call the model.
    pub fn title(&self) -> String {
        format!("{} {}", self.name, self.version)
    }

    fn validate(&self) -> Result<(), Rejected> {
        let bad = |key: &str, found: &dyn fmt::Debug, expected| Err((key.to_string(), format!("{found:?}"), expected));
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.name.is_empty() || self.name.len() > 64 || !self.name.chars().all(plain) {
            return bad("name", &self.name, "1 to 64 of a-z 0-9 -");
        }
        if self.kind != CNN_LSTM {
            return bad("kind", &self.kind, "\"cnn-lstm\", the only kind that this agent classifies with");
        }
        let mut sorted: Vec<_> = self.classes.iter().collect();
        sorted.sort();
        sorted.dedup();
        if sorted.len() < self.classes.len() || self.classes.len() < 2 || !sorted.iter().any(|c| *c == NORMAL) {
            return bad("classes", &self.classes, "two or more different labels, one of them \"Normal\"");
        }
        self.input().validate()?;
        if !(2..=64).contains(&self.window) {
            return bad("window", &self.window, "2 to 64 frames");
        }
        if !(1..=self.window).contains(&self.stride) {
            return bad("stride", &self.stride, "1 to `window` frames");
        }
        if self.features.size == 0 || self.features.map.contains(&0) {
            return bad("features", &self.features, "sizes of at least 1");
        }
        let labels: Vec<_> = self.thresholds.keys().collect();
        sorted.retain(|c| *c != NORMAL);
        if labels != sorted {
            return bad("thresholds", &labels, "one for every class but \"Normal\", and for nothing else");
        }
        if let Some((class, t)) = self.thresholds.iter().find(|(_, t)| !(**t > 0.0 && **t <= 1.0)) {
            return bad(&format!("thresholds.{class}"), t, "above 0, at most 1");
        }
        for (precision, t) in &self.tolerances {
            if !(t.features > 0.0 && t.features.is_finite() && t.probabilities > 0.0 && t.probabilities < 1.0) {
                return bad(&format!("tolerances.{precision}"), t, "above 0, and below 1 for probabilities");
            }
            if t.features_cosine.is_some_and(|c| !(c > 0.0 && c < 1.0)) {
                return bad(&format!("tolerances.{precision}.features_cosine"), t, "above 0, below 1");
            }
        }
        for e in &self.files {
            let inside = Path::new(&e.path).components().all(|c| matches!(c, Component::Normal(_)));
            if !inside || e.path.is_empty() || e.path == MANIFEST {
                return bad("file.path", &e.path, "a relative path below the model directory, not the manifest");
            }
            if e.sha256.len() != 64 || !e.sha256.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')) {
                return bad("file.sha256", &e.sha256, "64 digits of lower-case hexadecimal");
            }
        }
        let mut paths: Vec<_> = self.files.iter().map(|e| &e.path).collect();
        paths.sort();
        if let Some(twice) = paths.windows(2).find(|w| w[0] == w[1]) {
            return bad("file.path", twice[0], "listed once");
        }
        Ok(())
    }
}
