//! Which of the modes that a camera offers is taken. Pure.
//!
//! The rule, the weightier first; a mode that loses at one point can't make up for it at the next:
//!
//! 1. A wish is met exactly (a rate: to half a picture a second), or it is an error that says what is offered.
//! 2. Nothing that software can hardly keep up with: at most [`DECODED_MOST`] pixels a second of H.264 or H.265, which are
//!    only decoded, and [`ENCODED_MOST`] of anything else, which is encoded as well. Beyond that is taken only what has a size
//!    that was wished for.
//! 3. At least the model's rate; at least the width of a frame ([`FRAME_WIDTH`]).
//! 4. H.264, then H.265 (browsers play less of it): both are stored as they come. Then MJPEG, which fits through a USB cable.
//!    Then raw pictures whose planes are read as they are, then raw pictures that have to be converted.
//! 5. A size near the wish, else near 1920 x 1080 where it is stored as it comes, and near 1280 x 720 where it is encoded.
//! 6. A rate near the wish, else near [`RATE`].

use super::device::{FourCc, Mode, Rate};
use crate::agent::capture::pixels::FRAME_WIDTH;
use crate::agent::config::{VideoFormat, VideoWish};

/// Pixels a second that one processor can decode beside its other work: 3840 x 2160 at 15 fps. Measured, with 8 Mbit/s of
/// H.264: 0.37 of a processor (AMD EPYC; a Jetson's are slower, but decode in hardware).
pub const DECODED_MOST: u64 = 3840 * 2160 * 15;
/// Pixels a second that one processor can decode and encode: 1920 x 1080 at 30 fps. Measured, from MJPEG: 0.53 of the same
/// processor.
pub const ENCODED_MOST: u64 = 1920 * 1080 * 30;
/// Frames a second where nothing else is wished: enough for evidence that plays smoothly, half the work of 30.
const RATE: f64 = 15.0;
/// What a rate may differ from a wish, in frames a second: cameras say 29.97.
const RATE_TOLERANCE: f64 = 0.5;

/// How pictures are coded, as far as that matters here; the preferred first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Coding {
    /// H.264, access units with start codes.
    H264,
    /// H.265, access units with start codes.
    H265,
    /// A JPEG picture each.
    Mjpeg,
    /// Raw, in GStreamer's format of this name, which `pixels` reads.
    Planar(&'static str),
    /// Raw, in GStreamer's format of this name, which has to be converted.
    Packed(&'static str),
}

impl Coding {
    /// None: nothing here can read it (Bayer patterns, depth, vendors' own).
    pub fn of(format: FourCc) -> Option<Coding> {
        Some(match &format.0 {
            b"H264" => Coding::H264,
            b"HEVC" => Coding::H265,
            b"MJPG" | b"JPEG" => Coding::Mjpeg,
            b"YU12" => Coding::Planar("I420"),
            b"NV12" => Coding::Planar("NV12"),
            b"YV12" => Coding::Planar("YV12"),
            b"NV21" => Coding::Planar("NV21"),
            b"422P" => Coding::Planar("Y42B"),
            b"YUYV" => Coding::Packed("YUY2"),
            b"UYVY" => Coding::Packed("UYVY"),
            b"YVYU" => Coding::Packed("YVYU"),
            b"NV16" => Coding::Packed("NV16"),
            b"GREY" => Coding::Packed("GRAY8"),
            b"Y16 " => Coding::Packed("GRAY16_LE"),
            b"RGB3" => Coding::Packed("RGB"),
            b"BGR3" => Coding::Packed("BGR"),
            _ => return None,
        })
    }

    fn format(self) -> VideoFormat {
        match self {
            Coding::H264 => VideoFormat::H264,
            Coding::H265 => VideoFormat::H265,
            Coding::Mjpeg => VideoFormat::Mjpeg,
            Coding::Planar(_) | Coding::Packed(_) => VideoFormat::Raw,
        }
    }

    /// The order of preference.
    fn rank(self) -> u8 {
        match self {
            Coding::H264 => 0,
            Coding::H265 => 1,
            Coding::Mjpeg => 2,
            Coding::Planar(_) => 3,
            Coding::Packed(_) => 4,
        }
    }

    fn is_stored_as_it_comes(self) -> bool {
        matches!(self, Coding::H264 | Coding::H265)
    }

    fn pixels_a_second_most(self) -> u64 {
        if self.is_stored_as_it_comes() { DECODED_MOST } else { ENCODED_MOST }
    }

    fn size(self) -> (u32, u32) {
        if self.is_stored_as_it_comes() { (1920, 1080) } else { (1280, 720) }
    }
}

impl std::fmt::Display for Coding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Coding::H264 => f.write_str("H.264"),
            Coding::H265 => f.write_str("H.265"),
            Coding::Mjpeg => f.write_str("MJPEG"),
            Coding::Planar(name) | Coding::Packed(name) => write!(f, "raw {name}"),
        }
    }
}

