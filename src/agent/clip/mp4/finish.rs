//! From a `.part` to a plain file that every player seeks in: `ftyp moov mdat`, the index in front. Samples are
//! copied as they are, in steps, so that a long clip does not keep its worker from the others; the digest is taken of
//! the bytes as they pass.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use mp4_atom::{
    Atom, Co64, Ctts, CttsEntry, Encode, Header, Mdat, Moov, Stco, Stsc, StscEntry, Stss, Stsz, StszSamples, SttsEntry,
};

use super::TIMESCALE;
use super::boxes::{edit, encoded, plain_brands};
use super::index::{Chunk, PartIndex, Sample};
use super::part::check_room;
use crate::agent::clip::ClipError;
use crate::base::atomic_file;
use crate::base::clock::Wall;
use crate::base::digest::Sha256Hex;

/// A finished file, whole and durable under its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Pictures.
    pub samples: usize,
    /// From the first picture shown to the end of the last.
    pub duration_ms: u64,
    /// Size of the file.
    pub size_bytes: u64,
    /// SHA-256 of the file in hexadecimal.
    pub sha256: String,
}

/// Copied at a time: large enough to spare calls, small enough for the processor's cache.
const BUFFER_BYTES: usize = 256 << 10;

/// A copy under way.
pub struct Finisher {
    part: File,
    part_path: PathBuf,
    out: File,
    tmp_path: PathBuf,
    path: PathBuf,
    /// What is still to copy: offset in the part, bytes.
    rest: VecDeque<(u64, u64)>,
    digest: Sha256Hex,
    buffer: Vec<u8>,
    began: Wall,
    result: Finished,
}

impl Finisher {
    /// Starts to make `path` from a `.part` file, without the samples decoded at or after tick `until`.
    pub fn begin(part_path: &Path, path: &Path, until: Option<i64>) -> Result<Finisher, ClipError> {
        let part = File::open(part_path).map_err(|e| ClipError::io("open", part_path, e))?;
        let mut index = PartIndex::read(&part, part_path)?;
        trim(&mut index, until);
        if index.samples.is_empty() {
            return Err(ClipError::Empty { path: part_path.to_path_buf() });
        }
        let duration = shown_duration(&index.samples);
        let head = head(&index)?;
        let rest: VecDeque<_> = extents(&index).collect();
        // Before a file is begun that could not be ended.
        let bytes = head.len() as u64 + rest.iter().map(|(_, bytes)| bytes).sum::<u64>();
        check_room(&part, bytes).map_err(|e| ClipError::io("make", path, e))?;

        let tmp_path = path.with_extension("mp4.tmp");
        let out = File::create(&tmp_path).map_err(|e| ClipError::io("create", &tmp_path, e))?;
        let mut finisher = Finisher {
            part,
            part_path: part_path.to_path_buf(),
            out,
            tmp_path,
            path: path.to_path_buf(),
            rest,
            digest: Sha256Hex::default(),
            buffer: vec![0; BUFFER_BYTES],
            began: index.began(),
            result: Finished {
                samples: index.samples.len(),
                duration_ms: (duration * 1000 + u64::from(TIMESCALE) / 2) / u64::from(TIMESCALE),
                size_bytes: head.len() as u64,
                sha256: String::new(),
            },
        };
        finisher.digest.update(&head);
        match finisher.out.write_all(&head) {
            Ok(()) => Ok(finisher),
            Err(e) => Err(finisher.failed("write", e)),
        }
    }

    /// When the first picture was, as the `.part` says.
    pub fn began(&self) -> Wall {
        self.began
    }

    /// Copies about `budget_bytes` more. When all is there it is made durable, takes its name, and the `.part` goes.
    /// After an error nothing is left but the `.part`.
    pub fn step(&mut self, budget_bytes: usize) -> Result<Option<Finished>, ClipError> {
        let mut copied = 0;
        while let Some((offset, bytes)) = self.rest.front_mut() {
            if copied >= budget_bytes {
                // On to the disk piece by piece, so that the last sync does not wait for all of it.
                return match self.out.sync_data() {
                    Ok(()) => Ok(None),
                    Err(e) => Err(self.failed("sync", e)),
                };
            }
            let n = (*bytes).min(BUFFER_BYTES as u64) as usize;
            let piece = &mut self.buffer[..n];
            if let Err(e) = self.part.read_exact_at(piece, *offset) {
                return Err(self.failed("read the .part of", e));
            }
            (*offset, *bytes) = (*offset + n as u64, *bytes - n as u64);
            if *bytes == 0 {
                self.rest.pop_front();
            }
            self.digest.update(piece);
            if let Err(e) = self.out.write_all(piece) {
                return Err(self.failed("write", e));
            }
            copied += n;
            self.result.size_bytes += n as u64;
        }
        if let Err(e) = self.out.sync_all() {
            return Err(self.failed("sync", e));
        }
        if let Err(e) = atomic_file::publish(&self.tmp_path, &self.path) {
            return Err(self.failed("give its name to", e));
        }
        // The clip is there; a `.part` that stays is found again at the next start.
        if let Err(e) = fs::remove_file(&self.part_path) {
            log::warn!("could not remove {}: {e}", self.part_path.display());
        }
        self.result.sha256 = std::mem::take(&mut self.digest).finish();
        Ok(Some(self.result.clone()))
    }

    fn failed(&self, operation: &'static str, source: std::io::Error) -> ClipError {
        if let Err(e) = fs::remove_file(&self.tmp_path) {
            log::debug!("could not remove {}: {e}", self.tmp_path.display());
        }
        ClipError::io(operation, &self.path, source)
    }
}

