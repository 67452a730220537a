//! A sensor on a Jetson's CSI connector, through NVIDIA's libargus (`nvarguscamerasrc`).
//!
//! Its pictures are born in the graphics processor's memory; `nvvidconv` copies them to the system's, where our own code reads
//! them. **Not run on a Jetson yet**: what is tested is which elements are asked for, and what is said where they are missing.

use gstreamer as gst;
use gstreamer::prelude::*;

use super::elements;
use super::error::CaptureError;
use super::kind::{Kind, Trouble};
use super::outlet::{Outlet, Times};
use super::shared::Chosen;

/// A CSI camera.
pub struct Csi {
    /// Which sensor.
    pub sensor_id: u32,
    /// One of its modes; none: libargus chooses.
    pub sensor_mode: Option<u32>,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Pictures a second.
    pub fps: u32,
}

impl Csi {
    /// What the sensor is asked for.
    fn in_graphics_memory(&self) -> gst::Caps {
        let caps = gst::Caps::builder("video/x-raw")
            .features(["memory:NVMM"])
            .field("format", "NV12")
            .field("width", self.width as i32)
            .field("height", self.height as i32);
        caps.field("framerate", gst::Fraction::new(self.fps as i32, 1)).build()
    }
}

impl Kind for Csi {
    fn place(&self) -> String {
        format!("CSI sensor {}", self.sensor_id)
    }

    fn build(&self, pipeline: &gst::Pipeline, outlet: &Outlet) -> Result<(), CaptureError> {
        let source = elements::make("nvarguscamerasrc")?;
        source.set_property_from_str("sensor-id", &self.sensor_id.to_string());
        if let Some(mode) = self.sensor_mode {
            source.set_property_from_str("sensor-mode", &mode.to_string());
        }
        let filter = |caps: gst::Caps| {
            let filter = elements::make("capsfilter")?;
            filter.set_property("caps", &caps);
            Ok::<_, CaptureError>(filter)
        };
        let asked = filter(self.in_graphics_memory())?;
        // The rest is that of `hardware::chain`, with what is asked for in between.
        let copy = elements::make("nvvidconv")?;
        let copied = filter(gst::Caps::builder("video/x-raw").field("format", "NV12").build())?;
        elements::chain(pipeline, &[&source, &asked, &copy, &copied])
            .map_err(|e| CaptureError::Pipeline { place: self.place(), reason: e.to_string() })?;
        let what = format!("NV12 {}x{} at {} fps from {}", self.width, self.height, self.fps, self.place());
        outlet.chosen(Chosen { what, amiss: false });
        outlet.offer(&copied.static_pad("src").expect("a caps filter has a source pad"), Times::OfPresentation);
        Ok(())
    }

    /// Whether JetPack's elements are there; whether the sensor is, only libargus can say.
    fn ready(&self) -> Result<(), CaptureError> {
        ["nvarguscamerasrc", "nvvidconv"].into_iter().try_for_each(|needed| elements::make(needed).map(drop))
    }

    fn explain(&self, trouble: &Trouble) -> CaptureError {
        trouble.in_general(self.place())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sensor_is_asked_for_its_own_memory() {
        elements::init().expect("GStreamer is installed");
        let camera = Csi { sensor_id: 1, sensor_mode: Some(2), width: 1920, height: 1080, fps: 30 };
        assert_eq!(
            camera.in_graphics_memory().to_string(),
            "video/x-raw(memory:NVMM), format=(string)NV12, width=(int)1920, height=(int)1080, framerate=(fraction)30/1"
        );
        assert_eq!(camera.place(), "CSI sensor 1");
        if gst::ElementFactory::find("nvarguscamerasrc").is_none() {
            let said = camera.ready().expect_err("not there").to_string();
            assert!(said.contains("nvarguscamerasrc is missing; install the package nvidia-l4t-gstreamer"), "{said}");
        }
    }
}
