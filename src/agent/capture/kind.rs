//! What tells one kind of camera from another: where its stream comes from, who paces it, and what its errors
//! mean. Everything behind that is common (`outlet`).

use std::sync::Arc;

use gstreamer as gst;
use gstreamer::glib;

use super::error::CaptureError;
use super::knock::Door;
use super::outlet::Outlet;
use super::{csi, file, rtsp, test, v4l2};
use crate::agent::config;

/// Who says when the next picture comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pacing {
    /// The camera. Consumers that are late lose pictures.
    Live,
    /// We do, by the time-stamps of a file. Consumers that are late lose pictures.
    Realtime,
    /// The consumers: the next picture comes when they have taken the one before.
    FlatOut,
}

/// A kind of camera.
pub trait Kind {
    /// Path or address, for messages; never with credentials in it.
    fn place(&self) -> String;
    /// Whom to look at before a session begins; nobody for what isn't in the network.
    fn door(&self) -> Option<Door> {
        None
    }
    /// Adds the source to the pipeline; it offers its pads to the outlet when it knows them.
    fn build(&self, pipeline: &gst::Pipeline, outlet: &Outlet) -> Result<(), CaptureError>;
    /// Whether a session could begin now. Asked once a second between sessions of a camera that is plugged into this machine;
    /// others can only try.
    fn ready(&self) -> Result<(), CaptureError> {
        Ok(())
    }
    /// Called now and then while video comes.
    fn keep_alive(&self, _pipeline: &gst::Pipeline) {}
    /// What an error of GStreamer means for this kind of camera.
    fn explain(&self, trouble: &Trouble) -> CaptureError;
}

/// The kind that a configured source is, and who paces it. `sample_fps`: the model's rate, if it looks at it; `refusals`:
/// how many transports a network camera has refused so far.
pub fn of(source: &config::Source, sample_fps: Option<f32>, refusals: usize) -> (Box<dyn Kind>, Pacing) {
    match source {
        config::Source::V4l2 { device, wish, controls } => {
            let kind = v4l2::V4l2 {
                device: device.clone(),
                wish: *wish,
                controls: controls.clone(),
                sample_fps,
                devices: Arc::new(v4l2::Kernel),
            };
            (Box::new(kind), Pacing::Live)
        }
        config::Source::Csi { sensor_id, sensor_mode, width, height, fps } => {
            let (sensor_id, sensor_mode, width, height, fps) = (*sensor_id, *sensor_mode, *width, *height, *fps);
            (Box::new(csi::Csi { sensor_id, sensor_mode, width, height, fps }), Pacing::Live)
        }
        config::Source::File { path, pace, .. } => {
            let pacing = match pace {
                config::Pace::Realtime => Pacing::Realtime,
                config::Pace::FlatOut => Pacing::FlatOut,
            };
            (Box::new(file::File { path: path.clone() }), pacing)
        }
        config::Source::Rtsp { url, credentials, transport, latency } => {
            let kind = rtsp::Rtsp {
                url: url.clone(),
                shown: source.to_string(),
                credentials: credentials.clone(),
                route: rtsp::Route::of(*transport, refusals),
                latency: *latency,
                offer: Arc::default(),
            };
            (Box::new(kind), Pacing::Live)
        }
        config::Source::Test { width, height, fps } => {
            (Box::new(test::Test { width: *width, height: *height, fps: *fps }), Pacing::Live)
        }
    }
}

/// An error message from the pipeline.
#[derive(Debug)]
pub struct Trouble {
    /// The error itself.
    pub error: glib::Error,
    /// It in words: the message, and the last line of what the element adds for developers.
    pub reason: String,
    /// What was missing just before, if anything was, in GStreamer's words.
    pub missing: Option<String>,
}

impl Trouble {
    /// From the message, and what was reported as missing before it.
    pub fn new(message: &gst::message::Error, missing: Option<String>) -> Self {
        let error = message.error();
        let detail = message.debug().and_then(|d| d.lines().last().map(|l| l.trim().to_owned()));
        let reason = match detail {
            Some(detail) if !detail.is_empty() && !detail.contains("():") => {
                format!("{} {detail}", error.message())
            }
            _ => error.message().to_owned(),
        };
        Trouble { reason: reason.trim_end_matches('.').to_owned(), error, missing }
    }

    /// What it means whatever the camera.
    pub fn in_general(&self, place: String) -> CaptureError {
        if let Some(what) = &self.missing {
            return CaptureError::MissingFormat { place, what: what.clone() };
        }
        let reason = self.reason.clone();
        if self.error.matches(gst::StreamError::CodecNotFound) || self.error.matches(gst::CoreError::MissingPlugin) {
            CaptureError::MissingFormat { place, what: reason }
        } else if self.error.matches(gst::StreamError::Decode) {
            CaptureError::Decode { place, reason }
        } else {
            CaptureError::Pipeline { place, reason }
        }
    }
}
