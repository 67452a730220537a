use proptest::prelude::*;

use super::*;
use crate::agent::incident::{Input, Machine, Thresholds};
use crate::agent::infer::Score;

const S: Duration = Duration::from_secs(1);

fn rules() -> Rules {
    Rules { pre_roll: 10 * S, post_roll: 5 * S, max_open: 4, max_length: 100 * S, silence: 8 * S }
}

fn at(s: u64) -> Mono {
    Mono::from_millis(s * 1000)
}

fn order(kind: OrderKind, start_s: u64, end_s: u64) -> ClipOrder {
    ClipOrder {
        kind,
        incident: Uuid::nil(),
        camera: CameraId::new("gate"),
        start: at(start_s),
        label: Wall::from_unix_ms(0) + Duration::from_secs(start_s),
        end: at(end_s),
        peak_score: 0.5,
    }
}

fn seen(newest_s: u64, news_s: u64) -> Seen {
    Seen { newest_dts: Some(at(newest_s)), last_news: at(news_s) }
}

#[test]
fn records_from_the_pre_roll_to_the_post_roll() {
    let mut plan = Plan::new(rules(), at(52), &order(OrderKind::Opened, 50, 51));
    assert_eq!(plan.start, at(40));
    assert_eq!(plan.verdict(at(70), seen(70, 70)), Verdict::Record, "open: no end is known");
    plan.hear(at(72), &order(OrderKind::Closed, 50, 60));
    assert_eq!(plan.end(), at(65));
    assert_eq!(plan.verdict(at(72), seen(64, 72)), Verdict::Record);
    assert_eq!(plan.verdict(at(72), seen(65, 72)), Verdict::Finish(Ending::Planned));
}

#[test]
fn the_loss_of_the_camera_cuts_the_post_roll_short() {
    let mut plan = Plan::new(rules(), at(52), &order(OrderKind::Opened, 50, 51));
    assert_eq!(plan.verdict(at(90), seen(53, 53)), Verdict::Record, "open: the incident has its own rule");
    plan.hear(at(91), &order(OrderKind::Closed, 50, 53));
    assert_eq!(plan.verdict(at(98), seen(53, 53)), Verdict::Record);
    assert_eq!(plan.verdict(at(99), seen(53, 53)), Verdict::Finish(Ending::CameraSilent));
    let none = Seen { newest_dts: None, last_news: at(52) };
    assert_eq!(plan.verdict(at(99), none), Verdict::Lose);
    assert_eq!(plan.verdict(at(99), seen(30, 52)), Verdict::Lose, "what there is, is from long before");
}

/// The incident machine closes a long incident at its maximum length and opens the next at once: whatever the lengths
/// and the stride, one clip begins before the other ends.
#[test]
fn the_clips_of_a_long_incident_join_without_a_hole() {
    for (stride_ms, pre_roll_s, post_roll_s) in [(125, 0, 0), (500, 0, 0), (2_000, 0, 0), (500, 10, 5)] {
        let incident = config::Incident { max_length: 20 * S, ..config::Incident::default() };
        let clip = config::Clip { pre_roll: pre_roll_s * S, post_roll: post_roll_s * S };
        let rules = Rules::new(&clip, &incident);
        let thresholds = Thresholds { model: [("Fighting".to_owned(), 0.5)].into(), ..Thresholds::default() };
        let classes = ["Normal", "Fighting"].map(str::to_owned).to_vec();
        let mut machine = Machine::new(classes, incident, thresholds);
        let (mut ids, mut plans) = (0, Vec::<Plan>::new());
        for n in 0..(120_000 / stride_ms) {
            let end = Mono::from_millis(2_000 + n * stride_ms);
            let score = Score {
                camera: CameraId::new("gate"),
                start: end.back(2 * S),
                end,
                arrival: end,
                probabilities: [0.0, 1.0].into(),
                sample_fps: 8.0,
                padded: false,
            };
            let mut next = || {
                ids += 1;
                Uuid::from_u128(ids)
            };
            for transition in machine.step(end, Input::Score(score), &mut next) {
                let order = ClipOrder::new(&transition, Wall::from_unix_ms(0));
                match plans.iter_mut().find(|p| p.incident == order.incident) {
                    Some(plan) => _ = plan.hear(end, &order),
                    None => plans.push(Plan::new(rules, end, &order)),
                }
            }
        }
        assert!(plans.len() >= 5, "it rolled over: {}", plans.len());
        for pair in plans.windows(2) {
            assert!(pair[1].start <= pair[0].end(), "{stride_ms} ms: {:?} then {:?}", pair[0], pair[1]);
        }
    }
}

