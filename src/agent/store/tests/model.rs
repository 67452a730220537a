//! Whatever is done in whatever order, over restarts and power cuts, the store says what a model in memory says.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::rig::*;
use crate::agent::incident::Transition;
use crate::agent::store::*;
use crate::contract::outbox::testing::{MemoryOutbox, sample_alert};
use crate::contract::outbox::{Outbox, OutboxStatus};

#[derive(Debug, Clone)]
enum Act {
    Open(u128),
    Update(u128),
    Close(u128),
    ClipLost(u128),
    Sent(Vec<u64>),
    Confirm(&'static str, u64),
    Restart,
    PowerCut,
}

fn any_act() -> impl Strategy<Value = Act> {
    let n = 1u128..8;
    prop_oneof![
        4 => n.clone().prop_map(Act::Open),
        3 => n.clone().prop_map(Act::Update),
        3 => n.clone().prop_map(Act::Close),
        2 => n.prop_map(Act::ClipLost),
        3 => proptest::collection::vec(0u64..40, 0..6).prop_map(Act::Sent),
        3 => (prop_oneof![Just("soc"), Just("archive"), Just("stranger")], 0u64..40)
            .prop_map(|(c, seq)| Act::Confirm(c, seq)),
        1 => Just(Act::Restart),
        1 => Just(Act::PowerCut),
    ]
}

/// What is known of one incident.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    closed: bool,
    clip_planned: bool,
    clip_settled: bool,
}

struct Model {
    outbox: MemoryOutbox,
    incidents: BTreeMap<u128, Known>,
}

impl Model {
    fn tell(&self, alerts: usize) {
        for _ in 0..alerts {
            self.outbox.add(sample_alert(1));
        }
    }

    fn apply(&mut self, act: &Act) {
        let mut alerts = 0;
        match act {
            Act::Open(n) => {
                self.incidents.entry(*n).or_insert_with(|| {
                    alerts = 1;
                    Known { clip_planned: true, ..Known::default() }
                });
            }
            Act::Update(n) | Act::Close(n) => {
                let known = self.incidents.entry(*n).or_default();
                if !known.closed {
                    alerts = 1;
                    known.closed = matches!(act, Act::Close(_));
                }
            }
            Act::ClipLost(n) => {
                if let Some(known) = self.incidents.get_mut(n)
                    && !known.clip_settled
                {
                    alerts = 1;
                    known.clip_settled = true;
                }
            }
            Act::Sent(seqs) => {
                let known: Vec<_> = seqs.clone();
                self.outbox.mark_sent(&known).expect("in memory");
            }
            Act::Confirm(consumer, seq) => self.outbox.confirm(consumer, *seq).expect("in memory"),
            Act::Restart | Act::PowerCut => {
                for known in self.incidents.values_mut() {
                    alerts += usize::from(!known.closed);
                    alerts += usize::from(known.clip_planned && !known.clip_settled);
                    known.closed = true;
                    known.clip_settled |= known.clip_planned;
                }
            }
        }
        self.tell(alerts);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn the_store_agrees_with_the_model(acts in proptest::collection::vec(any_act(), 0..60)) {
        let policy = || queue_for(&["soc", "archive"]);
        let mut model = Model { outbox: MemoryOutbox::new(&["soc", "archive"]), incidents: BTreeMap::new() };
        let mut rig = Rig::new(policy());
        let epoch = rig.store.status().expect("readable").epoch;
        for act in acts {
            match &act {
                Act::Open(n) => rig.record(Transition::Opened(incident(*n))),
                Act::Update(n) => rig.record(Transition::Updated(incident(*n))),
                Act::Close(n) => rig.record(closed(*n)),
                Act::ClipLost(n) => match rig.store.clip_lost(id(*n), "x") {
                    Err(StoreError::UnknownIncident(_)) => prop_assert!(!model.incidents.contains_key(n)),
                    other => prop_assert!(other.is_ok() && model.incidents.contains_key(n)),
                },
                Act::Sent(seqs) => rig.store.mark_sent(seqs).expect("writable"),
                Act::Confirm(consumer, seq) => rig.store.confirm(consumer, *seq).expect("writable"),
                Act::Restart => rig = Rig::over(rig.end(), policy()),
                Act::PowerCut => rig = Rig::over(rig.power_cut(), policy()),
            }
            model.apply(&act);
            let expected = OutboxStatus { epoch, ..model.outbox.status().expect("in memory") };
            prop_assert_eq!(rig.store.status().expect("readable"), expected);
            let rows = |o: &dyn Outbox, pending: bool| {
                let rows = if pending { o.pending(0, 1000) } else { o.range(0, u64::MAX, 1000) };
                rows.expect("readable").into_iter().map(|r| (r.seq, r.attempts)).collect::<Vec<_>>()
            };
            for pending in [true, false] {
                prop_assert_eq!(rows(&rig.store, pending), rows(&model.outbox, pending));
            }
        }
    }
}
