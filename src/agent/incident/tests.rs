//! The machine by example, then by property.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::agent::config;
use crate::agent::infer::Score;
use crate::contract::alert::{ModelRef, NORMAL};

const CLASSES: [&str; 3] = ["Normal", "Fighting", "Robbery"];

fn settings() -> config::Incident {
    config::Incident {
        smoothing: 1.0,
        hysteresis: 0.1,
        min_windows: 2,
        close_after: Duration::from_secs(2),
        cool_down: Duration::ZERO,
        merge_within: Duration::from_secs(3),
        max_length: Duration::from_secs(20),
        update_every: Duration::from_secs(5),
    }
}

fn thresholds() -> Thresholds {
    let model = CLASSES.iter().map(|c| (c.to_string(), 0.6)).collect();
    Thresholds { model, cameras: BTreeMap::new() }
}

fn camera(name: &str) -> CameraId {
    CameraId::new(name)
}

/// A window of 2 s that ends at `end_ms`.
fn score(name: &str, end_ms: u64, fighting: f32, robbery: f32) -> Score {
    Score {
        camera: camera(name),
        start: Mono::from_millis(end_ms.saturating_sub(2000)),
        end: Mono::from_millis(end_ms),
        arrival: Mono::from_millis(end_ms),
        probabilities: [1.0 - fighting - robbery, fighting, robbery].into(),
        sample_fps: 8.0,
        padded: false,
    }
}

/// A machine whose ids count up.
struct Bench {
    machine: Machine,
    ids: u128,
}

impl Bench {
    fn new(settings: config::Incident) -> Self {
        Bench { machine: Machine::new(CLASSES.map(String::from).to_vec(), settings, thresholds()), ids: 0 }
    }

    fn step(&mut self, now_ms: u64, input: Input) -> Vec<Transition> {
        let ids = &mut self.ids;
        self.machine.step(Mono::from_millis(now_ms), input, &mut || {
            *ids += 1;
            Uuid::from_u128(*ids)
        })
    }

    /// Windows each half second, with these scores of Fighting, from `from_ms` on.
    fn fighting(&mut self, from_ms: u64, scores: &[f32]) -> Vec<Transition> {
        let ends = (0..).map(|i| from_ms + i * 500);
        ends.zip(scores).flat_map(|(end, s)| self.step(end, Input::Score(score("a", end, *s, 0.0)))).collect()
    }
}

fn opened(t: &Transition) -> &Incident {
    match t {
        Transition::Opened(i) => i,
        other => panic!("expected Opened, got {other:?}"),
    }
}

fn closed(t: &Transition) -> (&Incident, CloseReason) {
    match t {
        Transition::Closed(i, reason) => (i, *reason),
        other => panic!("expected Closed, got {other:?}"),
    }
}

#[test]
fn opens_after_enough_windows_with_the_start_of_the_first_and_closes_when_quiet() {
    let mut b = Bench::new(settings());
    assert_eq!(b.fighting(2000, &[0.2, 0.7]), []);
    let out = b.fighting(3000, &[0.9]);
    let i = opened(&out[0]);
    assert_eq!((i.class.as_str(), i.start, i.end), ("Fighting", Mono::from_millis(500), Mono::from_millis(3000)));
    assert_eq!((i.peak_score, i.peak_at, i.windows), (0.9, Mono::from_millis(3000), 2));
    assert_eq!(i.peak_scores["Fighting"], 0.9);
    assert_eq!(i.peak_fps, 8.0);

    // Above the hold level for one more window, then quiet: closes 3 s (merge_within) after its last evidence.
    let out = b.fighting(3500, &[0.55, 0.1, 0.1, 0.1, 0.1, 0.1]);
    assert_eq!(out, []);
    let out = b.fighting(6500, &[0.1]);
    let (i, reason) = closed(&out[0]);
    assert_eq!((i.end, i.windows, reason), (Mono::from_millis(3500), 3, CloseReason::Quiet));
}

