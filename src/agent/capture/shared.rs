//! What the threads of one session share: times as they are given out, signs of life, and the first error.
//! Every lock in here is held for a few instructions, never while the consumer runs.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use gstreamer as gst;

use super::error::CaptureError;
use super::kind::Pacing;
use super::timeline::{Origin, Stamp, Timeline};
use super::{CaptureSink, Snapshots, Stats, Wants};
use crate::agent::config::{CameraId, Mask};
use crate::base::clock::{Clock, Mono};

/// Pictures whose arrival is remembered while they are in the decoder.
const ARRIVALS: usize = 256;

/// What a session takes of what a local camera offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// In words.
    pub what: String,
    /// Whether it isn't as it should be: too slow, too large, or a control that can't be set.
    pub amiss: bool,
}

/// What the threads of one session share.
pub struct Shared {
    pub camera: CameraId,
    pub place: String,
    pub pacing: Pacing,
    pub encode_kbps: u32,
    /// Whether hardware may decode and encode, where there is some.
    pub hardware: bool,
    /// What is hidden of every picture.
    pub masks: Vec<Mask>,
    pub wants: Wants,
    pub sink: Arc<dyn CaptureSink>,
    pub clock: Arc<dyn Clock>,
    pub stats: Arc<Stats>,
    pub snapshots: Snapshots,
    /// Access units before the first keyframe: left out.
    pub headless_units: Activity,
    pub units_seen: Activity,
    pub pictures_seen: Activity,
    pub stamps: Mutex<Stamps>,
    pub size: Mutex<Option<(u32, u32)>>,
    pub chosen: Mutex<Option<Chosen>>,
    pub failure: Mutex<Option<CaptureError>>,
    pub bus: gst::Bus,
}

impl Shared {
    /// Ends the session with this error; the first one counts.
    pub fn fail(&self, error: CaptureError) {
        self.failure.lock().expect("nothing panics under this lock").get_or_insert(error);
        let wake = gst::message::Application::new(gst::Structure::new_empty("vedette-failed"));
        // Refused only by a bus that is flushing: the session is at its end anyway.
        if self.bus.post(wake).is_err() {
            log::debug!(camera:% = self.camera; "an error after the end of the session");
        }
    }

    pub fn failure(&self) -> Option<CaptureError> {
        self.failure.lock().expect("nothing panics under this lock").take()
    }

    pub fn stamps(&self) -> MutexGuard<'_, Stamps> {
        self.stamps.lock().expect("nothing panics under this lock")
    }

    /// Refuses a size out of bounds, and remembers it otherwise.
    pub fn check_size(&self, width: u32, height: u32) -> Result<(), CaptureError> {
        CaptureError::check_size(&self.place, width, height)?;
        *self.size.lock().expect("nothing panics under this lock") = Some((width, height));
        Ok(())
    }

    pub fn size(&self) -> Option<(u32, u32)> {
        *self.size.lock().expect("nothing panics under this lock")
    }

    pub fn chosen(&self) -> Option<Chosen> {
        self.chosen.lock().expect("nothing panics under this lock").clone()
    }

    /// Whether consumers that are late lose pictures.
    pub fn lossy(&self) -> bool {
        self.pacing != Pacing::FlatOut
    }
}

/// When something last came by. Something that is still with the consumer counts as coming by.
#[derive(Debug, Default)]
pub struct Activity {
    last_ns: AtomicU64,
    count: AtomicU64,
    inside: AtomicUsize,
}

impl Activity {
    /// Runs `body`, which hands something on.
    pub fn during<T>(&self, clock: &dyn Clock, body: impl FnOnce() -> T) -> T {
        self.inside.fetch_add(1, Ordering::SeqCst);
        let out = body();
        self.last_ns.store(clock.now().as_nanos(), Ordering::SeqCst);
        self.count.fetch_add(1, Ordering::SeqCst);
        self.inside.fetch_sub(1, Ordering::SeqCst);
        out
    }

    pub fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// How long nothing came; `since` is when waiting began.
    pub fn idle(&self, now: Mono, since: Mono) -> Duration {
        if self.inside.load(Ordering::SeqCst) > 0 {
            return Duration::ZERO;
        }
        now.since(Mono::from_nanos(self.last_ns.load(Ordering::SeqCst)).max(since))
    }
}

/// Times as they are given out, and what has to follow pictures through the decoder.
#[derive(Debug)]
pub struct Stamps {
    pub timeline: Timeline,
    arrivals: VecDeque<(Mono, Mono)>,
    /// Times from which on the next access unit, the next frame, is a discontinuity.
    unit_breaks: VecDeque<Mono>,
    frame_breaks: VecDeque<Mono>,
    interrupted: bool,
    pub jumps: u64,
}

impl Stamps {
    pub fn new(origin: Origin, interrupted: bool) -> Self {
        Stamps {
            timeline: Timeline::new(origin),
            arrivals: VecDeque::with_capacity(ARRIVALS),
            unit_breaks: VecDeque::new(),
            frame_breaks: VecDeque::new(),
            interrupted,
            jumps: 0,
        }
    }

    pub fn set_reorder(&mut self, pictures: usize) {
        self.timeline.set_reorder(pictures);
    }

    /// Times for what has just arrived.
    pub fn stamp(&mut self, pts: Option<i64>, dts: Option<i64>, duration: Option<i64>, now: Mono) -> Stamp {
        let stamp = self.timeline.stamp(pts, dts, duration, now);
        if stamp.jumped {
            self.jumps += 1;
        }
        if stamp.jumped || std::mem::take(&mut self.interrupted) {
            self.unit_breaks.push_back(stamp.pts);
            self.frame_breaks.push_back(stamp.pts);
        }
        if self.arrivals.len() == ARRIVALS {
            self.arrivals.pop_front();
        }
        self.arrivals.push_back((stamp.pts, now));
        stamp
    }

    /// When the access unit presented at `pts` arrived.
    pub fn arrival(&self, pts: Mono) -> Option<Mono> {
        self.arrivals.iter().rev().find(|(p, _)| *p == pts).map(|(_, arrival)| *arrival)
    }

    /// Whether the stream was interrupted between the access unit before and the one at `pts`.
    pub fn unit_breaks(&mut self, pts: Mono) -> bool {
        take_until(&mut self.unit_breaks, pts)
    }

    /// Whether the stream was interrupted between the picture before and the one at `pts`.
    pub fn frame_breaks(&mut self, pts: Mono) -> bool {
        take_until(&mut self.frame_breaks, pts)
    }
}

fn take_until(breaks: &mut VecDeque<Mono>, pts: Mono) -> bool {
    let due = breaks.iter().take_while(|b| **b <= pts).count();
    breaks.drain(..due).count() > 0
}
