//! What the encoder sees of a frame, or of a frame and the one before it. Pure integer arithmetic (and
//! `fast_image_resize`'s fixed point), so that training, a replay and every device get the same bytes.
//!
//! The rule, with the constants of `[view]` in the manifest:
//!
//! 1. The **box**: all of the frame, or where most moves (its rule is in `motion`). It is computed from this frame
//!    and earlier ones only, and lies on whole pixels.
//! 2. **Cut** the box out and scale it to the input's size: triangle filter, antialiased, 8-bit fixed point.
//! 3. For a pair, do the same with the frame before, with the same box, and put its R G B behind this frame's.
//!
//! After a gap (see [`is_gap`]), a discontinuity or a change of the frame's size everything starts anew: the
//! energy is 0, the box stands in the centre, and the pair is the frame with itself.

use std::sync::Arc;

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use crate::agent::capture::Frame;
use crate::base::clock::Mono;

use super::input::{Frames, ViewSpec};
use super::motion::Motion;
use super::window::is_gap;

/// A cut-out of a frame, in pixels of the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PixelBox {
    /// Left edge.
    pub left: u32,
    /// Top edge.
    pub top: u32,
    /// Width, at least 1.
    pub width: u32,
    /// Height, at least 1.
    pub height: u32,
}

/// What the encoder sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// height x width x channels, packed; this frame's R G B first.
    pub bytes: Vec<u8>,
    /// What of the frame it shows.
    pub shows: PixelBox,
    /// It does not follow the view before it: its window starts anew.
    pub restarted: bool,
}

