//! Session after session with one camera: what is wanted of it, who gets it, and what happens when it is lost.
//!
//! ```text
//!              ┌──────────── patience (at once for a file that repeats) ◄──────────────┐
//!              ▼                                                                      │
//!          Connecting ──► Running ──► Lost ───────────────────────────────────────────┘
//!              │             │
//!              │             └──► Ended      a file that doesn't repeat
//!              └────────────────► Failed     a file that can't be read: somebody must act
//! ```
//!
//! Only a file is ever given up. A network camera isn't, not even with a wrong password: that is tried again at the slowest
//! pace, so that setting the camera right is enough and no account gets locked. A local camera isn't either: it is looked for
//! every second, so that plugging it in is enough.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::error::CaptureError;
use super::patience::Patience;
use super::{AccessUnit, Continuity, End, Frame, Snapshots};
use super::{kind, session};
use crate::agent::config::{Camera, Region, Source};
use crate::base::clock::{Clock, Mono};
use crate::base::error::{Chain, Retry};
use crate::base::progress::Beat;
use crate::base::stop::StopToken;

/// What a session is to give. Branches that nobody wants are not built.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wants {
    /// Encoded video, for the ring.
    pub access_units: bool,
    /// Frames, for the classifier; without them an encoded stream isn't decoded.
    pub frames: Option<FrameTap>,
}

/// How frames are to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FrameTap {
    /// Frames a second, above 0; a slower camera gives what it has.
    pub sample_fps: f32,
    /// Part of the picture; none: all of it.
    pub region: Option<Region>,
}

/// The consumer of one camera.
///
/// Called from GStreamer's threads, one call of each method at a time, with times that don't fall. For a live
/// camera no method may block. For a file read flat out they may, and that is what paces it; the consumer
/// must then let them go before it waits for the session's end.
pub trait CaptureSink: Send + Sync {
    /// The next access unit in decode order; the first one ever, and the first after a restart, is a keyframe.
    fn access_unit(&self, unit: AccessUnit);
    /// The next frame.
    fn frame(&self, frame: Frame);
    /// The camera's state has changed.
    fn state(&self, state: CameraState);
    /// How many frames a second are wanted from here on, of a tap that was asked for `tap_fps`. Asked for each picture:
    /// a consumer that can't keep up says less.
    fn sample_fps(&self, tap_fps: f32) -> f32 {
        tap_fps
    }
}

/// How it stands with a camera.
#[derive(Debug, Clone, PartialEq)]
pub enum CameraState {
    /// No picture yet.
    Connecting,
    /// Video comes.
    Running {
        /// Width and height of the upright pictures in pixels, once one was decoded.
        size: Option<(u32, u32)>,
        /// What was chosen of what a local camera offers, and which controls it didn't take.
        video: Option<String>,
    },
    /// It has stopped coming; tried again after `retry_in`.
    Lost {
        /// Why, in one line.
        reason: String,
        /// Until the next attempt.
        retry_in: Duration,
    },
    /// A file is at its end, or a stop was asked for.
    Ended,
    /// It can't be had until somebody acts.
    Failed {
        /// Why, in one line.
        reason: String,
    },
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds to it.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// As it stands.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A network camera's own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CameraClock {
    /// Milliseconds that it is ahead of the device's; negative: behind. It includes, as behind, the time that a picture
    /// takes from the lens to the device.
    pub offset_ms: i64,
    /// When that was measured.
    pub at: Mono,
}

/// The newest of something that is measured.
#[derive(Debug)]
pub struct Latest<T>(Mutex<Option<T>>);

impl<T> Default for Latest<T> {
    fn default() -> Self {
        Latest(Mutex::new(None))
    }
}

impl<T: Copy> Latest<T> {
    /// Puts a newer one; what was there before.
    pub fn set(&self, value: T) -> Option<T> {
        self.0.lock().expect("nothing panics under this lock").replace(value)
    }

