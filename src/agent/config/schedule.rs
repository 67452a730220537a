//! `[schedule.<name>]`: when incidents open, by day and hour in the device's time zone. Here is how it is written;
//! when it holds is decided in `incident::arming`.

use std::ops::RangeInclusive;
use std::path::Path;

use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;

use super::kind::{Fault, Kind, distinct};
use super::section::Section;

/// Most spans of one schedule: more is a mistake.
const SPANS_MAX: usize = 64;
/// Days as they are written.
const DAYS: [(&str, Weekday); 7] = [
    ("mon", Weekday::Monday),
    ("tue", Weekday::Tuesday),
    ("wed", Weekday::Wednesday),
    ("thu", Weekday::Thursday),
    ("fri", Weekday::Friday),
    ("sat", Weekday::Saturday),
    ("sun", Weekday::Sunday),
];
const SPAN: &str = "days and times such as \"mon-fri 18:00-06:00\", \"sat,sun 00:00-24:00\" or, for every day, \
                    \"22:00-05:30\"; a time that is not after the one before it is the next day's";

/// When incidents open. Outside its spans a camera is disarmed.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// Its name.
    pub name: String,
    /// `time_zone`: an IANA name; default the system's.
    pub zone: TimeZone,
    /// `armed`: 1 to 64 spans, in the zone's time.
    pub spans: Vec<Span>,
}

/// A span of time on some days of the week.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Whether it begins on the day, Monday first.
    pub days: [bool; 7],
    /// When it begins.
    pub from: Time,
    /// When it ends; none: at midnight (24:00). Not after `from`: on the next day.
    pub to: Option<Time>,
}

impl Span {
    /// Whether one begins on this day of the week.
    pub fn begins_on(&self, day: Weekday) -> bool {
        self.days[usize::from(day.to_monday_zero_offset().unsigned_abs())]
    }

    /// Whether it ends on the day after it began, at 24:00 or later.
    pub fn ends_next_day(&self) -> bool {
        self.to.is_none_or(|to| to <= self.from)
    }
}

/// Reads one schedule.
pub(super) fn read(name: &str, s: &mut Section<'_>) -> Option<Schedule> {
    let zone = match s.optional("time_zone", zone()) {
        Some(None) => system_zone(s),
        Some(named) => named,
        None => None,
    };
    let spans = s.required("armed", distinct(span()));
    if let Some(n) = spans.as_ref().map(Vec::len).filter(|n| !(1..=SPANS_MAX).contains(n)) {
        let remedy = if n == 0 { "for a camera that is never armed set classify = false" } else { "join some of them" };
        s.problem("armed", format!("has {n} spans; allowed: 1 to {SPANS_MAX}"), remedy);
    }
    Some(Schedule { name: name.to_owned(), zone: zone?, spans: spans? })
}

fn zone<'a>() -> Kind<'a, TimeZone> {
    Kind::of_text("an IANA time zone such as \"Europe/Berlin\" or \"UTC\"", |name| {
        TimeZone::get(name).map_err(|_| {
            let tzdata = TimeZone::get("Europe/London").is_err() && name != "UTC";
            match tzdata {
                true => Fault::with_remedy(
                    format!("{name:?} is not known: this machine has no time zones"),
                    "install the package tzdata",
                ),
                false => Fault::new(format!("{name:?} is no time zone that this machine knows")),
            }
        })
    })
}

fn system_zone(s: &Section<'_>) -> Option<TimeZone> {
    let zone = match TimeZone::try_system() {
        Ok(zone) => Some(zone),
        // What localtime(5) says of a machine without the file.
        Err(_) if !Path::new("/etc/localtime").exists() => Some(TimeZone::UTC),
        Err(_) => None,
    };
    if zone.is_none() {
        s.problem(
            "time_zone",
            "is missing, and the system's own cannot be read",
            "set it here, or with timedatectl set-timezone (package tzdata)",
        );
    }
    zone
}

fn span<'a>() -> Kind<'a, Span> {
    Kind::of_text(SPAN, |text| {
        let lower = text.trim().to_ascii_lowercase();
        let (days, times) = match lower.rsplit_once(char::is_whitespace) {
            Some((days, times)) => (self::days(days)?, times),
            None => ([true; 7], lower.as_str()),
        };
        let (from, to) = times
            .split_once('-')
            .ok_or_else(|| Fault::new(format!("{text:?} has no times such as 18:00-06:00 at its end")))?;
        let from = time(from)?.ok_or_else(|| Fault::with_remedy("begins at 24:00", "write 00:00 and the next day"))?;
        let to = time(to)?;
        match to == Some(from) {
            true => Err(Fault::with_remedy(format!("{text:?} is empty"), "for the whole day write 00:00-24:00")),
            false => Ok(Span { days, from, to }),
        }
    })
}

/// `mon-fri`, `sat,sun`, `fri-mon,wed`.
fn days(text: &str) -> Result<[bool; 7], Fault> {
    let mut days = [false; 7];
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        for offset in range(day(first.trim())?, day(last.trim())?) {
            days[offset % 7] = true;
        }
    }
    Ok(days)
}

/// Also over the end of the week.
fn range(first: usize, last: usize) -> RangeInclusive<usize> {
    first..=if last < first { last + 7 } else { last }
}

fn day(text: &str) -> Result<usize, Fault> {
    DAYS.iter().position(|(word, _)| *word == text).ok_or_else(|| {
        let words = DAYS.map(|(word, _)| word).join(", ");
        Fault::with_remedy(format!("{text:?} is no day of the week"), format!("days are {words}"))
    })
}

/// `18:00`; none for 24:00.
fn time(text: &str) -> Result<Option<Time>, Fault> {
    let wrong = || Fault::with_remedy(format!("{text:?} is no time of day"), "write hours and minutes, 00:00 to 24:00");
    let (hours, minutes) = text.trim().split_once(':').ok_or_else(wrong)?;
    let number = |digits: &str| match digits.len() {
        2 if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse::<i8>().map_err(|_| wrong()),
        _ => Err(wrong()),
    };
    match (number(hours)?, number(minutes)?) {
        (24, 0) => Ok(None),
        (hours, minutes) => Time::new(hours, minutes, 0, 0).map(Some).map_err(|_| wrong()),
    }
}
