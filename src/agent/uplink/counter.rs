//! The session counter: a number that grows with every connection, also across restarts, so that a will that
//! arrives late is recognised as stale.
//!
//! Invariant: no number is given out twice. Numbers are reserved on disk in blocks, so that a broker that stays
//! away costs no disk writes; what is left of a block is skipped at the next start. A disk that fails must not
//! silence the device: the counter then goes on in memory, says so once, and starts above any honest number.

use std::io;
use std::path::PathBuf;

use crate::base::atomic_file;
use crate::base::clock::Clock;

const BLOCK: u64 = 1000;

#[derive(Debug, thiserror::Error)]
enum CounterError {
    #[error("could not read the session counter {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the session counter {} holds {found:?} and not a number", path.display())]
    Corrupt { path: PathBuf, found: String },
}

/// The counter; one for each device.
#[derive(Debug)]
pub(super) struct SessionCounter {
    path: PathBuf,
    next: u64,
    reserved_below: u64,
    said: bool,
}

impl SessionCounter {
    /// Goes on where the file says.
    pub(super) fn open(path: PathBuf, clock: &dyn Clock) -> Self {
        let next = read(&path).unwrap_or_else(|e| {
            let next = clock.wall().unix_ms().max(0).unsigned_abs();
            log::error!("{}; going on at {next}, by the clock", crate::base::error::Chain(&e));
            next
        });
        SessionCounter { path, next, reserved_below: next, said: false }
    }

    /// The next number. Blocks on the disk once in a thousand times.
    pub(super) fn next(&mut self) -> u64 {
        let session = self.next;
        self.next += 1;
        if self.next > self.reserved_below {
            self.reserved_below = self.next + BLOCK;
            let written = atomic_file::write(&self.path, self.reserved_below.to_string().as_bytes());
            match written {
                Ok(()) => self.said = false,
                Err(e) if !self.said => {
                    self.said = true;
                    log::error!("could not reserve session numbers in {}: {e}", self.path.display());
                }
                Err(_) => {}
            }
        }
        session
    }
}

fn read(path: &PathBuf) -> Result<u64, CounterError> {
    match std::fs::read_to_string(path) {
        Ok(text) => text.trim().parse().map_err(|_| CounterError::Corrupt { path: path.clone(), found: text }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(1),
        Err(source) => Err(CounterError::Read { path: path.clone(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::{ManualClock, Wall};

    #[test]
    fn never_gives_a_number_twice_across_restarts() {
        let clock = ManualClock::new(Wall::from_unix_ms(0));
        let dir = tempfile::tempdir().unwrap();
        let mut last = 0;
        for _ in 0..3 {
            let mut counter = SessionCounter::open(dir.path().join("session"), &clock);
            for _ in 0..2500 {
                let session = counter.next();
                assert!(session > last);
                last = session;
            }
        }
    }

    #[test]
    fn a_file_that_is_no_number_is_passed_over_upwards() {
        let clock = ManualClock::new(Wall::from_unix_ms(1_700_000_000_000));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("session");
        std::fs::write(&path, b"\0\0\0").unwrap();
        assert_eq!(SessionCounter::open(path.clone(), &clock).next(), 1_700_000_000_000);
        assert!(SessionCounter::open(path, &clock).next() > 1_700_000_000_000);
    }

    #[test]
    fn a_disk_that_cannot_be_written_does_not_stop_it() {
        let clock = ManualClock::new(Wall::from_unix_ms(0));
        let mut counter = SessionCounter::open(PathBuf::from("/nowhere/at/all/session"), &clock);
        let first = counter.next();
        assert!((0..3000).all(|i| counter.next() == first + 1 + i));
    }
}
