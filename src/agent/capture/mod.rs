//! From a camera to access units, frames and full pictures. GStreamer captures, decodes and encodes; it never
//! muxes.
//!
//! Order: decode, masks (full-picture pixels), region crop, taps. An encoded H.264 or H.265 stream is handed on
//! untouched if nothing of it has to be masked; anything else is encoded.
//!
//! Time: every [`Mono`] here is the capture clock's presentation time. For a live camera that is the daemon's
//! monotonic clock and runs on across restarts of the camera; for a file read flat out it is the file's own
//! time, from zero. Times never go back; where a stream's own do, that is a discontinuity.
//!
//! What belongs here: everything that knows GStreamer. What does not: keeping video (`ring`), looking at it
//! (`infer`).
//!
//! | file | is |
//! |---|---|
//! | `kind`, `csi`, `file`, `rtsp`, `test`, `v4l2` | kinds of camera, and what their errors mean |
//! | `knock` | who answers at a network camera's address |
//! | `elements`, `hardware` | GStreamer's elements by name; the choice of decoder and encoder |
//! | `plug` | demultiplexers and depayloaders |
//! | `packets` | what a depayloader may see |
//! | `outlet` | the pipeline behind that |
//! | `restamp`, `timeline` | a stream's times become the capture clock's |
//! | `mask` | what is hidden, painted over |
//! | `sender_clock` | what a network camera's own clock says |
//! | `units`, `nal`, `sps` | the end of the encoded branch |
//! | `frames`, `taps`, `pixels`, `colour` | the end of the decoded branch |
//! | `upright` | how far pictures have to be turned |
//! | `picture` | full pictures on demand |
//! | `session`, `shared` | one session with a camera |
//! | `stage`, `patience` | session after session, and how long it is waited between two |
//! | `survey` | which cameras are plugged in |
//! | `discovery` | which cameras are in the network |
//! | `read` | a file flat out, for the commands |

mod colour;
mod csi;
pub mod discovery;
mod elements;
mod error;
mod file;
mod frames;
pub mod hardware;
mod kind;
mod knock;
mod mask;
mod nal;
mod outlet;
mod packets;
mod patience;
mod picture;
mod pixels;
mod plug;
mod read;
mod restamp;
mod rtsp;
mod sender_clock;
mod session;
mod shared;
mod sps;
mod stage;
pub mod survey;
mod taps;
mod test;
mod timeline;
mod units;
mod upright;
pub mod v4l2;

pub use elements::init;
pub use error::{CaptureError, SIDE_LEAST, SIDE_MOST};
pub use mask::share_covered;
pub use picture::{Picture, SmallJpeg, Snapshots};
pub use pixels::{FRAME_HEIGHT_MOST, FRAME_WIDTH, PixelsError};
pub use read::{FileSummary, FileWarning, read_file};
pub use session::{Continuity, End};
pub use stage::{CameraClock, CameraState, Capture, CaptureSink, Count, FrameTap, Stats, Wants};
pub use taps::{Taken, Tap};

use std::sync::Arc;

use crate::agent::config::CameraId;
use crate::base::clock::Mono;

/// What an encoded stream is coded in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// H.264 / AVC (ISO/IEC 14496-10).
    H264,
    /// H.265 / HEVC (ISO/IEC 23008-2).
    H265,
}

/// How far a stored picture has to be turned clockwise to stand upright.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Rotation {
    /// It does.
    #[default]
    None,
    /// 90 degrees.
    Quarter,
    /// 180 degrees.
    Half,
    /// 270 degrees.
    ThreeQuarter,
}

impl Rotation {
    /// Width and height of an upright picture, from those of the stored one, or the other way round.
    pub fn turned(self, width: u32, height: u32) -> (u32, u32) {
        match self {
            Rotation::None | Rotation::Half => (width, height),
            Rotation::Quarter | Rotation::ThreeQuarter => (height, width),
        }
    }
}

/// What is needed to decode a run of access units. A change of any of it starts a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamInfo {
    /// Codec.
    pub codec: Codec,
    /// Coded width in pixels.
    pub width: u32,
    /// Coded height in pixels.
    pub height: u32,
    /// Rotation to display upright.
    pub rotation: Rotation,
    /// Body of `avcC` or `hvcC` (ISO/IEC 14496-15).
    pub codec_config: Arc<[u8]>,
}

/// One encoded video frame, in decode order.
#[derive(Debug, Clone)]
pub struct AccessUnit {
    /// What it is decoded with; shared by the run.
    pub stream: Arc<StreamInfo>,
    /// Presentation time.
    pub pts: Mono,
    /// Decode time; never above `pts` and never falling within a run.
    pub dts: Mono,
    /// Whether decoding can start here (IDR, or a random-access point that needs nothing before it).
    pub keyframe: bool,
    /// The first access unit after the camera was lost, restarted or jumped in time.
    pub discontinuity: bool,
    /// NAL units, each with a four-byte length in front (as `mdat` holds them).
    pub data: Arc<[u8]>,
}

/// One decoded, cropped, upright, scaled RGB picture, as the classifier's tap hands it on.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Camera.
    pub camera: CameraId,
    /// Presentation time.
    pub at: Mono,
    /// When the access unit it was decoded from came into the process.
    pub arrival: Mono,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// `height` x `width` x 3, packed, R G B.
    pub rgb: Arc<[u8]>,
    /// The camera was lost, restarted, jumped in time or changed the size of its pictures since the frame before.
    pub discontinuity: bool,
    /// Frames a second that the tap aimed at.
    pub sample_fps: f32,
}
