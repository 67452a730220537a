//! A file read flat out, frames only, on the caller's thread: `replay`, `evaluate` and `frames`. The same code
//! path as the daemon's file camera, so the same frames.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::error::CaptureError;
use super::session::{self, Continuity, End};
use super::{AccessUnit, CameraState, Capture, CaptureSink, Frame, FrameTap, Snapshots, Stats, Wants};
use crate::agent::config::{self, CameraId};
use crate::base::clock::SystemClock;
use crate::base::progress::Beat;
use crate::base::queue::{Full, Popped, Queue};
use crate::base::stop::StopToken;

/// Frames that decoding may be ahead of the consumer.
const AHEAD: usize = 4;
/// How often the end of decoding is looked for while no frame comes.
const ROUND: Duration = Duration::from_millis(100);
/// What a container may announce beyond its last picture without the file counting as cut off: sound is often
/// a little longer.
const SHORT_BY: Duration = Duration::from_secs(1);

/// What reading a file came to.
#[derive(Debug, Clone, PartialEq)]
pub struct FileSummary {
    /// Frames handed on.
    pub frames: u64,
    /// Pictures decoded.
    pub pictures: u64,
    /// End of the last picture.
    pub duration: Duration,
    /// Width of the upright pictures, in pixels.
    pub width: u32,
    /// Height of the upright pictures, in pixels.
    pub height: u32,
    /// The consumer ended it before the end of the file.
    pub broken_off: bool,
    /// What was wrong with the file, as far as it could be read all the same.
    pub warnings: Vec<FileWarning>,
}

/// What can be wrong with a file that can be read.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FileWarning {
    /// The file ends before its container says.
    #[error("the file is cut off: it announces {:.1} s and has {:.1} s", announced.as_secs_f32(), found.as_secs_f32())]
    CutOff {
        /// By the container.
        announced: Duration,
        /// End of the last picture.
        found: Duration,
    },
    /// Time-stamps went back.
    #[error("time-stamps go back {times} times; times run on from where they were")]
    TimesGoBack {
        /// So often.
        times: u64,
    },
}

/// Reads a file to its end, or until `on_frame` breaks off, as fast as `on_frame` takes frames. Times are the
/// file's own, from zero; nothing is dropped. `camera` is what the frames say they come from.
pub fn read_file(
    path: &Path,
    camera: &CameraId,
    tap: FrameTap,
    stop: &StopToken,
    mut on_frame: impl FnMut(Frame) -> ControlFlow<()>,
) -> Result<FileSummary, CaptureError> {
    let frames = Queue::new(AHEAD, Full::Block);
    let done = StopToken::new();
    let capture = Capture {
        camera: file_camera(path, camera),
        wants: Wants { access_units: false, frames: Some(tap) },
        clock: Arc::new(SystemClock::new()),
        sink: Arc::new(ToQueue(frames.clone())),
        stats: Arc::new(Stats::default()),
        snapshots: Snapshots::default(),
    };
    let (outcome, broken_off) = std::thread::scope(|scope| {
        let session = scope.spawn(|| {
            // Whatever ends it, the consumer must not wait for more.
            let closing = CloseAtEnd(&frames);
            let outcome = session::run_once(&capture, &mut Continuity::default(), &done, &Beat::detached());
            drop(closing);
            outcome
        });
        let mut broken_off = false;
        loop {
            match frames.pop(ROUND) {
                Popped::Item(frame) => broken_off |= on_frame(frame).is_break(),
                Popped::TimedOut => {}
                Popped::Closed => break,
            }
            broken_off |= stop.is_stopped();
            if broken_off {
                done.stop();
                // Frees the thread that waits with a frame in its hands.
                frames.close();
                break;
            }
        }
        (session.join(), broken_off)
    });
    let (end, seen) = outcome.unwrap_or_else(|cause| std::panic::resume_unwind(cause))?;
    let duration = Duration::from_nanos(seen.end.as_nanos());
    let (width, height) = seen.size.unwrap_or_default();
    let mut warnings = Vec::new();
    if let Some(announced) = seen.announced.filter(|a| end == End::Eos && *a > duration + SHORT_BY) {
        warnings.push(FileWarning::CutOff { announced, found: duration });
    }
    if seen.jumps > 0 {
        warnings.push(FileWarning::TimesGoBack { times: seen.jumps });
    }
    Ok(FileSummary {
        frames: capture.stats.frames.get(),
        pictures: capture.stats.pictures.get(),
        duration,
        width,
        height,
        broken_off,
        warnings,
    })
}

fn file_camera(path: &Path, id: &CameraId) -> config::Camera {
    config::Camera {
        place: None,
        id: id.clone(),
        source: config::Source::File { path: path.to_owned(), pace: config::Pace::FlatOut, repeat: false },
        classify: true,
        schedule: None,
        region: None,
        masks: Vec::new(),
        thresholds: std::collections::BTreeMap::new(),
        ring_time: Duration::ZERO,
        ring_max_bytes: 0,
        encode_kbps: 0,
        // A disk that hangs is the operator's to notice; a slow consumer is no fault.
        frozen_after: Duration::from_secs(300),
    }
}

struct ToQueue(Queue<Frame>);

impl CaptureSink for ToQueue {
    fn access_unit(&self, _: AccessUnit) {}

    fn frame(&self, frame: Frame) {
        // Closed: the consumer has broken off, and the session is ending.
        self.0.push(frame).unwrap_or(());
    }

    fn state(&self, _: CameraState) {}
}

struct CloseAtEnd<'a>(&'a Queue<Frame>);

impl Drop for CloseAtEnd<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}
