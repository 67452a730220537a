use jiff::civil::{DateTime, Time, date};
use proptest::prelude::*;

use super::*;

fn schedule(zone: &str, spans: Vec<Span>) -> Schedule {
    Schedule { name: "nights".into(), zone: TimeZone::get(zone).expect("the package tzdata"), spans }
}

/// Monday first.
fn span(days: [u8; 7], from: (i8, i8), to: (i8, i8)) -> Span {
    let time = |(h, m)| Time::constant(h, m, 0, 0);
    Span { days: days.map(|d| d == 1), from: time(from), to: (to != (24, 0)).then(|| time(to)) }
}

fn wall(zone: &str, at: DateTime) -> Wall {
    Wall::from_unix_ms(at.in_tz(zone).expect("a zone").timestamp().as_millisecond())
}

/// Whether armed, and until when in that zone's time.
fn at(s: &Schedule, zone: &str, now: DateTime) -> (bool, Option<String>) {
    match Arming::at(Some(s), wall(zone, now), true) {
        Arming::Scheduled { armed, until } => {
            let until = until.map(|t| Timestamp::from_millisecond(t.unix_ms()).expect("near").to_zoned(s.zone.clone()));
            (armed, until.map(|t| t.strftime("%a %d %H:%M %Z").to_string()))
        }
        other => panic!("{other:?}"),
    }
}

const BERLIN: &str = "Europe/Berlin";

fn nights() -> Schedule {
    schedule(BERLIN, vec![span([1, 1, 1, 1, 1, 0, 0], (18, 0), (6, 0)), span([0, 0, 0, 0, 0, 1, 1], (0, 0), (24, 0))])
}

#[test]
fn a_night_belongs_to_the_day_that_it_begins_on() {
    let s = nights();
    let of = |day: i8, h, m| at(&s, BERLIN, date(2026, 11, day).at(h, m, 0, 0));
    // The 23rd is a Monday.
    assert_eq!(of(23, 12, 0), (false, Some("Mon 23 18:00 CET".into())));
    assert_eq!(of(23, 18, 0), (true, Some("Tue 24 06:00 CET".into())));
    assert_eq!(of(24, 5, 59), (true, Some("Tue 24 06:00 CET".into())));
    assert_eq!(of(24, 6, 0), (false, Some("Tue 24 18:00 CET".into())));
    // Friday's night ends on Saturday at six, but Saturday is armed all day; Sunday too, and Monday's small hours not.
    assert_eq!(of(27, 18, 0), (true, Some("Mon 30 00:00 CET".into())));
    assert_eq!(of(30, 0, 0), (false, Some("Mon 30 18:00 CET".into())));
}

#[test]
fn nights_when_the_clocks_change_are_as_long_as_they_are() {
    let s = schedule(BERLIN, vec![span([1; 7], (22, 0), (6, 0))]);
    let length = |day: DateTime| {
        let begin = wall(BERLIN, day);
        let Arming::Scheduled { armed: true, until: Some(until) } = Arming::at(Some(&s), begin, true) else { panic!() };
        (until.unix_ms() - begin.unix_ms()) / 3_600_000
    };
    assert_eq!(length(date(2026, 3, 28).at(22, 0, 0, 0)), 7, "to summer time");
    assert_eq!(length(date(2026, 10, 24).at(22, 0, 0, 0)), 9, "to winter time");
    assert_eq!(length(date(2028, 2, 28).at(22, 0, 0, 0)), 8, "into a leap day");
}

#[test]
fn an_hour_that_comes_twice_is_armed_twice_and_one_that_never_comes_is_not_lost() {
    // 2026-10-25 03:00 CEST is 02:00 CET.
    let s = schedule(BERLIN, vec![span([1; 7], (2, 15), (2, 45))]);
    let utc = |h, m| Arming::at(Some(&s), wall("UTC", date(2026, 10, 25).at(h, m, 0, 0)), true).is_armed();
    assert_eq!(
        [utc(0, 14), utc(0, 15), utc(0, 45), utc(1, 15), utc(1, 44), utc(1, 45)],
        [false, true, true, true, true, false]
    );
    // 2026-03-29 02:00 CET is 03:00 CEST: 02:15 to 02:45 never come.
    let utc = |h, m| Arming::at(Some(&s), wall("UTC", date(2026, 3, 29).at(h, m, 0, 0)), true).is_armed();
    assert!(utc(1, 0), "it is not left out");
    assert!(!utc(0, 0) && !utc(2, 0));
}

