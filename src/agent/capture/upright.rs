//! How far a stream's pictures are to be turned, as its tags say. Pictures are turned after they were scaled,
//! and stored video is not turned at all: its parameters carry the rotation.

use std::sync::{Arc, Mutex};

use gstreamer as gst;
use gstreamer::prelude::*;

use super::Rotation;

/// The rotation of what comes through a pad; clones share it.
#[derive(Debug, Clone)]
pub struct Upright(Arc<Mutex<Rotation>>);

impl Upright {
    /// Follows the tags on this pad.
    pub fn follow(pad: &gst::Pad) -> Self {
        let upright = Upright(Arc::default());
        let seen = upright.clone();
        pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
            if let Some(gst::EventView::Tag(tag)) = info.event().map(|e| e.view())
                && let Some(orientation) = tag.tag().get::<gst::tags::ImageOrientation>()
            {
                *seen.0.lock().expect("nothing panics under this lock") = rotation_of(orientation.get());
            }
            gst::PadProbeReturn::Ok
        });
        upright
    }

    /// As the tags stand.
    pub fn rotation(&self) -> Rotation {
        *self.0.lock().expect("nothing panics under this lock")
    }
}

/// GStreamer's names; a picture that is mirrored as well stays so.
fn rotation_of(orientation: &str) -> Rotation {
    match orientation.strip_prefix("flip-").unwrap_or(orientation) {
        "rotate-90" => Rotation::Quarter,
        "rotate-180" => Rotation::Half,
        "rotate-270" => Rotation::ThreeQuarter,
        _ => Rotation::None,
    }
}
