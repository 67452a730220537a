use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::base::clock::Wall;
use crate::contract::alert::AlertKind;
use crate::contract::cloudevent::tests::alert;

fn row(seq: u64, camera: &str) -> OutboxRow {
    OutboxRow {
        seq,
        queued: Wall::from_unix_ms(0),
        attempts: 0,
        after: None,
        dispatch: alert(camera, AlertKind::Opened).into(),
    }
}

fn rows(seqs: std::ops::RangeInclusive<u64>, camera: &str) -> Vec<OutboxRow> {
    seqs.map(|s| row(s, camera)).collect()
}

/// Reads and offers until there is nothing to do; what was sent, in order.
fn pump(
    lanes: &mut Lanes,
    outbox: &BTreeMap<u64, OutboxRow>,
    delivered: &BTreeSet<u64>,
    now: Mono,
) -> Vec<(u64, Lane)> {
    let mut sent: Vec<_> = lanes.probes(now).into_iter().map(|r| (r.seq, Lane::Backlog)).collect();
    while let Some(fetch) = lanes.want() {
        let pending = outbox.range(fetch.from..).take(fetch.limit).map(|(_, r)| r.clone()).collect();
        sent.extend(lanes.offer(fetch, pending, delivered, now).into_iter().map(|(r, lane)| (r.seq, lane)));
    }
    sent
}

fn outbox(rows: Vec<OutboxRow>) -> BTreeMap<u64, OutboxRow> {
    rows.into_iter().map(|r| (r.seq, r)).collect()
}

#[test]
fn news_overtakes_history_and_history_never_fills_the_window() {
    let mut lanes = Lanes::new(100);
    let mut outbox = outbox(rows(1..=100, "north"));
    let none = BTreeSet::new();
    let sent = pump(&mut lanes, &outbox, &none, Mono::ZERO);
    assert_eq!(sent, (1..=8).map(|s| (s, Lane::Backlog)).collect::<Vec<_>>());
    outbox.extend(rows(101..=103, "north").into_iter().map(|r| (r.seq, r)));
    lanes.added(103, Mono::ZERO);
    let sent = pump(&mut lanes, &outbox, &none, Mono::ZERO);
    assert_eq!(sent, (101..=103).map(|s| (s, Lane::Live)).collect::<Vec<_>>());
}

#[test]
fn what_waits_for_long_is_no_longer_news() {
    let mut lanes = Lanes::new(10);
    let at = Mono::from_millis;
    for (newest, ms) in [(11, 0), (12, 900), (13, 20_000)] {
        lanes.added(newest, at(ms));
    }
    let history = |lanes: &mut Lanes, ms| {
        (11..=13).filter(|seq| lanes.is_history(&row(*seq, "north"), at(ms))).collect::<Vec<u64>>()
    };
    assert!(history(&mut lanes, 30_000).is_empty());
    assert_eq!(history(&mut lanes, 30_001), [11, 12], "noted together");
    assert_eq!(history(&mut lanes, 50_001), [11, 12, 13]);
    assert!(lanes.is_history(&row(10, "north"), at(0)), "from before the connection");
    assert!(lanes.is_history(&OutboxRow { attempts: 1, ..row(14, "north") }, at(0)), "asked for again");
}

#[test]
fn history_takes_no_more_of_a_line_than_it_answers_promptly() {
    let mut lanes = Lanes::new(10_000);
    let outbox = outbox(rows(1..=10_000, "north"));
    let (mut delivered, mut now) = (BTreeSet::new(), Mono::ZERO);
    let mut open: BTreeSet<u64> = BTreeSet::new();
    let mut most = |took_ms, rounds| {
        let mut most = 0;
        for _ in 0..rounds {
            open.extend(pump(&mut lanes, &outbox, &delivered, now).into_iter().map(|(seq, _)| seq));
            most = open.len();
            now = now + Duration::from_millis(took_ms);
            for seq in std::mem::take(&mut open) {
                delivered.insert(seq);
                lanes.answered(seq, Outcome::Delivered, now);
            }
        }
        most
    };
    assert_eq!(most(20, 10), BACKLOG_MOST, "a fast line");
    assert_eq!(most(2000, 6), BACKLOG_FIRST, "that gets slow");
    assert_eq!(most(20, 10), BACKLOG_MOST, "and fast again");
}

#[test]
fn a_line_that_is_long_and_not_slow_carries_more() {
    let mut lanes = Lanes::new(1000);
    let outbox = outbox(rows(1..=1000, "north"));
    let (mut delivered, mut now) = (BTreeSet::new(), Mono::ZERO);
    for _ in 0..12 {
        let sent = pump(&mut lanes, &outbox, &delivered, now);
        now = now + Duration::from_millis(800);
        for (seq, _) in sent {
            delivered.insert(seq);
            lanes.answered(seq, Outcome::Delivered, now);
        }
    }
    assert_eq!(delivered.len(), 1000, "by satellite");
}

