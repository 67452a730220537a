//! A moving pattern as a camera, for a device without one.

use gstreamer as gst;
use gstreamer::prelude::*;

use super::elements;
use super::error::CaptureError;
use super::kind::{Kind, Trouble};
use super::outlet::Outlet;

/// A ball that moves, in this size, so many times a second.
pub struct Test {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Pictures a second.
    pub fps: u32,
}

impl Kind for Test {
    fn place(&self) -> String {
        "the test pattern".into()
    }

    fn build(&self, pipeline: &gst::Pipeline, outlet: &Outlet) -> Result<(), CaptureError> {
        let source = elements::make("videotestsrc")?;
        source.set_property("is-live", true);
        source.set_property_from_str("pattern", "ball");
        let format = elements::make("capsfilter")?;
        let caps = gst::Caps::builder("video/x-raw")
            .field("format", "I420")
            .field("width", self.width as i32)
            .field("height", self.height as i32)
            .field("framerate", gst::Fraction::new(self.fps as i32, 1))
            .build();
        format.set_property("caps", &caps);
        elements::chain(pipeline, &[&source, &format])
            .map_err(|e| CaptureError::Pipeline { place: self.place(), reason: e.to_string() })?;
        outlet.offer(&format.static_pad("src").expect("a caps filter has a source pad"));
        Ok(())
    }

    fn explain(&self, trouble: &Trouble) -> CaptureError {
        trouble.in_general(self.place())
    }
}
