//! Privacy masks: painted over every decoded picture before anything else sees it. What a camera with masks gives
//! (frames, snapshots, freshly encoded video) comes from pictures that have been through here, and from nothing else;
//! its own encoded video goes to the decoder only (`outlet`).
//!
//! What belongs here: which pixels (`cover`), how they are painted (`paint`), and the one place where it happens. What
//! does not: what a mask may look like (`config`).
//!
//! A picture that can't be painted on is dropped, and the session with the camera ends with the reason: better no
//! picture than an unmasked one, and better said than silent.

mod cover;
mod paint;

use std::sync::{Arc, Mutex};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_video::VideoInfo;

use self::cover::{Run, cover};
use self::paint::Brush;
use super::Rotation;
use super::error::CaptureError;
use super::shared::Shared;
use super::upright::Upright;
use crate::agent::config::Mask;

/// What a picture is painted with, worked out once for each size and rotation.
struct Painter {
    rotation: Rotation,
    brush: Brush,
    runs: Vec<Run>,
}

struct State {
    upright: Upright,
    caps: Option<gst::Caps>,
    painter: Option<Painter>,
}

/// Masks every picture that leaves through this pad.
pub fn install(pad: &gst::Pad, shared: Arc<Shared>) {
    let state = Mutex::new(State { upright: Upright::follow(pad), caps: None, painter: None });
    let every = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST | gst::PadProbeType::EVENT_DOWNSTREAM;
    pad.add_probe(every, move |_, info| {
        let mut state = state.lock().expect("nothing panics under this lock");
        let masked = match &mut info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => state.mask(buffer, &shared.masks),
            Some(gst::PadProbeData::BufferList(_)) => Err("several pictures came as one".to_owned()),
            Some(gst::PadProbeData::Event(event)) => {
                if let gst::EventView::Caps(caps) = event.view() {
                    (state.caps, state.painter) = (Some(caps.caps_owned()), None);
                }
                Ok(())
            }
            _ => Ok(()),
        };
        match masked {
            Ok(()) => gst::PadProbeReturn::Ok,
            Err(reason) => {
                shared.fail(CaptureError::Unmasked { place: shared.place.clone(), reason });
                gst::PadProbeReturn::Drop
            }
        }
    });
}

impl State {
    fn mask(&mut self, picture: &mut gst::Buffer, masks: &[Mask]) -> Result<(), String> {
        let rotation = self.upright.rotation();
        if self.painter.as_ref().is_none_or(|p| p.rotation != rotation) {
            self.painter = Some(self.painter_for(rotation, masks)?);
        }
        let painter = self.painter.as_ref().expect("it was set just now if it wasn't before");
        // A decoder may still need the picture to decode others by: then this is a copy.
        painter.brush.paint(picture.make_mut(), &painter.runs).map_err(str::to_owned)
    }

    fn painter_for(&self, rotation: Rotation, masks: &[Mask]) -> Result<Painter, String> {
        let caps = self.caps.as_ref().ok_or("it came without its description")?;
        let info = VideoInfo::from_caps(caps).map_err(|e| e.to_string())?;
        let brush = Brush::new(&info).ok_or_else(|| format!("its format is {}", info.format().to_str()))?;
        let runs = cover(masks, rotation, (info.width(), info.height()), brush.cell);
        Ok(Painter { rotation, brush, runs })
    }
}

/// How much of the picture masks cover, 0 to 1, as near as a picture of 1,000 x 1,000 pixels shows it.
pub fn share_covered(masks: &[Mask]) -> f64 {
    let runs = cover(masks, Rotation::None, (1000, 1000), (1, 1));
    runs.iter().map(|run| f64::from(run.to - run.from)).sum::<f64>() / 1e6
}
