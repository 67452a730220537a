//! What can go wrong between a camera and its frames, each with what to do about it.

use std::time::Duration;

use gstreamer::glib;

use super::pixels::PixelsError;
use super::rtsp::Route;
use super::v4l2::DeviceError;
use crate::base::error::Retry;

/// Smallest width and height of a picture, in pixels.
pub const SIDE_LEAST: u32 = 32;
/// Greatest width and height of a picture, in pixels.
pub const SIDE_MOST: u32 = 8192;

/// Why a camera gives nothing (more). `place` is a path, or an address without credentials.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// GStreamer itself doesn't start.
    #[error("starting GStreamer; is libgstreamer1.0-0 installed completely?")]
    Init(#[source] glib::Error),
    /// An element that is always needed isn't installed.
    #[error("the GStreamer element {element} is missing; install the package {package}")]
    MissingElement {
        /// Its name.
        element: String,
        /// Debian's and Ubuntu's package that has it.
        package: &'static str,
    },
    /// An element that this video needs isn't installed.
    #[error(
        "playing {place} needs {what}, which isn't installed; the packages gstreamer1.0-libav, gstreamer1.0-plugins-good, -bad and -ugly together know all usual formats"
    )]
    MissingFormat {
        /// Of the video.
        place: String,
        /// In GStreamer's words.
        what: String,
    },
    /// No such file, or the camera doesn't know this path.
    #[error("there is no video at {place}; correct the path")]
    NotFound {
        /// Asked for.
        place: String,
    },
    /// The file can't be opened or read.
    #[error("reading {place}: {reason}")]
    Unreadable {
        /// Of the file.
        place: String,
        /// In the system's words.
        reason: String,
    },
    /// A file without content.
    #[error("{place} is empty; copy or record it again")]
    Empty {
        /// Of the file.
        place: String,
    },
    /// Something else than video.
    #[error("{place} is not a video: {found}")]
    NotVideo {
        /// Of the file.
        place: String,
        /// What it looks like.
        found: String,
    },
    /// Sound without pictures.
    #[error("{place} has no pictures, only {found}; name a file or stream with video in it")]
    NoPictures {
        /// Of the file or stream.
        place: String,
        /// What it has.
        found: String,
    },
    /// The file ends before anything of it can be used.
    #[error("{place} is cut off or damaged, nothing in it can be decoded ({reason}); copy or record it again")]
    Truncated {
        /// Of the file.
        place: String,
        /// In GStreamer's words.
        reason: String,
    },
    /// Pictures below [`SIDE_LEAST`].
    #[error("{place} has pictures of {width} x {height}; the least is {SIDE_LEAST} x {SIDE_LEAST}")]
    TooSmall {
        /// Of the file or stream.
        place: String,
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
    },
    /// Pictures above [`SIDE_MOST`].
    #[error("{place} has pictures of {width} x {height}; the most is {SIDE_MOST} x {SIDE_MOST}")]
    TooLarge {
        /// Of the file or stream.
        place: String,
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
    },
    /// The camera refuses the credentials, or wants some.
    #[error("{place} refuses the login; check the user and the password in the camera's credentials_file")]
    Unauthorised {
        /// Of the camera.
        place: String,
    },
    /// The camera can't be reached.
    #[error("{place} can't be reached ({reason}); check address, cable and power of the camera")]
    Unreachable {
        /// Of the camera.
        place: String,
        /// In GStreamer's words.
        reason: String,
    },
    /// Connected, but it doesn't answer.
    #[error(
        "{place} takes the connection and gives no whole answer within {} s; restart the camera, and check that this is its RTSP port",
        within.as_secs_f32()
    )]
    NoAnswer {
        /// Of the camera.
        place: String,
        /// In which it should have.
        within: Duration,
    },
    /// Something answers that doesn't speak RTSP.
    #[error("{place} is not an RTSP camera: it answers with {found}; check address and port (RTSP's is usually 554)")]
    NotRtsp {
        /// Asked.
        place: String,
        /// What it said.
        found: String,
    },
    /// The session before can't be ended.
    #[error("{place} holds on to the last connection with an answer that does not end; restart the camera")]
    HeldOn {
        /// Of the camera.
        place: String,
    },
    /// Packets were agreed on, and none come.
    #[error(
        "{place} sends by {route}, but nothing arrives: something between swallows it; transport = \"tcp\" avoids that"
    )]
    NoPackets {
        /// Of the camera.
        place: String,
        /// How they should have come.
        route: Route,
    },
    /// The camera's packets don't travel like that.
    #[error("{place} does not send its video over {route}; transport = \"auto\" tries the other ways")]
    TransportRefused {
        /// Of the camera.
        place: String,
        /// What was asked for.
        route: Route,
    },
    /// It describes its video and then won't play it.
    #[error("{place} refuses to play what it offers (status {answer}); restart the camera, or correct the path")]
    Refused {
        /// Of the camera.
        place: String,
        /// Status and what it means.
        answer: String,
    },
    /// Connected, but nothing new comes.
    #[error("{place} has sent no {what} for {} s", after.as_secs_f32())]
    Frozen {
        /// Of the camera.
        place: String,
        /// Picture or video.
        what: &'static str,
        /// For so long.
        after: Duration,
    },
    /// Video comes that nothing can decode.
    #[error(
        "{place} has sent video for {} s and no keyframe to begin with; set the camera's keyframe interval (I-frame interval, GOP) to 1 or 2 s",
        after.as_secs_f32()
    )]
    NoKeyframe {
        /// Of the camera.
        place: String,
        /// For so long.
        after: Duration,
    },
    /// The camera ended the stream.
    #[error("{place} has ended the stream")]
    Closed {
        /// Of the camera.
        place: String,
    },
    /// A local camera that can't be had as it is.
    #[error(transparent)]
    Device(DeviceError),
    /// A stream that decoders don't understand.
    #[error("decoding {place}: {reason}")]
    Decode {
        /// Of the file or stream.
        place: String,
        /// In GStreamer's words.
        reason: String,
    },
    /// A camera has masks, and they can't be put on its pictures.
    #[error(
        "no picture of {place} is used: the camera has masks, and they can't be put on a picture ({reason}); set the camera to send H.264"
    )]
    Unmasked {
        /// Of the file or stream.
        place: String,
        /// What is wrong with the picture.
        reason: String,
    },
    /// Anything else that GStreamer reports.
    #[error("playing {place}: {reason}")]
    Pipeline {
        /// Of the file or stream.
        place: String,
        /// In GStreamer's words.
        reason: String,
    },
    /// Decoded pictures that can't be used.
    #[error("pictures of {place}")]
    Pixels {
        /// Of the file or stream.
        place: String,
        /// What about them.
        #[source]
        source: PixelsError,
    },
}