#[test]
fn an_incident_that_is_never_closed_is_bounded_by_video_and_by_clock() {
    let plan = Plan::new(rules(), at(52), &order(OrderKind::Opened, 50, 51));
    assert_eq!(plan.verdict(at(141), seen(139, 141)), Verdict::Record);
    assert_eq!(plan.verdict(at(142), seen(140, 142)), Verdict::Finish(Ending::MaxLength));
    assert_eq!(plan.verdict(at(160), seen(60, 60)), Verdict::Finish(Ending::MaxLength));
}

#[test]
fn a_stop_keeps_what_there_is() {
    let plan = Plan::new(rules(), at(52), &order(OrderKind::Opened, 50, 51));
    assert_eq!(plan.verdict_at_stop(at(53), seen(53, 53)), Verdict::Finish(Ending::Stopped));
    assert_eq!(plan.verdict_at_stop(at(53), Seen { newest_dts: None, last_news: at(52) }), Verdict::Lose);
}

#[test]
fn another_stream_in_the_pre_roll_begins_the_clip_anew() {
    let plan = Plan::new(rules(), at(52), &order(OrderKind::Opened, 50, 51));
    assert!(plan.begin_anew(Some(at(45)), at(46), true));
    assert!(!plan.begin_anew(Some(at(52)), at(53), true), "after the start: the clip ends there instead");
    assert!(!plan.begin_anew(Some(at(45)), at(46), false), "a hole in the pre-roll is shown as it is");
    assert!(plan.begin_anew(Some(at(20)), at(46), false), "footage that broke off before the pre-roll is not wanted");
}

#[test]
fn only_a_higher_peak_asks_for_a_picture() {
    let mut plan = Plan::new(rules(), at(52), &order(OrderKind::Opened, 50, 51));
    assert!(!plan.hear(at(53), &order(OrderKind::Updated, 50, 52)));
    let worse = ClipOrder { peak_score: 0.9, ..order(OrderKind::Updated, 50, 54) };
    assert!(plan.hear(at(54), &worse));
    assert!(!plan.hear(at(55), &worse));
}

fn any_kind() -> impl Strategy<Value = OrderKind> {
    prop_oneof![4 => Just(OrderKind::Updated), 1 => Just(OrderKind::Closed), 1 => Just(OrderKind::Opened)]
}

proptest! {
    /// Whatever is said and whatever video comes, time alone brings every clip to an end; what it covers is what was
    /// asked for, and it is never longer than the maximum.
    #[test]
    fn every_clip_ends_within_its_bounds(
        start in 0_u64..200,
        heard in prop::collection::vec((any_kind(), 0_u64..400, 0_u64..60), 0..20),
        video in prop::collection::vec((0_u64..30, 0_u64..30), 0..40),
    ) {
        let mut now = at(start);
        let mut plan = Plan::new(rules(), now, &order(OrderKind::Opened, start, start));
        let mut said = heard.into_iter();
        let mut closed: Option<u64> = None;
        let mut seen = Seen { newest_dts: None, last_news: now };
        let mut video = video.into_iter();
        let ending = loop {
            prop_assert!(plan.start <= plan.incident_start);
            prop_assert!(plan.end().since(plan.start) <= rules().max_length);
            match plan.verdict(now, seen) {
                Verdict::Record => {}
                decided => break decided,
            }
            prop_assert!(now <= at(start) + rules().max_length * 40, "it goes on for ever");
            now = now + S;
            if let Some((kind, end, wait)) = said.next() {
                now = now + Duration::from_secs(wait);
                plan.hear(now, &order(kind, start, end));
                if kind == OrderKind::Closed {
                    closed.get_or_insert(end.max(start));
                }
            }
            if let Some((wait, step)) = video.next() {
                now = now + Duration::from_secs(wait);
                let newest = seen.newest_dts.unwrap_or(plan.start) + Duration::from_secs(step);
                seen = Seen { newest_dts: Some(newest), last_news: now };
            }
        };
        if let Some(end) = closed {
            prop_assert_eq!(plan.end(), (at(end) + rules().post_roll).min(plan.start + rules().max_length));
        }
        match ending {
            Verdict::Finish(Ending::Planned) => prop_assert!(seen.newest_dts >= Some(plan.end())),
            Verdict::Finish(Ending::MaxLength) => prop_assert!(closed.is_none()),
            Verdict::Finish(Ending::CameraSilent) => prop_assert!(seen.newest_dts < Some(plan.end())),
            Verdict::Lose => prop_assert!(!plan.has_footage(seen.newest_dts)),
            other => prop_assert!(false, "{:?}", other),
        }
    }
}
