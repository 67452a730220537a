//! GStreamer's elements: made by name, with the package that has them when they are missing, and the one place
//! where a decoder and an encoder are made: in hardware where `hardware` says that it can be, else in software.

use std::sync::Mutex;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer_video::UpstreamForceKeyUnitEvent;

use super::Codec;
use super::error::CaptureError;
use super::hardware::{self, Work};

/// Distance of keyframes in freshly encoded video: where clips can begin.
const KEYFRAME_EVERY: gst::ClockTime = gst::ClockTime::from_seconds(1);

/// Starts GStreamer; again and again does no harm.
pub fn init() -> Result<(), CaptureError> {
    gst::init().map_err(CaptureError::Init)
}

/// The element of this name, or which package has it.
pub fn make(element: &str) -> Result<gst::Element, CaptureError> {
    gst::ElementFactory::make(element)
        .build()
        .map_err(|_| CaptureError::MissingElement { element: element.into(), package: package_of(element) })
}

/// Sets a property that not every version of the element has.
pub fn set_if_known(element: &gst::Element, property: &str, value: &str) {
    if element.find_property(property).is_some() {
        element.set_property_from_str(property, value);
    }
}

pub fn package_of(element: &str) -> &'static str {
    match element {
        "videoconvert" | "videotestsrc" | "appsink" => "gstreamer1.0-plugins-base",
        "rtspsrc" | "v4l2src" | "videoflip" | "jpegdec" => "gstreamer1.0-plugins-good",
        "h264parse" | "h265parse" => "gstreamer1.0-plugins-bad",
        "x264enc" => "gstreamer1.0-plugins-ugly",
        nvidia if nvidia.starts_with("nv") => "nvidia-l4t-gstreamer (of JetPack; only a Jetson has it)",
        decoder if decoder.starts_with("avdec_") => "gstreamer1.0-libav",
        _ => "libgstreamer1.0-0",
    }
}

/// How a decoder is to work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decode {
    /// Each picture as soon as its access unit is there; in hardware where it can be and `hardware` says so.
    Promptly {
        /// False: it has failed there.
        hardware: bool,
    },
    /// As many pictures a second as the machine can.
    FlatOut,
}

/// Threads of one decoder; each holds pictures of its own.
const DECODERS_MOST: usize = 8;

/// A decoder for streams of this description.
pub fn decoder(caps: &gst::CapsRef, how: Decode, place: &str) -> Result<gst::Element, CaptureError> {
    let name = caps.structure(0).map_or("", |s| s.name().as_str());
    let work = match name {
        "video/x-h264" => Some(Work::Decode(Codec::H264)),
        "video/x-h265" => Some(Work::Decode(Codec::H265)),
        "image/jpeg" => Some(Work::DecodeJpeg),
        _ => None,
    };
    // A file read flat out is decoded in software: the same pixels on every machine.
    if let (Decode::Promptly { hardware: true }, Some(work)) = (how, work)
        && let Some(steps) = hardware::chain(work, 0, &hardware::usable)
    {
        return hardware::bin(&steps);
    }
    let preferred = work.map_or(&[] as &[&str], hardware::software);
    let decoder = match preferred.iter().find(|name| gst::ElementFactory::find(name).is_some()) {
        Some(name) => make(name)?,
        None if !preferred.is_empty() => make(preferred[0])?,
        None => any_decoder(caps)
            .ok_or_else(|| CaptureError::MissingFormat { place: place.into(), what: format!("a decoder for {name}") })?
            .create()
            .build()
            .map_err(|e| CaptureError::MissingFormat { place: place.into(), what: e.to_string() })?,
    };
    // A damaged picture must not look like something that moved. The property changed its name.
    set_if_known(&decoder, "output-corrupt", "false");
    set_if_known(&decoder, "discard-corrupted-frames", "true");
    // Every picture is wanted; which of them count is the tap's decision alone.
    set_if_known(&decoder, "qos", "false");
    match how {
        // Decoding several pictures at once holds each one back by as many pictures as there are threads.
        Decode::Promptly { .. } if decoder.find_property("thread-type").is_some() => {
            set_if_known(&decoder, "thread-type", "slice");
        }
        Decode::Promptly { .. } => set_if_known(&decoder, "max-threads", "1"),
        // One processor is the consumer's; with more threads than the rest, decoding costs more and is no sooner done.
        Decode::FlatOut => {
            let others = std::thread::available_parallelism().map_or(1, |n| n.get() - 1).clamp(1, DECODERS_MOST);
            set_if_known(&decoder, "max-threads", &others.to_string());
        }
    }
    Ok(decoder)
}

