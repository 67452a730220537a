//! Which rows of the outbox are too old to keep. Pure; the writer carries it out.
//!
//! A row's age counts from when it was queued, if the clock was known to be right then; otherwise from when the
//! clock was first known to be right. So neither a device that boots in 1970 nor one that was off for a month
//! while its clock was wrong throws alerts away the moment NTP answers. While the clock is not known to be right
//! nothing is too old.

use std::time::Duration;

use crate::base::clock::Wall;

/// A row's number and what its age counts from, if that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Aged {
    pub seq: u64,
    pub from: Option<Wall>,
}

/// What to do at this tick.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Plan {
    /// The age of rows without one counts from now.
    pub start_ageing: bool,
    /// Ranges (first, last) to give up, ascending, none touching another.
    pub give_up: Vec<(u64, u64)>,
}

/// Decides. `rows` ascend by number.
pub(super) fn plan(now: Wall, synchronised: bool, keep: Duration, rows: &[Aged]) -> Plan {
    if !synchronised {
        return Plan::default();
    }
    let oldest = now - keep;
    let mut give_up: Vec<(u64, u64)> = Vec::new();
    for row in rows.iter().filter(|r| r.from.is_some_and(|from| from < oldest)) {
        match give_up.last_mut() {
            Some((_, last)) if *last + 1 == row.seq => *last = row.seq,
            _ => give_up.push((row.seq, row.seq)),
        }
    }
    Plan { start_ageing: true, give_up }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn at(days: i64) -> Wall {
        Wall::from_unix_ms(days * 86_400_000)
    }

    #[test]
    fn gives_up_what_is_older_than_it_may_be_and_nothing_of_unknown_age() {
        let rows = [(1, Some(at(0))), (2, Some(at(1))), (3, None), (5, Some(at(2))), (6, Some(at(20)))]
            .map(|(seq, from)| Aged { seq, from });
        let plan = plan(at(33), true, 30 * DAY, &rows);
        assert_eq!(plan, Plan { start_ageing: true, give_up: vec![(1, 2), (5, 5)] });
    }

    #[test]
    fn a_clock_that_may_be_wrong_decides_nothing() {
        assert_eq!(plan(at(99_999), false, DAY, &[Aged { seq: 1, from: Some(at(0)) }]), Plan::default());
    }

    proptest! {
        #[test]
        fn ranges_hold_exactly_the_old_rows(
            ages in proptest::collection::vec(proptest::option::of(0i64..60), 0..50), holes in 1u64..3,
        ) {
            let rows: Vec<_> = ages.iter().enumerate()
                .map(|(i, a)| Aged { seq: 1 + i as u64 * holes, from: a.map(at) }).collect();
            let ranges = plan(at(60), true, 30 * DAY, &rows).give_up;
            for row in &rows {
                let given_up = ranges.iter().any(|(a, b)| (*a..=*b).contains(&row.seq));
                prop_assert_eq!(given_up, row.from.is_some_and(|f| f < at(30)));
            }
            prop_assert!(ranges.windows(2).all(|w| w[0].1 + 1 < w[1].0));
        }
    }
}
