//! The bounded queue between two stages, with a stated policy for the day it is full.
//!
//! Invariant: never more than `capacity` items (for each key where the policy is by key); everything that
//! was pushed is either popped, or counted in [`Queue::dropped`], or handed back to the caller.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// What a push does when the queue is full.
pub enum Full<T> {
    /// The newcomer waits (files read flat out).
    Block,
    /// The newcomer is handed back.
    Refuse,
    /// The oldest item goes and is counted.
    DropOldest,
    /// The capacity is for each key; the oldest item of the newcomer's key goes and is counted.
    DropOldestOfKey(fn(&T, &T) -> bool),
}

/// Why a push did not take the item.
#[derive(Debug, PartialEq, Eq)]
pub enum PushError<T> {
    /// Full, and the policy is to refuse.
    Full(T),
    /// Closed: the consumer is gone or going.
    Closed(T),
}

/// What a pop brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Popped<T> {
    /// An item.
    Item(T),
    /// Nothing in the given time.
    TimedOut,
    /// Closed and empty: there will never be another.
    Closed,
}

struct State<T> {
    items: VecDeque<T>,
    closed: bool,
    dropped: u64,
}

struct Inner<T> {
    state: Mutex<State<T>>,
    not_empty: Condvar,
    not_full: Condvar,
    capacity: usize,
    full: Full<T>,
}

/// Both ends of a bounded queue; clones share it.
pub struct Queue<T>(Arc<Inner<T>>);

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Queue(Arc::clone(&self.0))
    }
}

impl<T> Queue<T> {
    /// A queue of at most `capacity` items (at least one).
    pub fn new(capacity: usize, full: Full<T>) -> Self {
        Queue(Arc::new(Inner {
            state: Mutex::new(State { items: VecDeque::new(), closed: false, dropped: 0 }),
            not_empty: Condvar::new(),
            not_full: Condvar::new(),
            capacity: capacity.max(1),
            full,
        }))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State<T>> {
        self.0.state.lock().expect("no code of the queue's users runs under its lock")
    }

    /// Appends an item, by the queue's policy.
    pub fn push(&self, item: T) -> Result<(), PushError<T>> {
        self.push_over(item).map(|_| ())
    }

    /// Appends an item, by the queue's policy; the one that went for it, if one did.
    pub fn push_over(&self, item: T) -> Result<Option<T>, PushError<T>> {
        let (mut s, mut gone) = (self.lock(), None);
        if let Full::DropOldestOfKey(same) = self.0.full {
            if s.closed {
                return Err(PushError::Closed(item));
            }
            if s.items.iter().filter(|i| same(i, &item)).count() >= self.0.capacity
                && let Some(oldest) = s.items.iter().position(|i| same(i, &item))
            {
                gone = s.items.remove(oldest);
                s.dropped += 1;
            }
        } else {
            loop {
                if s.closed {
                    return Err(PushError::Closed(item));
                }
                if s.items.len() < self.0.capacity {
                    break;
                }
                match self.0.full {
                    Full::Refuse => return Err(PushError::Full(item)),
                    Full::Block => {
                        s = self.0.not_full.wait(s).expect("no code of the queue's users runs under its lock");
                    }
                    Full::DropOldest | Full::DropOldestOfKey(_) => {
                        gone = s.items.pop_front();
                        s.dropped += 1;
                    }
                }
            }
        }
        s.items.push_back(item);
        drop(s);
        self.0.not_empty.notify_one();
        Ok(gone)
    }

    /// Appends an item once there is room, whatever the queue's policy: for the one producer that must lose nothing.
    pub fn push_waiting(&self, item: T) -> Result<(), PushError<T>> {
        let mut s = self.lock();
        while !s.closed && s.items.len() >= self.0.capacity {
            s = self.0.not_full.wait(s).expect("no code of the queue's users runs under its lock");
        }
        if s.closed {
            return Err(PushError::Closed(item));
        }
        s.items.push_back(item);
        drop(s);
        self.0.not_empty.notify_one();
        Ok(())
    }

    /// Takes the oldest item, waiting at most `timeout` for one.
    pub fn pop(&self, timeout: Duration) -> Popped<T> {
        let (mut s, _) = self
            .0
            .not_empty
            .wait_timeout_while(self.lock(), timeout, |s| s.items.is_empty() && !s.closed)
            .expect("no code of the queue's users runs under its lock");
        match s.items.pop_front() {
            Some(item) => {
                drop(s);
                self.0.not_full.notify_one();
                Popped::Item(item)
            }
            None if s.closed => Popped::Closed,
            None => Popped::TimedOut,
        }
    }

    /// Refuses all later pushes and wakes everybody; what is queued can still be popped.
    pub fn close(&self) {
        self.lock().closed = true;
        self.0.not_empty.notify_all();
        self.0.not_full.notify_all();
    }

    /// Items now queued.
    pub fn len(&self) -> usize {
        self.lock().items.len()
    }

    /// Whether nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Items lost to the policy since the start.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn drops_the_oldest_and_counts_it() {
        let q = Queue::new(2, Full::DropOldest);
        let gone: Vec<_> = (0..5).map(|i| q.push_over(i).expect("the policy makes room")).collect();
        assert_eq!(gone, [None, None, Some(0), Some(1), Some(2)]);
        assert_eq!((q.pop(NOW), q.pop(NOW), q.pop(NOW)), (Popped::Item(3), Popped::Item(4), Popped::TimedOut));
        assert_eq!(q.dropped(), 3);
    }

    #[test]
    fn refuses_and_hands_back() {
        let q = Queue::new(1, Full::Refuse);
        q.push("a").expect("empty");
        assert_eq!(q.push("b"), Err(PushError::Full("b")));
        assert_eq!(q.dropped(), 0);
    }

    #[test]
    fn one_key_never_pushes_out_another() {
        let q = Queue::new(2, Full::DropOldestOfKey(|a: &(u8, u32), b| a.0 == b.0));
        q.push((1, 0)).expect("room");
        for i in 0..10 {
            q.push((2, i)).expect("the policy makes room");
        }
        assert_eq!(q.pop(NOW), Popped::Item((1, 0)));
        assert_eq!(q.pop(NOW), Popped::Item((2, 8)));
        assert_eq!(q.dropped(), 8);
    }

    #[test]
    fn a_producer_may_wait_where_others_drop() {
        let q = Queue::new(1, Full::DropOldest);
        q.push(1).expect("empty");
        let waiting = std::thread::spawn({
            let q = q.clone();
            move || q.push_waiting(2)
        });
        assert_eq!(q.pop(Duration::from_secs(60)), Popped::Item(1));
        assert_eq!(q.pop(Duration::from_secs(60)), Popped::Item(2));
        assert_eq!(waiting.join().expect("no panic"), Ok(()));
        assert_eq!(q.dropped(), 0);
    }

    #[test]
    fn blocks_until_there_is_room_or_the_end() {
        let q = Queue::new(1, Full::Block);
        q.push(1).expect("empty");
        let pusher = std::thread::spawn({
            let q = q.clone();
            move || (q.push(2), q.push(3))
        });
        assert_eq!(q.pop(Duration::from_secs(60)), Popped::Item(1));
        assert_eq!(q.pop(Duration::from_secs(60)), Popped::Item(2));
        assert_eq!(q.pop(Duration::from_secs(60)), Popped::Item(3));
        assert_eq!(pusher.join().expect("no panic"), (Ok(()), Ok(())));
        q.close();
        assert_eq!(q.push(4), Err(PushError::Closed(4)));
        assert_eq!(q.pop(NOW), Popped::Closed);
    }
}
