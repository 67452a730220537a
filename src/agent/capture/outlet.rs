//! What is common to all cameras behind the source: the pipeline from the first video stream to the consumer.
//!
//! ```text
//!  H.264, H.265 with presentation times:
//!    stream ─ (pace) ─ parser ─ restamp ─┬─ access units
//!                                        └─ (queue) ─ decoder ─ frames
//!  the same of a camera with masks:
//!    stream ─ (pace) ─ parser ─ restamp ─ (queue) ─ decoder ─┐
//!  anything else:                                            ├─ (masks) ─┬─ (queue) ─ encoder ─ parser ─ access units
//!    stream ─ (pace) ─ (parser) ─ (decoder) ─ restamp ───────┘           └─ (queue) ─ frames
//! ```
//!
//! Of a camera with masks nothing leaves but through them: its own access units go to the decoder and nowhere else.
//!
//! Branches that nobody wants are not built. `pace` holds a file back to its own time-stamps. Queues are there
//! where late consumers lose pictures, never for files read flat out. In front of a decoder nothing can be left
//! out without damage, so a decoder that is too slow skips to a keyframe; behind it the oldest picture goes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer_app::{AppSink, AppSinkCallbacks};
use gstreamer_video::VideoMeta;

use super::elements::{self, Decode};
use super::error::CaptureError;
use super::frames::Frames;
use super::kind::Pacing;
use super::pixels::FORMATS;
use super::restamp::{Stream, restamp};
use super::shared::{Chosen, Shared};
use super::units::Units;
use super::{CameraClock, Codec, FrameTap, mask};

/// Video that may wait for a live decoder before it skips.
const BACKLOG_MOST: gst::ClockTime = gst::ClockTime::from_seconds(2);
/// Pictures that may wait for a live encoder, or a live consumer of frames.
const PICTURES_MOST: u32 = 3;

/// A camera's clock that differs by more is told of.
const CLOCK_WRONG_MS: i64 = 5_000;

/// What a stream's time-stamps are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// They say when a picture is shown.
    OfPresentation,
    /// They only follow the order of decoding; when a picture is shown is known once it is decoded.
    OfDecoding,
}

/// Where a source offers its streams; the first one with pictures is taken. Clones share it.
#[derive(Clone)]
pub struct Outlet(Arc<Inner>);

struct Inner {
    pipeline: glib::WeakRef<gst::Pipeline>,
    shared: Arc<Shared>,
    offered: Mutex<Offered>,
}

#[derive(Default)]
struct Offered {
    taken: bool,
    others: Vec<String>,
}

impl Outlet {
    pub fn new(pipeline: &gst::Pipeline, shared: Arc<Shared>) -> Self {
        Outlet(Arc::new(Inner { pipeline: pipeline.downgrade(), shared, offered: Mutex::default() }))
    }

    pub fn place(&self) -> String {
        self.0.shared.place.clone()
    }

    pub fn fail(&self, error: CaptureError) {
        self.0.shared.fail(error);
    }

    /// What was chosen of what a local camera offers.
    pub fn chosen(&self, chosen: Chosen) {
        *self.0.shared.chosen.lock().expect("nothing panics under this lock") = Some(chosen);
    }

    /// By the camera's own clock, the stream stands at `unix_ms` when its running time is `running_ns`.
    pub fn camera_clock(&self, running_ns: i64, unix_ms: i64) {
        let shared = &self.0.shared;
        let Some(at) = shared.stamps().timeline.at(running_ns) else { return };
        let offset_ms = unix_ms - shared.clock.wall_at(at).unix_ms();
        let before = shared.stats.camera_clock.set(CameraClock { offset_ms, at: shared.clock.now() });
        let is = |offset: i64| offset.abs() >= CLOCK_WRONG_MS;
        if is(offset_ms) && !before.is_some_and(|before| is(before.offset_ms)) {
            let (by, way) = (offset_ms.unsigned_abs() as f64 / 1e3, if offset_ms > 0 { "ahead of" } else { "behind" });
            log::warn!(camera:% = shared.camera; "the camera's clock is {by:.1} s {way} this device's: what it prints into its pictures differs by as much; set its time server (NTP)");
        } else if !is(offset_ms) && before.is_some_and(|before| is(before.offset_ms)) {
            log::info!(camera:% = shared.camera; "the camera's clock agrees with this device's again");
        }
    }

    /// A packet was left out that couldn't be unpacked.
    pub fn malformed(&self) {
        self.0.shared.stats.malformed.add(1);
    }

