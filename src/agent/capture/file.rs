//! A video file as a camera.

use std::path::PathBuf;

use gstreamer as gst;
use gstreamer::prelude::*;

use super::elements;
use super::error::CaptureError;
use super::kind::{self, Kind, Trouble};
use super::outlet::Outlet;

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
        let parser = kind::parser(pipeline, outlet)?;
        pipeline.add(&source).expect("a new element is in no other pipeline");
        source.link(&parser).expect("a file source and a parser fit");
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
