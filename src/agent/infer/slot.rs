//! Places for feature vectors inside an engine. The pool hands out indices and takes them back; what lies at an
//! index (host memory, device memory) is the engine's own business.
//!
//! Invariant: an index is held by exactly one living [`Slot`] (and its clones) or is free. Lock: the pool's list
//! of free indices, held for a push or a pop only.

use std::sync::{Arc, Mutex};

#[derive(Debug, Default)]
struct Free {
    returned: Vec<usize>,
    /// Indices given out so far, held or returned.
    known: usize,
}

/// The indices of one engine. Clones share it. It grows with need: what bounds it is that every camera keeps one
/// window.
#[derive(Debug, Clone, Default)]
pub struct SlotPool(Arc<Mutex<Free>>);

impl SlotPool {
    /// A free place, reused if there is one.
    pub fn take(&self) -> Slot {
        let mut free = self.lock();
        let index = free.returned.pop().unwrap_or_else(|| {
            free.known += 1;
            free.known - 1
        });
        drop(free);
        Slot(Arc::new(Held { index, pool: self.clone() }))
    }

    /// The place of `slot`, if this pool gave it out.
    pub fn index_of(&self, slot: &Slot) -> Option<usize> {
        Arc::ptr_eq(&self.0, &slot.0.pool.0).then_some(slot.0.index)
    }

    /// Places held now.
    pub fn in_use(&self) -> usize {
        let free = self.lock();
        free.known - free.returned.len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Free> {
        self.0.lock().expect("nothing panics while it holds the list of free slots")
    }
}

#[derive(Debug)]
struct Held {
    index: usize,
    pool: SlotPool,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.pool.lock().returned.push(self.index);
    }
}

/// One feature vector that an engine owns. Clones mean the same vector; when the last goes, the place is free.
#[derive(Debug, Clone)]
pub struct Slot(Arc<Held>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_last_holder_lets_go() {
        let pool = SlotPool::default();
        let (a, b) = (pool.take(), pool.take());
        let again = a.clone();
        assert_ne!(pool.index_of(&a), pool.index_of(&b));
        drop(a);
        assert_eq!(pool.in_use(), 2);
        drop(again);
        assert_eq!((pool.in_use(), pool.index_of(&pool.take())), (1, Some(0)));
    }

    #[test]
    fn a_slot_of_another_pool_is_recognised() {
        assert_eq!(SlotPool::default().index_of(&SlotPool::default().take()), None);
    }
}