    /// A stream of the source. Called from streaming threads.
    pub fn offer(&self, pad: &gst::Pad, times: Times) {
        let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
        let name = caps.structure(0).map_or(String::new(), |s| s.name().to_string());
        {
            let mut offered = self.0.offered.lock().expect("nothing panics under this lock");
            if offered.taken || !(name.starts_with("video/") || name.starts_with("image/")) {
                offered.others.push(name);
                return;
            }
            offered.taken = true;
        }
        let Some(pipeline) = self.0.pipeline.upgrade() else { return };
        let branches = Branches { pipeline, shared: &self.0.shared };
        if let Err(e) = branches.build(pad, &caps, times) {
            self.fail(e);
        }
    }

    /// The source has offered all it has.
    pub fn no_more(&self) {
        let offered = self.0.offered.lock().expect("nothing panics under this lock");
        if !offered.taken {
            let found = if offered.others.is_empty() { "nothing".into() } else { offered.others.join(", ") };
            self.fail(CaptureError::NoPictures { place: self.place(), found });
        }
    }
}

/// Builds the branches of one session.
struct Branches<'a> {
    pipeline: gst::Pipeline,
    shared: &'a Arc<Shared>,
}

impl Branches<'_> {
    fn build(&self, pad: &gst::Pad, caps: &gst::CapsRef, times: Times) -> Result<(), CaptureError> {
        self.check_size(caps)?;
        let mut trunk = Vec::new();
        if self.shared.pacing == Pacing::Realtime {
            let pace = elements::make("identity")?;
            pace.set_property("sync", true);
            trunk.push(pace);
        }
        let ends = match codec_of(caps) {
            Some(codec) if times == Times::OfPresentation && self.shared.masks.is_empty() => {
                self.encoded(codec, caps, &mut trunk)?
            }
            codec => self.decoded(codec.filter(|_| times == Times::OfPresentation), caps, &mut trunk)?,
        };
        self.link(pad, &trunk, ends)
    }

    /// The trunk of a stream that can be stored untouched; its branches.
    fn encoded(
        &self,
        codec: Codec,
        caps: &gst::CapsRef,
        trunk: &mut Vec<gst::Element>,
    ) -> Result<Vec<Vec<gst::Element>>, CaptureError> {
        trunk.extend(parser(codec)?);
        self.restamp_behind(trunk, Stream::Units(codec));
        let mut ends = Vec::new();
        if self.shared.wants.access_units {
            ends.push(vec![self.unit_sink()?]);
        }
        if let Some(tap) = self.shared.wants.frames {
            let mut branch = Vec::new();
            if self.shared.lossy() {
                branch.push(self.queue_that_skips()?);
            }
            branch.push(elements::decoder(caps, self.how(), &self.shared.place)?);
            branch.extend(self.frame_end(tap)?);
            ends.push(branch);
        }
        Ok(ends)
    }

    /// The trunk of a stream that is decoded first; its branches. `timed` is the codec of one that is not raw and has its
    /// presentation times before it is decoded.
    fn decoded(
        &self,
        timed: Option<Codec>,
        caps: &gst::CapsRef,
        trunk: &mut Vec<gst::Element>,
    ) -> Result<Vec<Vec<gst::Element>>, CaptureError> {
        if let Some(codec) = timed {
            trunk.extend(parser(codec)?);
            self.restamp_behind(trunk, Stream::Units(codec));
            if self.shared.lossy() {
                trunk.push(self.queue_that_skips()?);
            }
            trunk.push(elements::decoder(caps, self.how(), &self.shared.place)?);
        } else {
            if caps.structure(0).is_none_or(|s| s.name() != "video/x-raw") {
                match codec_of(caps) {
                    Some(codec) => trunk.extend(parser(codec)?),
                    None => trunk.extend(elements::any_parser(caps)),
                }
                trunk.push(elements::decoder(caps, self.how(), &self.shared.place)?);
            } else if trunk.is_empty() {
                trunk.push(elements::make("identity")?);
            }
            self.restamp_behind(trunk, Stream::Pictures);
        }
        if !self.shared.masks.is_empty() {
            trunk.extend(self.masked()?);
        }
        let mut ends = Vec::new();
        if self.shared.wants.access_units {
            let mut branch = self.queue_that_drops()?;
            branch.push(elements::make("videoconvert")?);
            branch.push(filter(gst::Caps::builder("video/x-raw").field("format", "I420").build())?);
            branch.push(elements::encoder(self.shared.encode_kbps, self.shared.hardware)?);
            branch.extend(parser(Codec::H264)?);
            branch.push(self.unit_sink()?);
            ends.push(branch);
        }
        if let Some(tap) = self.shared.wants.frames {
            let mut branch = self.queue_that_drops()?;
            branch.extend(self.frame_end(tap)?);
            ends.push(branch);
        }
        Ok(ends)
    }

    /// Pictures in, masked pictures out.
    fn masked(&self) -> Result<[gst::Element; 2], CaptureError> {
        let format = usable_pictures()?;
        mask::install(&format.static_pad("src").expect("a caps filter has a source pad"), Arc::clone(self.shared));
        Ok([elements::make("videoconvert")?, format])
    }

    /// Puts it all into the pipeline, the ends first, and lets the stream in.
    fn link(
        &self,
        pad: &gst::Pad,
        trunk: &[gst::Element],
        mut ends: Vec<Vec<gst::Element>>,
    ) -> Result<(), CaptureError> {
        let failed = |reason: String| CaptureError::Pipeline { place: self.shared.place.clone(), reason };
        let mut all: Vec<&gst::Element> = trunk.iter().collect();
        let tee;
        let single;
        if ends.len() == 1 {
            single = ends.remove(0);
            all.extend(&single);
        } else {
            tee = elements::make("tee")?;
            all.push(&tee);
        }
        for end in &ends {
            elements::chain(&self.pipeline, &end.iter().collect::<Vec<_>>()).map_err(|e| failed(e.to_string()))?;
        }
        elements::chain(&self.pipeline, &all).map_err(|e| failed(e.to_string()))?;
        if let Some(tee) = all.last().filter(|_| !ends.is_empty()) {
            for end in &ends {
                tee.link(&end[0]).map_err(|e| failed(e.to_string()))?;
            }
        }
        let first = all.first().expect("there is always a sink");
        let sink = first.static_pad("sink").expect("each of these elements has one");
        pad.link(&sink).map(|_| ()).map_err(|e| failed(format!("the stream can't be linked: {e}")))
    }

    fn check_size(&self, caps: &gst::CapsRef) -> Result<(), CaptureError> {
        let side = |name| caps.structure(0).and_then(|s| s.get::<i32>(name).ok()).and_then(|v| u32::try_from(v).ok());
        match (side("width"), side("height")) {
            (Some(width), Some(height)) => CaptureError::check_size(&self.shared.place, width, height),
            _ => Ok(()),
        }
    }

    fn how(&self) -> Decode {
        if self.shared.lossy() { Decode::Promptly { hardware: self.shared.hardware } } else { Decode::FlatOut }
    }

    fn restamp_behind(&self, trunk: &[gst::Element], stream: Stream) {
        let pad = trunk.last().and_then(|e| e.static_pad("src")).expect("the trunk has an element with a source pad");
        restamp(&pad, stream, Arc::clone(self.shared));
    }

    /// A queue before a live decoder. When more waits in it than [`BACKLOG_MOST`], everything up to the next
    /// keyframe that finds it half empty is left out.
    fn queue_that_skips(&self) -> Result<gst::Element, CaptureError> {
        let queue = queue(0)?;
        let pad = |name| queue.static_pad(name).expect("a queue has a sink pad and a source pad");
        // The queue's own word on how much waits starts at time zero, and is far too high until a buffer has left it.
        let left = Arc::new(AtomicU64::new(u64::MAX));
        let leaving = Arc::clone(&left);
        pad("src").add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            if let Some(dts) = info.buffer().and_then(|b| b.dts()) {
                leaving.store(dts.nseconds(), Relaxed);
            }
            gst::PadProbeReturn::Ok
        });
        let stats = Arc::clone(&self.shared.stats);
        let (entered, skipping) = (AtomicU64::new(0), AtomicBool::new(false));
        pad("sink").add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            let Some(buffer) = info.buffer() else { return gst::PadProbeReturn::Ok };
            let waiting = gst::ClockTime::from_nseconds(entered.load(Relaxed).saturating_sub(left.load(Relaxed)));
            if skipping.load(Relaxed) {
                let keyframe = !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT);
                skipping.store(!keyframe || waiting > BACKLOG_MOST / 2, Relaxed);
            } else {
                skipping.store(waiting > BACKLOG_MOST, Relaxed);
            }
            if skipping.load(Relaxed) {
                stats.skipped.add(1);
                // Not `Drop`: on a sink pad GStreamer 1.22 then wants to free what the bindings have freed.
                gst::PadProbeReturn::Handled
            } else {
                if let Some(dts) = buffer.dts() {
                    entered.store(dts.nseconds(), Relaxed);
                }
                gst::PadProbeReturn::Ok
            }
        });
        Ok(queue)
    }

    /// A queue of pictures for a live consumer that may be late; none for a file read flat out.
    fn queue_that_drops(&self) -> Result<Vec<gst::Element>, CaptureError> {
        if !self.shared.lossy() {
            return Ok(Vec::new());
        }
        let queue = queue(PICTURES_MOST)?;
        queue.set_property_from_str("leaky", "downstream");
        let stats = Arc::clone(&self.shared.stats);
        queue.connect("overrun", false, move |_| {
            stats.skipped.add(1);
            None
        });
        Ok(vec![queue])
    }

    fn unit_sink(&self) -> Result<gst::Element, CaptureError> {
        let sink = sink()?;
        let pad = sink.static_pad("sink").expect("a sink has a sink pad");
        let mut units = Units::new(&pad, Arc::clone(self.shared));
        let shared = Arc::clone(self.shared);
        sink.set_callbacks(
            AppSinkCallbacks::builder()
                .new_sample(move |sink| {
                    let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                    passed_on(&shared, units.sample(&sample))
                })
                .build(),
        );
        Ok(sink.upcast())
    }

    /// From pictures to the consumer.
    fn frame_end(&self, tap: FrameTap) -> Result<[gst::Element; 3], CaptureError> {
        let sink = sink()?;
        // A decoder copies every picture for a consumer that doesn't say that it can live with padded rows.
        let pad = sink.static_pad("sink").expect("a sink has a sink pad");
        pad.add_probe(gst::PadProbeType::QUERY_DOWNSTREAM, |_, info| match info.query_mut().map(|q| q.view_mut()) {
            Some(gst::QueryViewMut::Allocation(query)) => {
                query.add_allocation_meta::<VideoMeta>(None);
                gst::PadProbeReturn::Handled
            }
            _ => gst::PadProbeReturn::Ok,
        });
        let mut frames = Frames::new(tap, &pad, Arc::clone(self.shared));
        let shared = Arc::clone(self.shared);
        sink.set_callbacks(
            AppSinkCallbacks::builder()
                .new_sample(move |sink| {
                    let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                    passed_on(&shared, frames.sample(&sample))
                })
                .build(),
        );
        Ok([elements::make("videoconvert")?, usable_pictures()?, sink.upcast()])
    }
}