#[test]
fn one_window_is_not_enough_and_a_dip_starts_the_count_anew() {
    let mut b = Bench::new(settings());
    assert_eq!(b.fighting(2000, &[0.9, 0.5, 0.9, 0.5, 0.9, 0.5]), []);
}

#[test]
fn smoothing_is_the_running_mean_that_the_config_says() {
    let mut b = Bench::new(config::Incident { smoothing: 0.5, min_windows: 1, ..settings() });
    // 0, 0.5, 0.75: the third passes 0.6.
    assert_eq!(b.fighting(2000, &[0.0, 1.0]), []);
    assert_eq!(opened(&b.fighting(3000, &[1.0])[0]).peak_score, 0.75);
}

#[test]
fn evidence_soon_after_continues_and_evidence_later_is_another() {
    let mut b = Bench::new(settings());
    let first = opened(&b.fighting(2000, &[0.9, 0.9])[0]).id;
    assert_eq!(b.fighting(3000, &[0.1, 0.1, 0.8, 0.8]), []);
    let out = b.fighting(5000, &[0.1; 6]);
    assert_eq!(closed(&out[0]).0.id, first);
    assert_eq!(closed(&out[0]).0.end, Mono::from_millis(4500));
    assert_ne!(opened(&b.fighting(8000, &[0.9, 0.9])[0]).id, first);
}

#[test]
fn a_long_incident_is_cut_and_goes_on_as_another_at_once() {
    let mut b = Bench::new(settings());
    let out = b.fighting(2000, &[0.9; 60]);
    let cut: Vec<_> = out.iter().filter(|t| matches!(t, Transition::Closed(..))).collect();
    assert_eq!(cut.len(), 1);
    let (i, reason) = closed(cut[0]);
    assert_eq!((i.end.since(i.start), reason), (Duration::from_secs(20), CloseReason::MaxLength));
    let at = out.iter().position(|t| t == cut[0]).expect("it is in there");
    let next = opened(&out[at + 1]);
    assert_eq!((next.windows, next.start <= i.end), (1, true), "no time between the two");
}

#[test]
fn updates_are_paced_but_news_is_told_at_once() {
    let mut b = Bench::new(settings());
    let out = b.fighting(2000, &[0.65; 25]);
    let updates = out.iter().filter(|t| matches!(t, Transition::Updated(_))).count();
    assert_eq!(updates, 2, "12 s of the same: at 5 s and at 10 s");
    assert!(matches!(&b.fighting(14_500, &[0.8])[..], [Transition::Updated(i)] if i.peak_score == 0.8));
    assert_eq!(b.fighting(15_000, &[0.85]), [], "slightly worse waits");
}

#[test]
fn another_class_takes_over_when_it_is_stronger() {
    let mut b = Bench::new(settings());
    b.fighting(2000, &[0.65, 0.65]);
    assert_eq!(b.step(3000, Input::Score(score("a", 3000, 0.0, 0.9))), []);
    let out = b.step(3500, Input::Score(score("a", 3500, 0.0, 0.9)));
    assert!(matches!(&out[..], [Transition::Updated(i)] if i.class == "Robbery" && i.peak_score == 0.9));
    assert_eq!(b.machine.open().count(), 1);
}

#[test]
fn the_same_class_cools_down_and_that_is_counted() {
    let mut b = Bench::new(config::Incident { cool_down: Duration::from_secs(10), ..settings() });
    b.fighting(2000, &[0.9, 0.9]);
    let out = b.fighting(3000, &[0.1; 6]);
    assert_eq!(closed(&out[0]).1, CloseReason::Quiet);
    // Closed at 5.5 s: Fighting is deaf until 15.5 s, then opens at once with the evidence since.
    let out = b.fighting(6000, &[0.9; 20]);
    let i = opened(&out[0]);
    assert_eq!((i.start, i.end, i.windows), (Mono::from_millis(13_500), Mono::from_millis(15_500), 1));
    assert_eq!(b.machine.counters().cooled_down, 18);
    // Another class is not deaf.
    let mut b = Bench::new(config::Incident { cool_down: Duration::from_secs(10), ..settings() });
    b.fighting(2000, &[0.9, 0.9]);
    b.fighting(3000, &[0.1; 6]);
    b.step(6000, Input::Score(score("a", 6000, 0.0, 0.9)));
    let out = b.step(6500, Input::Score(score("a", 6500, 0.0, 0.9)));
    assert_eq!(opened(&out[0]).class, "Robbery");
}

