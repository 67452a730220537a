//! A network camera over RTSP: TCP only, one video stream, login by basic or digest authentication.
//!
//! Credentials go to the element by themselves, never into the address, and so never into a message.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;

use super::elements;
use super::error::CaptureError;
use super::kind::{Kind, Trouble};
use super::knock::Door;
use super::outlet::{Outlet, Times};
use super::plug::plug;
use super::sender_clock;
use crate::agent::config::{Credentials, Transport, endpoint};

/// How long a camera may take to accept a connection or to answer.
const ANSWER_TIME_OUT: Duration = Duration::from_secs(10);

/// The element's name in its pipeline.
const SOURCE: &str = "camera";

/// How the packets of one session travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Within the RTSP connection.
    Tcp,
    /// By UDP, to us alone.
    Udp,
    /// By UDP, to a group.
    Multicast,
    /// Within the RTSP connection, and that within HTTP.
    Http,
}

impl Route {
    /// What is tried after so many were refused.
    pub fn of(transport: Transport, refusals: usize) -> Route {
        match transport {
            Transport::Auto => [Route::Tcp, Route::Udp, Route::Multicast][refusals % 3],
            Transport::Tcp => Route::Tcp,
            Transport::Udp => Route::Udp,
            Transport::Multicast => Route::Multicast,
            Transport::Http => Route::Http,
        }
    }

    /// GStreamer's name for what is allowed.
    fn protocols(self) -> &'static str {
        match self {
            Route::Tcp => "tcp+tls",
            Route::Udp => "udp+tls",
            Route::Multicast => "udp-mcast+tls",
            Route::Http => "tcp+http",
        }
    }
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Route::Tcp => "TCP",
            Route::Udp => "UDP",
            Route::Multicast => "multicast",
            Route::Http => "HTTP",
        })
    }
}

/// An RTSP camera.
pub struct Rtsp {
    /// Address; its path may hold a secret.
    pub url: String,
    /// What may be shown of it.
    pub shown: String,
    /// Login.
    pub credentials: Option<Credentials>,
    /// How its packets are to travel.
    pub route: Route,
    /// Jitter buffer.
    pub latency: Duration,
    /// What it has.
    pub offer: Arc<Offer>,
}

/// The streams that a camera describes, of which the first with pictures that can be unpacked is taken.
#[derive(Debug, Default)]
pub struct Offer(Mutex<(Vec<String>, bool)>);

impl Offer {
    /// Whether to take the next one.
    fn take(&self, stream: &gst::CapsRef) -> bool {
        let text = |field: &str| stream.structure(0).and_then(|s| s.get::<String>(field).ok()).unwrap_or_default();
        let usable = text("media") == "video" && is_usable(stream);
        let mut offer = self.0.lock().expect("nothing panics under this lock");
        let take = usable && !offer.1;
        offer.1 |= take;
        // A hostile description is as long as it likes.
        if offer.0.len() < 8 {
            let coding: String = text("encoding-name").chars().filter(char::is_ascii_graphic).take(20).collect();
            offer.0.push(if coding.is_empty() { text("media") } else { format!("{} in {coding}", text("media")) });
        }
        take
    }

    /// Whether one was taken, and if not, what there is instead.
    fn none(&self) -> Option<String> {
        let offer = self.0.lock().expect("nothing panics under this lock");
        match (offer.1, offer.0.is_empty()) {
            (true, _) => None,
            (false, true) => Some("an empty description".into()),
            (false, false) => Some(offer.0.join(", ")),
        }
    }
}

/// Whether there is an element that unpacks it. At this point the element names every description "unknown".
fn is_usable(stream: &gst::CapsRef) -> bool {
    let mut stream = stream.to_owned();
    for description in stream.make_mut().iter_mut() {
        description.set_name("application/x-rtp");
    }
    elements::best(gst::ElementFactoryType::DEPAYLOADER, &stream).is_some()
}

/// The status by which the camera refused to go on, as the element words it: `Error (404): Not Found` or
/// `Service Unavailable (503)`.
fn refusal(reason: &str) -> Option<String> {
    let is_status =
        |word: &&str| word.len() == 3 && word.starts_with(['4', '5']) && word.bytes().all(|b| b.is_ascii_digit());
    let status = reason.split(['(', ')']).find(is_status)?;
    Some(match status {
        "404" => "404, not found".into(),
        "453" => "453, not enough bandwidth".into(),
        "454" => "454, session not found".into(),
        "503" => "503, service unavailable: it may have as many viewers as it can serve".into(),
        other => other.to_owned(),
    })
}

