//! What a key may hold: how a TOML value becomes a typed one, and how to say what is allowed. Knows nothing of
//! any particular key, of files or of URLs (see `files`, `secret` and `url` for kinds that do).

use std::ops::{Bound, RangeBounds, RangeInclusive};
use std::time::Duration;

use toml::de::DeValue;

use super::spelling;
use super::units::{self, Unit};

/// Why a value won't do.
pub(super) struct Fault {
    pub(super) message: String,
    /// None: say what is allowed.
    pub(super) remedy: Option<String>,
}

impl Fault {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Fault { message: message.into(), remedy: None }
    }

    pub(super) fn with_remedy(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Fault { message: message.into(), remedy: Some(remedy.into()) }
    }
}

type Read<'a, T> = Box<dyn Fn(&DeValue<'_>) -> Result<T, Fault> + 'a>;

/// A kind of value.
pub(super) struct Kind<'a, T> {
    /// What a number of it counts.
    pub(super) unit: Option<Unit>,
    /// Every allowed value, in words that follow "allowed: ".
    pub(super) allowed: String,
    read: Read<'a, T>,
}

impl<'a, T: 'a> Kind<'a, T> {
    pub(super) fn new(allowed: impl Into<String>, read: impl Fn(&DeValue<'_>) -> Result<T, Fault> + 'a) -> Kind<'a, T> {
        Kind { unit: None, allowed: allowed.into(), read: Box::new(read) }
    }

    /// A kind of text.
    pub(super) fn of_text(allowed: impl Into<String>, read: impl Fn(&str) -> Result<T, Fault> + 'a) -> Kind<'a, T> {
        Kind::new(allowed, move |value| match value {
            DeValue::String(text) => read(text),
            other => Err(Fault::new(format!("is {}, not text in quotes", found(other)))),
        })
    }

    pub(super) fn read(&self, value: &DeValue<'_>) -> Result<T, Fault> {
        (self.read)(value)
    }

    /// The same values, as another type.
    pub(super) fn map<U: 'a>(self, convert: impl Fn(T) -> U + 'a) -> Kind<'a, U> {
        let read = self.read;
        Kind { unit: self.unit, allowed: self.allowed, read: Box::new(move |value| read(value).map(&convert)) }
    }
}

/// `true` or `false`.
pub(super) fn boolean<'a>() -> Kind<'a, bool> {
    Kind::new("true or false, without quotes", |value| match value {
        DeValue::Boolean(b) => Ok(*b),
        other => Err(Fault::new(format!("is {}, not true or false", found(other)))),
    })
}

/// Part of topics and paths: 1 to 64 of `a-z A-Z 0-9 _ -`.
pub(super) fn name<'a>() -> Kind<'a, String> {
    Kind::of_text("1 to 64 of a-z A-Z 0-9 _ -", |text| match text {
        t if is_name(t) => Ok(t.to_string()),
        "" => Err(Fault::new("is empty")),
        t if t.len() > 64 => Err(Fault::new("is too long")),
        t => Err(Fault::new(format!("has characters that are not allowed: {t:?}"))),
    })
}

