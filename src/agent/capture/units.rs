//! The end of the encoded branch: access units with their parameters, to the consumer.

use std::sync::Arc;

use gstreamer as gst;

use super::error::CaptureError;
use super::shared::Shared;
use super::upright::Upright;
use super::{AccessUnit, Codec, Rotation, StreamInfo, nal};
use crate::base::clock::Mono;

/// Turns samples into access units.
pub struct Units {
    shared: Arc<Shared>,
    upright: Upright,
    current: Option<Current>,
}

/// The run that is going on.
struct Current {
    caps: gst::Caps,
    stream: Arc<StreamInfo>,
    length_bytes: usize,
}

impl Units {
    /// For samples that come through this pad.
    pub fn new(pad: &gst::Pad, shared: Arc<Shared>) -> Self {
        Units { upright: Upright::follow(pad), shared, current: None }
    }

    /// Hands one sample on.
    pub fn sample(&mut self, sample: &gst::Sample) -> Result<(), CaptureError> {
        let shared = Arc::clone(&self.shared);
        let broken = |reason: &str| CaptureError::Pipeline { place: shared.place.clone(), reason: reason.into() };
        let (Some(buffer), Some(caps), Some(segment)) = (sample.buffer(), sample.caps(), sample.segment()) else {
            return Err(broken("an access unit came without its description"));
        };
        let current = self.current(caps)?;
        let (stream, length_bytes) = (Arc::clone(&current.stream), current.length_bytes);
        // An encoder may have moved times and segment together; the running time is what they mean.
        let running = |t: Option<gst::ClockTime>| {
            let running = segment.downcast_ref::<gst::ClockTime>()?.to_running_time_full(t?)?;
            Some(Mono::from_nanos(if running.is_negative() { 0 } else { running.abs().nseconds() }))
        };
        // Of the first picture after an encoder was set up for another size, the parser loses the time of presentation.
        // An encoder of ours puts pictures in no other order, and in a stream kept as it comes every picture has both.
        let pts = running(buffer.pts().or(buffer.dts())).ok_or_else(|| broken("an access unit came without a time"))?;
        let dts = running(buffer.dts()).unwrap_or(pts).min(pts);
        let data = buffer.map_readable().map_err(|e| broken(&e.to_string()))?;
        let unit = AccessUnit {
            keyframe: nal::is_keyframe(stream.codec, &data, length_bytes),
            discontinuity: shared.stamps().unit_breaks(pts),
            data: match length_bytes {
                4 => Arc::from(&data[..]),
                other => nal::with_four_byte_lengths(&data, other).into(),
            },
            stream,
            pts,
            dts,
        };
        drop(data);
        shared.stats.access_units.add(1);
        shared.units_seen.during(shared.clock.as_ref(), || shared.sink.access_unit(unit));
        Ok(())
    }

    /// The run's parameters; new ones if the description or the rotation has changed.
    fn current(&mut self, caps: &gst::CapsRef) -> Result<&Current, CaptureError> {
        let rotation = self.upright.rotation();
        let same = |c: &Current| c.stream.rotation == rotation && *c.caps == *caps;
        if !self.current.as_ref().is_some_and(same) {
            let (mut stream, length_bytes) = describe(caps, &self.shared)?;
            stream.rotation = rotation;
            self.current = Some(Current { caps: caps.to_owned(), stream: Arc::new(stream), length_bytes });
        }
        Ok(self.current.as_ref().expect("it was set just now if it wasn't before"))
    }
}

fn describe(caps: &gst::CapsRef, shared: &Shared) -> Result<(StreamInfo, usize), CaptureError> {
    let incomplete = || CaptureError::Decode {
        place: shared.place.clone(),
        reason: format!("the stream doesn't say how it is coded ({caps})"),
    };
    let s = caps.structure(0).ok_or_else(incomplete)?;
    let codec = match s.name().as_str() {
        "video/x-h264" => Codec::H264,
        "video/x-h265" => Codec::H265,
        _ => return Err(incomplete()),
    };
    let side = |name: &str| s.get::<i32>(name).ok().and_then(|v| u32::try_from(v).ok());
    let (Some(width), Some(height)) = (side("width"), side("height")) else { return Err(incomplete()) };
    CaptureError::check_size(&shared.place, width, height)?;
    let config = s.get::<gst::Buffer>("codec_data").map_err(|_| incomplete())?;
    let mut config = config.map_readable().map_err(|_| incomplete())?.to_vec();
    let length_bytes = nal::length_bytes(codec, &config);
    nal::say_four_byte_lengths(codec, &mut config);
    Ok((StreamInfo { codec, width, height, rotation: Rotation::None, codec_config: config.into() }, length_bytes))
}
