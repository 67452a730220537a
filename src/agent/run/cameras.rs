//! One camera's output into the device: access units to its ring, frames to inference, its state to whom it concerns.

use std::sync::Arc;

use super::events::{Event, Events};
use super::health::{CameraRecord, Health, RingWatch};
use super::incidents::{Inbox, Work};
use crate::agent::capture::{AccessUnit, CameraState, CaptureSink, Frame};
use crate::agent::config::{CameraId, Pace};
use crate::agent::ring::SharedRing;
use crate::base::clock::Clock;
use crate::base::queue::Queue;
use crate::base::stop::StopToken;

/// See the module's doc. Capture's threads call it; for a live camera nothing here blocks.
pub struct CameraSink {
    /// Which.
    pub camera: CameraId,
    /// Its encoded video.
    pub ring: SharedRing,
    /// Says what is wrong with that.
    pub ring_watch: Arc<RingWatch>,
    /// The daemon's.
    pub clock: Arc<dyn Clock>,
    /// Inference's queue.
    pub frames: Queue<Frame>,
    /// The incident stage, which must hear of a camera that is lost.
    pub inbox: Inbox,
    /// Who watches.
    pub events: Events,
    /// Heartbeat and status.
    pub health: Arc<Health>,
    /// A file read flat out waits for inference; everything else loses its oldest frames.
    pub pace: Pace,
    /// Asks capture to end.
    pub stop: StopToken,
    /// Its own record there.
    pub record: Arc<CameraRecord>,
}

impl CaptureSink for CameraSink {
    fn access_unit(&self, unit: AccessUnit) {
        self.health.video_came(&self.record);
        self.ring.push(unit);
        self.ring_watch.look(self.clock.now());
    }

    fn frame(&self, frame: Frame) {
        let pushed = match self.pace {
            Pace::Realtime => self.frames.push_over(frame),
            Pace::FlatOut => self.frames.push_waiting(frame).map(|()| None),
        };
        match pushed {
            Ok(overtaken) => self.health.frame_came(&self.record, overtaken.is_some().into()),
            Err(_) => log::debug!("{}: a frame after the end of inference is let go", self.camera),
        }
    }

    fn sample_fps(&self, tap_fps: f32) -> f32 {
        match self.pace {
            Pace::Realtime => self.health.rate().of(tap_fps),
            // It waits instead.
            Pace::FlatOut => tap_fps,
        }
    }

    fn state(&self, state: CameraState) {
        let said = match &state {
            CameraState::Connecting => "connecting".to_owned(),
            CameraState::Running { video: Some(video), .. } => format!("live: {video}"),
            CameraState::Running { size: Some((width, height)), .. } => format!("live, {width}x{height}"),
            CameraState::Running { size: None, .. } => "live".to_owned(),
            CameraState::Lost { reason, retry_in } => {
                format!("lost: {reason}; next attempt in {:.1} s", retry_in.as_secs_f32())
            }
            CameraState::Ended => "ended".to_owned(),
            CameraState::Failed { reason } => format!("given up: {reason}"),
        };
        // At the daemon's end every camera ends; that closes its incidents as stopped, not as lost.
        if !self.stop.is_stopped()
            && matches!(state, CameraState::Lost { .. } | CameraState::Ended | CameraState::Failed { .. })
        {
            self.inbox.push(Work::CameraLost(self.camera.clone()));
        }
        self.health.camera_state(&self.record, &state);
        self.events.announce(Event::Camera { camera: self.camera.clone(), state: said });
    }
}
