//! The last access units of one camera, bounded by bytes and by time, aware of keyframes. A pure data structure
//! ([`Ring`]); [`SharedRing`] puts it between a capture that writes and readers that follow.
//!
//! What does not belong here: which footage an incident keeps (`clip::plan`), files, clocks. The ring knows
//! nothing but the times its units carry.
//!
//! Invariants, after every push:
//! - The first unit held is a keyframe, and so is the first after every hole (loss of the camera, another stream, a
//!   refused unit): whatever is held can be decoded from a keyframe that is held.
//! - Sequence numbers of what is held are contiguous, and never given out twice.
//! - Decode times never fall. A unit whose time falls begins a time line of its own, and what was held goes.
//! - What it holds never costs more than [`Bounds::max_bytes`], payload and book-keeping together.
//! - It never spans more than [`Bounds::max_time`] while it holds more than one group of pictures. A single group may
//!   last longer: cameras that stretch their keyframe interval while nothing moves would else leave the ring empty
//!   just when something does. Such a group is bounded by bytes alone.
//!
//! When a push would break a bound, the oldest whole group of pictures goes, and so on. Where the group under way is
//! itself too big it goes as well, from its start; what follows can't be decoded and is refused, until the next
//! keyframe. All of it is counted in [`Counts`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::agent::capture::{AccessUnit, StreamInfo};
use crate::base::clock::Mono;

mod coverage;
mod shared;
#[cfg(test)]
mod tests;

use coverage::Came;
pub use coverage::{Coverage, RingTrouble};
pub use shared::SharedRing;

/// What a ring may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of memory, book-keeping included.
    pub max_bytes: usize,
    /// From the first unit's decode time to the last one's.
    pub max_time: Duration,
}

/// The place of the next unit to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor(u64);

/// Where reading should begin to see a wanted time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Located {
    /// The keyframe to begin with.
    pub cursor: Cursor,
    /// Its presentation time.
    pub pts: Mono,
    /// The wanted time itself is no longer held (or never was): the footage begins after it.
    pub late: bool,
}

/// What one read brought.
#[derive(Debug, Clone)]
pub struct Batch {
    /// In decode order; empty when the reader has seen everything.
    pub units: Vec<AccessUnit>,
    /// Where to go on.
    pub next: Cursor,
    /// Units that had gone before they could be read; the first of `units` is then a keyframe.
    pub lost: u64,
}

/// What the ring let go or did not take, since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Units that made room for newer ones, as a ring's do.
    pub evicted: u64,
    /// Groups of pictures that alone were too big, dropped while they were under way.
    pub oversized_groups: u64,
    /// Units refused because nothing held could decode them.
    pub undecodable: u64,
    /// Times that fell, and with them all that was held.
    pub time_falls: u64,
}

/// A deque has at most so many slots for each entry, and [`SPARE_SLOTS`].
const SLOTS: usize = 4;
/// Slots that are kept however little is held: 6 kB.
const SPARE_SLOTS: usize = 128;

/// Memory of one unit beside its payload: its slots, the payload's reference counts, and what an allocator adds to two
/// allocations.
const UNIT_OVERHEAD_BYTES: usize = SLOTS * size_of::<AccessUnit>() + 4 * size_of::<usize>();

