//! How it stands with one camera's ring: for the heartbeat, and once in the journal when it begins to be in trouble.

use std::mem::discriminant;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use crate::agent::clip::Rules;
use crate::agent::config::CameraId;
use crate::agent::ring::{Counts, RingTrouble, SharedRing};
use crate::base::clock::Mono;
use crate::contract::heartbeat::RingHealth;

/// How often a ring is looked at for the journal.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// See the module's doc.
pub struct RingWatch {
    camera: CameraId,
    ring: SharedRing,
    /// What clips want, as it stands now.
    rules: Arc<RwLock<Rules>>,
    said: Mutex<Said>,
}

#[derive(Default)]
struct Said {
    looked: Option<Mono>,
    trouble: Option<RingTrouble>,
}

impl RingWatch {
    /// Of this camera's ring.
    pub fn new(camera: CameraId, ring: SharedRing, rules: Arc<RwLock<Rules>>) -> Self {
        RingWatch { camera, ring, rules, said: Mutex::default() }
    }

    /// What it let go or refused so far.
    pub fn counts(&self) -> Counts {
        self.ring.counts()
    }

    /// As the heartbeat carries it.
    pub fn health(&self) -> RingHealth {
        let coverage = self.ring.coverage();
        RingHealth {
            held_s: coverage.held.as_secs_f32(),
            wanted_s: coverage.wanted.as_secs_f32(),
            bytes: coverage.bytes as u64,
            max_bytes: coverage.max_bytes as u64,
            longest_group_s: coverage.longest_group.as_secs_f32(),
            since_keyframe_s: coverage.since_keyframe.as_secs_f32(),
            trouble: coverage.trouble(self.pre_roll()).map(|t| t.to_string()),
        }
    }

    /// Says in the journal what has changed for the worse or the better since it last did.
    pub fn look(&self, now: Mono) {
        if let Some(line) = self.news(now) {
            log::warn!(camera:% = self.camera; "{line}");
        }
    }

    fn news(&self, now: Mono) -> Option<String> {
        let mut said = self.said.lock().expect("nothing panics under this lock");
        if said.looked.is_some_and(|looked| now.since(looked) < LOOK_EVERY) {
            return None;
        }
        said.looked = Some(now);
        let trouble = self.ring.coverage().trouble(self.pre_roll());
        let before = std::mem::replace(&mut said.trouble, trouble);
        if before.as_ref().map(discriminant) == trouble.as_ref().map(discriminant) {
            return None;
        }
        Some(trouble.map_or("the ring holds what clips need again".to_owned(), |t| t.to_string()))
    }

    fn pre_roll(&self) -> Duration {
        self.rules.read().expect("nothing panics while it holds the rules").pre_roll
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::capture::{AccessUnit, Codec, Rotation, StreamInfo};
    use crate::agent::config::{Clip, Incident};
    use crate::agent::ring::Bounds;

    fn push(ring: &SharedRing, at_s: u64, keyframe: bool, bytes: usize) {
        let codec_config = Arc::from([0; 8]);
        let stream = StreamInfo { codec: Codec::H264, width: 64, height: 64, rotation: Rotation::None, codec_config };
        let at = Mono::from_millis(1000 * at_s);
        let data = vec![0; bytes].into();
        ring.push(AccessUnit { stream: stream.into(), pts: at, dts: at, keyframe, discontinuity: false, data });
    }

    #[test]
    fn trouble_is_said_once_and_its_end_too() {
        let bounds = Bounds { max_bytes: 4_000_000, max_time: Duration::from_secs(30) };
        let clip = Clip { pre_roll: Duration::from_secs(10), post_roll: Duration::ZERO };
        let rules = Arc::new(RwLock::new(Rules::new(&clip, &Incident::default())));
        let ring = SharedRing::new(bounds);
        let watch = RingWatch::new(CameraId::new("gate"), ring.clone(), rules.clone());
        let mut news = Vec::new();
        for s in 0..200 {
            // A megabyte a second for a while, and then little.
            push(&ring, s, true, if s < 60 { 1_000_000 } else { 1_000 });
            news.extend(watch.news(Mono::from_millis(1000 * s)));
            let (health, before) = (watch.health(), s < 60);
            assert!(health.bytes <= health.max_bytes);
            assert!(!(before && s > 10) || health.trouble.is_some(), "at {s} s: {health:?}");
        }
        assert_eq!(news.len(), 2, "{news:?}");
        assert!(news[0].contains("set ring_max_mb to") && news[1].contains("again"), "{news:?}");
        assert_eq!(watch.health().trouble, None);
    }
}
