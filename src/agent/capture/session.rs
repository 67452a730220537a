//! One session with a camera: from connecting to the end of the stream, an error, or a stop.
//!
//! Threads: GStreamer's streaming threads run the probes and the sinks, and call the consumer; the thread that
//! called [`run_once`] waits on the pipeline's bus, watches for a camera that sends nothing, and is the only
//! one that tears the pipeline down. What they share is [`Shared`].

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;

use super::error::CaptureError;
use super::hardware::{self, Doer};
use super::kind::{self, Kind, Pacing, Trouble};
use super::knock::knock;
use super::outlet::Outlet;
use super::shared::{Activity, Chosen, Shared, Stamps};
use super::timeline::Origin;
use super::{CameraState, Capture, elements};
use crate::base::clock::Mono;
use crate::base::progress::Beat;
use crate::base::stage::Stage;
use crate::base::stop::StopToken;

/// How a session ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The file is at its end.
    Eos,
    /// A stop was asked for.
    Stopped,
}

/// What one session hands on to the next of the same camera.
#[derive(Debug, Default)]
pub struct Continuity {
    /// No time may come before this.
    not_before: Mono,
    /// Whether something was given before, so that the next thing given is a discontinuity.
    interrupted: bool,
    /// Hardware has failed with this camera's stream: the next sessions do without.
    hardware_failed: bool,
    /// Transports that a network camera has refused.
    refusals: usize,
    /// The session before, if it is still on its way down.
    ending: Option<Stage>,
    /// What was taken of what the camera offers, as it was said last.
    chosen: Option<Chosen>,
}

impl Continuity {
    /// A stream that hardware gave no picture of is decoded and encoded in software from now on.
    fn blame_hardware(&mut self, error: &CaptureError, shared: &Shared) {
        let given = shared.pictures_seen.count() + shared.units_seen.count();
        let suspect = match error {
            CaptureError::Decode { .. } | CaptureError::Pipeline { .. } => shared.pictures_seen.count() == 0,
            // Connected, the stream comes, and nothing comes of it.
            CaptureError::Frozen { what: "picture", .. } => shared.pictures_seen.count() == 0 && given > 0,
            _ => false,
        };
        let in_hardware = |(_, doer): &(_, Doer)| matches!(doer, Doer::Hardware(_));
        if suspect && shared.hardware && hardware::of_this_machine().iter().any(in_hardware) {
            self.hardware_failed = true;
            log::warn!(camera:% = shared.camera; "no picture came out of the hardware; from now on this camera is decoded and encoded in software");
        }
    }

    /// Says what is taken of what the camera offers, unless it is as before.
    fn say(&mut self, chosen: Option<Chosen>, capture: &Capture) {
        if let Some(Chosen { what, amiss }) = chosen.as_ref().filter(|_| chosen != self.chosen) {
            let level = if *amiss { log::Level::Warn } else { log::Level::Info };
            log::log!(level, camera:% = capture.camera.id; "taking {what}");
        }
        self.chosen = chosen;
    }
}

/// What the bus is looked at for, at least so often.
const ROUND: Duration = Duration::from_millis(50);
/// What a camera may take from connecting to its first picture, at least.
const CONNECT_LEAST: Duration = Duration::from_secs(15);
/// What a camera that sends video may take to its first keyframe, at least.
const KEYFRAME_MOST: Duration = Duration::from_secs(60);
/// How often a kind of camera is given the chance to say that we are still there. RTSP sessions end after 60 s of
/// silence unless the camera says otherwise; few allow less than 30 s.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(15);
/// What a live session may take to end before it is left to itself,
const END_MOST: Duration = Duration::from_secs(3);
/// and one that waits for its consumer.
const END_MOST_OF_FILE: Duration = Duration::from_secs(30);
/// What a session that came to the end of its stream saw.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    /// Times that went back.
    pub jumps: u64,
    /// End of the last picture.
    pub end: Mono,
    /// Length by the container, if it says.
    pub announced: Option<Duration>,
    /// Size of the pictures.
    pub size: Option<(u32, u32)>,
}

/// Runs one session. `continuity` carries on from the session before.
pub fn run_once(
    capture: &Capture,
    continuity: &mut Continuity,
    stop: &StopToken,
    beat: &Beat,
) -> Result<(End, Seen), CaptureError> {
    elements::init()?;
    let (kind, pacing) = kind::of(&capture.camera.source, capture.sample_fps(), continuity.refusals);
    if continuity.ending.as_ref().is_some_and(|ending| !ending.is_finished()) {
        return Err(CaptureError::HeldOn { place: kind.place() });
    }
    continuity.ending = None;
    if let Some(door) = kind.door() {
        knock(door, &capture.clock, stop, beat)?;
    }
    let playing = Playing::start(capture, kind.as_ref(), pacing, continuity)?;
    continuity.say(playing.shared.chosen(), capture);
    let outcome = playing.watch(capture, kind.as_ref(), stop, beat);
    let announced = playing.announced();
    let shared = Arc::clone(&playing.shared);
    continuity.ending = playing.end(beat);
    if let Err(e) = &outcome {
        continuity.blame_hardware(e, &shared);
    }
    let stamps = shared.stamps();
    if let Some(end) = stamps.timeline.end() {
        (continuity.not_before, continuity.interrupted) = (end, true);
    }
    if let Err(CaptureError::TransportRefused { .. }) = outcome {
        continuity.refusals += 1;
    }
    let seen = Seen { jumps: stamps.jumps, end: continuity.not_before, announced, size: shared.size() };
    outcome.map(|end| (end, seen))
}

