//! How old a thing is, and which rows of the outbox are too old to keep. Pure; the writer carries it out.
//!
//! Two clocks tell an age, and the older answer counts. The wall clock, while it is known to be right: from when the
//! thing was made, if the clock was known to be right then; otherwise from when it was first known to be right. So
//! neither a device that boots in 1970 nor one that was off for a month while its clock was wrong throws things away the
//! moment NTP answers. And the time that the daemon has run since, which needs no clock to be right and is never longer
//! than the true age: with it things also grow old where nobody can say whether the clock is right (chrony, ntpd, no
//! network), if more slowly where the device is often off.

use std::time::Duration;

use crate::base::clock::Wall;

/// When a thing was made, by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Made {
    /// What its age counts from by the wall clock, if that is known.
    pub at: Option<Wall>,
    /// How long the daemon had run by then, over all its starts.
    pub ran: Duration,
}

/// The present, by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Present {
    /// The wall clock; none while it is not known to be right.
    pub at: Option<Wall>,
    /// How long the daemon has run, over all its starts.
    pub ran: Duration,
}

impl Made {
    /// Whether it was made longer ago than `keep`.
    pub(super) fn is_older(self, now: Present, keep: Duration) -> bool {
        let by_wall = self.at.zip(now.at).is_some_and(|(made, now)| made < now - keep);
        by_wall || now.ran.saturating_sub(self.ran) > keep
    }
}

/// A row of the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub seq: u64,
    pub made: Made,
}

/// Ranges (first, last) of rows to give up, ascending, none touching another. `rows` ascend by number.
pub(super) fn too_old(now: Present, keep: Duration, rows: &[Row]) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for row in rows.iter().filter(|r| r.made.is_older(now, keep)) {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == row.seq => *last = row.seq,
            _ => ranges.push((row.seq, row.seq)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn at(days: i64) -> Wall {
        Wall::from_unix_ms(days * 86_400_000)
    }

    fn row(seq: u64, made_day: Option<i64>, ran_days: u32) -> Row {
        Row { seq, made: Made { at: made_day.map(at), ran: ran_days * DAY } }
    }

    #[test]
    fn gives_up_what_is_older_than_it_may_be_and_nothing_of_unknown_age() {
        let rows = [row(1, Some(0), 0), row(2, Some(1), 1), row(3, None, 1), row(5, Some(2), 2), row(6, Some(20), 3)];
        let now = Present { at: Some(at(33)), ran: 4 * DAY };
        assert_eq!(too_old(now, 30 * DAY, &rows), [(1, 2), (5, 5)]);
    }

    #[test]
    fn a_clock_that_may_be_wrong_decides_nothing_but_time_goes_on_without_it() {
        let rows = [row(1, Some(0), 0), row(2, None, 10)];
        let now = |ran_days| Present { at: None, ran: ran_days * DAY };
        assert_eq!(too_old(now(30), 30 * DAY, &rows), []);
        assert_eq!(too_old(now(31), 30 * DAY, &rows), [(1, 1)]);
        assert_eq!(too_old(now(41), 30 * DAY, &rows), [(1, 2)]);
    }

    proptest! {
        #[test]
        fn ranges_hold_exactly_the_old_rows(
            made in proptest::collection::vec((proptest::option::of(0i64..60), 0u32..60), 0..50), holes in 1u64..3,
        ) {
            let rows: Vec<_> = (0..).zip(&made).map(|(i, (day, ran))| row(1 + i * holes, *day, *ran)).collect();
            let ranges = too_old(Present { at: Some(at(60)), ran: 60 * DAY }, 30 * DAY, &rows);
            for (row, (day, ran)) in rows.iter().zip(&made) {
                let given_up = ranges.iter().any(|(a, b)| (*a..=*b).contains(&row.seq));
                prop_assert_eq!(given_up, day.is_some_and(|d| d < 30) || *ran < 30);
            }
            prop_assert!(ranges.windows(2).all(|w| w[0].1 + 1 < w[1].0));
        }
    }
}