fn passed_on(shared: &Shared, result: Result<(), CaptureError>) -> Result<gst::FlowSuccess, gst::FlowError> {
    result.map(|()| gst::FlowSuccess::Ok).map_err(|e| {
        shared.fail(e);
        gst::FlowError::Error
    })
}

fn filter(caps: gst::Caps) -> Result<gst::Element, CaptureError> {
    let filter = elements::make("capsfilter")?;
    filter.set_property("caps", &caps);
    Ok(filter)
}

/// Lets pictures through whose planes are used as they are.
fn usable_pictures() -> Result<gst::Element, CaptureError> {
    let formats = gst::List::new(FORMATS.map(|f| f.to_str()));
    filter(gst::Caps::builder("video/x-raw").field("format", formats).build())
}

/// Whole access units with lengths in front and the parameters beside them.
fn parser(codec: Codec) -> Result<[gst::Element; 2], CaptureError> {
    let (parser, caps) = match codec {
        Codec::H264 => ("h264parse", gst::Caps::builder("video/x-h264").field("stream-format", "avc")),
        Codec::H265 => {
            let formats = gst::List::new(["hvc1", "hev1"]);
            ("h265parse", gst::Caps::builder("video/x-h265").field("stream-format", formats))
        }
    };
    Ok([elements::make(parser)?, filter(caps.field("alignment", "au").build())?])
}

/// The codec of streams that may be stored as they are.
fn codec_of(caps: &gst::CapsRef) -> Option<Codec> {
    match caps.structure(0)?.name().as_str() {
        "video/x-h264" => Some(Codec::H264),
        "video/x-h265" => Some(Codec::H265),
        _ => None,
    }
}

/// A queue bounded by pictures alone; 0: not at all.
fn queue(pictures: u32) -> Result<gst::Element, CaptureError> {
    let queue = elements::make("queue")?;
    queue.set_property("max-size-buffers", pictures);
    queue.set_property("max-size-bytes", 0_u32);
    queue.set_property("max-size-time", 0_u64);
    Ok(queue)
}

/// A sink that takes samples as they come, in the thread that brings them.
fn sink() -> Result<AppSink, CaptureError> {
    let sink: AppSink = elements::make("appsink")?.downcast().expect("an appsink is an AppSink");
    sink.set_sync(false);
    sink.set_async(false);
    sink.set_qos(false);
    sink.set_enable_last_sample(false);
    sink.set_max_buffers(1);
    Ok(sink)
}
