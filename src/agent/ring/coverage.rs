//! How much footage a ring has, and what an operator must be told about it. Pure; who says it and where is `run`'s
//! business.

use std::fmt;
use std::time::Duration;

use crate::base::clock::Mono;

/// A ring as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coverage {
    /// Footage held, by decode times.
    pub held: Duration,
    /// What `ring_seconds` allows at most.
    pub wanted: Duration,
    /// Memory in use, in bytes.
    pub bytes: usize,
    /// And at most.
    pub max_bytes: usize,
    /// From one keyframe to the next (of the newest group: to now), the longest held.
    pub longest_group: Duration,
    /// Footage that came since the last keyframe, held or refused.
    pub since_keyframe: Duration,
    /// Footage that was left when last `ring_max_mb`, and not `ring_seconds`, made something go. None: it never did, or
    /// time has been the nearer bound since.
    pub squeezed_to: Option<Duration>,
}

/// What is wrong with a ring. Shown as a sentence with its remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RingTrouble {
    /// The memory it may use does not hold the pre-roll.
    TooSmall {
        /// Footage that it holds at the least.
        held: Duration,
        /// What clips want before an incident.
        pre_roll: Duration,
        /// The camera's bit rate, as held, in bytes a second.
        bytes_per_second: u64,
        /// What would do, in MB (10^6 bytes).
        needed_mb: u64,
    },
    /// The camera sends video and no keyframe, and no clip can begin without one.
    NoKeyframe {
        /// For so long.
        since: Duration,
    },
}

impl Coverage {
    /// What an operator must be told, given what clips want before an incident.
    pub fn trouble(&self, pre_roll: Duration) -> Option<RingTrouble> {
        if self.since_keyframe > self.wanted {
            return Some(RingTrouble::NoKeyframe { since: self.since_keyframe });
        }
        let held = self.squeezed_to.filter(|left| *left < pre_roll)?;
        let bytes_per_second = match self.held.as_millis() as u64 {
            0 => self.max_bytes as u64,
            ms => self.bytes as u64 * 1000 / ms,
        };
        // A group that is just going must not be the one that holds the pre-roll's beginning.
        let seconds = (pre_roll + self.longest_group).as_secs() + 1;
        Some(RingTrouble::TooSmall {
            held,
            pre_roll,
            bytes_per_second,
            needed_mb: (bytes_per_second * seconds).div_ceil(1_000_000),
        })
    }
}

impl fmt::Display for RingTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RingTrouble::TooSmall { held, pre_roll, bytes_per_second, needed_mb } => write!(
                f,
                "only {:.1} s of the pre-roll of {} s fit into ring_max_mb: the camera sends {:.1} Mbit/s; set ring_max_mb \
                 to {needed_mb} or the camera to a lower bit rate",
                held.as_secs_f32(),
                pre_roll.as_secs(),
                *bytes_per_second as f64 * 8e-6,
            ),
            RingTrouble::NoKeyframe { since } => write!(
                f,
                "no keyframe for {} s, and clips can begin at keyframes only; set the camera's keyframe interval (I-frame \
                 interval, GOP) to 1 or 2 s",
                since.as_secs()
            ),
        }
    }
}

/// When what came last, held or not.
#[derive(Debug, Default)]
pub(super) struct Came {
    newest: Option<Mono>,
    /// The last keyframe, or what came first without one.
    group: Option<Mono>,
}

impl Came {
    pub fn note(&mut self, dts: Mono, keyframe: bool) {
        let fell = self.newest.is_some_and(|newest| dts < newest);
        if keyframe || fell || self.group.is_none() {
            self.group = Some(dts);
        }
        self.newest = Some(dts);
    }

    pub fn since_keyframe(&self) -> Duration {
        match (self.group, self.newest) {
            (Some(group), Some(newest)) => newest.since(group),
            _ => Duration::ZERO,
        }
    }
}
