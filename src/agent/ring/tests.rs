use proptest::prelude::*;

use super::*;
use crate::agent::capture::{Codec, Rotation};

fn stream(tag: u8) -> Arc<StreamInfo> {
    Arc::new(StreamInfo {
        codec: Codec::H264,
        width: 64,
        height: 64,
        rotation: Rotation::None,
        codec_config: Arc::from([tag; 16]),
    })
}

fn unit(at_ms: u64, keyframe: bool, bytes: usize) -> AccessUnit {
    let at = Mono::from_millis(at_ms);
    AccessUnit { stream: stream(1), pts: at, dts: at, keyframe, discontinuity: false, data: vec![0; bytes].into() }
}

fn wide() -> Bounds {
    Bounds { max_bytes: 1 << 20, max_time: Duration::from_secs(10) }
}

/// `seconds` of 10 frames a second with a keyframe each second, beginning at `from_s`.
fn fill(ring: &mut Ring, from_s: u64, seconds: u64) {
    for i in 0..seconds * 10 {
        ring.push(unit(from_s * 1000 + i * 100, i % 10 == 0, 100));
    }
}

#[test]
fn keeps_the_newest_whole_groups_within_the_time() {
    let mut ring = Ring::new(wide());
    fill(&mut ring, 0, 60);
    assert!(ring.span() <= wide().max_time);
    assert!(ring.span() >= Duration::from_secs(8), "only whole groups go: {:?}", ring.span());
    let all = ring.read(Cursor(0), usize::MAX);
    assert!(all.units[0].keyframe);
    assert_eq!(all.lost as usize + all.units.len(), 600);
    assert_eq!(ring.counts().evicted, all.lost);
}

#[test]
fn finds_the_keyframe_at_or_before_or_says_that_it_is_late() {
    let mut ring = Ring::new(wide());
    assert_eq!(ring.locate(Mono::from_millis(5)), None);
    fill(&mut ring, 20, 5);
    let at = |ms| ring.locate(Mono::from_millis(ms)).map(|l| (l.pts.as_millis(), l.late));
    assert_eq!(at(22_999), Some((22_000, false)));
    assert_eq!(at(23_000), Some((23_000, false)));
    assert_eq!(at(90_000), Some((24_000, false)));
    assert_eq!(at(19_000), Some((20_000, true)));
}

#[test]
fn footage_that_broke_off_before_the_wanted_time_is_passed_over() {
    let mut ring = Ring::new(wide());
    fill(&mut ring, 0, 2);
    ring.push(AccessUnit { discontinuity: true, ..unit(7_000, true, 100) });
    let at = |ms| ring.locate(Mono::from_millis(ms)).map(|l| (l.pts.as_millis(), l.late));
    assert_eq!(at(1_500), Some((1_000, false)));
    assert_eq!(at(5_000), Some((7_000, true)));
    assert_eq!(at(7_000), Some((7_000, false)));
}

#[test]
fn a_reader_follows_and_is_told_when_it_was_overtaken() {
    let mut ring = Ring::new(wide());
    fill(&mut ring, 0, 1);
    let first = ring.read(Cursor(0), 4);
    assert_eq!((first.units.len(), first.next, first.lost), (4, Cursor(4), 0));
    let rest = ring.read(first.next, 100);
    assert_eq!((rest.units.len(), rest.next), (6, ring.end()));
    assert!(ring.read(rest.next, 100).units.is_empty());
    fill(&mut ring, 1, 30);
    let late = ring.read(rest.next, 1);
    assert!(late.lost > 0 && late.units[0].keyframe);
    assert_eq!(late.next.0, rest.next.0 + late.lost + 1);
}

#[test]
fn nothing_is_held_before_a_keyframe_nor_after_a_hole() {
    let mut ring = Ring::new(wide());
    ring.push(unit(0, false, 10));
    ring.push(unit(100, true, 10));
    ring.push(AccessUnit { discontinuity: true, ..unit(200, false, 10) });
    ring.push(unit(300, false, 10));
    ring.push(unit(400, true, 10));
    let held = ring.read(Cursor(0), 10).units;
    assert_eq!(held.iter().map(|u| u.dts.as_millis()).collect::<Vec<_>>(), [100, 400]);
    assert!(held[1].discontinuity, "the hole shows");
    assert_eq!(ring.counts().undecodable, 3);
}

#[test]
fn another_stream_begins_with_a_keyframe_and_equal_ones_share_memory() {
    let mut ring = Ring::new(wide());
    ring.push(unit(0, true, 10));
    ring.push(unit(100, false, 10));
    ring.push(AccessUnit { stream: stream(2), ..unit(200, false, 10) });
    ring.push(AccessUnit { stream: stream(2), ..unit(300, true, 10) });
    let held = ring.read(Cursor(0), 10).units;
    assert_eq!(held.len(), 3);
    assert!(Arc::ptr_eq(&held[0].stream, &held[1].stream));
    assert!(held[2].discontinuity && held[2].stream != held[1].stream);
}

