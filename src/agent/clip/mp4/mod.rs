//! The one MP4 writer: access units into ISO base media files (ISO/IEC 14496-12, -15) of one video track.
//!
//! - [`fragment`]: `ftyp moov` and then `moof mdat` after `moof mdat`. Each fragment stands for itself, so that a
//!   file cut anywhere plays up to its last whole fragment; a browser's media source takes the same bytes.
//! - [`part`]: a `.part` file of such fragments, each on the disk before the next.
//! - [`seal`]: what says that a fragment on the disk is what was written.
//! - [`index`]: what a `.part` file holds, up to where it was cut.
//! - [`finish`]: from a `.part` to a plain, seekable file with its index in front.
//!
//! One file holds one stream: several sample entries in one track are legal and few players take them, so who
//! writes starts another file, or stops, where the stream changes.
//!
//! Time base: 90 kHz, from the first unit's decode time. Samples last from one decode time to the next; the last one
//! as long as the one before. Decode times that stand still are moved on by a tick, as readers want them to rise.
//!
//! What does not belong here: which footage is wanted, and codecs beyond the bodies of `avcC` and `hvcC`.

use std::path::Path;

use super::ClipError;
use crate::agent::capture::AccessUnit;
use crate::base::clock::{Mono, Wall};

mod boxes;
pub mod finish;
pub mod fragment;
pub mod index;
pub mod part;
pub mod seal;
#[cfg(test)]
mod tests;

/// Ticks a second of every time in a file.
pub const TIMESCALE: u32 = 90_000;

/// The only track.
const TRACK: u32 = 1;

/// Places units on the time base of a file.
#[derive(Debug, Clone)]
pub struct Timeline {
    base: Mono,
    last: Option<i64>,
}

impl Timeline {
    /// A time base on which `base` is tick 0.
    pub fn new(base: Mono) -> Self {
        Timeline { base, last: None }
    }

    /// Ticks from the base to `at`, to the nearest; negative before it.
    pub fn ticks(&self, at: Mono) -> i64 {
        let ticks = |ns: u128| ((ns * u128::from(TIMESCALE) + 500_000_000) / 1_000_000_000) as i64;
        if at >= self.base { ticks(at.since(self.base).as_nanos()) } else { -ticks(self.base.since(at).as_nanos()) }
    }

    /// The decode tick that a unit with this decode time gets if it comes next.
    fn peek(&self, dts: Mono) -> i64 {
        let ticks = self.ticks(dts);
        self.last.map_or(ticks, |last| ticks.max(last + 1))
    }

    fn place(&mut self, dts: Mono) -> i64 {
        let ticks = self.peek(dts);
        self.last = Some(ticks);
        ticks
    }
}

/// Writes units of one stream, the first of them a keyframe, as a plain file at `path`, through a `.part` file
/// beside it, as a clip is written: fragments, fsync, copy, rename. `label` is the wall time of the first unit.
pub fn write_clip(path: &Path, units: &[AccessUnit], label: Wall) -> Result<finish::Finished, ClipError> {
    let part_path = path.with_extension("part");
    let Some(first) = units.first() else {
        return Err(ClipError::Empty { path: path.to_path_buf() });
    };
    let mut part = part::Part::create(&part_path, first, label)?;
    // As the worker reads them from a ring: a batch at a time.
    for batch in units.chunks(256) {
        for unit in batch {
            part.push(unit.clone());
        }
        part.write_ready()?;
    }
    part.write_rest()?;
    drop(part);
    let mut finisher = finish::Finisher::begin(&part_path, path, None)?;
    loop {
        if let Some(finished) = finisher.step(usize::MAX)? {
            return Ok(finished);
        }
    }
}
