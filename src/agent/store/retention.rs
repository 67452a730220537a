//! Which clips go, and why: by age, by what all of them take, and by what is left of the disk. Pure; [`super::expire`]
//! carries it out.
//!
//! Those that were uploaded go first, then the oldest. A clip whose alerts are not all delivered goes last, when no other is left, and never for its
//! age alone: what nobody has confirmed is given up after its own time (`mqtt.keep_days`), and from then on counts as
//! the others do. Clips that are being recorded, and those of open incidents, are not asked about.

use std::time::Duration;

use uuid::Uuid;

use super::age::{Made, Present};
use crate::base::clock::Wall;

/// What may be kept. The default keeps everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A clip older than this goes.
    pub keep: Duration,
    /// All clips together take at most so much, in bytes.
    pub max_bytes: u64,
    /// So much of the disk is kept free, in bytes.
    pub min_free_bytes: u64,
    /// Rows of incidents whose clip is gone, and the audit trail, go after this.
    pub keep_rows: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { keep: Duration::MAX, max_bytes: u64::MAX, min_free_bytes: 0, keep_rows: Duration::MAX }
    }
}

/// A clip that is done, of an incident that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub incident: Uuid,
    pub bytes: u64,
    pub start: Wall,
    pub made: Made,
    /// No alert of its incident waits for anybody.
    pub delivered: bool,
    /// It is elsewhere too: see [`super::uploads`].
    pub uploaded: bool,
}

/// What the disk holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usage {
    /// All clips together, also those that are no candidates.
    pub clips_bytes: u64,
    /// What can still be written; none if that cannot be told.
    pub free_bytes: Option<u64>,
}

/// Why a clip goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// It is too old.
    Age,
    /// All clips together take too much.
    Bytes,
    /// The disk is getting full.
    Space,
}

impl Why {
    /// For rows and the journal; names the key that decides.
    pub fn as_str(self) -> &'static str {
        match self {
            Why::Age => "older than storage.keep_days",
            Why::Bytes => "all clips together took more than storage.clips_max_mb",
            Why::Space => "less of the disk was free than storage.min_free_mb",
        }
    }
}

/// What goes, in the order in which it goes.
pub(super) fn plan(now: Present, limits: &Limits, usage: Usage, clips: &[Candidate]) -> Vec<(Candidate, Why)> {
    let mut clips = clips.to_vec();
    clips.sort_by_key(|c| (!c.delivered, !c.uploaded, c.start, c.incident));
    let (mut freed, mut gone) = (0_u64, Vec::new());
    for clip in clips {
        let why = if clip.delivered && clip.made.is_older(now, limits.keep) {
            Why::Age
        } else if usage.clips_bytes.saturating_sub(freed) > limits.max_bytes {
            Why::Bytes
        } else if usage.free_bytes.is_some_and(|free| free.saturating_add(freed) < limits.min_free_bytes) {
            Why::Space
        } else {
            continue;
        };
        freed = freed.saturating_add(clip.bytes);
        gone.push((clip, why));
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const NOW: Present = Present { at: Some(Wall::from_unix_ms(100 * 86_400_000)), ran: Duration::ZERO };

    fn clip(n: u128, day: i64, bytes: u64, delivered: bool) -> Candidate {
        let start = Wall::from_unix_ms(day * 86_400_000);
        let made = Made { at: Some(start), ran: Duration::ZERO };
        Candidate { incident: Uuid::from_u128(n), bytes, start, made, delivered, uploaded: false }
    }

    fn gone(limits: Limits, usage: Usage, clips: &[Candidate]) -> Vec<(u128, Why)> {
        plan(NOW, &limits, usage, clips).into_iter().map(|(c, why)| (c.incident.as_u128(), why)).collect()
    }

    #[test]
    fn the_oldest_go_first_and_the_undelivered_last_of_all() {
        let clips = [clip(1, 10, 5, false), clip(2, 30, 5, true), clip(3, 20, 5, true), clip(4, 90, 5, true)];
        let usage = Usage { clips_bytes: 20, free_bytes: Some(10) };
        let age = Limits { keep: 75 * DAY, ..Limits::default() };
        assert_eq!(gone(age, usage, &clips), [(3, Why::Age)], "an undelivered one does not go for its age");
        let bytes = Limits { max_bytes: 11, ..age };
        assert_eq!(gone(bytes, usage, &clips), [(3, Why::Age), (2, Why::Bytes)]);
        let space = Limits { min_free_bytes: 26, ..age };
        assert_eq!(gone(space, usage, &clips), [(3, Why::Age), (2, Why::Space), (4, Why::Space), (1, Why::Space)]);
        assert_eq!(gone(Limits::default(), usage, &clips), []);
        let unknown = Usage { free_bytes: None, ..usage };
        assert_eq!(gone(Limits { keep: Duration::MAX, ..space }, unknown, &clips), []);
    }

    #[test]
    fn for_room_those_that_are_elsewhere_too_go_before_older_ones() {
        let elsewhere = Candidate { uploaded: true, ..clip(2, 30, 5, true) };
        let clips = [clip(1, 20, 5, true), elsewhere, clip(3, 40, 5, true)];
        let limits = Limits { max_bytes: 9, ..Limits::default() };
        let usage = Usage { clips_bytes: 15, free_bytes: None };
        assert_eq!(gone(limits, usage, &clips), [(2, Why::Bytes), (1, Why::Bytes)]);
    }

    proptest! {
        #[test]
        fn it_keeps_its_bounds_and_takes_no_more_than_it_must(
            clips in prop::collection::vec((0_i64..100, 1_u64..50, any::<bool>()), 0..40),
            (keep_days, max_bytes, min_free, free) in (1_u32..120, 0_u64..800, 0_u64..800, 0_u64..400),
        ) {
            let clips: Vec<_> = (0..).zip(clips).map(|(n, (day, bytes, sent))| clip(n, day, bytes, sent)).collect();
            let limits = Limits { keep: keep_days * DAY, max_bytes, min_free_bytes: min_free, ..Limits::default() };
            let all = clips.iter().map(|c| c.bytes).sum::<u64>();
            let gone = plan(NOW, &limits, Usage { clips_bytes: all, free_bytes: Some(free) }, &clips);
            let left: Vec<_> = clips.iter().filter(|c| gone.iter().all(|(g, _)| g != *c)).collect();
            let freed = gone.iter().map(|(c, _)| c.bytes).sum::<u64>();
            // Its bounds hold, or nothing is left that could go.
            prop_assert!(left.is_empty() || (all - freed <= max_bytes && free + freed >= min_free));
            prop_assert!(left.iter().all(|c| !c.delivered || !c.made.is_older(NOW, limits.keep)));
            // No undelivered one goes while a delivered one is left.
            prop_assert!(left.iter().all(|c| !c.delivered) || gone.iter().all(|(c, _)| c.delivered));
            // Among equals the oldest go.
            for (g, why) in &gone {
                let older = left.iter().any(|l| l.delivered == g.delivered && l.start < g.start);
                prop_assert!(!older, "{why:?}: an older one was left");
            }
            // Nothing goes that need not: without the last that went for room, there would not be enough.
            if let Some((last, why)) = gone.last().filter(|(_, why)| *why != Why::Age) {
                let before = freed - last.bytes;
                let enough = all - before <= max_bytes && free + before >= min_free;
                prop_assert!(!enough, "{why:?}");
            }
        }
    }
}
