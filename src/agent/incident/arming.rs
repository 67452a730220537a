//! Whether a schedule holds at a moment, and when that changes. Pure.
//!
//! Where a clock is put back or forward, or a time of day comes twice or never, the longer reading counts: a span
//! begins at the earlier of two possible moments and ends at the later one. To miss an alert is worse than to send
//! one too many.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::agent::config::{Schedule, Span};
use crate::base::clock::Wall;

/// Days ahead that the next change is looked for: a schedule repeats each week.
const LOOK_AHEAD_DAYS: usize = 9;

/// How it stands with a camera.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arming {
    /// It has no schedule: always armed.
    Always,
    /// It has one, but the device does not know the time of day: armed, for a missed alert is the greater harm.
    TimeUnknown,
    /// By its schedule.
    Scheduled {
        /// Whether incidents open.
        armed: bool,
        /// Until when; none: as long as the schedule is this one.
        until: Option<Wall>,
    },
    /// Somebody has said so.
    Wished {
        /// Whether incidents open.
        armed: bool,
        /// Until when; none: until told otherwise.
        until: Option<Wall>,
    },
}

impl Arming {
    /// Of a camera with this schedule of which somebody has said that it is armed, or is not, until a time or for good.
    /// That a camera is disarmed until a time does not hold while that time cannot be told.
    pub fn with_wish(
        wish: Option<(bool, Option<Wall>)>,
        schedule: Option<&Schedule>,
        now: Wall,
        knows_time: bool,
    ) -> Arming {
        match wish {
            Some((armed, until)) if until.is_none_or(|t| if knows_time { now < t } else { armed }) => {
                Arming::Wished { armed, until }
            }
            _ => Arming::at(schedule, now, knows_time),
        }
    }

    /// Of a camera with this schedule, by a clock that knows the time or doesn't.
    pub fn at(schedule: Option<&Schedule>, now: Wall, knows_time: bool) -> Arming {
        match (schedule, Timestamp::from_millisecond(now.unix_ms())) {
            (None, _) => Arming::Always,
            (Some(schedule), Ok(now)) if knows_time => {
                let (armed, until) = (is_armed(schedule, now), next_change(schedule, now));
                Arming::Scheduled { armed, until: until.map(|t| Wall::from_unix_ms(t.as_millisecond())) }
            }
            // Out of all calendars, too.
            (Some(_), _) => Arming::TimeUnknown,
        }
    }

    /// Whether incidents open.
    pub fn is_armed(self) -> bool {
        !matches!(self, Arming::Scheduled { armed: false, .. } | Arming::Wished { armed: false, .. })
    }
}

fn is_armed(schedule: &Schedule, now: Timestamp) -> bool {
    // A span that began yesterday may hold; where a clock moves by a day (it has), one that began before.
    days(schedule, now, 2, 4).any(|(from, to)| from <= now && now < to)
}

fn next_change(schedule: &Schedule, now: Timestamp) -> Option<Timestamp> {
    let mut edges: Vec<Timestamp> =
        days(schedule, now, 2, LOOK_AHEAD_DAYS + 2).flat_map(|(from, to)| [from, to]).filter(|t| *t > now).collect();
    edges.sort();
    let armed = is_armed(schedule, now);
    edges.into_iter().find(|t| is_armed(schedule, *t) != armed)
}

/// Beginning and end of every span that begins on `count` days, from `back` days before the one that `now` is on.
fn days(
    schedule: &Schedule,
    now: Timestamp,
    back: usize,
    count: usize,
) -> impl Iterator<Item = (Timestamp, Timestamp)> + use<'_> {
    let today = now.to_zoned(schedule.zone.clone()).date();
    let first = (0..back).fold(today, |day, _| day.yesterday().unwrap_or(day));
    first.series(jiff::Span::new().days(1)).take(count).flat_map(move |day| {
        let today = schedule.spans.iter().filter(move |span| span.begins_on(day.weekday()));
        today.filter_map(move |span| ends(span, day, &schedule.zone))
    })
}

/// None only beyond the calendar's last day.
fn ends(span: &Span, day: Date, zone: &TimeZone) -> Option<(Timestamp, Timestamp)> {
    let last = if span.ends_next_day() { day.tomorrow().ok()? } else { day };
    let from = zone.to_ambiguous_timestamp(day.to_datetime(span.from)).earlier().ok()?;
    let to = zone.to_ambiguous_timestamp(last.to_datetime(span.to.unwrap_or_default())).later().ok()?;
    Some((from, to))
}

#[cfg(test)]
mod tests;