#[test]
fn a_disarmed_camera_opens_nothing_but_tests_and_what_is_open_goes_on_to_its_end() {
    let mut b = Bench::new(settings());
    b.machine.arm(&camera("a"), false);
    assert_eq!(b.fighting(2000, &[0.9; 10]), []);
    assert_eq!(b.machine.counters().disarmed, 9, "the first of two windows that it takes is none yet");
    let test = b.step(6600, Input::Test { camera: camera("a") });
    assert_eq!(opened(&test[0]).source, EvidenceSource::Test);
    // Armed at 7 s: what was seen before does not count.
    b.machine.arm(&camera("a"), true);
    let out = b.fighting(7000, &[0.9]);
    assert_eq!((opened(&out[0]).start, opened(&out[0]).windows), (Mono::from_millis(5000), 1));
    // Disarmed again while it is open: it goes on, to its maximum length, and none follows.
    b.machine.arm(&camera("a"), false);
    let out = b.fighting(7500, &[0.9; 60]);
    let ends: Vec<_> = out
        .iter()
        .filter(|t| matches!(t, Transition::Closed(i, _) if i.source == EvidenceSource::Classifier))
        .collect();
    assert_eq!(closed(ends[0]).1, CloseReason::MaxLength);
    assert_eq!(ends.len(), 1);
    assert!(!out.iter().any(|t| matches!(t, Transition::Opened(_))));
    assert_eq!(b.machine.open().count(), 0);
    // Another camera was armed all along.
    let out = [3, 4].map(|s| b.step(60_000 + s * 500, Input::Score(score("b", 60_000 + s * 500, 0.9, 0.0))));
    assert_eq!(opened(&out[1][0]).camera, camera("b"));
}

#[test]
fn a_lost_camera_ends_its_incident_and_what_was_seen_before_does_not_count() {
    let mut b = Bench::new(settings());
    b.fighting(2000, &[0.9, 0.9]);
    let out = b.step(3000, Input::CameraLost { camera: camera("a") });
    assert_eq!(closed(&out[0]).1, CloseReason::CameraLost);
    assert_eq!(b.fighting(3500, &[0.9]), []);
    assert_eq!(b.step(3600, Input::CameraLost { camera: camera("unknown") }), []);
}

#[test]
fn a_gap_ends_the_run_and_a_long_gap_the_incident() {
    let mut b = Bench::new(config::Incident { min_windows: 1, ..settings() });
    let first = opened(&b.fighting(2000, &[0.9])[0]).id;
    let out = b.fighting(60_000, &[0.9]);
    assert_eq!((closed(&out[0]).0.id, closed(&out[0]).1), (first, CloseReason::Quiet));
    assert_ne!(opened(&out[1]).id, first);
}

#[test]
fn without_scores_a_tick_closes_it() {
    let mut b = Bench::new(settings());
    b.fighting(2000, &[0.9, 0.9]);
    assert_eq!(b.step(5400, Input::Tick), []);
    assert_eq!(closed(&b.step(5500, Input::Tick)[0]).1, CloseReason::Quiet);
}

#[test]
fn a_late_score_is_ignored_and_counted() {
    let mut b = Bench::new(settings());
    b.fighting(2000, &[0.1, 0.9]);
    assert_eq!(b.fighting(2500, &[0.9]), [], "the same window twice");
    assert_eq!(b.fighting(2000, &[0.9]), []);
    assert_eq!(b.machine.counters().out_of_order, 2);
}

