//! The promises of [`Outbox`] as a suite that every implementation passes, and the simplest implementation that
//! does: in memory, for tests of those who use one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use uuid::Uuid;

use super::*;
use crate::contract::alert::{AlertKind, ClockState, IncidentReport, Place, Severity};

/// An outbox that forgets with the process.
pub struct MemoryOutbox {
    state: Mutex<State>,
    added: watch::Sender<u64>,
    rewound: watch::Sender<u64>,
}

/// The epoch of every [`MemoryOutbox`].
const EPOCH: Uuid = Uuid::from_u128(1);

#[derive(Default)]
struct State {
    consumers: Vec<String>,
    newest: u64,
    /// Row and whether a broker has it.
    rows: BTreeMap<u64, (OutboxRow, bool)>,
    confirmed: BTreeMap<String, u64>,
}

impl State {
    fn release(&mut self) {
        if self.consumers.is_empty() {
            self.rows.retain(|_, (_, sent)| !*sent);
        } else {
            let has = |c| self.confirmed.get(c).copied().unwrap_or(0);
            let everyone_has = self.consumers.iter().map(has).min().unwrap_or(0);
            self.rows.retain(|seq, _| *seq > everyone_has);
        }
    }
}

impl MemoryOutbox {
    /// An empty one, for these consumers.
    pub fn new(consumers: &[&str]) -> Self {
        let state = State { consumers: consumers.iter().map(ToString::to_string).collect(), ..State::default() };
        MemoryOutbox { state: Mutex::new(state), added: watch::Sender::new(0), rewound: watch::Sender::default() }
    }

    /// Adds an alert; its sequence number.
    pub fn add(&self, alert: Alert) -> u64 {
        let mut s = self.state.lock().expect("no test panics under it");
        s.newest += 1;
        let seq = s.newest;
        s.rows.insert(
            seq,
            (OutboxRow { seq, queued: Wall::from_unix_ms(0), attempts: 0, after: None, dispatch: alert.into() }, false),
        );
        drop(s);
        self.added.send_replace(seq);
        seq
    }
}

impl Outbox for MemoryOutbox {
    fn pending(&self, from: u64, limit: usize) -> Result<Vec<OutboxRow>, OutboxError> {
        let s = self.state.lock().expect("no test panics under it");
        let unsent = || s.rows.values().filter(|(_, sent)| !sent).map(|(row, _)| row);
        let after = |r: &OutboxRow| {
            unsent().filter(|e| e.seq < r.seq && e.dispatch.subject() == r.dispatch.subject()).map(|e| e.seq).max()
        };
        let pending = unsent().filter(|r| r.seq >= from).take(limit);
        Ok(pending.map(|r| OutboxRow { after: after(r), ..r.clone() }).collect())
    }

    fn range(&self, from: u64, to: u64, limit: usize) -> Result<Vec<OutboxRow>, OutboxError> {
        let s = self.state.lock().expect("no test panics under it");
        Ok(s.rows.values().map(|(r, _)| r).filter(|r| (from..=to).contains(&r.seq)).take(limit).cloned().collect())
    }

    fn mark_sent(&self, seqs: &[u64]) -> Result<(), OutboxError> {
        let mut s = self.state.lock().expect("no test panics under it");
        for seq in seqs {
            if let Some((row, sent)) = s.rows.get_mut(seq) {
                row.attempts += 1;
                *sent = true;
            }
        }
        s.release();
        Ok(())
    }

    fn confirm(&self, consumer: &str, seq: u64) -> Result<(), OutboxError> {
        let mut s = self.state.lock().expect("no test panics under it");
        if seq <= s.newest && s.consumers.iter().any(|c| c == consumer) {
            let has = s.confirmed.entry(consumer.to_owned()).or_default();
            *has = seq.max(*has);
            s.release();
        }
        Ok(())
    }

    fn resend(&self, from: u64, to: u64) -> Result<(), OutboxError> {
        let mut s = self.state.lock().expect("no test panics under it");
        s.rows.iter_mut().filter(|(seq, _)| (from..=to).contains(*seq)).for_each(|(_, (_, sent))| *sent = false);
        drop(s);
        self.rewound.send_modify(|version| *version += 1);
        Ok(())
    }