#[test]
fn a_group_too_big_goes_and_its_rest_is_refused_until_the_next_keyframe() {
    let mut ring = Ring::new(Bounds { max_bytes: 5_000, max_time: Duration::from_secs(10) });
    ring.push(unit(0, true, 1_000));
    for i in 1..10 {
        ring.push(unit(i * 100, false, 1_000));
    }
    assert!(ring.is_empty());
    assert_eq!(ring.counts().oversized_groups, 1);
    ring.push(unit(1_000, true, 1_000));
    let batch = ring.read(Cursor(0), 10);
    assert!(batch.units.len() == 1 && batch.units[0].discontinuity && batch.lost > 0);
}

#[test]
fn one_long_group_may_outlast_the_time_but_not_the_next_keyframe() {
    let mut ring = Ring::new(wide());
    ring.push(unit(0, true, 10));
    for s in 1..=30 {
        ring.push(unit(s * 1000, false, 10));
    }
    assert_eq!((ring.len(), ring.span()), (31, Duration::from_secs(30)));
    ring.push(unit(31_000, true, 10));
    assert_eq!(ring.len(), 1);
}

#[test]
fn a_time_that_falls_begins_a_new_time_line() {
    let mut ring = Ring::new(wide());
    fill(&mut ring, 50, 2);
    ring.push(unit(1_000, true, 10));
    assert_eq!((ring.len(), ring.counts().time_falls), (1, 1));
    assert_eq!(ring.locate(Mono::from_millis(1_000)).map(|l| l.late), Some(false));
}

#[test]
fn a_waiting_reader_is_woken_by_a_push() {
    let ring = SharedRing::new(wide());
    assert!(!ring.wait(ring.end(), Duration::from_millis(1)));
    let waiter = std::thread::spawn({
        let ring = ring.clone();
        move || ring.wait(Cursor(0), Duration::from_secs(60))
    });
    ring.push(unit(0, true, 10));
    assert!(waiter.join().expect("the waiter does not panic"));
}

prop_compose! {
    fn any_unit()(
        at_ms in prop_oneof![6 => 0_u64..40_000, 1 => Just(0), 1 => Just(u64::MAX / 2_000_000)],
        ahead_ms in 0_u64..500,
        keyframe in prop::bool::weighted(0.2),
        discontinuity in prop::bool::weighted(0.05),
        tag in prop::sample::select(vec![1, 1, 1, 1, 1, 1, 1, 2]),
        bytes in prop_oneof![8 => 0_usize..600, 1 => 5_000_usize..9_000],
    ) -> AccessUnit {
        let dts = Mono::from_millis(at_ms);
        AccessUnit {
            stream: stream(tag), pts: dts + Duration::from_millis(ahead_ms), dts, keyframe, discontinuity,
            data: vec![0; bytes].into(),
        }
    }
}

/// Half of the runs in order of time, as from a camera; half in no order at all.
fn any_run() -> impl Strategy<Value = Vec<AccessUnit>> {
    (prop::collection::vec(any_unit(), 0..300), any::<bool>()).prop_map(|(mut units, in_order)| {
        if in_order {
            units.sort_by_key(|u| u.dts);
        }
        units
    })
}

fn groups(held: &[AccessUnit]) -> usize {
    held.iter().filter(|u| u.keyframe).count()
}

proptest! {
    #[test]
    fn whatever_comes_the_invariants_hold(units in any_run(), at_ms in 0_u64..40_000) {
        let bounds = Bounds { max_bytes: 8_000, max_time: Duration::from_secs(4) };
        let mut ring = Ring::new(bounds);
        let (mut reader, mut read, mut lost) = (ring.end(), 0, 0);
        for (i, unit) in units.iter().enumerate() {
            ring.push(unit.clone());
            let held = ring.read(Cursor(ring.first), usize::MAX).units;
            prop_assert_eq!(held.len(), ring.len());
            prop_assert_eq!(held.iter().map(unit_bytes).sum::<usize>(), ring.bytes());
            prop_assert!(ring.bytes() <= bounds.max_bytes);
            prop_assert!(ring.units.capacity() <= SLOTS * ring.len() + SPARE_SLOTS);
            prop_assert!(ring.keyframes.capacity() <= SLOTS * groups(&held) + SPARE_SLOTS);
            let coverage = ring.coverage();
            prop_assert!(coverage.longest_group <= coverage.held && coverage.held == ring.span());
            prop_assert!(coverage.squeezed_to.is_none_or(|left| left <= bounds.max_time));
            prop_assert!(ring.span() <= bounds.max_time || groups(&held) == 1);
            prop_assert!(held.first().is_none_or(|u| u.keyframe));
            for pair in held.windows(2) {
                prop_assert!(pair[0].dts <= pair[1].dts);
                prop_assert!(pair[1].keyframe || (!pair[1].discontinuity && pair[0].stream == pair[1].stream));
            }
            if i % 7 == 0 {
                let batch = ring.read(reader, 5);
                read += batch.units.len() as u64;
                lost += batch.lost;
                prop_assert_eq!(batch.next.0, read + lost);
                reader = batch.next;
            }
        }
        let counts = ring.counts();
        prop_assert_eq!(counts.evicted + counts.undecodable + ring.len() as u64, units.len() as u64);
        if let Some(found) = ring.locate(Mono::from_millis(at_ms)) {
            let batch = ring.read(found.cursor, 1);
            prop_assert!(batch.units[0].keyframe && batch.units[0].pts == found.pts && batch.lost == 0);
            prop_assert_eq!(found.late, found.pts > Mono::from_millis(at_ms));
        }
    }
}