#[test]
fn a_test_stands_beside_and_ends_by_itself() {
    let mut b = Bench::new(settings());
    b.fighting(2000, &[0.9, 0.9]);
    let out = b.step(2600, Input::Test { camera: camera("a") });
    let test = opened(&out[0]).clone();
    assert_eq!((test.source, test.class.as_str(), test.peak_scores.len()), (EvidenceSource::Test, "Test", 0));
    assert_eq!(b.machine.open().count(), 2);
    assert_eq!(b.fighting(3000, &[0.9, 0.9]), []);
    let out = b.step(5600, Input::Tick);
    let (i, reason) = closed(&out[0]);
    assert_eq!((i.id, i.end.since(i.start), reason), (test.id, TEST_LENGTH, CloseReason::Quiet));
    assert_eq!(b.machine.open().count(), 1);
}

#[test]
fn a_camera_s_own_threshold_and_a_live_change_are_obeyed() {
    let mut b = Bench::new(config::Incident { min_windows: 1, ..settings() });
    let mut own = thresholds();
    own.cameras.insert(camera("a"), [("Fighting".to_owned(), 0.95)].into());
    b.machine.reconfigure(config::Incident { min_windows: 1, ..settings() }, own);
    assert_eq!(b.fighting(2000, &[0.9]), []);
    b.machine.reconfigure(config::Incident { min_windows: 1, ..settings() }, thresholds());
    assert_eq!(opened(&b.fighting(2500, &[0.9])[0]).threshold, 0.6);
}

#[test]
fn normal_and_a_class_without_a_threshold_open_nothing() {
    let mut b = Bench::new(config::Incident { min_windows: 1, ..settings() });
    assert_eq!(b.fighting(2000, &[0.0, 0.0]), [], "Normal at 1.0");
    let only_fighting = Thresholds { model: [("Fighting".to_owned(), 0.6)].into(), cameras: BTreeMap::new() };
    b.machine.reconfigure(config::Incident { min_windows: 1, ..settings() }, only_fighting);
    assert_eq!(b.step(4000, Input::Score(score("a", 4000, 0.0, 1.0))), []);
}

/// What to do next, in a property test.
#[derive(Debug, Clone)]
enum Act {
    Score { camera: u8, forward_ms: u64, back_ms: u64, length_ms: u64, p: Vec<f32>, fps: f32 },
    Test(u8),
    Lost(u8),
    Tick(u64),
    Stop,
    Reconfigure(config::Incident, Vec<f32>),
}

fn any_settings() -> impl Strategy<Value = config::Incident> {
    ((0.01f32..=1.0, 0.0f32..=0.5, 1u32..5), (0u64..8, 0u64..20, 0u64..12, 10u64..30, 1u64..10)).prop_map(
        |((smoothing, hysteresis, min_windows), (close, cool, merge, max, update))| config::Incident {
            smoothing,
            hysteresis,
            min_windows,
            close_after: Duration::from_secs(close),
            cool_down: Duration::from_secs(cool),
            merge_within: Duration::from_secs(merge),
            max_length: Duration::from_secs(max),
            update_every: Duration::from_secs(update),
        },
    )
}

fn any_act() -> impl Strategy<Value = Act> {
    let p = prop_oneof![
        9 => proptest::collection::vec(0.0f32..=1.0, 3),
        1 => proptest::collection::vec(proptest::num::f32::ANY, 0..5),
    ];
    let fps = prop_oneof![9 => Just(8.0f32), 1 => proptest::num::f32::ANY];
    let scored = (0u8..3, 0u64..1500, prop_oneof![5 => Just(0u64), 1 => 0u64..3000], 0u64..40_000, p, fps);
    prop_oneof![
        20 => scored.prop_map(|(camera, forward_ms, back_ms, length_ms, p, fps)| {
            // Most windows are 2 s long; some are nonsense.
            let length_ms = if length_ms < 36_000 { 2000 } else { length_ms };
            Act::Score { camera, forward_ms, back_ms, length_ms, p, fps }
        }),
        1 => (0u8..3).prop_map(Act::Test),
        1 => (0u8..3).prop_map(Act::Lost),
        3 => (0u64..5000).prop_map(Act::Tick),
        1 => Just(Act::Stop),
        1 => (any_settings(), proptest::collection::vec(0.05f32..=1.0, 3))
            .prop_map(|(s, t)| Act::Reconfigure(s, t)),
    ]
}