    /// As it stands; none before the first.
    pub fn get(&self) -> Option<T> {
        *self.0.lock().expect("nothing panics under this lock")
    }
}

/// What came of one camera since the start.
#[derive(Debug, Default)]
pub struct Stats {
    /// Access units handed on.
    pub access_units: Count,
    /// Pictures decoded.
    pub pictures: Count,
    /// Frames handed on.
    pub frames: Count,
    /// Access units or pictures left out because decoder or encoder were late.
    pub skipped: Count,
    /// Packets from the network left out because they didn't hold what they announced.
    pub malformed: Count,
    /// Its own clock, if it tells.
    pub camera_clock: Latest<CameraClock>,
    /// Sessions begun.
    pub sessions: Count,
}

/// One camera, ready to run.
pub struct Capture {
    /// Its configuration.
    pub camera: Camera,
    /// What is wanted of it.
    pub wants: Wants,
    /// The capture clock.
    pub clock: Arc<dyn Clock>,
    /// Who gets it.
    pub sink: Arc<dyn CaptureSink>,
    /// Counted here.
    pub stats: Arc<Stats>,
    /// Where full pictures are kept.
    pub snapshots: Snapshots,
}

impl Capture {
    /// One session: until the stream ends, is lost, or a stop is asked for.
    pub fn run_once(&self, continuity: &mut Continuity, stop: &StopToken, beat: &Beat) -> Result<End, CaptureError> {
        self.stats.sessions.add(1);
        self.sink.state(CameraState::Connecting);
        session::run_once(self, continuity, stop, beat).map(|(end, _)| end)
    }

    /// Session after session, until a stop is asked for or a file is at its end or unusable. The error is the
    /// one that somebody must act on; it has been logged and reported already.
    pub fn run(&self, stop: &StopToken, beat: &Beat) -> Result<(), CaptureError> {
        let mut continuity = Continuity::default();
        let (kind, _) = kind::of(&self.camera.source, self.sample_fps(), 0);
        let mut patience = Patience::with(&self.camera.source);
        let outcome = loop {
            let given = self.given();
            match self.run_once(&mut continuity, stop, beat) {
                Ok(End::Eos) if self.repeats() => continue,
                Ok(End::Eos | End::Stopped) => break Ok(()),
                Err(e) if e.retry() == Retry::Never && self.is_file() => break Err(e),
                Err(e) => {
                    if self.given() > given {
                        patience.reset();
                    }
                    self.lost(&e, patience.next(e.retry()), patience.is_news(&e));
                    let look = || kind.ready();
                    let say = |e: &CaptureError, retry_in| self.lost(e, retry_in, true);
                    if patience.wait(look, say, stop, beat) {
                        break Ok(());
                    }
                }
            }
        };
        match &outcome {
            Ok(()) => self.sink.state(CameraState::Ended),
            Err(e) => {
                let reason = Chain(e).to_string();
                log::error!(camera:% = self.camera.id; "camera given up: {reason}");
                self.sink.state(CameraState::Failed { reason });
            }
        }
        outcome
    }

    fn given(&self) -> u64 {
        self.stats.access_units.get() + self.stats.pictures.get()
    }

    fn repeats(&self) -> bool {
        matches!(self.camera.source, Source::File { repeat: true, .. })
    }

    fn is_file(&self) -> bool {
        matches!(self.camera.source, Source::File { .. })
    }

    /// The model's rate, if it looks at this camera.
    pub(super) fn sample_fps(&self) -> Option<f32> {
        self.wants.frames.map(|tap| tap.sample_fps)
    }

    fn lost(&self, error: &CaptureError, retry_in: Duration, news: bool) {
        let reason = Chain(error).to_string();
        let level = if news { log::Level::Warn } else { log::Level::Debug };
        log::log!(level, camera:% = self.camera.id; "camera lost: {reason}; next attempt in {:.1} s", retry_in.as_secs_f32());
        self.sink.state(CameraState::Lost { reason, retry_in });
    }
}