/// A pipeline that plays.
struct Playing {
    pipeline: Ends,
    bus: gst::Bus,
    shared: Arc<Shared>,
    started: Mono,
    interrupted: bool,
}

/// Dropping it ends it.
struct Ends(gst::Pipeline);

impl Drop for Ends {
    fn drop(&mut self) {
        if self.0.set_state(gst::State::Null).is_err() {
            log::debug!("a pipeline ended with an error");
        }
    }
}

impl Playing {
    fn start(
        capture: &Capture,
        kind: &dyn Kind,
        pacing: Pacing,
        continuity: &Continuity,
    ) -> Result<Playing, CaptureError> {
        let pipeline = gst::Pipeline::new();
        let bus = pipeline.bus().expect("a pipeline has a bus");
        let origin = match pacing {
            Pacing::FlatOut => Origin::Zero(continuity.not_before),
            Pacing::Live | Pacing::Realtime => Origin::Arrival { not_before: continuity.not_before },
        };
        let shared = Arc::new(Shared {
            camera: capture.camera.id.clone(),
            place: kind.place(),
            pacing,
            encode_kbps: capture.camera.encode_kbps,
            hardware: pacing != Pacing::FlatOut && !continuity.hardware_failed,
            masks: capture.camera.masks.clone(),
            wants: capture.wants,
            sink: Arc::clone(&capture.sink),
            clock: Arc::clone(&capture.clock),
            stats: Arc::clone(&capture.stats),
            snapshots: capture.snapshots.clone(),
            headless_units: Activity::default(),
            units_seen: Activity::default(),
            pictures_seen: Activity::default(),
            stamps: Mutex::new(Stamps::new(origin, continuity.interrupted)),
            size: Mutex::new(None),
            chosen: Mutex::new(None),
            failure: Mutex::new(None),
            bus: bus.clone(),
        });
        let playing = Playing {
            pipeline: Ends(pipeline),
            bus,
            shared,
            started: capture.clock.now(),
            interrupted: continuity.interrupted,
        };
        let pipeline = &playing.pipeline.0;
        kind.build(pipeline, &Outlet::new(pipeline, Arc::clone(&playing.shared)))?;
        // Why it may not start is on the bus, where `watch` finds it.
        if pipeline.set_state(gst::State::Playing).is_err() && !playing.bus.have_pending() {
            return Err(CaptureError::Pipeline { place: kind.place(), reason: "the pipeline doesn't start".into() });
        }
        Ok(playing)
    }

    /// Ends it, in a thread of its own: GStreamer waits for a camera that has begun an answer and doesn't end it.
    /// A session that isn't down in time is left to go by itself, and handed back.
    fn end(self, beat: &Beat) -> Option<Stage> {
        let Playing { pipeline, shared, .. } = self;
        let down = StopToken::new();
        let told = down.clone();
        let thread = Stage::spawn(
            "capture-end",
            || {},
            move || {
                drop(pipeline);
                told.stop();
            },
        );
        let ending = match thread {
            Ok(ending) => ending,
            Err(e) => {
                // What was to be dropped there is gone with it, in this thread.
                log::debug!(camera:% = shared.camera; "no thread to end a session in: {e}");
                return None;
            }
        };
        let until = shared.clock.now() + if shared.lossy() { END_MOST } else { END_MOST_OF_FILE };
        while !down.wait(ROUND) && !ending.is_finished() {
            beat.beat();
            if shared.clock.now() >= until {
                log::warn!(camera:% = shared.camera; "{} is not let go of", shared.place);
                return Some(ending);
            }
        }
        None
    }