    fn rewound(&self) -> watch::Receiver<u64> {
        self.rewound.subscribe()
    }

    fn status(&self) -> Result<OutboxStatus, OutboxError> {
        let s = self.state.lock().expect("no test panics under it");
        let pending = s.rows.values().filter(|(_, sent)| !sent).count() as u64;
        Ok(OutboxStatus {
            epoch: EPOCH,
            newest: s.newest,
            oldest_kept: s.rows.keys().next().copied(),
            pending,
            unconfirmed: s.rows.len() as u64 - pending,
            given_up: Vec::new(),
        })
    }

    fn added(&self) -> watch::Receiver<u64> {
        self.added.subscribe()
    }
}

impl OutboxRow {
    /// The alert that it must be.
    pub fn alert(&self) -> &Alert {
        self.dispatch.alert().expect("an alert")
    }
}

/// An `opened` alert about an incident with this number in its id.
pub fn sample_alert(n: u128) -> Alert {
    Alert {
        id: Uuid::from_u128(1 << 64 | n),
        kind: AlertKind::Opened,
        event_time_unix_ms: Wall::from_unix_ms(1_700_000_000_000),
        clock: ClockState { synchronised: true, estimated_error_ms: Some(1.5) },
        incident: IncidentReport {
            id: Uuid::from_u128(n),
            site: "site".into(),
            device: "device".into(),
            camera: "gate".into(),
            test: false,
            class: "Fighting".into(),
            start_time: "2023-11-14T22:13:20.000Z".into(),
            end_time: None,
            peak_score: 0.9,
            peak_time: "2023-11-14T22:13:20.000Z".into(),
            peak_fps: Some(8.0),
            scores: BTreeMap::from([("Normal".into(), 0.1), ("Fighting".into(), 0.9)]),
            threshold: 0.6,
            close_reason: None,
            model: None,
            later_model: None,
        },
        clip: None,
        severity: Severity::Severe,
        place: Some(Place { latitude: 0.0, longitude: 0.0, name: None }),
    }
}

/// One implementation under test, empty.
pub struct Subject {
    /// The outbox.
    pub outbox: Arc<dyn Outbox>,
    /// Commits one more alert to it.
    pub add: Box<dyn FnMut()>,
}

/// Runs the suite; `make` gives an empty outbox for these consumers.
pub fn suite(mut make: impl FnMut(&[&str]) -> Subject) {
    numbers_and_pages(make(&["soc"]));
    one_consumer(make(&["soc"]));
    every_consumer_counts(make(&["soc", "archive"]));
    without_consumers_a_broker_is_enough(make(&[]));
    nonsense_changes_nothing(make(&["soc"]));
    additions_wake(make(&["soc"]));
    what_was_sent_can_be_sent_again(make(&["soc"]));
}

fn seqs(rows: Result<Vec<OutboxRow>, OutboxError>) -> Vec<u64> {
    rows.expect("readable").into_iter().map(|r| r.seq).collect()
}

fn filled(mut subject: Subject, count: usize) -> Arc<dyn Outbox> {
    for _ in 0..count {
        (subject.add)();
    }
    subject.outbox
}

fn numbers_and_pages(subject: Subject) {
    let empty = subject.outbox.status().expect("readable");
    assert_eq!(empty, OutboxStatus { epoch: empty.epoch, ..OutboxStatus::default() });
    assert!(!empty.epoch.is_nil());
    let o = filled(subject, 5);
    assert_eq!(seqs(o.pending(0, 10)), [1, 2, 3, 4, 5]);
    assert_eq!(seqs(o.pending(2, 2)), [2, 3]);
    assert_eq!(seqs(o.range(2, 4, 10)), [2, 3, 4]);
    assert_eq!(seqs(o.range(1, u64::MAX, 3)), [1, 2, 3]);
    assert_eq!(seqs(o.range(4, 2, 10)), [0; 0]);
    o.mark_sent(&[1, 3]).expect("writable");
    assert_eq!(seqs(o.pending(0, 10)), [2, 4, 5]);
    assert_eq!(seqs(o.range(1, 5, 10)), [1, 2, 3, 4, 5], "a sent row is still there to be replayed");
    let status = o.status().expect("readable");
    assert_eq!((status.newest, status.oldest_kept, status.pending, status.unconfirmed), (5, Some(1), 3, 2));
}

