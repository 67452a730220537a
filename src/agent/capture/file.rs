//! A video file as a camera.

use std::path::PathBuf;

use gstreamer as gst;
use gstreamer::prelude::*;

use super::elements;
use super::error::CaptureError;
use super::kind::{Kind, Trouble};
use super::outlet::{Outlet, Times};
use super::plug::plug;

/// A file in any container that GStreamer knows.
pub struct File {
    /// Its path.
    pub path: PathBuf,
}

impl File {
    /// What can be said about it before anything is decoded.
    fn look(&self) -> Result<(), CaptureError> {
        let place = self.place();
        match std::fs::metadata(&self.path) {
            Ok(found) if found.is_dir() => Err(CaptureError::NotVideo { place, found: "a directory".into() }),
            Ok(found) if found.len() == 0 => Err(CaptureError::Empty { place }),
            Ok(_) => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(CaptureError::NotFound { place }),
            Err(e) => Err(CaptureError::Unreadable { place, reason: e.to_string() }),
        }
    }
}

impl Kind for File {
    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn build(&self, pipeline: &gst::Pipeline, outlet: &Outlet) -> Result<(), CaptureError> {
        self.look()?;
        let source = elements::make("filesrc")?;
        source.set_property("location", &self.path);
        let what = elements::make("typefind")?;
        what.connect("have-type", false, {
            let (weak, outlet) = (pipeline.downgrade(), outlet.clone());
            move |args| {
                let what: gst::Element = args[0].get().expect("the signal's first argument is its element");
                let caps: gst::Caps = args[2].get().expect("the signal's third argument is the type");
                if let Some(pipeline) = weak.upgrade()
                    && let Err(e) = found(&pipeline, &what, &caps, &outlet)
                {
                    outlet.fail(e);
                }
                None
            }
        });
        elements::chain(pipeline, &[&source, &what])
            .map_err(|e| CaptureError::Pipeline { place: self.place(), reason: e.to_string() })?;
        Ok(())
    }

    fn explain(&self, trouble: &Trouble) -> CaptureError {
        let (place, error, reason) = (self.place(), &trouble.error, trouble.reason.clone());
        if error.matches(gst::ResourceError::NotFound) {
            CaptureError::NotFound { place }
        } else if error.matches(gst::ResourceError::OpenRead) || error.matches(gst::ResourceError::Read) {
            CaptureError::Unreadable { place, reason }
        } else if error.matches(gst::StreamError::TypeNotFound) || error.matches(gst::StreamError::WrongType) {
            CaptureError::NotVideo { place, found: reason }
        } else if error.matches(gst::StreamError::Demux) {
            CaptureError::Truncated { place, reason }
        } else {
            trouble.in_general(place)
        }
    }
}

/// What the file is has been found out.
fn found(pipeline: &gst::Pipeline, what: &gst::Element, caps: &gst::Caps, outlet: &Outlet) -> Result<(), CaptureError> {
    let name = caps.structure(0).map_or("", |s| s.name().as_str());
    let container = elements::best(gst::ElementFactoryType::DEMUXER, caps).is_some();
    if container || name.starts_with("video/") || name.starts_with("image/") {
        let pad = what.static_pad("src").expect("this element has a source pad");
        // Without a container there are no times but those that a parser counts.
        plug(pipeline, &pad, Times::OfDecoding, outlet)
    } else if name.starts_with("audio/") {
        Err(CaptureError::NoPictures { place: outlet.place(), found: name.into() })
    } else {
        Err(CaptureError::NotVideo { place: outlet.place(), found: format!("it looks like {name}") })
    }
}
