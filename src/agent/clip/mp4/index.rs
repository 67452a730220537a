//! What a `.part` file holds: its movie head, and the samples of its whole fragments. Reading stops, without an
//! error, at the first thing that is not whole; what comes before it was on the disk before it was begun.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use mp4_atom::{Atom, Buf, Decode, FourCC, Header, Mdat, Moof, Moov, Prft, TrunSamples};

use super::fragment::{NON_SYNC, from_ntp};
use crate::agent::clip::ClipError;
use crate::base::clock::Wall;

/// One sample, in decode order. Times in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Decode time.
    pub dts: i64,
    /// To the next sample's.
    pub duration: u32,
    /// From decode to presentation.
    pub cts: i32,
    /// Bytes.
    pub size: u32,
    /// Whether decoding can start here.
    pub keyframe: bool,
}

/// Samples that lie one after another in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Where the first one begins, in bytes from the start of the file.
    pub offset: u64,
    /// How many there are.
    pub samples: usize,
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct PartIndex {
    /// As the file has it: track, sample entry, edit list; no samples.
    pub moov: Moov,
    /// When the first picture was, by the device's clock; absent if the file does not say.
    pub started: Option<Wall>,
    /// All samples of whole fragments.
    pub samples: Vec<Sample>,
    /// Where they lie; one chunk for each fragment.
    pub chunks: Vec<Chunk>,
    /// Bytes up to the end of the last whole fragment.
    pub whole_bytes: u64,
}

/// A head or a fragment's head above this is not one of ours: refused before memory is taken for it.
const MAX_BOX_BYTES: usize = 16 << 20;

impl PartIndex {
    /// Reads the index of an open `.part` file; `path` is for the error.
    pub fn read(file: &File, path: &Path) -> Result<PartIndex, ClipError> {
        let at = |source| ClipError::io("read", path, source);
        let size = file.metadata().map_err(at)?.len();
        let mut boxes = Boxes { file, size, at: 0 };
        let mut index: Option<PartIndex> = None;
        let mut moof = None;
        while let Some(found) = boxes.next().map_err(at)? {
            match (found.kind, &mut index) {
                (Moov::KIND, None) => {
                    let Some(moov) = boxes.decode(&found).map_err(at)? else { break };
                    let (samples, chunks) = (Vec::new(), Vec::new());
                    index = Some(PartIndex { moov, started: None, samples, chunks, whole_bytes: found.end });
                }
                (Prft::KIND, Some(index)) => {
                    let prft: Option<Prft> = boxes.decode(&found).map_err(at)?;
                    index.started = index.started.or(prft.map(|p| from_ntp(p.ntp_timestamp)));
                }
                (Moof::KIND, Some(_)) => {
                    let Some(decoded) = boxes.decode::<Moof>(&found).map_err(at)? else { break };
                    moof = Some((found.start, decoded));
                }
                (Mdat::KIND, Some(index)) => {
                    let Some((start, moof)) = moof.take() else { break };
                    if index.add(start, &moof, &found).is_none() {
                        break;
                    }
                }
                _ => {}
            }
        }
        index.ok_or_else(|| ClipError::Empty { path: path.to_path_buf() })
    }

    /// Adds a fragment whose `mdat` is whole; none if it is not one of ours.
    fn add(&mut self, moof_start: u64, moof: &Moof, mdat: &Found) -> Option<()> {
        let [traf] = &moof.traf[..] else { return None };
        let [trun] = &traf.trun[..] else { return None };
        let offset = moof_start.checked_add(u64::try_from(trun.data_offset?).ok()?)?;
        let mut dts = i64::try_from(traf.tfdt.as_ref()?.base_media_decode_time).ok()?;
        let mut bytes = 0_u64;
        // Decoded from bytes of its own each: a run without them could claim any number of samples.
        let TrunSamples::Explicit(entries) = &trun.samples else { return None };
        let mut samples = Vec::with_capacity(entries.len());
        for entry in entries {
            let (duration, size) = (entry.duration?, entry.size?);
            let cts = i32::try_from(entry.cts.unwrap_or(0)).ok()?;
            samples.push(Sample { dts, duration, cts, size, keyframe: entry.flags? & NON_SYNC == 0 });
            dts = dts.checked_add(i64::from(duration))?;
            bytes += u64::from(size);
        }
        if offset != mdat.body || offset.checked_add(bytes)? != mdat.end {
            return None;
        }
        self.chunks.push(Chunk { offset, samples: samples.len() });
        self.samples.append(&mut samples);
        self.whole_bytes = mdat.end;
        Some(())
    }
}

/// A box that lies wholly within the file.
struct Found {
    kind: FourCC,
    start: u64,
    body: u64,
    end: u64,
}

/// The boxes at the top of a file.
struct Boxes<'a> {
    file: &'a File,
    size: u64,
    at: u64,
}

impl Boxes<'_> {
    /// The next box; none at the end of the file or of what is whole.
    fn next(&mut self) -> io::Result<Option<Found>> {
        let mut bytes = [0; 16];
        let there = self.size.saturating_sub(self.at).min(16) as usize;
        if there < 8 {
            return Ok(None);
        }
        self.file.read_exact_at(&mut bytes[..there], self.at)?;
        let mut rest = &bytes[..there];
        let Ok(header) = Header::decode(&mut rest) else { return Ok(None) };
        let start = self.at;
        let body = start + (there - rest.remaining()) as u64;
        let Some(end) = header.size.and_then(|size| body.checked_add(size as u64)).filter(|&end| end <= self.size)
        else {
            return Ok(None);
        };
        self.at = end;
        Ok(Some(Found { kind: header.kind, start, body, end }))
    }

    /// The box itself; none if it can't be read as one of ours.
    fn decode<T: Atom>(&self, found: &Found) -> io::Result<Option<T>> {
        let size = (found.end - found.start) as usize;
        if size > MAX_BOX_BYTES {
            return Ok(None);
        }
        let mut bytes = vec![0; size];
        self.file.read_exact_at(&mut bytes, found.start)?;
        Ok(T::decode(&mut &bytes[..]).ok())
    }
}