impl CaptureError {
    /// Whether the same camera may work later without anybody acting.
    pub fn retry(&self) -> Retry {
        match self {
            CaptureError::Unreadable { .. }
            | CaptureError::Unreachable { .. }
            | CaptureError::NoAnswer { .. }
            | CaptureError::NotRtsp { .. }
            | CaptureError::HeldOn { .. }
            | CaptureError::NoPackets { .. }
            | CaptureError::TransportRefused { .. }
            | CaptureError::Refused { .. }
            | CaptureError::Frozen { .. }
            | CaptureError::NoKeyframe { .. }
            | CaptureError::Closed { .. }
            | CaptureError::Device(_)
            | CaptureError::Decode { .. }
            | CaptureError::Unmasked { .. }
            | CaptureError::Pipeline { .. } => Retry::Later,
            CaptureError::Init(_)
            | CaptureError::MissingElement { .. }
            | CaptureError::MissingFormat { .. }
            | CaptureError::NotFound { .. }
            | CaptureError::Empty { .. }
            | CaptureError::NotVideo { .. }
            | CaptureError::NoPictures { .. }
            | CaptureError::Truncated { .. }
            | CaptureError::TooSmall { .. }
            | CaptureError::TooLarge { .. }
            | CaptureError::Unauthorised { .. }
            | CaptureError::Pixels { .. } => Retry::Never,
        }
    }

    /// The size, or why pictures of that size are refused.
    pub(super) fn check_size(place: &str, width: u32, height: u32) -> Result<(), CaptureError> {
        let place = || place.to_owned();
        if width.min(height) < SIDE_LEAST {
            Err(CaptureError::TooSmall { place: place(), width, height })
        } else if width.max(height) > SIDE_MOST {
            Err(CaptureError::TooLarge { place: place(), width, height })
        } else {
            Ok(())
        }
    }
}
