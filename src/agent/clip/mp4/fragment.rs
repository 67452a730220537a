//! Fragments, in memory: the head of a file, and the head of each fragment. Payloads are never copied: who writes
//! sends the head and then the units' data as they are.

use mp4_atom::{Atom, TrunSamples};
use mp4_atom::{Encode, Header, Mdat, Mfhd, Moof, Prft, ReferenceTime, Tfdt, Tfhd, Traf, Trun, TrunEntry};

use super::boxes::{encoded, fragmented_brands, fragmented_moov};
use super::{TIMESCALE, TRACK, Timeline};
use crate::agent::capture::AccessUnit;
use crate::agent::clip::ClipError;
use crate::base::clock::{Mono, Wall};

/// Sample flags: depends on no other sample.
const KEYFRAME: u32 = 0x0200_0000;
/// Sample flags: depends on others, no random access.
const DEPENDENT: u32 = 0x0101_0000;
/// Sample flags: no random access.
pub(super) const NON_SYNC: u32 = 0x0001_0000;

/// Makes the fragments of one file, in order.
#[derive(Debug)]
pub struct Fragmenter {
    timeline: Timeline,
    sequence: u32,
    /// Ticks; how long the last sample is taken to be where nothing tells.
    usual_duration: u32,
}

impl Fragmenter {
    /// For a file that begins with `first`.
    pub fn new(first: &AccessUnit) -> Self {
        Fragmenter { timeline: Timeline::new(first.dts), sequence: 0, usual_duration: TIMESCALE / 25 }
    }

    /// Where the units stand on the file's time base.
    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// The head of a file that begins with `first`: `ftyp moov`.
    pub fn head(first: &AccessUnit, label: Wall) -> Result<Vec<u8>, ClipError> {
        let offset = Timeline::new(first.dts).ticks(first.pts);
        let mut head = encoded("ftyp", &fragmented_brands())?;
        head.extend(encoded("moov", &fragmented_moov(&first.stream, offset, label)?)?);
        Ok(head)
    }

    /// A `prft` box: the file's first picture shows what was so at `label`. What adopts the file later learns from it
    /// when its footage began.
    pub fn reference_time(first: &AccessUnit, label: Wall) -> Result<Vec<u8>, ClipError> {
        encoded(
            "prft",
            &Prft {
                reference_track_id: TRACK,
                ntp_timestamp: to_ntp(label),
                media_time: Timeline::new(first.dts).ticks(first.pts).max(0) as u64,
                utc_time_semantics: ReferenceTime::RealTime,
            },
        )
    }

    /// The head of the next fragment, `moof` and the header of its `mdat`; the data of `units`, one after another,
    /// belong behind it. `next` is the decode time of the unit that will follow them, if it is known.
    pub fn fragment(&mut self, units: &[AccessUnit], next: Option<Mono>) -> Result<Vec<u8>, ClipError> {
        self.sequence += 1;
        let placed: Vec<i64> = units.iter().map(|u| self.timeline.place(u.dts)).collect();
        let ends = placed.iter().skip(1).copied().chain(next.map(|dts| self.timeline.peek(dts)));
        let mut durations: Vec<u32> =
            placed.iter().zip(ends).map(|(&dts, end)| u32::try_from(end - dts).unwrap_or(u32::MAX)).collect();
        self.usual_duration = durations.last().copied().unwrap_or(self.usual_duration);
        durations.resize(units.len(), self.usual_duration);

        let entry = |((unit, &dts), &duration): ((&AccessUnit, &i64), &u32)| TrunEntry {
            duration: Some(duration),
            size: Some(unit.data.len() as u32),
            flags: Some(if unit.keyframe { KEYFRAME } else { DEPENDENT }),
            cts: Some(self.timeline.ticks(unit.pts) - dts),
        };
        let entries: Vec<_> = units.iter().zip(&placed).zip(&durations).map(entry).collect();
        let mdat = Header { kind: Mdat::KIND, size: Some(units.iter().map(|u| u.data.len()).sum()) };
        let mut mdat_bytes = Vec::with_capacity(16);
        mdat.encode(&mut mdat_bytes).map_err(|source| ClipError::Format { what: "mdat", source })?;

        let mut moof = Moof {
            mfhd: Mfhd { sequence_number: self.sequence },
            traf: vec![Traf {
                tfhd: Tfhd { track_id: TRACK, default_base_is_moof: true, ..Tfhd::default() },
                tfdt: Some(Tfdt { base_media_decode_time: placed.first().copied().unwrap_or(0).max(0) as u64 }),
                trun: vec![Trun { data_offset: Some(0), samples: TrunSamples::Explicit(entries) }],
                ..Traf::default()
            }],
        };
        // The offset counts from the start of `moof`, whose size does not depend on its value.
        let size = encoded("moof", &moof)?.len() + mdat_bytes.len();
        moof.traf[0].trun[0].data_offset = Some(size as i32);
        let mut head = encoded("moof", &moof)?;
        head.extend(mdat_bytes);
        Ok(head)
    }
}

/// Seconds since 1900 in 32.32 fixed point.
fn to_ntp(at: Wall) -> u64 {
    const UNIX_EPOCH_S: i64 = 2_208_988_800;
    let (s, ms) = (at.unix_ms().div_euclid(1000), at.unix_ms().rem_euclid(1000));
    (((s + UNIX_EPOCH_S) as u64) << 32) | (((ms as u64) << 32) / 1000)
}

/// The wall time of an NTP time-stamp.
pub(super) fn from_ntp(ntp: u64) -> Wall {
    const UNIX_EPOCH_S: i64 = 2_208_988_800;
    let ms = ((ntp & 0xffff_ffff) * 1000 + (1 << 31)) >> 32;
    Wall::from_unix_ms(((ntp >> 32) as i64 - UNIX_EPOCH_S) * 1000 + ms as i64)
}