/// Why a frame has no view.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The frame contradicts itself.
    #[error("a frame of {width} x {height} pixels came with {found} bytes, not width x height x 3")]
    Frame {
        /// What it says.
        width: u32,
        /// What it says.
        height: u32,
        /// What it has.
        found: usize,
    },
    /// The scaler refused.
    #[error("could not scale a frame of {width} x {height} pixels")]
    Scale {
        /// Its width.
        width: u32,
        /// Its height.
        height: u32,
        /// What the scaler said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The sampled frame before this one.
struct Previous {
    at: Mono,
    width: u32,
    height: u32,
    rgb: Arc<[u8]>,
}

/// The views of one camera, from frame to frame.
pub struct ViewState {
    spec: ViewSpec,
    sample_fps: f32,
    previous: Option<Previous>,
    motion: Option<Motion>,
    resizer: Resizer,
    scaled: [Vec<u8>; 2],
}

impl ViewState {
    /// Views by `spec`, of frames that are sampled `sample_fps` times a second.
    pub fn new(spec: &ViewSpec, sample_fps: f32) -> Self {
        let size = spec.width as usize * spec.height as usize * 3;
        ViewState {
            spec: spec.clone(),
            sample_fps,
            previous: None,
            motion: spec.motion.map(Motion::new),
            resizer: Resizer::new(),
            scaled: [vec![0; size], vec![0; size]],
        }
    }

    /// Forgets what was seen: the next view starts anew.
    pub fn restart(&mut self) {
        self.previous = None;
        if let Some(m) = &mut self.motion {
            m.restart();
        }
    }

    /// The view of the next frame.
    pub fn push(&mut self, frame: &Frame) -> Result<View, ViewError> {
        let (width, height) = (frame.width, frame.height);
        if width == 0 || height == 0 || frame.rgb.len() != width as usize * height as usize * 3 {
            self.restart();
            return Err(ViewError::Frame { width, height, found: frame.rgb.len() });
        }
        let follows = |p: &Previous| {
            !frame.discontinuity && (p.width, p.height) == (width, height) && !is_gap(p.at, frame.at, self.sample_fps)
        };
        let restarted = !self.previous.as_ref().is_some_and(follows);
        if restarted {
            self.restart();
        }
        let shows = match &mut self.motion {
            None => PixelBox { left: 0, top: 0, width, height },
            Some(m) => m.push(&frame.rgb, width, height),
        };
        let now = Previous { at: frame.at, width, height, rgb: Arc::clone(&frame.rgb) };
        let before = self.previous.replace(now).map_or_else(|| Arc::clone(&frame.rgb), |p| p.rgb);
        let [current, earlier] = &mut self.scaled;
        scale(&mut self.resizer, &self.spec, frame, &frame.rgb, shows, current)?;
        let bytes = match self.spec.frames {
            Frames::Single => current.clone(),
            Frames::Pair => {
                if restarted {
                    earlier.clone_from(current);
                } else {
                    scale(&mut self.resizer, &self.spec, frame, &before, shows, earlier)?;
                }
                let mut bytes = Vec::with_capacity(self.spec.len_bytes());
                for (a, b) in current.chunks_exact(3).zip(earlier.chunks_exact(3)) {
                    bytes.extend_from_slice(a);
                    bytes.extend_from_slice(b);
                }
                bytes
            }
        };
        Ok(View { bytes, shows, restarted })
    }
}

fn scale(
    resizer: &mut Resizer,
    spec: &ViewSpec,
    frame: &Frame,
    rgb: &[u8],
    cut: PixelBox,
    into: &mut [u8],
) -> Result<(), ViewError> {
    let (width, height) = (frame.width, frame.height);
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| ViewError::Scale { width, height, source };
    let from = ImageRef::new(width, height, rgb, PixelType::U8x3).map_err(|e| failed(Box::new(e)))?;
    let mut to =
        Image::from_slice_u8(spec.width, spec.height, into, PixelType::U8x3).map_err(|e| failed(Box::new(e)))?;
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
        .crop(cut.left.into(), cut.top.into(), cut.width.into(), cut.height.into())
        .use_alpha(false);
    resizer.resize(&from, &mut to, &options).map_err(|e| failed(Box::new(e)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::config::CameraId;
    use crate::agent::infer::input::{Crop, MotionRule};

    const MOTION: MotionRule =
        MotionRule { grid: [64, 36], keep_percent: 70, noise_floor: 6, size_percent: 50, centre_pull_percent: 10 };

    fn spec(frames: Frames, crop: Crop) -> ViewSpec {
        ViewSpec { width: 32, height: 24, frames, crop, motion: (crop == Crop::Motion).then_some(MOTION) }
    }

    fn frame(n: u64, width: u32, height: u32) -> Frame {
        let at = Mono::from_millis(n * 125);
        let byte = |i: u64| ((i ^ n.wrapping_mul(7919)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 57) as u8;
        Frame {
            camera: CameraId::new("c"),
            at,
            arrival: at,
            width,
            height,
            rgb: (0..u64::from(width * height * 3)).map(byte).collect(),
            discontinuity: false,
            sample_fps: 8.0,
        }
    }

    fn halves(view: &View) -> (Vec<u8>, Vec<u8>) {
        let part = |from: usize| view.bytes.chunks_exact(6).flat_map(|p| p[from..from + 3].to_vec()).collect();
        (part(0), part(3))
    }

    #[test]
    fn a_full_single_view_of_its_own_size_is_the_frame() {
        let mut state = ViewState::new(&spec(Frames::Single, Crop::Full), 8.0);
        let f = frame(1, 32, 24);
        let v = state.push(&f).expect("a good frame");
        assert_eq!((&v.bytes[..], v.restarted), (&f.rgb[..], true));
        assert!(!state.push(&frame(2, 32, 24)).expect("a good frame").restarted);
    }

    #[test]
    fn a_pair_holds_this_frame_and_the_one_before() {
        let mut state = ViewState::new(&spec(Frames::Pair, Crop::Full), 8.0);
        let (a, b) = (frame(1, 32, 24), frame(2, 32, 24));
        let first = halves(&state.push(&a).expect("a good frame"));
        assert_eq!(first, (a.rgb.to_vec(), a.rgb.to_vec()));
        let second = halves(&state.push(&b).expect("a good frame"));
        assert_eq!(second, (b.rgb.to_vec(), a.rgb.to_vec()));
    }

    #[test]
    fn both_frames_of_a_pair_are_cut_with_the_same_box() {
        let mut state = ViewState::new(&spec(Frames::Pair, Crop::Motion), 8.0);
        let mut a = frame(1, 480, 270);
        let mut b = frame(2, 480, 270);
        // Only the upper left corner differs: the rest of the picture is the same in both.
        let same: Vec<u8> = a.rgb.to_vec();
        b.rgb = same
            .iter()
            .enumerate()
            .map(|(i, v)| if i < 480 * 3 * 20 && i % 1440 < 90 { 255 - v } else { *v })
            .collect();
        a.rgb = same.into();
        state.push(&a).expect("a good frame");
        let v = state.push(&b).expect("a good frame");
        assert_eq!((v.shows.left, v.shows.top), (0, 0));
        let (now, before) = halves(&v);
        assert_ne!(now, before);
        assert_eq!(now[24 * 16 * 3..], before[24 * 16 * 3..], "where nothing moved both are the same pixels");
    }

    #[test]
    fn a_gap_a_discontinuity_or_another_size_starts_anew() {
        let mut state = ViewState::new(&spec(Frames::Pair, Crop::Motion), 8.0);
        let anew = |state: &mut ViewState, f: &Frame| {
            let v = state.push(f).expect("a good frame");
            let (now, before) = halves(&v);
            assert_eq!(v.restarted, now == before, "a restarted pair is the frame with itself");
            v.restarted
        };
        assert!(anew(&mut state, &frame(0, 480, 270)));
        assert!(!anew(&mut state, &frame(2, 480, 270)), "250 ms are no gap");
        assert!(anew(&mut state, &frame(5, 480, 270)), "375 ms are");
        assert!(anew(&mut state, &Frame { discontinuity: true, ..frame(6, 480, 270) }));
        assert!(anew(&mut state, &frame(7, 480, 272)));
        assert!(anew(&mut state, &frame(7, 480, 272)), "time does not stand still");
        let bad = Frame { rgb: Arc::from([0u8; 5]), ..frame(8, 480, 272) };
        assert!(matches!(state.push(&bad), Err(ViewError::Frame { found: 5, .. })));
        assert!(anew(&mut state, &frame(8, 480, 272)), "a broken frame breaks the row");
    }

    #[test]
    fn the_same_frames_give_the_same_bytes_and_always_the_declared_size() {
        let spec = spec(Frames::Pair, Crop::Motion);
        let (mut a, mut b) = (ViewState::new(&spec, 8.0), ViewState::new(&spec, 8.0));
        for (n, height) in [1, 2, 64, 270, 270, 270, 853].into_iter().enumerate() {
            let f = frame(n as u64, 480, height);
            let v = a.push(&f).expect("a good frame");
            assert_eq!(v, b.push(&f).expect("a good frame"));
            assert_eq!(v.bytes.len(), spec.len_bytes());
        }
    }
}
