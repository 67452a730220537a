//! A local camera with a device node: a USB camera, a capture card, a sensor with a driver of its own.
//!
//! ```text
//!  config ─┐                       choose ─► mode ─────► v4l2src ! caps ─► outlet
//!          ├─► plan (open, probe) ─┤
//!  device ─┘                       settle ─► controls ─► set, read back
//! ```
//!
//! Each session plans anew: between two sessions another camera may have been plugged in at the same place. GStreamer's
//! source hands on the kernel's time-stamps, taken when the picture was captured, as running times; `restamp` and `timeline`
//! make them the capture clock's, as any camera's.
//!
//! | file | is |
//! |---|---|
//! | `device` | what a device is; the trait [`Devices`] |
//! | `kernel`, `scripted` | the real ones; ones for tests |
//! | `choose`, `steps`, `controls` | what is taken of what they offer: pure |

mod choose;
mod controls;
mod device;
mod kernel;
mod steps;
#[cfg(test)]
mod contract;
#[cfg(test)]
pub(super) mod scripted;

pub use choose::{Choice, NoMode, choose, offered};
pub use controls::{Control, ControlFault, Refusal, Setting, Takes};
pub use device::{Abilities, DeviceError, Devices, FourCc, Listed, Mode, Rate};
pub use kernel::Kernel;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use gstreamer as gst;
use gstreamer::prelude::*;

use self::choose::Coding;
use super::elements;
use super::error::CaptureError;
use super::kind::{Kind, Trouble};
use super::outlet::{Outlet, Times};
use super::shared::Chosen;
use crate::agent::config::{ControlValue, VideoWish};

/// A V4L2 camera.
pub struct V4l2 {
    /// As configured: a node or a link to one.
    pub device: PathBuf,
    /// What it is to give.
    pub wish: VideoWish,
    /// What it is to be set to.
    pub controls: BTreeMap<String, ControlValue>,
    /// The model's rate, if the model looks at it.
    pub sample_fps: Option<f32>,
    /// Where it is looked for.
    pub devices: Arc<dyn Devices>,
}

/// What a session takes.
struct Plan {
    node: PathBuf,
    card: String,
    choice: Choice,
    settings: Vec<Setting>,
}

impl V4l2 {
    fn plan(&self) -> Result<Plan, DeviceError> {
        let path = || self.device.clone();
        let Abilities { node, card, modes, controls, in_use } = self.devices.probe(&self.device)?;
        if let Some(holder) = in_use {
            return Err(DeviceError::Busy { path: path(), holder });
        }
        let choice =
            choose(&modes, &self.wish, self.sample_fps).map_err(|source| DeviceError::Mode { path: path(), source })?;
        let settings = controls::settle(&self.controls, &controls)
            .map_err(|faults| DeviceError::Controls { path: path(), faults })?;
        Ok(Plan { node, card, choice, settings })
    }

    /// What is said about a session that begins.
    fn describe(&self, plan: &Plan, refused: &[Refusal]) -> Chosen {
        let from = if plan.node == self.device { String::new() } else { format!(" ({})", plan.node.display()) };
        let mut what = format!("{} from {}{from}", plan.choice, plan.card);
        for refusal in refused {
            what.push_str(&format!("; NOT set: {refusal}"));
        }
        Chosen { what, amiss: plan.choice.slow || plan.choice.heavy || !refused.is_empty() }
    }
}

impl Kind for V4l2 {
    fn place(&self) -> String {
        self.device.display().to_string()
    }

    fn build(&self, pipeline: &gst::Pipeline, outlet: &Outlet) -> Result<(), CaptureError> {
        let plan = self.plan().map_err(CaptureError::Device)?;
        let refused = self.devices.set(&plan.node, &plan.settings).map_err(CaptureError::Device)?;
        outlet.chosen(self.describe(&plan, &refused));
        let source = elements::make("v4l2src")?;
        source.set_property("device", &*plan.node.to_string_lossy());
        let format = elements::make("capsfilter")?;
        format.set_property("caps", caps(&plan.choice));
        elements::chain(pipeline, &[&source, &format])
            .map_err(|e| CaptureError::Pipeline { place: self.place(), reason: e.to_string() })?;
        outlet.offer(&format.static_pad("src").expect("a caps filter has a source pad"), Times::OfPresentation);
        Ok(())
    }

    /// The camera is there, nobody has it, and it can do what is wished.
    fn ready(&self) -> Result<(), CaptureError> {
        self.plan().map(drop).map_err(CaptureError::Device)
    }

    fn explain(&self, trouble: &Trouble) -> CaptureError {
        // What GStreamer says of a camera that was pulled out differs from version to version; the device itself says it
        // plainly. That it is in use says nothing in general: the session that failed may still have it.
        match self.devices.probe(&self.device) {
            Err(e) => CaptureError::Device(e),
            Ok(Abilities { in_use: Some(holder), .. }) if trouble.error.matches(gst::ResourceError::Busy) => {
                CaptureError::Device(DeviceError::Busy { path: self.device.clone(), holder })
            }
            Ok(_) => trouble.in_general(self.place()),
        }
    }
}

/// What GStreamer is asked for.
fn caps(choice: &Choice) -> gst::Caps {
    let mode = &choice.mode;
    let caps = match choice.coding {
        Coding::H264 => gst::Caps::builder("video/x-h264"),
        Coding::H265 => gst::Caps::builder("video/x-h265"),
        Coding::Mjpeg => gst::Caps::builder("image/jpeg"),
        Coding::Planar(name) | Coding::Packed(name) => gst::Caps::builder("video/x-raw").field("format", name),
    };
    let caps = caps.field("width", mode.width as i32).field("height", mode.height as i32);
    match mode.rate {
        Some(rate) => caps.field("framerate", gst::Fraction::new(rate.frames as i32, rate.seconds as i32)).build(),
        None => caps.build(),
    }
}

#[cfg(test)]
mod tests;
