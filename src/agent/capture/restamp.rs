//! The one point where a stream's times become the capture clock's: a probe on a pad, before the stream is
//! divided. Behind it a buffer's time-stamps *are* [`Mono`] nanoseconds and the segment is the plain one, so
//! that access units, pictures and freshly encoded video agree to the nanosecond.
//!
//! [`Mono`]: crate::base::clock::Mono

use std::sync::{Arc, Mutex};

use gstreamer as gst;
use gstreamer::prelude::*;

use super::shared::Shared;
use super::{Codec, nal, sps};

/// What passes the pad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Access units in decode order, NAL units with lengths in front.
    Units(Codec),
    /// Decoded pictures in presentation order.
    Pictures,
}

struct State {
    stream: Stream,
    segment: gst::FormattedSegment<gst::ClockTime>,
    length_bytes: usize,
    reorder: usize,
    /// Access units let through so far; nothing passes before a keyframe.
    passed: usize,
    first_pts: Option<i64>,
}

/// Installs the probe.
pub fn restamp(pad: &gst::Pad, stream: Stream, shared: Arc<Shared>) {
    let state = Mutex::new(State {
        stream,
        segment: gst::FormattedSegment::new(),
        length_bytes: 4,
        reorder: 0,
        passed: 0,
        first_pts: None,
    });
    let mask = gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM;
    pad.add_probe(mask, move |_, info| {
        let mut state = state.lock().expect("nothing panics under this lock");
        match &mut info.data {
            Some(gst::PadProbeData::Event(event)) => state.event(event, &shared),
            Some(gst::PadProbeData::Buffer(buffer)) => state.buffer(buffer, &shared),
            _ => gst::PadProbeReturn::Ok,
        }
    });
}

impl State {
    fn event(&mut self, event: &mut gst::Event, shared: &Shared) -> gst::PadProbeReturn {
        match event.view() {
            gst::EventView::Caps(caps) => {
                if let Stream::Units(codec) = self.stream {
                    self.parameters(codec, caps.caps(), shared);
                }
            }
            gst::EventView::Segment(segment) => {
                let Some(segment) = segment.segment().downcast_ref::<gst::ClockTime>() else {
                    return gst::PadProbeReturn::Ok;
                };
                self.segment = segment.clone();
                let plain = gst::FormattedSegment::<gst::ClockTime>::new();
                *event = gst::event::Segment::builder(&plain).seqnum(event.seqnum()).build();
            }
            // Its times are the stream's; nothing behind this needs it.
            gst::EventView::Gap(_) => return gst::PadProbeReturn::Drop,
            _ => {}
        }
        gst::PadProbeReturn::Ok
    }

    fn parameters(&mut self, codec: Codec, caps: &gst::CapsRef, shared: &Shared) {
        let config = caps.structure(0).and_then(|s| s.get::<gst::Buffer>("codec_data").ok());
        let Some(config) = config.as_ref().and_then(|c| c.map_readable().ok()) else { return };
        self.length_bytes = nal::length_bytes(codec, &config);
        self.reorder = sps::reorder_depth(codec, &config);
        shared.stamps().set_reorder(self.reorder);
    }

    fn buffer(&mut self, buffer: &mut gst::Buffer, shared: &Shared) -> gst::PadProbeReturn {
        let (pts, dts) = match self.stream {
            Stream::Units(_) => (buffer.pts(), buffer.dts()),
            // What isn't coded is shown in the order it comes in.
            Stream::Pictures => (buffer.pts().or(buffer.dts()), None),
        };
        let (pts, dts) = (pts.and_then(|t| self.running(t)), dts.and_then(|t| self.running(t)));
        let duration = buffer.duration().map(|d| d.nseconds() as i64);
        if let Stream::Units(codec) = self.stream {
            let keyframe = buffer.map_readable().is_ok_and(|data| nal::is_keyframe(codec, &data, self.length_bytes));
            // Nothing before the first keyframe can be decoded, nor what is decoded after but shown before it.
            let leading = self.passed <= self.reorder && pts.is_some() && pts < self.first_pts;
            if !keyframe && (self.passed == 0 || leading) {
                shared.headless_units.during(shared.clock.as_ref(), || ());
                return gst::PadProbeReturn::Drop;
            }
            if self.passed == 0 {
                self.first_pts = pts;
            }
            self.passed += 1;
            let hidden = self.is_hidden(buffer);
            let flags = buffer.make_mut();
            if keyframe {
                flags.unset_flags(gst::BufferFlags::DELTA_UNIT);
            } else {
                flags.set_flags(gst::BufferFlags::DELTA_UNIT);
            }
            if hidden {
                flags.set_flags(gst::BufferFlags::DECODE_ONLY);
            }
        }
        let stamp = shared.stamps().stamp(pts, dts, duration, shared.clock.now());
        if stamp.jumped {
            log::warn!(camera:% = shared.camera; "time-stamps of {} went back; times run on from where they were", shared.place);
        }
        let buffer = buffer.make_mut();
        buffer.set_pts(gst::ClockTime::from_nseconds(stamp.pts.as_nanos()));
        buffer.set_dts(gst::ClockTime::from_nseconds(stamp.dts.as_nanos()));
        gst::PadProbeReturn::Ok
    }

    /// Whether the container's edit list wants the picture decoded and not shown. Behind this point the segment
    /// no longer says so.
    fn is_hidden(&self, buffer: &gst::BufferRef) -> bool {
        let Some(pts) = buffer.pts() else { return false };
        let end = pts + buffer.duration().unwrap_or(gst::ClockTime::from_nseconds(1));
        self.segment.clip(pts, end).is_none()
    }

    fn running(&self, t: gst::ClockTime) -> Option<i64> {
        let signed = self.segment.to_running_time_full(t)?;
        let ns = i64::try_from(signed.abs().nseconds()).ok()?;
        Some(if signed.is_negative() { -ns } else { ns })
    }
}
