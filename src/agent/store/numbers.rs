//! What is known of the outbox's numbers outside of the database, so that a database that is lost does not take its
//! numbering with it: a number is never given out twice, or a consumer's old confirmation would let go of alerts that it
//! has not seen.
//!
//! A small file holds a number that is above all that were given out. It is moved on in large steps, before the commit
//! that would come near it, so that it costs nothing. A new database goes on above it; the numbers between are told as
//! given up.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

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
}

impl Numbers {
    /// Reads the file of a state directory; without one nothing was given out.
    pub(super) fn open(state_dir: &Path) -> io::Result<Numbers> {
        let file = state_dir.join(FILE);
        let text = match fs::read_to_string(&file) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => "0".to_owned(),
            other => other?,
        };
        let bound = text.trim().parse().unwrap_or_else(|_| {
            log::error!("store: {} holds no number: it is written anew", file.display());
            0
        });
        Ok(Numbers { file, bound })
    }

    /// Above every number that was given out, in this database or in one before it.
    pub(super) fn bound(&self) -> u64 {
        self.bound
    }

    /// Makes durable that numbers up to `newest` are given out; before they are committed.
    pub(super) fn cover(&mut self, newest: u64) -> io::Result<()> {
        if newest + MARGIN <= self.bound {
            return Ok(());
        }
        let bound = newest + STEP;
        atomic_file::write(&self.file, format!("{bound}\n").as_bytes())?;
        self.bound = bound;
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
    fn a_file_of_rubbish_is_not_believed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join(FILE), "\0\0\0").expect("writable");
        assert_eq!(Numbers::open(dir.path()).expect("readable").bound(), 0);
    }
}
