//! From a container or a network stream to elementary streams: the demultiplexer or depayloader that fits, and
//! what comes out of it to the outlet.
//!
//! GStreamer's own `parsebin` is not used: it swallows an error that a demultiplexer reports while it is being
//! connected (a file without its index does so), and nothing ever ends.

use gstreamer as gst;
use gstreamer::prelude::*;

use super::elements;
use super::error::CaptureError;
use super::outlet::{Outlet, Times};
use super::packets::{Coding, only_whole};

/// Links what fits to `pad`, or offers it as it is. `times` is what is known about its time-stamps.
pub fn plug(pipeline: &gst::Pipeline, pad: &gst::Pad, times: Times, outlet: &Outlet) -> Result<(), CaptureError> {
    let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
    let failed = |reason: &str| CaptureError::Pipeline { place: outlet.place(), reason: format!("{reason} ({caps})") };
    let add = |element: &gst::Element| pipeline.add(element).map_err(|_| failed("an element can't be added"));
    let start =
        |element: &gst::Element| element.sync_state_with_parent().map_err(|_| failed("an element doesn't start"));
    let link = |element: &gst::Element| {
        let sink = element.static_pad("sink").ok_or_else(|| failed("an element has no input"))?;
        pad.link(&sink).map(|_| ()).map_err(|_| failed("an element can't be linked"))
    };
    if let Some(demuxer) = elements::best(gst::ElementFactoryType::DEMUXER, &caps) {
        let demuxer = demuxer.create().build().map_err(|_| failed("a demultiplexer can't be made"))?;
        let times = times_in(&caps);
        let weak = pipeline.downgrade();
        demuxer.connect_pad_added({
            let outlet = outlet.clone();
            move |_, pad| {
                if let Some(pipeline) = weak.upgrade()
                    && let Err(e) = plug(&pipeline, pad, times, &outlet)
                {
                    outlet.fail(e);
                }
            }
        });
        demuxer.connect_no_more_pads({
            let outlet = outlet.clone();
            move |_| outlet.no_more()
        });
        // Linked before it starts, so that it finds that it can read where it likes instead of being fed.
        add(&demuxer)?;
        link(&demuxer)?;
        start(&demuxer)
    } else if let Some(depayloader) = elements::best(gst::ElementFactoryType::DEPAYLOADER, &caps) {
        let depayloader = depayloader.create().build().map_err(|_| failed("a depayloader can't be made"))?;
        let source = depayloader.static_pad("src").ok_or_else(|| failed("a depayloader has no output"))?;
        if let Some(pad) = depayloader.static_pad("sink") {
            let outlet = outlet.clone();
            only_whole(&pad, Coding::of(&caps), move || outlet.malformed());
        }
        // The network doesn't wait: everything behind the pad is there before it is linked.
        add(&depayloader)?;
        outlet.offer(&source, times);
        start(&depayloader)?;
        link(&depayloader)
    } else {
        outlet.offer(pad, times);
        Ok(())
    }
}

/// AVI numbers pictures in decode order and has no times beside that.
fn times_in(container: &gst::CapsRef) -> Times {
    match container.structure(0).map(|s| s.name().as_str()) {
        Some("video/x-msvideo") => Times::OfDecoding,
        _ => Times::OfPresentation,
    }
}
