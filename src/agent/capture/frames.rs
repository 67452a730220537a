//! The end of the decoded branch: the tap chooses, the chosen are scaled and handed to the consumer.

use std::sync::Arc;

use gstreamer as gst;
use gstreamer_video::{VideoFrameRef, VideoInfo};

use super::error::CaptureError;
use super::picture::Picture;
use super::pixels::Scaler;
use super::shared::Shared;
use super::taps::Tap;
use super::upright::Upright;
use super::{Frame, FrameTap, Rotation};
use crate::base::clock::Mono;

/// A decoded picture that the tap may still choose.
struct Held {
    buffer: gst::Buffer,
    info: VideoInfo,
    rotation: Rotation,
    discontinuity: bool,
}

/// Turns samples into frames.
pub struct Frames {
    shared: Arc<Shared>,
    tap: Tap<Held>,
    scaler: Scaler,
    /// What the consumer asked for at first, and what it wants now.
    tap_fps: f32,
    sample_fps: f32,
    upright: Upright,
    current: Option<(gst::Caps, VideoInfo)>,
}

impl Frames {
    /// As the consumer wants them, from samples that come through this pad.
    pub fn new(tap: FrameTap, pad: &gst::Pad, shared: Arc<Shared>) -> Self {
        Frames {
            shared,
            tap: Tap::new(tap.sample_fps),
            scaler: Scaler::new(tap.region),
            tap_fps: tap.sample_fps,
            sample_fps: tap.sample_fps,
            upright: Upright::follow(pad),
            current: None,
        }
    }

    /// Offers one decoded picture to the tap.
    pub fn sample(&mut self, sample: &gst::Sample) -> Result<(), CaptureError> {
        let shared = Arc::clone(&self.shared);
        shared.stats.pictures.add(1);
        shared.pictures_seen.during(shared.clock.as_ref(), || self.picture(sample))
    }

    fn picture(&mut self, sample: &gst::Sample) -> Result<(), CaptureError> {
        let broken = |reason: &str| CaptureError::Decode { place: self.shared.place.clone(), reason: reason.into() };
        let buffer = sample.buffer_owned().ok_or_else(|| broken("a picture came without its pixels"))?;
        let caps = sample.caps().ok_or_else(|| broken("a picture came without its description"))?;
        let at = buffer.pts().ok_or_else(|| broken("a picture came without a time"))?;
        let at = Mono::from_nanos(at.nseconds());
        let rotation = self.upright.rotation();
        let (info, resized) = self.info(caps, rotation)?;
        // What is compared with the frame before must be of its size.
        let discontinuity = self.shared.stamps().frame_breaks(at) || resized;
        if discontinuity {
            self.tap.restart();
        }
        self.sample_fps = self.shared.sink.sample_fps(self.tap_fps);
        self.tap.set_fps(self.sample_fps);
        for (at, held) in self.tap.push(at, Held { buffer, info, rotation, discontinuity }) {
            self.hand_on(at, held)?;
        }
        Ok(())
    }

    fn hand_on(&mut self, at: Mono, held: Held) -> Result<(), CaptureError> {
        let shared = &self.shared;
        let failed = |source| CaptureError::Pixels { place: shared.place.clone(), source };
        let rgb = {
            let planes = VideoFrameRef::from_buffer_ref_readable(&held.buffer, &held.info)
                .map_err(|e| CaptureError::Decode { place: shared.place.clone(), reason: e.to_string() })?;
            self.scaler.frame(&planes, held.rotation).map_err(failed)?
        };
        let arrival = shared.stamps().arrival(at).unwrap_or_else(|| shared.clock.now());
        shared.snapshots.put(&shared.camera, Picture::new(at, held.buffer, held.info, held.rotation));
        shared.stats.frames.add(1);
        shared.sink.frame(Frame {
            camera: shared.camera.clone(),
            at,
            arrival,
            width: rgb.width,
            height: rgb.height,
            rgb: rgb.data,
            discontinuity: held.discontinuity,
            sample_fps: self.sample_fps,
        });
        Ok(())
    }

    /// The description of a picture, and whether upright it is of another size than the one before.
    fn info(&mut self, caps: &gst::CapsRef, rotation: Rotation) -> Result<(VideoInfo, bool), CaptureError> {
        if let Some((known, info)) = &self.current
            && **known == *caps
        {
            return Ok((info.clone(), false));
        }
        let info = VideoInfo::from_caps(caps)
            .map_err(|e| CaptureError::Decode { place: self.shared.place.clone(), reason: e.to_string() })?;
        let (width, height) = rotation.turned(info.width(), info.height());
        let before = self.shared.size();
        self.shared.check_size(width, height)?;
        let resized =
            self.current.replace((caps.to_owned(), info.clone())).is_some() && before != Some((width, height));
        Ok((info, resized))
    }
}