/// What is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// How its pictures are coded.
    pub coding: Coding,
    /// One of those offered; of a device that doesn't say its rates, with the rate that was wished.
    pub mode: Mode,
    /// The device hasn't the model's rate in it.
    pub slow: bool,
    /// More than software can be expected to keep up with; it was wished for.
    pub heavy: bool,
}

impl std::fmt::Display for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}x{}", self.coding, self.mode.width, self.mode.height)?;
        if let Some(rate) = self.mode.rate {
            write!(f, " at {rate} fps")?;
        }
        if self.slow {
            f.write_str(", slower than the model looks")?;
        }
        if self.heavy {
            f.write_str(", more than software can be expected to keep up with")?;
        }
        Ok(())
    }
}

/// Why nothing is taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NoMode {
    /// It offers something, but not this.
    #[error("the camera doesn't offer {wish}; it offers {offered}")]
    Wish {
        /// In words.
        wish: String,
        /// In words.
        offered: String,
    },
    /// Nothing that can be read.
    #[error("nothing that the camera offers can be read: {offered}")]
    Unreadable {
        /// In words.
        offered: String,
    },
    /// Nothing small enough.
    #[error(
        "all that the camera offers is more than software can be expected to keep up with; if this machine can, set width and height. It offers {offered}"
    )]
    TooLarge {
        /// In words.
        offered: String,
    },
}

/// The mode to take; see the module's doc. `sample_fps`: the model's rate, if it looks at this camera.
pub fn choose(modes: &[Mode], wish: &VideoWish, sample_fps: Option<f32>) -> Result<Choice, NoMode> {
    let readable: Vec<(Coding, Mode)> = modes.iter().filter_map(|m| Some((Coding::of(m.format)?, *m))).collect();
    if readable.is_empty() {
        return Err(NoMode::Unreadable { offered: offered(modes) });
    }
    let wished: Vec<Choice> = readable
        .into_iter()
        .filter(|(coding, mode)| meets(*coding, mode, wish))
        .map(|(coding, mode)| judge(coding, mode, wish, sample_fps))
        .collect();
    if wished.is_empty() {
        return Err(NoMode::Wish { wish: in_words(wish), offered: offered(modes) });
    }
    let sized = wish.width.is_some() || wish.height.is_some();
    let able = wished.into_iter().filter(|c| sized || !c.heavy);
    able.min_by(|a, b| key(a, wish).partial_cmp(&key(b, wish)).expect("distances are numbers"))
        .ok_or_else(|| NoMode::TooLarge { offered: offered(modes) })
}

fn meets(coding: Coding, mode: &Mode, wish: &VideoWish) -> bool {
    let rate = |fps: u32| mode.rate.is_none_or(|r| (r.fps() - f64::from(fps)).abs() <= RATE_TOLERANCE);
    wish.format.is_none_or(|f| f == coding.format())
        && wish.width.is_none_or(|w| w == mode.width)
        && wish.height.is_none_or(|h| h == mode.height)
        && wish.fps.is_none_or(rate)
}

