//! A `.part` file under way: fragments appended, each with its [`super::seal`], and each on the disk before the next is
//! begun. What a power cut leaves is a file whose whole fragments can be read by [`super::index`].

use std::fs::{self, File};
use std::io::{self, IoSlice, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::fragment::Fragmenter;
use super::seal;
use crate::agent::capture::{AccessUnit, StreamInfo};
use crate::agent::clip::ClipError;
use crate::base::atomic_file;
use crate::base::clock::{Mono, Wall};

/// A fragment is begun when so much footage waits for it: what a kill can cost, against an fsync each.
const FRAGMENT: Duration = Duration::from_secs(1);

/// Clips do not take what is left of a disk below this.
const LEFT_ALONE_BYTES: u64 = 4 << 20;

/// See the module's documentation.
#[derive(Debug)]
pub struct Part {
    file: File,
    path: PathBuf,
    fragmenter: Fragmenter,
    /// Taken, not yet written. The last of them is held back until its duration is known.
    pending: Vec<AccessUnit>,
    stream: Arc<StreamInfo>,
    first_pts: Mono,
    fragments: u32,
    bytes: u64,
}

impl Part {
    /// Creates the file for the stream of `first`, its head written. `first` itself is pushed like the others.
    pub fn create(path: &Path, first: &AccessUnit, label: Wall) -> Result<Part, ClipError> {
        let mut head = Fragmenter::head(first, label)?;
        head.extend(Fragmenter::reference_time(first, label)?);
        let at = |operation| move |source| ClipError::io(operation, path, source);
        let mut file = File::create(path).map_err(at("create"))?;
        file.write_all(&head).and_then(|()| atomic_file::sync_parent(path)).map_err(|e| {
            // A head without footage is of no use; the disk may be full, and it may not be ours to remove.
            if let Err(e) = fs::remove_file(path) {
                log::debug!("could not remove {}: {e}", path.display());
            }
            at("begin")(e)
        })?;
        Ok(Part {
            file,
            path: path.to_path_buf(),
            fragmenter: Fragmenter::new(first),
            pending: Vec::new(),
            stream: Arc::clone(&first.stream),
            first_pts: first.pts,
            fragments: 0,
            bytes: head.len() as u64,
        })
    }

    /// Takes the next unit; nothing is written yet.
    pub fn push(&mut self, unit: AccessUnit) {
        self.pending.push(unit);
    }

    /// Writes what waits, but for the last unit, if it is enough for a fragment.
    pub fn write_ready(&mut self) -> Result<(), ClipError> {
        match &self.pending[..] {
            [first, .., last] if last.dts.since(first.dts) >= FRAGMENT => self.write(self.pending.len() - 1),
            _ => Ok(()),
        }
    }

    /// Writes all that waits.
    pub fn write_rest(&mut self) -> Result<(), ClipError> {
        self.write(self.pending.len())
    }

    /// Whether units of this stream may go into the file.
    pub fn takes(&self, stream: &Arc<StreamInfo>) -> bool {
        Arc::ptr_eq(stream, &self.stream) || **stream == *self.stream
    }

    /// Presentation time of the first unit: where the footage begins.
    pub fn first_pts(&self) -> Mono {
        self.first_pts
    }

    /// The tick that `at` has on the file's time base.
    pub fn ticks(&self, at: Mono) -> i64 {
        self.fragmenter.timeline().ticks(at)
    }

    /// Fragments that are whole and on the disk.
    pub fn fragments(&self) -> u32 {
        self.fragments
    }

    fn write(&mut self, count: usize) -> Result<(), ClipError> {
        if count == 0 {
            return Ok(());
        }
        let next = self.pending.get(count).map(|u| u.dts);
        let head = self.fragmenter.fragment(&self.pending[..count], next)?;
        let pieces = || std::iter::once(&head[..]).chain(self.pending[..count].iter().map(|u| &*u.data));
        let seal = seal::of(pieces());
        let size = pieces().map(<[u8]>::len).sum::<usize>() + seal.len();
        if let Err(source) = self.append(&head, count, &seal) {
            // Half a fragment is of no use: cut it off, so that the file ends as it was. Reading stops there anyway.
            if let Err(e) = self.file.set_len(self.bytes) {
                log::debug!("could not trim {}: {e}", self.path.display());
            }
            return Err(ClipError::io("write", &self.path, source));
        }
        self.bytes += size as u64;
        self.fragments += 1;
        self.pending.drain(..count);
        Ok(())
    }

    fn append(&mut self, head: &[u8], count: usize, seal: &[u8]) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(count + 2);
        slices.push(IoSlice::new(head));
        slices.extend(self.pending[..count].iter().map(|u| IoSlice::new(&u.data)));
        slices.push(IoSlice::new(seal));
        check_room(&self.file, slices.iter().map(|s| s.len() as u64).sum())?;
        write_all_vectored(&mut self.file, &mut slices)?;
        self.file.sync_data()
    }
}

/// Whether the disk of `file` takes so much more. Its last megabytes are the database's: an incident without its clip is
/// told, one without its row is not.
pub(super) fn check_room(file: &File, bytes: u64) -> io::Result<()> {
    let fs = rustix::fs::fstatvfs(file)?;
    let free = fs.f_bavail.saturating_mul(fs.f_frsize);
    if free >= bytes.saturating_add(LEFT_ALONE_BYTES) {
        return Ok(());
    }
    let what =
        format!("the disk is full: {free} bytes are left, of which the last {LEFT_ALONE_BYTES} are the database's");
    Err(io::Error::new(io::ErrorKind::StorageFull, what))
}

fn write_all_vectored(file: &mut File, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    // Empty slices in front would look like the end of the file to the loop below.
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match file.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => IoSlice::advance_slices(&mut slices, n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