fn one_consumer(subject: Subject) {
    let o = filled(subject, 4);
    o.mark_sent(&[1]).expect("writable");
    o.mark_sent(&[1]).expect("writable");
    assert_eq!(o.range(1, 1, 1).expect("readable")[0].attempts, 2, "each time a broker had it counts");
    o.confirm("soc", 2).expect("writable");
    assert_eq!(seqs(o.range(1, 9, 9)), [3, 4], "a row that was confirmed before PUBACK came goes too");
    o.mark_sent(&[2]).expect("a PUBACK that comes after that is no error");
    o.confirm("soc", 1).expect("an older confirmation is no error");
    assert_eq!(seqs(o.pending(0, 9)), [3, 4]);
    o.confirm("soc", 4).expect("writable");
    let status = o.status().expect("readable");
    assert_eq!((status.newest, status.oldest_kept, status.pending), (4, None, 0), "the count goes on from here");
}

fn every_consumer_counts(subject: Subject) {
    let o = filled(subject, 3);
    o.mark_sent(&[1, 2, 3]).expect("writable");
    o.confirm("soc", 3).expect("writable");
    assert_eq!(seqs(o.range(1, 9, 9)), [1, 2, 3]);
    o.confirm("archive", 2).expect("writable");
    assert_eq!(seqs(o.range(1, 9, 9)), [3]);
}

fn without_consumers_a_broker_is_enough(subject: Subject) {
    let o = filled(subject, 3);
    o.confirm("soc", 3).expect("nobody is asked to confirm");
    assert_eq!(seqs(o.pending(0, 9)), [1, 2, 3]);
    o.mark_sent(&[2]).expect("writable");
    assert_eq!(seqs(o.range(1, 9, 9)), [1, 3]);
}

fn nonsense_changes_nothing(subject: Subject) {
    let o = filled(subject, 2);
    o.confirm("stranger", 2).expect("unknown consumers change nothing");
    o.confirm("soc", 3).expect("a number never given out changes nothing");
    o.confirm("soc", u64::MAX).expect("a number never given out changes nothing");
    o.mark_sent(&[7, u64::MAX]).expect("unknown numbers change nothing");
    o.mark_sent(&[]).expect("nothing changes nothing");
    assert_eq!(seqs(o.pending(0, 9)), [1, 2]);
    assert_eq!(o.status().expect("readable").unconfirmed, 0);
}

fn what_was_sent_can_be_sent_again(subject: Subject) {
    let o = filled(subject, 4);
    o.mark_sent(&[1, 2, 3]).expect("writable");
    o.confirm("soc", 1).expect("writable");
    let mut rewound = o.rewound();
    rewound.borrow_and_update();
    o.resend(1, 2).expect("writable");
    assert!(rewound.has_changed().expect("the outbox lives"));
    assert_eq!(seqs(o.pending(0, 9)), [2, 4], "what is confirmed is gone");
    o.mark_sent(&[2]).expect("writable");
    assert_eq!(o.range(2, 2, 1).expect("readable")[0].attempts, 2);
}

fn additions_wake(subject: Subject) {
    let mut added = subject.outbox.added();
    let before = *added.borrow_and_update();
    assert!(!added.has_changed().expect("the outbox lives"));
    let o = filled(subject, 1);
    assert!(added.has_changed().expect("the outbox lives"));
    assert!(*added.borrow_and_update() > before);
    o.mark_sent(&[1]).expect("writable");
    assert!(!added.has_changed().expect("the outbox lives"), "only additions wake");
}

#[test]
fn memory_keeps_the_promises() {
    suite(|consumers| {
        let outbox = Arc::new(MemoryOutbox::new(consumers));
        let adder = Arc::clone(&outbox);
        let mut n = 0;
        let add = Box::new(move || {
            n += 1;
            adder.add(sample_alert(n));
        });
        Subject { outbox, add }
    });
}