fn judge(coding: Coding, mut mode: Mode, wish: &VideoWish, sample_fps: Option<f32>) -> Choice {
    mode.rate = mode.rate.or(wish.fps.map(|frames| Rate { frames, seconds: 1 }));
    let pixels = f64::from(mode.width) * f64::from(mode.height) * mode.rate.map_or(RATE, Rate::fps);
    let slow = mode.rate.zip(sample_fps).is_some_and(|(rate, model)| rate.fps() + RATE_TOLERANCE < f64::from(model));
    Choice { coding, mode, slow, heavy: pixels > coding.pixels_a_second_most() as f64 }
}

/// The smallest wins.
fn key(choice: &Choice, wish: &VideoWish) -> impl PartialOrd {
    let Choice { coding, mode, slow, heavy } = *choice;
    let (width, height) = coding.size();
    // Half a size is a size of these proportions.
    let (width, height) = match (wish.width, wish.height) {
        (None, None) => (width, height),
        (Some(w), None) => (w, w * height / width),
        (None, Some(h)) => (h * width / height, h),
        (Some(w), Some(h)) => (w, h),
    };
    let away = mode.width.abs_diff(width) + mode.height.abs_diff(height);
    let wanted = wish.fps.map_or(RATE, f64::from);
    let late = mode.rate.map_or(f64::MAX, |r| (r.fps() - wanted).abs());
    (heavy, slow, mode.width < FRAME_WIDTH, coding.rank(), away, late, mode)
}

fn in_words(wish: &VideoWish) -> String {
    let word = |f: VideoFormat| VideoFormat::ALL.iter().find(|(_, g)| *g == f).map_or("", |(word, _)| word);
    let mut words = Vec::new();
    words.extend(wish.format.map(|f| format!("format = {:?}", word(f))));
    words.extend(wish.width.map(|w| format!("width = {w}")));
    words.extend(wish.height.map(|h| format!("height = {h}")));
    words.extend(wish.fps.map(|r| format!("fps = {r}")));
    words.join(", ")
}

/// So many characters of what is offered are said; some devices offer a hundred formats.
const OFFERED_MOST: usize = 1000;

/// The modes in a line: `MJPG 1280x720 (30, 15 fps), 640x480 (30 fps); YUYV 640x480 (30 fps)`. The preferred formats first;
/// of a device that offers a great many not all.
pub fn offered(modes: &[Mode]) -> String {
    let mut sorted = modes.to_vec();
    // The largest and the fastest first.
    let rank = |m: &Mode| Coding::of(m.format).map_or(u8::MAX, Coding::rank);
    let order = |m: &Mode| (rank(m), m.format, std::cmp::Reverse((m.width, m.height)));
    sorted.sort_by(|a, b| {
        let fps = |m: &Mode| m.rate.map_or(0.0, Rate::fps);
        order(a).cmp(&order(b)).then(fps(b).total_cmp(&fps(a)))
    });
    let mut formats = Vec::new();
    for of_format in sorted.chunk_by(|a, b| a.format == b.format) {
        let sizes = of_format.chunk_by(|a, b| (a.width, a.height) == (b.width, b.height)).map(|of_size| {
            let rates: Vec<String> = of_size.iter().filter_map(|m| m.rate).map(|r| r.to_string()).collect();
            let size = format!("{}x{}", of_size[0].width, of_size[0].height);
            if rates.is_empty() { size } else { format!("{size} ({} fps)", rates.join(", ")) }
        });
        formats.push(format!("{} {}", of_format[0].format, sizes.collect::<Vec<_>>().join(", ")));
    }
    if formats.is_empty() {
        return "nothing".into();
    }
    let mut length = 0;
    let said = formats.iter().take_while(|f| {
        length += f.len();
        length <= OFFERED_MOST
    });
    let said = said.count().max(1);
    let more = formats.len() - said;
    let rest =
        if more > 0 { format!("; and {more} more formats (`v4l2-ctl --list-formats-ext`)") } else { String::new() };
    format!("{}{rest}", formats[..said].join("; "))
}

#[cfg(test)]
mod tests;
