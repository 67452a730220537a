//! What is known of the outbox's numbers outside of the database, so that a database that is lost does not take its
//! numbering with it: a number is never given out twice, or a consumer's old confirmation would let go of alerts that it
//! has not seen.
//!
//! A small file holds a number that is above all that were given out, and the epoch that it counts within. It is moved on
//! in large steps, before the commit that would come near it, so that it costs nothing. A new database goes on above it,
//! in the same epoch; the numbers between are told as given up. Where the file is lost too, a new epoch says so.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::base::atomic_file;

/// In the state directory, beside the database.
const FILE: &str = "outbox-numbers";
/// How far the file is ahead when it is written,
const STEP: u64 = 1_000;
/// and how near the numbers may come to it before it is written again. A disk that refuses has time to recover.
const MARGIN: u64 = 500;

/// See the module's doc.
#[derive(Debug)]
pub(super) struct Numbers {
    file: PathBuf,
    /// Above all that were given out.
    bound: u64,
    epoch: Option<Uuid>,
    /// What the file says is not yet so.
    stale: bool,
}

impl Numbers {
    /// Reads the file of a state directory; without one nothing was given out.
    pub(super) fn open(state_dir: &Path) -> io::Result<Numbers> {
        let file = state_dir.join(FILE);
        let text = match fs::read_to_string(&file) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => "0".to_owned(),
            other => other?,
        };
        let mut words = text.split_whitespace();
        let bound = words.next().and_then(|n| n.parse().ok()).unwrap_or_else(|| {
            log::error!("store: {} holds no number: it is written anew", file.display());
            0
        });
        let epoch = words.next().and_then(|e| e.parse().ok());
        Ok(Numbers { file, bound, epoch, stale: false })
    }

    /// What they count within, if that is known.
    pub(super) fn epoch(&self) -> Option<Uuid> {
        self.epoch
    }

    /// They count within this; noted with the next number.
    pub(super) fn count_within(&mut self, epoch: Uuid) {
        self.stale |= self.epoch != Some(epoch);
        self.epoch = Some(epoch);
    }

    /// Above every number that was given out, in this database or in one before it.
    pub(super) fn bound(&self) -> u64 {
        self.bound
    }

    /// Makes durable that numbers up to `newest` are given out (0: none yet); before they are committed.
    pub(super) fn cover(&mut self, newest: u64) -> io::Result<()> {
        let near = newest > 0 && newest + MARGIN > self.bound;
        if !near && !self.stale {
            return Ok(());
        }
        let bound = if near { newest + STEP } else { self.bound };
        let epoch = self.epoch.map(|e| e.to_string()).unwrap_or_default();
        atomic_file::write(&self.file, format!("{bound} {epoch}\n").as_bytes())?;
        (self.bound, self.stale) = (bound, false);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_the_file_says_is_above_all_that_was_given_out(steps in prop::collection::vec(0_u64..3_000, 1..20)) {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let mut newest = 0;
            for step in steps {
                newest += step;
                let mut numbers = Numbers::open(dir.path()).expect("readable");
                prop_assert!(newest == step || numbers.bound() >= newest - step);
                numbers.cover(newest).expect("writable");
            }
            prop_assert!(Numbers::open(dir.path()).expect("readable").bound() > newest);
        }
    }

    #[test]
    fn the_epoch_is_kept_and_a_file_of_before_has_none() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join(FILE), "1500\n").expect("writable");
        let mut numbers = Numbers::open(dir.path()).expect("readable");
        assert_eq!((numbers.bound(), numbers.epoch()), (1500, None));
        let epoch = Uuid::from_u128(7);
        numbers.count_within(epoch);
        numbers.cover(3).expect("writable");
        let again = Numbers::open(dir.path()).expect("readable");
        assert_eq!((again.bound(), again.epoch()), (1500, Some(epoch)));
    }

    #[test]
    fn a_file_of_rubbish_is_not_believed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join(FILE), "\0\0\0").expect("writable");
        assert_eq!(Numbers::open(dir.path()).expect("readable").bound(), 0);
    }
}
