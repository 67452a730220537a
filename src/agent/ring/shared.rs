//! A ring between one capture that pushes and readers that follow it.
//!
//! One lock, held for a push or for the copying of a few reference-counted units; nothing blocks under it, so a
//! reader never holds capture up. A waiting reader is woken by the next push.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::{Batch, Bounds, Counts, Coverage, Cursor, Located, Ring};
use crate::agent::capture::AccessUnit;
use crate::base::clock::Mono;

/// Clones share one [`Ring`].
#[derive(Debug, Clone)]
pub struct SharedRing(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ring: Mutex<Ring>,
    pushed: Condvar,
}

impl SharedRing {
    /// An empty ring.
    pub fn new(bounds: Bounds) -> Self {
        SharedRing(Arc::new(Inner { ring: Mutex::new(Ring::new(bounds)), pushed: Condvar::new() }))
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.0.ring.lock().expect("the ring's code does not panic under its lock")
    }

    /// See [`Ring::push`].
    pub fn push(&self, unit: AccessUnit) {
        self.lock().push(unit);
        self.0.pushed.notify_all();
    }

    /// See [`Ring::locate`].
    pub fn locate(&self, at: Mono) -> Option<Located> {
        self.lock().locate(at)
    }

    /// See [`Ring::read`].
    pub fn read(&self, cursor: Cursor, limit: usize) -> Batch {
        self.lock().read(cursor, limit)
    }

    /// See [`Ring::end`].
    pub fn end(&self) -> Cursor {
        self.lock().end()
    }

    /// Waits, at most `timeout`, until there is something to read at `cursor`; false if there is not.
    pub fn wait(&self, cursor: Cursor, timeout: Duration) -> bool {
        let (ring, _) = self
            .0
            .pushed
            .wait_timeout_while(self.lock(), timeout, |ring| ring.end() <= cursor)
            .expect("the ring's code does not panic under its lock");
        ring.end() > cursor
    }

    /// What the units held cost in bytes.
    pub fn bytes(&self) -> usize {
        self.lock().bytes()
    }

    /// See [`Ring::span`].
    pub fn span(&self) -> Duration {
        self.lock().span()
    }

    /// See [`Ring::coverage`].
    pub fn coverage(&self) -> Coverage {
        self.lock().coverage()
    }

    /// See [`Ring::counts`].
    pub fn counts(&self) -> Counts {
        self.lock().counts()
    }
}
