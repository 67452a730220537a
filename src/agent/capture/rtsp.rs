//! A network camera over RTSP: TCP only, one video stream, login by basic or digest authentication.
//!
//! Credentials go to the element by themselves, never into the address, and so never into a message.

use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;

use super::elements;
use super::error::CaptureError;
use super::kind::{Kind, Trouble};
use super::outlet::{Outlet, Times};
use super::plug::plug;
use crate::agent::config::Credentials;

/// How long a camera may take to accept a connection or to answer.
const ANSWER_TIME_OUT: Duration = Duration::from_secs(10);

/// An RTSP camera.
pub struct Rtsp {
    /// Address; its path may hold a secret.
    pub url: String,
    /// What may be shown of it.
    pub shown: String,
    /// Login.
    pub credentials: Option<Credentials>,
    /// Jitter buffer.
    pub latency: Duration,
}

impl Kind for Rtsp {
    fn place(&self) -> String {
        // Without the path: some cameras want a password in it, and this goes into logs and messages.
        self.shown.clone()
    }

    fn build(&self, pipeline: &gst::Pipeline, outlet: &Outlet) -> Result<(), CaptureError> {
        let source = elements::make("rtspsrc")?;
        source.set_property("location", &self.url);
        source.set_property_from_str("protocols", "tcp+tls");
        // Times are the camera's own. What GStreamer makes of them by the time of arrival wavers, and pictures
        // that are sent out of order of showing confuse it; `timeline` follows the clock more quietly.
        source.set_property_from_str("buffer-mode", "none");
        source.set_property("latency", self.latency.as_millis() as u32);
        source.set_property("tcp-timeout", ANSWER_TIME_OUT.as_micros() as u64);
        if let Some(login) = &self.credentials {
            source.set_property("user-id", &login.user);
            source.set_property("user-pw", &login.password);
        }
        // Only pictures are set up; sound is not even sent.
        source.connect("select-stream", false, |args| {
            let caps: Option<gst::Caps> = args.get(2).and_then(|v| v.get().ok());
            let media = caps.and_then(|c| c.structure(0).and_then(|s| s.get::<String>("media").ok()));
            Some((media.as_deref() == Some("video")).to_value())
        });
        pipeline.add(&source).expect("a new element is in no other pipeline");
        let weak = pipeline.downgrade();
        source.connect_pad_added({
            let outlet = outlet.clone();
            move |_, pad| {
                if let Some(pipeline) = weak.upgrade()
                    && let Err(e) = plug(&pipeline, pad, Times::OfPresentation, &outlet)
                {
                    outlet.fail(e);
                }
            }
        });
        source.connect_no_more_pads({
            let outlet = outlet.clone();
            move |source| {
                if source.src_pads().is_empty() {
                    outlet.no_more();
                }
            }
        });
        Ok(())
    }

    fn explain(&self, trouble: &Trouble) -> CaptureError {
        let (place, error) = (self.place(), &trouble.error);
        // The element doesn't put them there; should a later one, they still don't get out.
        let mut reason = trouble.reason.replace(&self.url, &self.shown);
        if let Some(login) = self.credentials.as_ref().filter(|l| !l.password.is_empty()) {
            reason = reason.replace(&login.password, "(password)");
        }
        if error.matches(gst::ResourceError::NotAuthorized) {
            CaptureError::Unauthorised { place }
        } else if error.matches(gst::ResourceError::NotFound) {
            CaptureError::NotFound { place }
        } else if error.matches(gst::ResourceError::OpenRead)
            || error.matches(gst::ResourceError::OpenReadWrite)
            || error.matches(gst::ResourceError::Failed)
        {
            CaptureError::Unreachable { place, reason }
        } else if error.matches(gst::ResourceError::Read) || error.matches(gst::ResourceError::Write) {
            CaptureError::Closed { place }
        } else {
            trouble.in_general(place)
        }
    }
}