#[test]
fn without_the_time_it_is_armed_and_without_a_schedule_always() {
    let (s, day) = (nights(), wall(BERLIN, date(2026, 11, 23).at(12, 0, 0, 0)));
    assert!(!Arming::at(Some(&s), day, true).is_armed());
    assert_eq!(Arming::at(Some(&s), day, false), Arming::TimeUnknown);
    assert_eq!(Arming::at(Some(&s), Wall::from_unix_ms(i64::MAX), true), Arming::TimeUnknown);
    assert_eq!(Arming::at(None, day, false), Arming::Always);
    assert!(Arming::TimeUnknown.is_armed() && Arming::Always.is_armed());
}

#[test]
fn a_schedule_that_never_changes_says_so() {
    let s = schedule("Asia/Kathmandu", vec![span([1; 7], (0, 0), (24, 0))]);
    assert_eq!(at(&s, "UTC", date(2026, 3, 29).at(1, 0, 0, 0)), (true, None));
}

fn spans() -> impl Strategy<Value = Vec<Span>> {
    let one = (prop::array::uniform7(0_u8..2), 0_i8..24, 0_i8..60, 0_i8..=24, 0_i8..60).prop_filter_map("empty", |s| {
        let to = if s.3 == 24 { (24, 0) } else { (s.3, s.4) };
        (to != (s.1, s.2)).then(|| span(s.0, (s.1, s.2), to))
    });
    prop::collection::vec(one, 1..4)
}

/// By the wall alone, as a person reads the schedule.
fn by_the_wall(spans: &[Span], now: DateTime) -> bool {
    let holds = |s: &Span, day: Date, time: Time, begun_yesterday: bool| match (begun_yesterday, s.ends_next_day()) {
        (false, false) => s.begins_on(day.weekday()) && s.from <= time && s.to.is_some_and(|to| time < to),
        (false, true) => s.begins_on(day.weekday()) && s.from <= time,
        (true, false) => false,
        (true, true) => {
            s.begins_on(day.yesterday().expect("not the first day").weekday()) && s.to.is_some_and(|to| time < to)
        }
    };
    spans.iter().any(|s| [false, true].into_iter().any(|y| holds(s, now.date(), now.time(), y)))
}

const ZONES: [&str; 6] =
    ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Beirut", "Asia/Kathmandu", "UTC"];

proptest! {
    /// Wherever a person who looks at the clock on the wall would say "armed", it is; and it differs only within an hour
    /// and a bit of where a zone changes its clock.
    #[test]
    fn means_what_the_wall_says(
        spans in spans(), zone in prop::sample::select(ZONES.to_vec()), minute in 0_i64..3 * 366 * 1440,
    ) {
        let s = schedule(zone, spans);
        let now = Timestamp::from_second(1_767_225_600 + minute * 60).expect("near");
        let local = now.to_zoned(s.zone.clone());
        let (armed, wall) = (is_armed(&s, now), by_the_wall(&s.spans, local.datetime()));
        prop_assert!(armed || !wall);
        let steady = [-26, 26].map(|h| {
            s.zone.to_offset(now + jiff::SignedDuration::from_hours(h)) == local.offset()
        });
        if steady == [true, true] {
            prop_assert_eq!(armed, wall);
        }
    }

    /// Nothing changes before the next change, and at it something does.
    #[test]
    fn the_next_change_is_the_next(
        spans in spans(), zone in prop::sample::select(ZONES.to_vec()), minute in 0_i64..3 * 366 * 1440,
        part in 0.0_f64..1.0,
    ) {
        let s = schedule(zone, spans);
        let now = Timestamp::from_second(1_767_225_600 + minute * 60).expect("near");
        let armed = is_armed(&s, now);
        match next_change(&s, now) {
            Some(change) => {
                prop_assert!(change > now);
                prop_assert_eq!(is_armed(&s, change), !armed);
                let between = now + jiff::SignedDuration::from_secs_f64((change.as_second() - now.as_second() - 1) as f64 * part);
                prop_assert_eq!(is_armed(&s, between), armed);
            }
            None => {
                let later = now + jiff::SignedDuration::from_hours((part * 24.0 * 20.0) as i64);
                prop_assert_eq!(is_armed(&s, later), armed);
            }
        }
    }
}
