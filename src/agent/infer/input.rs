//! What a model sees: the keys that decide its pixels. They stand in a model's manifest, and in the recipe that a model
//! not yet trained is trained by.

use std::fmt;
use std::path::Path;

use serde::Deserialize;

use super::manifest::{ManifestError, Rejected};
use crate::agent::capture::FRAME_WIDTH;

/// `sample_fps`, `[pixels]` and `[view]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Input {
    /// Frames a second; above 0, at most 60.
    pub sample_fps: f32,
    /// How a decoded picture becomes a frame.
    pub pixels: Pixels,
    /// How a frame becomes the encoder's input.
    pub view: ViewSpec,
}

impl Input {
    /// Of the text of the recipe or manifest at `path` (which is only named, not read). Its other keys are not looked at.
    pub fn parse(path: &Path, text: &str) -> Result<Input, ManifestError> {
        let input: Input = toml::from_str(text)
            .map_err(|source| ManifestError::Syntax { path: path.into(), source: Box::new(source) })?;
        input.validate().map_err(|r| ManifestError::of(path, r))?;
        Ok(input)
    }

    pub(super) fn validate(&self) -> Result<(), Rejected> {
        let bad = |key: &str, found: &dyn fmt::Debug, expected| Err((key.to_string(), format!("{found:?}"), expected));
        if !(self.sample_fps > 0.0 && self.sample_fps <= 60.0) {
            return bad("sample_fps", &self.sample_fps, "above 0, at most 60");
        }
        if self.pixels.frame_width != FRAME_WIDTH {
            return bad("pixels.frame_width", &self.pixels.frame_width, "480, the width that capture makes");
        }
        self.view.validate()
    }
}

/// `[pixels]`: how capture makes a frame. One way so far; stated, so that another way is another word.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pixels {
    /// Width of a frame in pixels; the aspect is kept. [`FRAME_WIDTH`].
    pub frame_width: u32,
    /// How it is scaled.
    pub scale: Scale,
    /// How gray is made of RGB.
    pub gray: Gray,
}

/// A rule for scaling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scale {
    /// Halved by means of four while twice as large, then a triangle filter as wide as the reduction asks for, 8-bit fixed
    /// point (`fast_image_resize`, bilinear convolution). The whole rule is in the doc of `capture::pixels`.
    BilinearAntialiased,
}

/// A rule for gray.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gray {
    /// ITU-R BT.601 in integers: (77 R + 150 G + 29 B + 128) / 256, rounded down.
    Bt601,
}

/// `[view]`: what the encoder sees. The rule is in the doc of [`super::view`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViewSpec {
    /// Width of the encoder's input in pixels, 8 to 1024.
    pub width: u32,
    /// Height of the encoder's input in pixels, 8 to 1024.
    pub height: u32,
    /// Which frames it holds.
    pub frames: Frames,
    /// Which part of them.
    #[serde(rename = "box")]
    pub crop: Crop,
    /// Constants of `box = "motion"`; present exactly then.
    pub motion: Option<MotionRule>,
}

impl ViewSpec {
    /// 3 for a single frame, 6 for a pair.
    pub fn channels(&self) -> usize {
        match self.frames {
            Frames::Single => 3,
            Frames::Pair => 6,
        }
    }

    /// Size of a view.
    pub fn len_bytes(&self) -> usize {
        self.height as usize * self.width as usize * self.channels()
    }
}

/// Which frames a view holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Frames {
    /// This one: 3 channels.
    Single,
    /// This one and the sampled frame before it, cut with the same box: 6 channels. After a gap, itself.
    Pair,
}

/// Which part of a frame a view shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Crop {
    /// All of it.
    Full,
    /// The box where most moves.
    Motion,
}

/// `[view.motion]`: constants of the motion box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MotionRule {
    /// Columns and rows of the gray grid, 4 to 256 each.
    pub grid: [u32; 2],
    /// Weight of the energy so far against the new difference, 0 to 99 percent.
    pub keep_percent: u32,
    /// Differences up to this many gray levels count as noise, 0 to 254.
    pub noise_floor: u8,
    /// Width and height of the box against the grid's, 10 to 100 percent.
    pub size_percent: u32,
    /// What a box in a corner loses of its sum against one in the centre, 0 to 50 percent.
    pub centre_pull_percent: u32,
}

impl ViewSpec {
    fn validate(&self) -> Result<(), Rejected> {
        let bad = |key: &str, found: &dyn fmt::Debug, expected| Err((key.to_string(), format!("{found:?}"), expected));
        if !(8..=1024).contains(&self.width) || !(8..=1024).contains(&self.height) {
            return bad("view", &(self.width, self.height), "8 to 1024 pixels wide and high");
        }
        match (self.crop, &self.motion) {
            (Crop::Motion, None) => bad("view.motion", &"absent", "there, since box = \"motion\""),
            (Crop::Full, Some(_)) => bad("view.motion", &"present", "absent, since box = \"full\""),
            (Crop::Full, None) => Ok(()),
            (Crop::Motion, Some(m)) => {
                if !m.grid.iter().all(|n| (4..=256).contains(n)) {
                    bad("view.motion.grid", &m.grid, "4 to 256 columns and rows")
                } else if m.keep_percent > 99 {
                    bad("view.motion.keep_percent", &m.keep_percent, "0 to 99 percent")
                } else if m.noise_floor > 254 {
                    bad("view.motion.noise_floor", &m.noise_floor, "0 to 254 gray levels")
                } else if !(10..=100).contains(&m.size_percent) {
                    bad("view.motion.size_percent", &m.size_percent, "10 to 100 percent")
                } else if m.centre_pull_percent > 50 {
                    bad("view.motion.centre_pull_percent", &m.centre_pull_percent, "0 to 50 percent")
                } else {
                    Ok(())
                }
            }
        }
    }
}
