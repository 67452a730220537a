//! What a `.part` file holds: its movie head, and the samples of its whole fragments. Reading stops, without an
//! error, at the first thing that is not whole; what comes before it was on the disk before it was begun. A fragment is
//! whole with its [`seal`].

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use mp4_atom::{Atom, Buf, Decode, FourCC, Header, Mdat, Moof, Moov, Prft, TrunSamples};

use super::boxes::wall_since_1904;
use super::fragment::{NON_SYNC, from_ntp};
use super::seal;
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
        let mut unsealed = None;
        // The last fragment, and where its seal has its digits.
        let mut last = None;
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
                (Mdat::KIND, Some(_)) => {
                    let Some((start, moof)) = moof.take() else { break };
                    unsealed = Some((start, moof, found));
                }
                (seal::KIND, Some(index)) => {
                    let Some((start, moof, mdat)) = unsealed.take() else { break };
                    if found.end - found.start != seal::BYTES as u64 || index.add(start, &moof, &mdat).is_none() {
                        break;
                    }
                    index.whole_bytes = found.end;
                    last = Some((start..mdat.end, found.body));
                }
                _ => {}
            }
        }
        if let (Some(index), Some((fragment, digits))) = (&mut index, last)
            && !seal::holds(file, fragment.clone(), digits).map_err(at)?
        {
            index.drop_last(fragment.start);
        }
        index.ok_or_else(|| ClipError::Empty { path: path.to_path_buf() })
    }

    /// When its first picture was; to the second where the file says no more.
    pub fn began(&self) -> Wall {
        self.started.unwrap_or_else(|| created(&self.moov))
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
        Some(())
    }

    /// Leaves out the last fragment, which begins at `start`.
    fn drop_last(&mut self, start: u64) {
        let samples = self.chunks.pop().map_or(0, |chunk| chunk.samples);
        self.samples.truncate(self.samples.len() - samples);
        self.whole_bytes = start;
    }
}

/// When a movie says that it was made; to the second.
fn created(moov: &Moov) -> Wall {
    wall_since_1904(moov.mvhd.creation_time)
}

/// What a plain file says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plain {
    /// When its first picture was; to the second.
    pub began: Wall,
    /// From the first picture shown to the end of the last.
    pub duration_ms: u64,
}

impl Plain {
    /// Reads the head of a finished clip; none if it is not whole.
    pub fn read(path: &Path) -> Result<Option<Plain>, ClipError> {
        let at = |source| ClipError::io("read", path, source);
        let file = File::open(path).map_err(at)?;
        let size = file.metadata().map_err(at)?.len();
        let mut boxes = Boxes { file: &file, size, at: 0 };
        let mut plain = None;
        while let Some(found) = boxes.next().map_err(at)? {
            match found.kind {
                Moov::KIND => {
                    let Some(moov): Option<Moov> = boxes.decode(&found).map_err(at)? else { break };
                    let duration_ms = moov.mvhd.duration.saturating_mul(1000) / u64::from(moov.mvhd.timescale.max(1));
                    plain = Some(Plain { began: created(&moov), duration_ms });
                }
                // The samples are last: with them the file is whole.
                Mdat::KIND => return Ok(plain),
                _ => {}
            }
        }
        Ok(None)
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
