//! Room on the disk that is kept for the day it is full: a file of some megabytes that holds nothing. When a commit, or
//! the start, finds no room, the file goes, and alerts go on in what it leaves; when there is room again it is made
//! again. Clips leave the last megabytes of the disk alone (see `clip::mp4::part`), so that what is freed here is the
//! database's.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

use super::expire::free_bytes;

/// In the state directory.
const FILE: &str = "reserve";
/// Hundreds of incidents with their alerts, and the log that they go through.
pub(super) const BYTES: u64 = 8 << 20;
/// The disk is full when less than this is free: SQLite wants pages, not bytes.
const FULL_BYTES: u64 = 1 << 20;

/// See the module's doc.
#[derive(Debug)]
pub(super) struct Reserve {
    file: PathBuf,
    state_dir: PathBuf,
}

impl Reserve {
    pub(super) fn of(state_dir: &Path) -> Reserve {
        Reserve { file: state_dir.join(FILE), state_dir: state_dir.to_path_buf() }
    }

    /// Makes the file if it is not there and if that leaves as much again. True if it was made.
    pub(super) fn fill(&self) -> bool {
        let room = free_bytes(&self.state_dir).is_some_and(|free| free >= 2 * BYTES);
        if !room || fs::metadata(&self.file).is_ok_and(|m| m.len() == BYTES) {
            return false;
        }
        match self.make() {
            Ok(()) => true,
            Err(e) => {
                log::debug!("store: no reserve on the disk for now: {e}");
                fs::remove_file(&self.file).ok();
                false
            }
        }
    }

    fn make(&self) -> io::Result<()> {
        let file = File::create(&self.file)?;
        // Where the file system cannot promise room, writing takes it.
        if fallocate(&file, FallocateFlags::empty(), 0, BYTES).is_err() {
            io::copy(&mut io::Read::take(io::repeat(0xff), BYTES), &mut &file)?;
        }
        file.sync_all()
    }

    /// Gives the room away if the disk is full. True if there was any to give.
    pub(super) fn release_if_full(&self) -> bool {
        let full = free_bytes(&self.state_dir).is_some_and(|free| free < FULL_BYTES);
        let released = full && fs::remove_file(&self.file).is_ok();
        if released {
            log::error!(
                "store: the disk of {} is full: alerts go on from a reserve of {} MB; make room, or lower \
                 storage.keep_days",
                self.state_dir.display(),
                BYTES >> 20
            );
        }
        released
    }
}