#[test]
fn nothing_of_an_incident_overtakes_what_comes_before_it() {
    let none = BTreeSet::new();
    let after = |seq, after| OutboxRow { after: Some(after), ..row(seq, "north") };
    // It opened before the connection, behind much else, and goes on after it.
    let mut lanes = Lanes::new(100);
    let mut all = outbox(rows(1..=100, "north"));
    pump(&mut lanes, &all, &none, Mono::ZERO);
    all.extend([(101, after(101, 100)), (102, row(102, "north")), (103, after(103, 102))]);
    lanes.added(103, Mono::ZERO);
    let news = pump(&mut lanes, &all, &none, Mono::ZERO);
    assert_eq!(news, [(102, Lane::Live), (103, Lane::Live)], "that of another goes at once");
    let (mut delivered, mut order) = (BTreeSet::new(), Vec::new());
    let mut open: BTreeSet<u64> = (1..=8).chain([102, 103]).collect();
    while let Some(seq) = open.pop_first() {
        delivered.insert(seq);
        order.push(seq);
        lanes.answered(seq, Outcome::Delivered, Mono::ZERO);
        open.extend(pump(&mut lanes, &all, &delivered, Mono::ZERO).into_iter().map(|(seq, _)| seq));
    }
    assert_eq!(delivered.len(), 103);
    let at = |seq| order.iter().position(|s| *s == seq);
    assert!(at(100) < at(101), "{order:?}");

    // What was read before its predecessor's mark was made does not wait for that.
    let mut lanes = Lanes::new(0);
    lanes.added(1, Mono::ZERO);
    assert_eq!(pump(&mut lanes, &outbox(vec![row(1, "north")]), &none, Mono::ZERO), [(1, Lane::Live)]);
    lanes.answered(1, Outcome::Delivered, Mono::ZERO);
    lanes.added(2, Mono::ZERO);
    assert_eq!(pump(&mut lanes, &outbox(vec![after(2, 1)]), &none, Mono::ZERO), [(2, Lane::Live)]);
}

#[test]
fn a_topic_nobody_hears_waits_without_holding_up_others() {
    let mut lanes = Lanes::new(20);
    let outbox = outbox((1..=20).map(|s| row(s, if s % 2 == 0 { "south" } else { "north" })).collect());
    let mut delivered = BTreeSet::new();
    let mut open: Vec<_> = pump(&mut lanes, &outbox, &delivered, Mono::ZERO);
    while let Some((seq, _)) = open.pop() {
        let south = seq % 2 == 0;
        if !south {
            delivered.insert(seq);
        }
        lanes.answered(seq, if south { Outcome::Nobody } else { Outcome::Delivered }, Mono::ZERO);
        open.extend(pump(&mut lanes, &outbox, &delivered, Mono::ZERO));
    }
    assert_eq!(delivered, (1..=20).filter(|s| s % 2 == 1).collect());
    assert!(lanes.drained());
    assert!(pump(&mut lanes, &outbox, &delivered, Mono::ZERO).is_empty(), "the delay has not passed");

    let probe = pump(&mut lanes, &outbox, &delivered, Mono::from_millis(1000));
    assert_eq!(probe.len(), 1, "one row goes ahead to see whether the topic is open");
    delivered.insert(probe[0].0);
    assert_eq!(lanes.answered(probe[0].0, Outcome::Delivered, Mono::from_millis(1000)), News::Lifted);
    let mut open = pump(&mut lanes, &outbox, &delivered, Mono::from_millis(1000));
    assert!(open.len() > 1, "then the rest, as far as the window goes");
    while let Some((seq, _)) = open.pop() {
        delivered.insert(seq);
        lanes.answered(seq, Outcome::Delivered, Mono::from_millis(1000));
        open.extend(pump(&mut lanes, &outbox, &delivered, Mono::from_millis(1000)));
    }
    assert_eq!(delivered, (1..=20).collect());
}

#[test]
fn a_live_alert_tries_a_held_topic_at_once_and_opens_it() {
    let mut lanes = Lanes::new(1);
    let mut outbox = outbox(rows(1..=1, "north"));
    let none = BTreeSet::new();
    pump(&mut lanes, &outbox, &none, Mono::ZERO);
    assert_eq!(lanes.answered(1, Outcome::Nobody, Mono::ZERO), News::Held);
    outbox.insert(2, row(2, "north"));
    lanes.added(2, Mono::ZERO);
    assert_eq!(pump(&mut lanes, &outbox, &none, Mono::ZERO), [(2, Lane::Live)]);
    assert_eq!(lanes.answered(2, Outcome::Delivered, Mono::ZERO), News::Lifted);
    assert_eq!(pump(&mut lanes, &outbox, &BTreeSet::from([2]), Mono::ZERO), [(1, Lane::Backlog)]);
}