struct Played {
    transitions: Vec<Transition>,
    /// The most classifier incidents that one camera had open at once.
    most_open: usize,
}

fn play(first: &config::Incident, acts: &[Act]) -> Played {
    let mut b = Bench::new(first.clone());
    let (mut now, mut played) = (10_000, Played { transitions: Vec::new(), most_open: 0 });
    for act in acts.iter().chain([&Act::Stop]) {
        let name = |c: u8| camera(["a", "b", "c"][usize::from(c)]);
        let input = match act.clone() {
            Act::Score { camera, forward_ms, back_ms, length_ms, p, fps } => {
                now += forward_ms;
                let end = Mono::from_millis(now - back_ms);
                Input::Score(Score {
                    camera: name(camera),
                    start: end.back(Duration::from_millis(length_ms)),
                    end,
                    arrival: end,
                    probabilities: p.into(),
                    sample_fps: fps,
                    padded: false,
                })
            }
            Act::Test(c) => Input::Test { camera: name(c) },
            Act::Lost(c) => Input::CameraLost { camera: name(c) },
            Act::Tick(forward_ms) => {
                now += forward_ms;
                Input::Tick
            }
            Act::Stop => Input::Stop,
            Act::Reconfigure(s, t) => {
                let model = CLASSES.iter().map(|c| c.to_string()).zip(t).collect();
                b.machine.reconfigure(s, Thresholds { model, cameras: BTreeMap::new() });
                continue;
            }
        };
        played.transitions.extend(b.step(now, input));
        let mut open: BTreeMap<_, usize> = BTreeMap::new();
        for i in b.machine.open().filter(|i| i.source == EvidenceSource::Classifier) {
            *open.entry(i.camera.clone()).or_default() += 1;
        }
        played.most_open = played.most_open.max(open.values().copied().max().unwrap_or(0));
    }
    played
}

#[test]
fn an_incident_that_is_open_when_another_model_takes_over_keeps_its_thresholds_and_says_both() {
    let model = |name: &str| ModelRef { name: name.into(), version: "1.0.0".into(), digest: "ab".into() };
    let Bench { machine, ids } = Bench::new(settings());
    let mut b = Bench { machine: machine.of_model(model("old")), ids };
    assert!(matches!(b.fighting(10_000, &[0.9; 4]).first(), Some(Transition::Opened(_))));
    // The new one has other classes, in another order, and would hold nothing below .95.
    let classes = ["Arson", "Fighting", "Normal"].map(String::from).to_vec();
    let high = classes.iter().map(|c| (c.clone(), 0.95)).collect();
    b.machine.serve(model("new"), classes, high);
    let mut by_new = |from_ms: u64, scores: &[f32]| -> Vec<Transition> {
        let ends = (0..).map(|i| from_ms + i * 500);
        let score =
            |(end, p): (u64, &f32)| Score { probabilities: [0.0, *p, 1.0 - p].into(), ..score("a", end, 0.0, 0.0) };
        ends.zip(scores).flat_map(|(end, p)| b.step(end, Input::Score(score((end, p))))).collect()
    };
    let mut told = by_new(12_000, &[0.7; 8]);
    assert!(!told.iter().any(|t| matches!(t, Transition::Closed(..))), "0.7 holds what 0.6 opened: {told:?}");
    told.extend(by_new(16_000, &[0.1; 12]));
    let Some(Transition::Closed(incident, CloseReason::Quiet)) = told.last() else { panic!("{told:?}") };
    assert_eq!((incident.model.clone(), incident.later_model.clone()), (Some(model("old")), Some(model("new"))));
    assert_eq!((incident.class.as_str(), incident.threshold), ("Fighting", 0.6));
    // From here on the new one's thresholds hold, and what it opens is its own.
    assert_eq!(by_new(30_000, &[0.9; 6]), []);
    let later = by_new(40_000, &[0.99; 6]);
    let Some(Transition::Opened(incident)) = later.first() else { panic!("{later:?}") };
    assert_eq!((incident.model.clone(), incident.later_model.clone()), (Some(model("new")), None));
}