/// Leaves out what is decoded at or after `until`, and turns durations into the distances that they are.
fn trim(index: &mut PartIndex, until: Option<i64>) {
    let keep = until.map_or(index.samples.len(), |t| index.samples.partition_point(|s| s.dts < t));
    for i in 1..index.samples.len().min(keep + 1) {
        let distance = index.samples[i].dts - index.samples[i - 1].dts;
        index.samples[i - 1].duration = u32::try_from(distance).unwrap_or(0);
    }
    index.samples.truncate(keep);
    let mut left = keep;
    for chunk in &mut index.chunks {
        chunk.samples = chunk.samples.min(left);
        left -= chunk.samples;
    }
    index.chunks.retain(|c| c.samples > 0);
}

/// Ticks from the first picture that is shown to the end of the last.
fn shown_duration(samples: &[Sample]) -> u64 {
    let pts = |s: &Sample| s.dts + i64::from(s.cts);
    let end = samples.iter().map(|s| pts(s) + i64::from(s.duration)).max().unwrap_or(0);
    (end - samples.first().map_or(0, pts)).max(0) as u64
}

/// Where the samples of each chunk lie: offset and bytes.
fn extents(index: &PartIndex) -> impl Iterator<Item = (u64, u64)> {
    let mut next = 0;
    index.chunks.iter().map(move |&Chunk { offset, samples }| {
        let of_chunk = &index.samples[next..next + samples];
        next += samples;
        (offset, of_chunk.iter().map(|s| u64::from(s.size)).sum())
    })
}

/// All of the file that comes before the samples.
fn head(index: &PartIndex) -> Result<Vec<u8>, ClipError> {
    let mut bytes = encoded("ftyp", &plain_brands())?;
    let payload: u64 = extents(index).map(|(_, bytes)| bytes).sum();
    let mut mdat = Vec::with_capacity(16);
    Header { kind: Mdat::KIND, size: Some(payload as usize) }
        .encode(&mut mdat)
        .map_err(|source| ClipError::Format { what: "mdat", source })?;

    let mut moov = plain_moov(index)?;
    // Offsets count from the start of the file, so the size of the head must be known before they are: a first run
    // with zeros tells it. 64 bits each only where 32 don't reach.
    let room = |moov: &Moov| Ok::<_, ClipError>((bytes.len() + encoded("moov", moov)?.len() + mdat.len()) as u64);
    set_offsets(&mut moov, vec![0; index.chunks.len()], false);
    let wide = room(&moov)? + payload > u64::from(u32::MAX);
    set_offsets(&mut moov, vec![0; index.chunks.len()], wide);
    let first = room(&moov)?;
    let offsets = extents(index).scan(first, |at, (_, bytes)| {
        let here = *at;
        *at += bytes;
        Some(here)
    });
    set_offsets(&mut moov, offsets.collect(), wide);
    bytes.extend(encoded("moov", &moov)?);
    bytes.extend(mdat);
    Ok(bytes)
}

fn set_offsets(moov: &mut Moov, offsets: Vec<u64>, wide: bool) {
    let stbl = &mut moov.trak[0].mdia.minf.stbl;
    if wide {
        (stbl.stco, stbl.co64) = (None, Some(Co64 { entries: offsets }));
    } else {
        stbl.stco = Some(Stco { entries: offsets.into_iter().map(|o| o as u32).collect() });
    }
}

/// The movie of the part with the samples' tables in it; all but their offsets.
fn plain_moov(index: &PartIndex) -> Result<Moov, ClipError> {
    let samples = &index.samples;
    let mut moov = Moov { mvex: None, ..index.moov.clone() };
    let Some(trak) = moov.trak.first_mut() else {
        return Err(ClipError::Stream("a .part without a track".into()));
    };
    let decoded: u64 = samples.iter().map(|s| u64::from(s.duration)).sum();
    let shown = shown_duration(samples);
    (moov.mvhd.duration, trak.tkhd.duration, trak.mdia.mdhd.duration) = (shown, shown, decoded);
    trak.edts = edit(samples.first().map_or(0, |s| i64::from(s.cts)), shown);

    let stbl = &mut trak.mdia.minf.stbl;
    stbl.stts.entries = runs(samples.iter().map(|s| s.duration))
        .map(|(sample_count, sample_delta)| SttsEntry { sample_count, sample_delta })
        .collect();
    stbl.ctts = samples.iter().any(|s| s.cts != 0).then(|| Ctts {
        entries: runs(samples.iter().map(|s| s.cts))
            .map(|(sample_count, cts)| CttsEntry { sample_count, sample_offset: cts.into() })
            .collect(),
    });
    let keyframes = samples.iter().zip(1..).filter(|(s, _)| s.keyframe).map(|(_, number)| number).collect();
    stbl.stss = Some(Stss { entries: keyframes });
    stbl.stsz = Stsz { samples: StszSamples::Different { sizes: samples.iter().map(|s| s.size).collect() } };
    let mut first_chunk = 1;
    stbl.stsc = Stsc {
        entries: runs(index.chunks.iter().map(|c| c.samples as u32))
            .map(|(count, samples_per_chunk)| {
                let entry = StscEntry { first_chunk, samples_per_chunk, sample_description_index: 1 };
                first_chunk += count;
                entry
            })
            .collect(),
    };
    Ok(moov)
}

/// Equal values in a row, as (how many, which).
fn runs<T: PartialEq + Copy>(values: impl Iterator<Item = T>) -> impl Iterator<Item = (u32, T)> {
    let mut values = values.peekable();
    std::iter::from_fn(move || {
        let value = values.next()?;
        let mut count = 1;
        while values.next_if(|v| *v == value).is_some() {
            count += 1;
        }
        Some((count, value))
    })
}
