//! Full pictures on demand: of each camera the one that its newest frame was made from.
//!
//! One picture a camera is held, by reference; who asks for it gets a copy, so that nobody can keep the
//! decoder's buffers from it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use gstreamer as gst;
use gstreamer_video::{VideoFrameRef, VideoInfo};
use jpeg_encoder::{ColorType, Encoder};

use super::Rotation;
use super::pixels::{self, PixelsError, Rgb};
use crate::agent::config::CameraId;
use crate::base::clock::Mono;

/// Of small pictures: one of much detail is worth a worse quality.
const SMALL_QUALITIES: [u8; 4] = [75, 55, 35, 15];

/// A decoded picture in full size, upright.
#[derive(Debug, Clone)]
pub struct Picture {
    /// Presentation time, that of the frame made from it.
    pub at: Mono,
    buffer: gst::Buffer,
    info: VideoInfo,
    rotation: Rotation,
}

impl Picture {
    pub(super) fn new(at: Mono, buffer: gst::Buffer, info: VideoInfo, rotation: Rotation) -> Self {
        Picture { at, buffer, info, rotation }
    }

    /// Pixels, upright.
    pub fn width(&self) -> u32 {
        self.rotation.turned(self.info.width(), self.info.height()).0
    }

    /// Pixels, upright.
    pub fn height(&self) -> u32 {
        self.rotation.turned(self.info.width(), self.info.height()).1
    }

    /// As a JPEG no wider than `width` and of `most` bytes: the best that is, none if even a bad one is larger.
    pub fn to_small_jpeg(&self, width: u32, most: usize) -> Result<Option<SmallJpeg>, PixelsError> {
        let failed = |reason: String| self.no_jpeg(reason);
        let rgb = self.rgb()?;
        let (to_width, to_height) = match rgb.width > width {
            true => (width, (u64::from(rgb.height) * u64::from(width) / u64::from(rgb.width)).max(1) as u32),
            false => (rgb.width, rgb.height),
        };
        let from =
            ImageRef::new(rgb.width, rgb.height, &rgb.data, PixelType::U8x3).map_err(|e| failed(e.to_string()))?;
        let mut small = Image::new(to_width, to_height, PixelType::U8x3);
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
        Resizer::new().resize(&from, &mut small, &options).map_err(|e| failed(e.to_string()))?;
        for quality in SMALL_QUALITIES {
            let data = self.encode(small.buffer(), (to_width, to_height), quality)?;
            if data.len() <= most {
                return Ok(Some(SmallJpeg { width: to_width, height: to_height, data }));
            }
        }
        Ok(None)
    }

    /// As a JPEG of this quality, 1 to 100.
    pub fn to_jpeg(&self, quality: u8) -> Result<Vec<u8>, PixelsError> {
        let rgb = self.rgb()?;
        self.encode(&rgb.data, (rgb.width, rgb.height), quality)
    }

    fn rgb(&self) -> Result<Rgb, PixelsError> {
        let planes = VideoFrameRef::from_buffer_ref_readable(&self.buffer, &self.info)
            .map_err(|e| self.no_jpeg(e.to_string()))?;
        pixels::full_rgb(&planes, self.rotation)
    }

    fn encode(&self, rgb: &[u8], (width, height): (u32, u32), quality: u8) -> Result<Vec<u8>, PixelsError> {
        let side = |pixels: u32| u16::try_from(pixels).map_err(|e| self.no_jpeg(e.to_string()));
        let mut jpeg = Vec::new();
        Encoder::new(&mut jpeg, quality.clamp(1, 100))
            .encode(rgb, side(width)?, side(height)?, ColorType::Rgb)
            .map_err(|e| self.no_jpeg(e.to_string()))?;
        Ok(jpeg)
    }

    fn no_jpeg(&self, reason: String) -> PixelsError {
        PixelsError::Jpeg { width: self.width(), height: self.height(), reason }
    }
}

/// A picture made small.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmallJpeg {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// The file.
    pub data: Vec<u8>,
}

/// The newest picture of every camera; clones share it. Its lock is held for no longer than it takes to clone
/// a reference.
#[derive(Debug, Clone, Default)]
pub struct Snapshots(Arc<Mutex<BTreeMap<CameraId, Picture>>>);

impl Snapshots {
    pub(super) fn put(&self, camera: &CameraId, picture: Picture) {
        // Outside the lock goes what was there before: its memory may go back to a pool.
        let before = match self.lock().entry(camera.clone()) {
            std::collections::btree_map::Entry::Occupied(mut e) => Some(e.insert(picture)),
            std::collections::btree_map::Entry::Vacant(e) => {
                e.insert(picture);
                None
            }
        };
        drop(before);
    }

    /// A copy of the camera's newest picture; none before its first frame.
    pub fn latest(&self, camera: &CameraId) -> Option<Picture> {
        let picture = self.lock().get(camera).cloned()?;
        let buffer = picture.buffer.copy_deep().ok()?;
        Some(Picture { buffer, ..picture })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<CameraId, Picture>> {
        self.0.lock().expect("nothing panics under this lock")
    }
}