proptest! {
    #[test]
    fn every_incident_opens_once_closes_once_and_is_well_formed(
        first in any_settings(), acts in proptest::collection::vec(any_act(), 0..200),
    ) {
        let played = play(&first, &acts);
        let mut open = BTreeMap::new();
        let mut seen = std::collections::BTreeSet::new();
        for t in &played.transitions {
            let (Transition::Opened(i) | Transition::Updated(i) | Transition::Closed(i, _)) = t;
            prop_assert!(i.start <= i.peak_at && i.peak_at <= i.end, "{i:?}");
            prop_assert_ne!(i.class.as_str(), NORMAL);
            prop_assert!(i.peak_score.is_finite());
            match t {
                Transition::Opened(_) => {
                    prop_assert!(seen.insert(i.id), "an id is used once");
                    open.insert(i.id, i.clone());
                }
                Transition::Updated(_) => prop_assert!(open.contains_key(&i.id)),
                Transition::Closed(..) => {
                    let was = open.remove(&i.id);
                    prop_assert!(was.is_some_and(|was| was.start == i.start && was.end <= i.end));
                }
            }
        }
        prop_assert!(open.is_empty(), "left open: {open:?}");
        prop_assert!(played.most_open <= 1);
    }

    #[test]
    fn the_same_inputs_give_the_same_transitions(
        first in any_settings(), acts in proptest::collection::vec(any_act(), 0..100),
    ) {
        prop_assert_eq!(play(&first, &acts).transitions, play(&first, &acts).transitions);
    }

    #[test]
    fn nothing_is_longer_than_it_may_be(
        settings in any_settings(), scores in proptest::collection::vec((0u64..1500, 0.0f32..=1.0), 0..300),
    ) {
        let mut b = Bench::new(settings.clone());
        let mut now = 10_000;
        for (forward, p) in scores {
            now += forward;
            for t in b.step(now, Input::Score(score("a", now, p, 0.0))) {
                let (Transition::Opened(i) | Transition::Updated(i) | Transition::Closed(i, _)) = t;
                prop_assert!(i.end.since(i.start) <= settings.max_length);
            }
        }
    }

    #[test]
    fn scores_below_their_thresholds_open_nothing(
        settings in any_settings(), scores in proptest::collection::vec((1u64..1500, 0.0f32..0.599, 0.0f32..0.599), 0..200),
    ) {
        let mut b = Bench::new(settings);
        let mut now = 10_000;
        for (forward, fighting, robbery) in scores {
            now += forward;
            prop_assert_eq!(b.step(now, Input::Score(score("a", now, fighting, robbery))), []);
        }
    }

    #[test]
    fn one_camera_does_not_change_what_another_gives(
        settings in any_settings(),
        acts in proptest::collection::vec((0u8..2, 0u64..1000, 0.0f32..=1.0), 0..200),
    ) {
        let run = |only: Option<u8>| {
            let mut b = Bench::new(settings.clone());
            let (mut now, mut out) = (10_000, Vec::new());
            for (c, forward, p) in &acts {
                now += forward;
                if only.is_none_or(|o| o == *c) {
                    let name = if *c == 0 { "a" } else { "b" };
                    out.extend(b.step(now, Input::Score(score(name, now, *p, 0.0))));
                }
            }
            out.retain(|t| matches!(t, Transition::Opened(i) | Transition::Updated(i) | Transition::Closed(i, _)
                if i.camera == camera("a")));
            // Ids count up over all cameras.
            for t in &mut out {
                let (Transition::Opened(i) | Transition::Updated(i) | Transition::Closed(i, _)) = t;
                i.id = Uuid::nil();
            }
            out
        };
        prop_assert_eq!(run(None), run(Some(0)));
    }
}