impl Rtsp {
    /// The address as the element wants it: the scheme says that the connection is within HTTP.
    fn location(&self) -> String {
        match (self.route, self.url.strip_prefix("rtsp://")) {
            (Route::Http, Some(rest)) => format!("rtsph://{rest}"),
            _ => self.url.clone(),
        }
    }
}

impl Kind for Rtsp {
    fn place(&self) -> String {
        // Without the path: some cameras want a password in it, and this goes into logs and messages.
        self.shown.clone()
    }

    fn door(&self) -> Option<Door> {
        let speaks = self.route != Route::Http && self.url.starts_with("rtsp://");
        let url = speaks.then(|| self.url.clone());
        Some(Door { place: self.place(), endpoint: endpoint(&self.url)?, url })
    }

    fn build(&self, pipeline: &gst::Pipeline, outlet: &Outlet) -> Result<(), CaptureError> {
        let source = elements::make("rtspsrc")?;
        source.set_property("name", SOURCE);
        source.set_property("location", self.location());
        source.set_property_from_str("protocols", self.route.protocols());
        // Times are the camera's own. What GStreamer makes of them by the time of arrival wavers, and pictures
        // that are sent out of order of showing confuse it; `timeline` follows the clock more quietly.
        source.set_property_from_str("buffer-mode", "none");
        source.set_property("latency", self.latency.as_millis() as u32);
        source.set_property("tcp-timeout", ANSWER_TIME_OUT.as_micros() as u64);
        if let Some(login) = &self.credentials {
            source.set_property("user-id", &login.user);
            source.set_property("user-pw", &login.password);
        }
        // One stream is set up; sound and what else there is are not even sent.
        source.connect("select-stream", false, {
            let offer = Arc::clone(&self.offer);
            move |args| {
                let caps: Option<gst::Caps> = args.get(2).and_then(|v| v.get().ok());
                Some(caps.is_some_and(|caps| offer.take(&caps)).to_value())
            }
        });
        sender_clock::follow(&source, outlet);
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

    /// The element itself asks for nothing while video comes within the connection: it holds its RTCP reports to be
    /// enough, and some cameras don't. Before GStreamer 1.18 there is no way to ask.
    fn keep_alive(&self, pipeline: &gst::Pipeline) {
        let Some(source) = pipeline.by_name(SOURCE).filter(|_| matches!(self.route, Route::Tcp | Route::Http)) else {
            return;
        };
        if glib::subclass::SignalId::lookup("get-parameter", source.type_()).is_some() {
            // Refused where the camera doesn't know the request; whatever it answers, it has heard of us.
            let asked: bool = source.emit_by_name("get-parameter", &[&"ping", &None::<String>, &gst::Promise::new()]);
            log::trace!("{}: kept alive: {asked}", self.shown);
        }
    }

    fn explain(&self, trouble: &Trouble) -> CaptureError {
        let (place, error) = (self.place(), &trouble.error);
        // The element doesn't put them there; should a later one, they still don't get out.
        let mut reason = trouble.reason.replace(&self.url, &self.shown);
        if let Some(login) = self.credentials.as_ref().filter(|l| !l.password.is_empty()) {
            reason = reason.replace(&login.password, "(password)");
        }
        if error.matches(gst::StreamError::CodecNotFound) || error.matches(gst::ResourceError::Settings) {
            return match self.offer.none() {
                Some(found) => CaptureError::NoPictures { place, found },
                None => CaptureError::TransportRefused { place, route: self.route },
            };
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
        } else if error.matches(gst::ResourceError::Read) && reason.contains("no protocols left") {
            CaptureError::TransportRefused { place, route: self.route }
        } else if error.matches(gst::ResourceError::Read) && reason.contains("UDP") {
            CaptureError::NoPackets { place, route: self.route }
        } else if let Some(answer) = refusal(&reason) {
            CaptureError::Refused { place, answer }
        } else if error.matches(gst::ResourceError::Read) || error.matches(gst::ResourceError::Write) {
            CaptureError::Closed { place }
        } else {
            trouble.in_general(place)
        }
    }
}