    /// Waits for the end of the session, whatever it is.
    fn watch(&self, capture: &Capture, kind: &dyn Kind, stop: &StopToken, beat: &Beat) -> Result<End, CaptureError> {
        let shared = &self.shared;
        let mut running = false;
        let mut missing = None;
        let mut kept_alive = self.started;
        loop {
            beat.beat();
            if stop.is_stopped() {
                return Ok(End::Stopped);
            }
            let message = self.bus.timed_pop(gst::ClockTime::from_mseconds(ROUND.as_millis() as u64));
            // An error of ours comes before what GStreamer says about the thread that it ended.
            if let Some(error) = shared.failure() {
                return Err(error);
            }
            match message.as_ref().map(|m| m.view()) {
                Some(gst::MessageView::Error(e)) => {
                    log::debug!(camera:% = shared.camera; "GStreamer: {}", e.error());
                    return Err(kind.explain(&Trouble::new(e, missing)));
                }
                Some(gst::MessageView::Element(e)) => {
                    missing = missing.or_else(|| e.structure().and_then(missing_plugin));
                }
                Some(gst::MessageView::Eos(_)) => return self.at_end(),
                _ => {}
            }
            if !running && (shared.units_seen.count() > 0 || shared.pictures_seen.count() > 0) {
                running = true;
                if self.interrupted {
                    log::info!(camera:% = shared.camera; "camera is back");
                }
                shared.sink.state(CameraState::Running { size: shared.size(), video: shared.chosen().map(|c| c.what) });
            }
            if running && shared.clock.now().since(kept_alive) >= KEEP_ALIVE_EVERY {
                kept_alive = shared.clock.now();
                kind.keep_alive(&self.pipeline.0);
            }
            self.check_life(capture.camera.frozen_after)?;
        }
    }

    /// The stream is over: for a file that gave something that is the end, for anything else trouble.
    fn at_end(&self) -> Result<End, CaptureError> {
        let shared = &self.shared;
        let place = || shared.place.clone();
        let nothing = (shared.wants.access_units && shared.units_seen.count() == 0)
            || (shared.wants.frames.is_some() && shared.pictures_seen.count() == 0);
        match shared.pacing {
            Pacing::Live => Err(CaptureError::Closed { place: place() }),
            _ if nothing => Err(CaptureError::Truncated { place: place(), reason: "it has no whole picture".into() }),
            _ => Ok(End::Eos),
        }
    }

    fn check_life(&self, frozen_after: Duration) -> Result<(), CaptureError> {
        let shared = &self.shared;
        let now = shared.clock.now();
        let of = |activity: &Activity| (activity.count(), activity.idle(now, self.started));
        let look = |activity: &Activity, what: &'static str| {
            let place = || shared.place.clone();
            match overdue(of(activity), of(&shared.headless_units), frozen_after) {
                None => Ok(()),
                Some(Overdue::Nothing(after)) => Err(CaptureError::Frozen { place: place(), what, after }),
                Some(Overdue::Keyframe(after)) => Err(CaptureError::NoKeyframe { place: place(), after }),
            }
        };
        if shared.wants.access_units {
            look(&shared.units_seen, "video")?;
        }
        if shared.wants.frames.is_some() {
            look(&shared.pictures_seen, "picture")?;
        }
        Ok(())
    }

    /// The stream's length, if its container says.
    fn announced(&self) -> Option<Duration> {
        self.pipeline.0.query_duration::<gst::ClockTime>().map(Duration::from)
    }
}

/// What has been waited for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overdue {
    Nothing(Duration),
    Keyframe(Duration),
}

/// Whether to go on waiting, given how many of what is wanted came and how long ago, and the same of access units that
/// can't be decoded because no keyframe has come yet: while those come, the camera is there.
fn overdue(wanted: (u64, Duration), headless: (u64, Duration), frozen_after: Duration) -> Option<Overdue> {
    let (bound, late): (_, fn(Duration) -> Overdue) = if wanted.0 > 0 {
        (frozen_after, Overdue::Nothing)
    } else if headless.0 > 0 && headless.1 < frozen_after {
        (frozen_after.max(KEYFRAME_MOST), Overdue::Keyframe)
    } else {
        (frozen_after.max(CONNECT_LEAST), Overdue::Nothing)
    };
    (wanted.1 >= bound).then(|| late(bound))
}

/// What a message about a missing plugin says is missing.
fn missing_plugin(structure: &gst::StructureRef) -> Option<String> {
    (structure.name() == "missing-plugin").then(|| structure.get::<String>("name").ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_camera_is_waited_for_as_long_as_there_is_hope() {
        let s = Duration::from_secs;
        let (none, frozen) = ((0, s(0)), s(10));
        for (wanted, headless, verdict) in [
            ((0, s(14)), none, None),
            ((0, s(15)), none, Some(Overdue::Nothing(s(15)))),
            ((9, s(9)), none, None),
            ((9, s(10)), none, Some(Overdue::Nothing(s(10)))),
            // A keyframe every half minute, and it was just missed.
            ((0, s(30)), (700, s(0)), None),
            ((0, s(60)), (1500, s(0)), Some(Overdue::Keyframe(s(60)))),
            ((0, s(30)), (700, s(11)), Some(Overdue::Nothing(s(15)))),
            ((9, s(10)), (700, s(0)), Some(Overdue::Nothing(s(10)))),
        ] {
            assert_eq!(overdue(wanted, headless, frozen), verdict, "{wanted:?} {headless:?}");
        }
        assert_eq!(overdue((0, s(100)), none, s(120)), None);
    }
}