/// A decoder for what has been through the parser that fits.
fn any_decoder(caps: &gst::CapsRef) -> Option<gst::ElementFactory> {
    let mut parsed = caps.to_owned();
    parsed.make_mut().set("parsed", true);
    best(gst::ElementFactoryType::DECODER, &parsed)
}

/// The parser for streams of this description, if they have one and it is installed.
pub fn any_parser(caps: &gst::CapsRef) -> Option<gst::Element> {
    best(gst::ElementFactoryType::PARSER, caps)?.create().build().ok()
}

/// The highest-ranking software element of a type that takes streams of this description.
pub fn best(kind: gst::ElementFactoryType, caps: &gst::CapsRef) -> Option<gst::ElementFactory> {
    let caps = caps.to_owned();
    let mut found: Vec<_> = gst::ElementFactory::factories_with_type(kind, gst::Rank::MARGINAL)
        .into_iter()
        .filter(|f| f.can_sink_all_caps(&caps) && !f.klass().contains("Hardware"))
        .collect();
    found.sort_by_key(|f| std::cmp::Reverse(f.rank()));
    found.into_iter().next()
}

/// An H.264 encoder without delay, with a keyframe each second; `hardware`: there if it can be.
pub fn encoder(kbps: u32, hardware: bool) -> Result<gst::Element, CaptureError> {
    let steps = hardware.then(|| hardware::chain(Work::Encode, kbps, &hardware::usable)).flatten();
    let encoder = match steps {
        Some(steps) => hardware::bin(&steps)?,
        None => software_encoder(kbps)?,
    };
    // The encoder itself counts pictures, and a stream's own word on how many there are in a second is
    // often wrong.
    let pad = encoder.static_pad("sink").expect("an encoder has a sink pad");
    let source = encoder.static_pad("src").expect("an encoder has a source pad");
    let last = Mutex::new(None::<gst::ClockTime>);
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let Some(pts) = info.buffer().and_then(|b| b.pts()) else { return gst::PadProbeReturn::Ok };
        let due = {
            let mut last = last.lock().expect("nothing panics under this lock");
            let due = last.is_none_or(|last| pts >= last + KEYFRAME_EVERY);
            if due {
                *last = Some(pts);
            }
            due
        };
        // As a viewer would ask for it: with a time of ours the encoder compares times of its own.
        if due && !source.send_event(UpstreamForceKeyUnitEvent::builder().build()) {
            log::debug!("the encoder takes no request for a keyframe");
        }
        gst::PadProbeReturn::Ok
    });
    Ok(encoder)
}

fn software_encoder(kbps: u32) -> Result<gst::Element, CaptureError> {
    let encoder = make("x264enc")?;
    encoder.set_property("bitrate", kbps);
    encoder.set_property_from_str("tune", "zerolatency");
    encoder.set_property_from_str("speed-preset", "superfast");
    Ok(encoder)
}

/// Adds elements to the pipeline, links them in order, and brings them to the pipeline's state, the last one
/// first, so that nothing flows into an element that isn't ready.
pub fn chain(pipeline: &gst::Pipeline, elements: &[&gst::Element]) -> Result<(), glib::BoolError> {
    pipeline.add_many(elements)?;
    gst::Element::link_many(elements)?;
    for element in elements.iter().rev() {
        element.sync_state_with_parent()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        init().expect("GStreamer is installed");
        let error = make("avdec_nothing").map(|e| e.name()).expect_err("there is no such element");
        assert_eq!(
            error.to_string(),
            "the GStreamer element avdec_nothing is missing; install the package gstreamer1.0-libav"
        );
        let unknown = gst::Caps::new_empty_simple("video/x-unheard-of");
        let error = decoder(&unknown, Decode::FlatOut, "a.mp4").map(|e| e.name()).expect_err("nobody decodes that");
        assert!(error.to_string().contains("a decoder for video/x-unheard-of"), "{error}");
    }

    #[test]
    fn prompt_decoders_hold_no_pictures_back() {
        init().expect("GStreamer is installed");
        let h264 = gst::Caps::new_empty_simple("video/x-h264");
        let decoder =
            decoder(&h264, Decode::Promptly { hardware: false }, "a.mp4").expect("gstreamer1.0-libav is installed");
        assert!(!decoder.property::<bool>("output-corrupt"));
        let by_slices = decoder.find_property("thread-type").is_some();
        assert!(by_slices || decoder.property::<i32>("max-threads") == 1);
    }
}