/// `seconds` of 10 frames a second of so many bytes, with a keyframe every `group` frames.
fn fill_with(ring: &mut Ring, seconds: u64, group: u64, bytes: usize) {
    let from_ms = ring.units.back().map_or(0, |u| u.dts.as_millis() + 100);
    for i in 0..seconds * 10 {
        ring.push(unit(from_ms + i * 100, i % group == 0, bytes));
    }
}

#[test]
fn a_bit_rate_above_the_budget_is_said_with_what_would_do() {
    let pre_roll = Duration::from_secs(10);
    let bounds = |mb: usize| Bounds { max_bytes: mb * 1_000_000, max_time: Duration::from_secs(30) };
    let mut ring = Ring::new(bounds(4));
    // 8 Mbit/s into 4 MB.
    fill_with(&mut ring, 60, 20, 100_000);
    let coverage = ring.coverage();
    assert!(coverage.held < Duration::from_secs(4) && coverage.bytes <= coverage.max_bytes, "{coverage:?}");
    let trouble = coverage.trouble(pre_roll).expect("4 s are no pre-roll of 10 s");
    let RingTrouble::TooSmall { needed_mb, .. } = trouble else { panic!("{trouble:?}") };
    assert!(trouble.to_string().contains("set ring_max_mb to 13 or"), "{trouble}");
    assert_eq!(coverage.trouble(Duration::from_secs(1)), None, "it is enough for that");

    let mut enough = Ring::new(bounds(needed_mb as usize));
    fill_with(&mut enough, 60, 20, 100_000);
    assert_eq!(enough.coverage().trouble(pre_roll), None, "{:?}", enough.coverage());
    // The camera is set to a lower rate: time is the nearer bound again.
    fill_with(&mut ring, 120, 10, 1_000);
    assert_eq!((ring.coverage().squeezed_to, ring.coverage().trouble(pre_roll)), (None, None));
    assert!(ring.span() >= Duration::from_secs(28));
}

#[test]
fn long_groups_are_no_trouble_and_are_measured() {
    let mut ring = Ring::new(Bounds { max_bytes: 4_000_000, max_time: Duration::from_secs(15) });
    fill_with(&mut ring, 60, 120, 1_000);
    let coverage = ring.coverage();
    assert_eq!(coverage.longest_group, Duration::from_millis(11_900), "to the last unit of the newest");
    assert!(coverage.held >= Duration::from_millis(11_900) && coverage.held <= Duration::from_secs(15));
    assert_eq!(coverage.trouble(Duration::from_secs(10)), None);
}

#[test]
fn a_camera_without_keyframes_is_said_and_never_too_much() {
    let mut ring = Ring::new(Bounds { max_bytes: 4_000_000, max_time: Duration::from_secs(15) });
    ring.push(unit(0, true, 20_000));
    for i in 1..3_000 {
        ring.push(unit(i * 100, false, 20_000));
        assert!(ring.bytes() <= 4_000_000);
    }
    assert!(ring.is_empty() && ring.units.capacity() <= SPARE_SLOTS, "what can't be decoded isn't kept");
    let trouble = ring.coverage().trouble(Duration::from_secs(10)).expect("five minutes without a keyframe");
    assert!(trouble.to_string().starts_with("no keyframe for 299 s"), "{trouble}");
    // One that never had one.
    let mut ring = Ring::new(wide());
    (0..200).for_each(|i| ring.push(unit(i * 100, false, 10)));
    assert_eq!(
        ring.coverage().trouble(Duration::ZERO),
        Some(RingTrouble::NoKeyframe { since: Duration::from_millis(19_900) })
    );
    ring.push(unit(20_000, true, 10));
    assert_eq!(ring.coverage().trouble(Duration::ZERO), None);
}

#[test]
fn memory_of_many_small_units_is_given_back() {
    let mut ring = Ring::new(Bounds { max_bytes: 10_000_000, max_time: Duration::from_secs(3600) });
    (0..30_000).for_each(|i| ring.push(unit(i, i % 100 == 0, 1)));
    assert!(ring.len() > 20_000);
    (0..40).for_each(|i| ring.push(unit(30_000 + i, true, 250_000)));
    assert!(ring.len() < 50 && ring.units.capacity() <= SLOTS * 50 + SPARE_SLOTS, "{}", ring.units.capacity());
}