#[test]
fn a_message_the_broker_cannot_take_waits_alone() {
    let mut lanes = Lanes::new(3);
    let outbox = outbox(rows(1..=3, "north"));
    let mut delivered = BTreeSet::new();
    pump(&mut lanes, &outbox, &delivered, Mono::ZERO);
    assert_eq!(lanes.answered(1, Outcome::Unfit, Mono::ZERO), News::SetAside);
    for seq in [2, 3] {
        delivered.insert(seq);
        assert_eq!(lanes.answered(seq, Outcome::Delivered, Mono::ZERO), News::None);
    }
    assert!(pump(&mut lanes, &outbox, &delivered, Mono::from_millis(599_000)).is_empty());
    assert_eq!(pump(&mut lanes, &outbox, &delivered, Mono::from_millis(600_000)), [(1, Lane::Backlog)]);
}

#[test]
fn rows_read_before_a_rewind_are_not_taken_for_the_next() {
    let mut lanes = Lanes::new(40);
    let outbox = outbox(rows(1..=40, "north"));
    let mut delivered = BTreeSet::new();
    pump(&mut lanes, &outbox, &delivered, Mono::ZERO);
    for seq in 1..=7 {
        delivered.insert(seq);
        lanes.answered(seq, Outcome::Delivered, Mono::ZERO);
    }
    let stale = lanes.want().unwrap();
    lanes.answered(8, Outcome::Nobody, Mono::ZERO);
    lanes.rewind(8);
    let pending = outbox.range(stale.from..).take(stale.limit).map(|(_, r)| r.clone()).collect();
    assert!(lanes.offer(stale, pending, &delivered, Mono::ZERO).is_empty());
    assert_eq!(lanes.want().map(|f| f.from), Some(8));
}

#[derive(Debug, Clone)]
enum Step {
    Add(u8),
    Answer(u8, Outcome),
    Wait(u16),
    Prune(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![
        3 => Just(Outcome::Delivered),
        2 => Just(Outcome::Nobody),
        1 => Just(Outcome::Refused),
        1 => Just(Outcome::Unfit)
    ];
    prop_oneof![
        3 => (0u8..3).prop_map(Step::Add),
        6 => (any::<u8>(), outcome).prop_map(|(which, outcome)| Step::Answer(which, outcome)),
        2 => (0u16..2000).prop_map(Step::Wait),
        1 => any::<u8>().prop_map(Step::Prune),
    ]
}

proptest! {
    /// Whatever a broker answers, the invariants hold; and once it takes everything, everything goes.
    #[test]
    fn every_row_is_delivered_once_the_broker_takes_it(
        before in proptest::collection::vec(0u8..3, 0..40),
        steps in proptest::collection::vec(step(), 0..200),
    ) {
        const CAMERAS: [&str; 3] = ["a", "b", "c"];
        let mut outbox: BTreeMap<u64, OutboxRow> = BTreeMap::new();
        let mut newest = 0;
        for camera in before {
            newest += 1;
            outbox.insert(newest, row(newest, CAMERAS[camera as usize]));
        }
        let mut lanes = Lanes::new(newest);
        let (mut delivered, mut flying) = (BTreeSet::new(), BTreeSet::new());
        let mut now = Mono::ZERO;
        for step in steps {
            match step {
                Step::Add(camera) => {
                    newest += 1;
                    outbox.insert(newest, row(newest, CAMERAS[camera as usize]));
                    lanes.added(newest, now);
                }
                Step::Answer(which, outcome) if !flying.is_empty() => {
                    let seq = *flying.iter().nth(which as usize % flying.len()).unwrap();
                    flying.remove(&seq);
                    if outcome == Outcome::Delivered {
                        delivered.insert(seq);
                    }
                    lanes.answered(seq, outcome, now);
                }
                Step::Wait(ms) => now = now + Duration::from_millis(ms.into()),
                // Marked in the outbox: no longer pending, no longer to be remembered.
                Step::Prune(upto) => delivered.retain(|s| { let keep = *s > u64::from(upto); if !keep { outbox.remove(s); } keep }),
                Step::Answer(..) => {}
            }
            for (seq, _) in pump(&mut lanes, &outbox, &delivered, now) {
                prop_assert!(flying.insert(seq), "{} is in flight twice", seq);
                prop_assert!(!delivered.contains(&seq), "{} was delivered already", seq);
            }
            prop_assert!(flying.len() <= WINDOW);
            prop_assert_eq!(flying.len(), lanes.in_flight());
        }
        for _ in 0..1000 {
            now = now + Duration::from_secs(60);
            for seq in std::mem::take(&mut flying) {
                delivered.insert(seq);
                lanes.answered(seq, Outcome::Delivered, now);
            }
            flying.extend(pump(&mut lanes, &outbox, &delivered, now).into_iter().map(|(s, _)| s));
            if flying.is_empty() && outbox.keys().all(|s| delivered.contains(s)) {
                break;
            }
        }
        prop_assert!(outbox.keys().all(|s| delivered.contains(s)), "left: {:?}",
            outbox.keys().filter(|s| !delivered.contains(s)).collect::<Vec<_>>());
        prop_assert!(lanes.drained());
    }
}