/// Memory of one group: its keyframe's slots, and the stream that its units share.
fn group_overhead_bytes(stream: &StreamInfo) -> usize {
    SLOTS * size_of::<u64>() + size_of::<StreamInfo>() + stream.codec_config.len() + 4 * size_of::<usize>()
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Ring {
    bounds: Bounds,
    units: VecDeque<AccessUnit>,
    /// Sequence number of `units[0]`.
    first: u64,
    /// Sequence numbers of the keyframes held; `keyframes[0] == first` unless empty.
    keyframes: VecDeque<u64>,
    bytes: usize,
    /// Something is missing after the last unit held: only a keyframe can follow it.
    hole: bool,
    counts: Counts,
    came: Came,
    squeezed_to: Option<Duration>,
}

impl Ring {
    /// An empty ring.
    pub fn new(bounds: Bounds) -> Self {
        Ring {
            bounds,
            units: VecDeque::new(),
            first: 0,
            keyframes: VecDeque::new(),
            bytes: 0,
            hole: true,
            counts: Counts::default(),
            came: Came::default(),
            squeezed_to: None,
        }
    }

    /// Takes the next unit of the camera, or refuses it; what must go to keep the bounds goes. Constant time but for
    /// what goes, and each unit goes once.
    pub fn push(&mut self, mut unit: AccessUnit) {
        self.came.note(unit.dts, unit.keyframe);
        if let Some(last) = self.units.back() {
            if unit.dts < last.dts {
                self.counts.time_falls += 1;
                self.clear();
            } else if Arc::ptr_eq(&unit.stream, &last.stream) || unit.stream == last.stream {
                // One copy for the run, however many the source made.
                unit.stream = Arc::clone(&last.stream);
                self.hole |= unit.discontinuity;
            } else {
                self.hole = true;
            }
        }
        if self.hole && !unit.keyframe {
            self.counts.undecodable += 1;
            return;
        }
        let cost = unit_bytes(&unit);
        if cost > self.bounds.max_bytes {
            // Whatever went, it would not fit.
            self.squeezed_to = Some(Duration::ZERO);
            self.counts.undecodable += 1;
            self.hole = true;
            return;
        }
        self.make_room(&unit, cost);
        if self.hole {
            if !unit.keyframe {
                // The group that it belongs to was the one that had to go.
                self.counts.undecodable += 1;
                return;
            }
            unit.discontinuity = true;
            self.hole = false;
        }
        if unit.keyframe {
            self.keyframes.push_back(self.end().0);
        }
        self.bytes += cost;
        self.units.push_back(unit);
    }

    /// The last keyframe at or before `at`, or else the oldest held; none when nothing is held. Footage that broke
    /// off before `at` is passed over for what came after the break.
    pub fn locate(&self, at: Mono) -> Option<Located> {
        let after = self.keyframes.iter().rposition(|&k| self.unit(k).pts <= at).map_or(0, |i| {
            let broke_off = self.keyframes.get(i + 1).is_some_and(|&next| {
                self.unit(next).discontinuity && self.unit(next - 1).pts.max(self.unit(next - 1).dts) < at
            });
            i + usize::from(broke_off)
        });
        let &seq = self.keyframes.get(after)?;
        let pts = self.unit(seq).pts;
        Some(Located { cursor: Cursor(seq), pts, late: pts > at })
    }

    /// Units from `cursor` on, at most `limit` of them.
    pub fn read(&self, cursor: Cursor, limit: usize) -> Batch {
        // A cursor of the future (another ring's, say) reads nothing and waits at the end.
        let from = cursor.0.clamp(self.first, self.end().0);
        let lost = self.first.saturating_sub(cursor.0);
        let units: Vec<_> = self.units.range((from - self.first) as usize..).take(limit).cloned().collect();
        Batch { next: Cursor(from + units.len() as u64), units, lost }
    }

    /// The place after the last unit held: where a reader of what is yet to come begins.
    pub fn end(&self) -> Cursor {
        Cursor(self.first + self.units.len() as u64)
    }

    /// Units held.
    pub fn len(&self) -> usize {
        self.units.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// What the units held cost, book-keeping included.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// From the first unit's decode time to the last one's.
    pub fn span(&self) -> Duration {
        match (self.units.front(), self.units.back()) {
            (Some(first), Some(last)) => last.dts.since(first.dts),
            _ => Duration::ZERO,
        }
    }

    /// What it let go or refused so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How much footage it has, and what keeps it from having more.
    pub fn coverage(&self) -> Coverage {
        let starts = self.keyframes.iter().map(|&k| self.unit(k).dts);
        let ends = starts.clone().skip(1).chain(self.units.back().map(|last| last.dts));
        Coverage {
            held: self.span(),
            wanted: self.bounds.max_time,
            bytes: self.bytes,
            max_bytes: self.bounds.max_bytes,
            longest_group: starts.zip(ends).map(|(start, end)| end.since(start)).max().unwrap_or_default(),
            since_keyframe: self.came.since_keyframe(),
            squeezed_to: self.squeezed_to,
        }
    }

    fn unit(&self, seq: u64) -> &AccessUnit {
        &self.units[(seq - self.first) as usize]
    }

    /// Evicts whole groups until `unit` fits. A unit that goes on with the group under way may find it gone: `hole`
    /// is then set.
    fn make_room(&mut self, unit: &AccessUnit, cost: usize) {
        while let Some(oldest) = self.units.front() {
            let too_big = self.bytes + cost > self.bounds.max_bytes;
            let too_long = unit.dts.since(oldest.dts) > self.bounds.max_time;
            let only_group = self.keyframes.len() == 1 && !unit.keyframe;
            if !too_big && (!too_long || only_group) {
                return;
            }
            if only_group {
                self.counts.oversized_groups += 1;
                self.hole = true;
            }
            self.evict_group();
            let left = self.units.front().map_or(Duration::ZERO, |first| unit.dts.since(first.dts));
            self.squeezed_to = (too_big && !too_long).then_some(left);
        }
    }

    fn evict_group(&mut self) {
        self.keyframes.pop_front();
        let next = self.keyframes.front().copied().unwrap_or(self.end().0);
        let count = (next - self.first) as usize;
        self.bytes -= self.units.drain(..count).map(|u| unit_bytes(&u)).sum::<usize>();
        self.first = next;
        self.counts.evicted += count as u64;
        shrink(&mut self.units);
        shrink(&mut self.keyframes);
    }

    fn clear(&mut self) {
        while !self.units.is_empty() {
            self.evict_group();
        }
        self.hole = true;
    }
}

/// Gives back what a deque needed once and needs no more.
fn shrink<T>(entries: &mut VecDeque<T>) {
    if entries.capacity() > SLOTS * entries.len() + SPARE_SLOTS {
        entries.shrink_to(2 * entries.len() + SPARE_SLOTS / 2);
    }
}

/// What holding a unit costs.
fn unit_bytes(unit: &AccessUnit) -> usize {
    let group = if unit.keyframe { group_overhead_bytes(&unit.stream) } else { 0 };
    UNIT_OVERHEAD_BYTES + group + unit.data.len()
}