/// Whether `text` is a [`name`].
pub(super) fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// One of a few words.
pub(super) fn choice<'a, T: Copy + 'a, const N: usize>(choices: [(&'static str, T); N]) -> Kind<'a, T> {
    let words = choices.map(|(word, _)| word);
    let quoted = words.map(|word| format!("{word:?}"));
    let allowed = spelling::alternatives(&quoted.each_ref().map(String::as_str));
    Kind::of_text(allowed.clone(), move |text| match choices.iter().find(|(word, _)| *word == text) {
        Some((_, value)) => Ok(*value),
        None => Err(Fault {
            message: format!("{text:?} is not known"),
            remedy: spelling::nearest(text, words).map(|word| format!("did you mean {word:?}? allowed: {allowed}")),
        }),
    })
}

/// The same where the key is the writer's own choice: what stands there may belong elsewhere, a password even, and is not
/// repeated.
pub(super) fn unspoken_choice<'a, T: Copy + 'a, const N: usize>(choices: [(&'static str, T); N]) -> Kind<'a, T> {
    let quoted = choices.map(|(word, _)| format!("{word:?}"));
    let allowed = spelling::alternatives(&quoted.each_ref().map(String::as_str));
    Kind::of_text(allowed, move |text| {
        let found = choices.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(|| Fault::new("is none of the words for it"))
    })
}

/// A list of values of one kind, all different.
pub(super) fn distinct<'a, T: PartialEq + 'a>(item: Kind<'a, T>) -> Kind<'a, Vec<T>> {
    Kind::new(format!("a list of different values, each {}", item.allowed), move |value| {
        let DeValue::Array(values) = value else {
            return Err(Fault::new(format!("is {}, not a list in brackets", found(value))));
        };
        let mut items = Vec::with_capacity(values.len());
        for (i, value) in values.iter().enumerate() {
            let item = item
                .read(value.get_ref())
                .map_err(|f| Fault { message: format!("value {} {}", i + 1, f.message), remedy: f.remedy })?;
            if items.contains(&item) {
                return Err(Fault::new(format!("value {} stands there twice", i + 1)));
            }
            items.push(item);
        }
        Ok(items)
    })
}

/// A whole number.
pub(super) fn integer<'a>(range: RangeInclusive<u32>, unit: Option<Unit>) -> Kind<'a, u32> {
    let (low, high) = (*range.start(), *range.end());
    let allowed = format!("a whole number{} from {low} to {high}", of(unit));
    let read = move |value: &DeValue<'_>| {
        let number = number_in(value, unit)?;
        // Exact: a u32 fits into the 53 bits of an f64.
        if number.fract() != 0.0 {
            return Err(Fault::new(format!("{number} is not a whole number")));
        }
        if !(f64::from(low)..=f64::from(high)).contains(&number) {
            return Err(outside(number, &Bound::Included(f64::from(low))));
        }
        Ok(number as u32)
    };
    Kind { unit, allowed, read: Box::new(read) }
}

/// A number, whole or not.
pub(super) fn number<'a>(range: impl RangeBounds<f64> + 'a, unit: Option<Unit>) -> Kind<'a, f64> {
    let allowed = format!("a number{}{}", of(unit), limits(&range));
    let read = move |value: &DeValue<'_>| {
        let number = number_in(value, unit)?;
        if range.contains(&number) { Ok(number) } else { Err(outside(number, &range.start_bound().cloned())) }
    };
    Kind { unit, allowed, read: Box::new(read) }
}

/// A number without a unit that is kept as `f32`; it lies within `range` also after rounding.
pub(super) fn fraction<'a>(range: impl RangeBounds<f64> + 'a) -> Kind<'a, f32> {
    let allowed = format!("a number{}", limits(&range));
    Kind::new(allowed, move |value| {
        let number = number_in(value, None)?;
        let rounded = number as f32;
        match range.contains(&f64::from(rounded)) {
            true => Ok(rounded),
            false => Err(outside(number, &range.start_bound().cloned())),
        }
    })
}

/// Seconds.
pub(super) fn seconds<'a>(range: RangeInclusive<u32>) -> Kind<'a, Duration> {
    let (low, high) = (f64::from(*range.start()), f64::from(*range.end()));
    number(low..=high, Some(Unit::Seconds)).map(Duration::from_secs_f64)
}

/// A length of time in days, 1 to `most`.
pub(super) fn days<'a>(most: u32) -> Kind<'a, Duration> {
    number(1.0..=f64::from(most), Some(Unit::Days)).map(|days| Duration::from_secs_f64(days * f64::from(DAY_S)))
}

/// So many days.
pub(super) const fn days_long(days: u32) -> Duration {
    Duration::from_secs(days as u64 * DAY_S as u64)
}

const DAY_S: u32 = 86_400;

/// What a value is, without its content.
pub(super) fn found(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn number_in(value: &DeValue<'_>, unit: Option<Unit>) -> Result<f64, Fault> {
    match value {
        // Beyond i128 nothing is within any limit.
        DeValue::Integer(i) => i128::from_str_radix(i.as_str(), i.radix())
            .map(|n| n as f64)
            .map_err(|_| Fault::new("is far too large a number")),
        DeValue::Float(f) => f.as_str().parse().map_err(|_| Fault::new("is not a number")),
        DeValue::String(text) => Err(match units::meant(text, unit) {
            Some(number) => Fault::with_remedy(
                format!("is the text {text:?}, not a number"),
                format!(
                    "write {number}, without quotes and unit: the key counts {}",
                    unit.map_or("no unit", Unit::name)
                ),
            ),
            None => Fault::new("is text, not a number"),
        }),
        other => Err(Fault::new(format!("is {}, not a number", found(other)))),
    }
}

fn outside(number: f64, low: &Bound<f64>) -> Fault {
    Fault::new(match low {
        Bound::Included(low) if number < *low => format!("{number} is too small"),
        Bound::Excluded(low) if number <= *low => format!("{number} is too small"),
        _ if number.is_nan() => "nan is no number to go by".to_string(),
        _ => format!("{number} is too large"),
    })
}

fn of(unit: Option<Unit>) -> String {
    unit.map_or_else(String::new, |u| format!(" of {}", u.name()))
}

fn limits(range: &impl RangeBounds<f64>) -> String {
    match (range.start_bound(), range.end_bound()) {
        (Bound::Included(low), Bound::Included(high)) => format!(" from {low} to {high}"),
        (Bound::Excluded(low), Bound::Included(high)) => format!(" above {low}, at most {high}"),
        (Bound::Included(low), Bound::Excluded(high)) => format!(" from {low}, below {high}"),
        _ => String::new(),
    }
}
