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
    /// The same, but the key keeps its places in the line: its items move up into them. However far the consumer falls
    /// behind, each key's turn comes; with the policy above, a key that goes on pushing would go on falling back.
    /// Items of different keys do not come out in the order in which they went in.
    DropOldestInPlace(fn(&T, &T) -> bool),
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
        let by_key = match self.0.full {
            Full::DropOldestOfKey(same) => Some((same, false)),
            Full::DropOldestInPlace(same) => Some((same, true)),
            Full::Block | Full::Refuse | Full::DropOldest => None,
        };
        if let Some((same, in_place)) = by_key {
            if s.closed {
                return Err(PushError::Closed(item));
            }
            let places: Vec<usize> = (0..s.items.len()).filter(|i| same(&s.items[*i], &item)).collect();
            if places.len() >= self.0.capacity {
                s.dropped += 1;
                if in_place {
                    let newest_first = places.into_iter().rev();
                    let gone = newest_first.fold(item, |newer, place| std::mem::replace(&mut s.items[place], newer));
                    return Ok(Some(gone));
                }
                gone = s.items.remove(places[0]);
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
                    Full::DropOldest | Full::DropOldestOfKey(_) | Full::DropOldestInPlace(_) => {
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
    use proptest::prelude::*;

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

    /// Keys that push once a round, in a fixed order, and a consumer that takes `batch` items every few rounds: how often
    /// each key was served.
    fn served(full: Full<(u8, u32)>, keys: u8, batch: usize, rounds: u32, every: u32) -> Vec<u32> {
        let (q, mut served) = (Queue::new(2, full), vec![0; usize::from(keys)]);
        for round in 0..rounds {
            for key in 0..keys {
                q.push((key, round)).expect("the policy makes room");
            }
            if round % every == 0 {
                for _ in 0..batch {
                    let Popped::Item((key, _)) = q.pop(NOW) else { break };
                    served[usize::from(key)] += 1;
                }
            }
        }
        served
    }

    #[test]
    fn a_consumer_in_step_with_its_producers_starves_some_of_them_unless_they_keep_their_place() {
        let by_age = served(Full::DropOldestOfKey(|a, b| a.0 == b.0), 20, 8, 800, 8);
        assert_eq!(by_age.iter().filter(|n| **n == 0).count(), 12, "why there is another policy: {by_age:?}");
        let in_place = served(Full::DropOldestInPlace(|a, b| a.0 == b.0), 20, 8, 800, 8);
        assert_eq!(in_place.iter().sum::<u32>(), 800);
        assert!(in_place.iter().all(|n| (38..=42).contains(n)), "{in_place:?}");
    }

    proptest! {
        /// However slow the consumer, a key that has something waiting is served before any other has been served more
        /// often than it has places.
        #[test]
        fn a_key_that_keeps_its_place_waits_for_the_places_before_it_alone(
            keys in 1_u8..20, batch in 1_usize..16, rounds in 1_u32..200, every in 1_u32..16,
        ) {
            let q = Queue::new(2, Full::DropOldestInPlace(|a: &(u8, u32), b: &(u8, u32)| a.0 == b.0));
            // For each key: what it has in the queue, and how often others were served since its turn came up.
            let (mut waiting, mut passed_over) = (vec![0_u32; usize::from(keys)], vec![0_u32; usize::from(keys)]);
            for round in 0..rounds {
                for key in 0..keys {
                    let gone = q.push_over((key, round)).expect("the policy makes room");
                    waiting[usize::from(key)] += u32::from(gone.is_none());
                }
                for _ in 0..if round % every == 0 { batch } else { 0 } {
                    let Popped::Item((served, _)) = q.pop(NOW) else { break };
                    for key in 0..keys {
                        let key = usize::from(key);
                        match key == usize::from(served) {
                            true => (waiting[key], passed_over[key]) = (waiting[key] - 1, 0),
                            false => passed_over[key] += u32::from(waiting[key] > 0),
                        }
                        prop_assert!(passed_over[key] <= 2 * u32::from(keys - 1), "{} was passed over", key);
                    }
                }
            }
        }

        /// In whatever order keys push and the consumer pops: a key's items come out in order, the newest always do, and
        /// nothing is lost uncounted.
        #[test]
        fn in_place_a_keys_own_items_stay_in_order(pushes in prop::collection::vec((0_u8..4, prop::bool::ANY), 0..200)) {
            let q = Queue::new(2, Full::DropOldestInPlace(|a: &(u8, usize), b: &(u8, usize)| a.0 == b.0));
            let (mut out, mut gone) = (Vec::new(), 0);
            for (n, (key, pop)) in pushes.iter().enumerate() {
                gone += q.push_over((*key, n)).expect("the policy makes room").iter().count();
                if *pop && let Popped::Item(item) = q.pop(NOW) {
                    out.push(item);
                }
            }
            while let Popped::Item(item) = q.pop(NOW) {
                out.push(item);
            }
            for key in 0..4 {
                let of_key: Vec<usize> = out.iter().filter(|i| i.0 == key).map(|i| i.1).collect();
                prop_assert!(of_key.windows(2).all(|w| w[0] < w[1]), "{:?}", of_key);
                prop_assert_eq!(of_key.last().copied(), pushes.iter().rposition(|p| p.0 == key));
            }
            prop_assert_eq!((out.len() + gone, q.dropped()), (pushes.len(), gone as u64));
        }
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
