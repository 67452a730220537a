//! GStreamer's elements: made by name, with the package that has them when they are missing, and the one place
//! where a decoder and an encoder are chosen. Hardware elements take their place here when they are supported.

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;

use super::error::CaptureError;

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

fn package_of(element: &str) -> &'static str {
    match element {
        "parsebin" | "videoconvert" | "videotestsrc" | "appsink" => "gstreamer1.0-plugins-base",
        "rtspsrc" | "videoflip" | "jpegdec" => "gstreamer1.0-plugins-good",
        "h264parse" | "h265parse" => "gstreamer1.0-plugins-bad",
        "x264enc" => "gstreamer1.0-plugins-ugly",
        decoder if decoder.starts_with("avdec_") => "gstreamer1.0-libav",
        _ => "libgstreamer1.0-0",
    }
}

/// How a decoder is to work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decode {
    /// Each picture as soon as its access unit is there.
    Promptly,
    /// As many pictures a second as the machine can.
    FlatOut,
}

/// A software decoder for streams of this description.
pub fn decoder(caps: &gst::CapsRef, how: Decode, place: &str) -> Result<gst::Element, CaptureError> {
    let name = caps.structure(0).map_or("", |s| s.name().as_str());
    let preferred: &[&str] = match name {
        "video/x-h264" => &["avdec_h264", "openh264dec"],
        "video/x-h265" => &["avdec_h265", "libde265dec"],
        _ => &[],
    };
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
    if how == Decode::Promptly {
        // Decoding several pictures at once holds each one back by as many pictures as there are threads.
        if decoder.find_property("thread-type").is_some() {
            set_if_known(&decoder, "thread-type", "slice");
        } else {
            set_if_known(&decoder, "max-threads", "1");
        }
    }
    Ok(decoder)
}

fn any_decoder(caps: &gst::CapsRef) -> Option<gst::ElementFactory> {
    let decoders = gst::ElementFactoryType::DECODER | gst::ElementFactoryType::MEDIA_VIDEO;
    let mut found: Vec<_> = gst::ElementFactory::factories_with_type(decoders, gst::Rank::MARGINAL)
        .into_iter()
        .filter(|f| f.can_sink_any_caps(&caps.to_owned()))
        .filter(|f| !f.klass().contains("Hardware"))
        .collect();
    found.sort_by_key(|f| std::cmp::Reverse(f.rank()));
    found.into_iter().next()
}

/// A software H.264 encoder without delay, a keyframe about each second, and the parser that goes behind it.
pub fn encoder(kbps: u32) -> Result<gst::Element, CaptureError> {
    let encoder = make("x264enc")?;
    encoder.set_property("bitrate", kbps);
    encoder.set_property_from_str("tune", "zerolatency");
    encoder.set_property_from_str("speed-preset", "superfast");
    // The encoder counts its keyframes' distance in pictures, and reads the property when it learns the format.
    let pad = encoder.static_pad("sink").expect("an encoder has a sink pad");
    let weak = encoder.downgrade();
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        if let (Some(gst::EventView::Caps(caps)), Some(encoder)) = (info.event().map(|e| e.view()), weak.upgrade()) {
            let fps = caps.caps().structure(0).and_then(|s| s.get::<gst::Fraction>("framerate").ok());
            encoder.set_property("key-int-max", pictures_a_second(fps));
        }
        gst::PadProbeReturn::Ok
    });
    Ok(encoder)
}

/// Rounded, 1 to 120; 25 where the stream doesn't say.
fn pictures_a_second(fps: Option<gst::Fraction>) -> u32 {
    match fps {
        Some(fps) if fps.numer() > 0 => (fps.numer() as u32).div_ceil(fps.denom().max(1) as u32).clamp(1, 120),
        _ => 25,
    }
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
