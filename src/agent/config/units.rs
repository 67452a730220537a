//! Units of configuration keys: their names, and the conversions that a helpful remedy needs. Nothing here
//! lets a value with a unit pass: a key says its unit, and its value is a bare number.

/// What a numeric key counts. Its key's name ends in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    Milliseconds,
    Days,
    /// 10^6 bytes.
    Megabytes,
    KilobitsPerSecond,
}

/// The two kinds of suffix that name the same quantity differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quantity {
    Time,
    Size,
    Rate,
}

/// Every spelling of a unit that people put behind a number or a key, with its size in s, bytes or kbit/s.
const SPELLINGS: [(&str, Quantity, f64); 32] = [
    ("us", Quantity::Time, 1e-6),
    ("ms", Quantity::Time, 1e-3),
    ("msec", Quantity::Time, 1e-3),
    ("millis", Quantity::Time, 1e-3),
    ("milliseconds", Quantity::Time, 1e-3),
    ("s", Quantity::Time, 1.0),
    ("sec", Quantity::Time, 1.0),
    ("secs", Quantity::Time, 1.0),
    ("second", Quantity::Time, 1.0),
    ("seconds", Quantity::Time, 1.0),
    ("m", Quantity::Time, 60.0),
    ("min", Quantity::Time, 60.0),
    ("mins", Quantity::Time, 60.0),
    ("minutes", Quantity::Time, 60.0),
    ("h", Quantity::Time, 3600.0),
    ("hours", Quantity::Time, 3600.0),
    ("d", Quantity::Time, 86_400.0),
    ("day", Quantity::Time, 86_400.0),
    ("days", Quantity::Time, 86_400.0),
    ("b", Quantity::Size, 1.0),
    ("bytes", Quantity::Size, 1.0),
    ("kb", Quantity::Size, 1e3),
    ("kib", Quantity::Size, 1024.0),
    ("mb", Quantity::Size, 1e6),
    ("mib", Quantity::Size, 1_048_576.0),
    ("gb", Quantity::Size, 1e9),
    ("gib", Quantity::Size, 1_073_741_824.0),
    ("bps", Quantity::Rate, 1e-3),
    ("kbps", Quantity::Rate, 1.0),
    ("kbit/s", Quantity::Rate, 1.0),
    ("mbps", Quantity::Rate, 1e3),
    ("mbit/s", Quantity::Rate, 1e3),
];

impl Unit {
    /// As it is said after a number.
    pub(super) fn name(self) -> &'static str {
        match self {
            Unit::Seconds => "seconds",
            Unit::Milliseconds => "milliseconds",
            Unit::Days => "days",
            Unit::Megabytes => "MB (10^6 bytes)",
            Unit::KilobitsPerSecond => "kbit/s",
        }
    }

    fn size(self) -> (Quantity, f64) {
        match self {
            Unit::Seconds => (Quantity::Time, 1.0),
            Unit::Milliseconds => (Quantity::Time, 1e-3),
            Unit::Days => (Quantity::Time, 86_400.0),
            Unit::Megabytes => (Quantity::Size, 1e6),
            Unit::KilobitsPerSecond => (Quantity::Rate, 1.0),
        }
    }
}

/// The number meant by a text such as `10`, `10s` or `1.5 min`, in `unit`.
pub(super) fn meant(text: &str, unit: Option<Unit>) -> Option<f64> {
    let text = text.trim();
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-')).unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let spelling = text[digits..].trim().to_ascii_lowercase();
    if spelling.is_empty() {
        return Some(number);
    }
    let (quantity, size) = unit?.size();
    let (_, _, theirs) = SPELLINGS.iter().find(|(s, q, _)| *s == spelling && *q == quantity)?;
    // To nine digits: 0.1 s is 100 ms and not 100.00000000000001.
    let value = number * theirs / size;
    Some((value * 1e9).round() / 1e9)
}

/// The part of a key before its unit: `pre_roll` of `pre_roll_s`, `pre_roll_ms` and `pre_roll`.
pub(super) fn base_of(key: &str) -> &str {
    match key.rsplit_once('_') {
        Some((base, suffix)) if SPELLINGS.iter().any(|(s, ..)| *s == suffix) => base,
        _ => key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn understands_what_people_write() {
        assert_eq!(meant("10s", Some(Unit::Seconds)), Some(10.0));
        assert_eq!(meant(" 10 ", None), Some(10.0));
        assert_eq!(meant("1.5 min", Some(Unit::Seconds)), Some(90.0));
        assert_eq!(meant("0.1s", Some(Unit::Milliseconds)), Some(100.0));
        assert_eq!(meant("64MB", Some(Unit::Megabytes)), Some(64.0));
        assert_eq!(meant("2 Mbit/s", Some(Unit::KilobitsPerSecond)), Some(2000.0));
        assert_eq!(meant("64MB", Some(Unit::Seconds)), None, "a size is not a time");
        assert_eq!(meant("ten", Some(Unit::Seconds)), None);
        assert_eq!(meant("", Some(Unit::Seconds)), None);
    }

    #[test]
    fn keys_with_another_unit_have_the_same_base() {
        assert_eq!(base_of("pre_roll_ms"), base_of("pre_roll_s"));
        assert_eq!(base_of("ring_max_bytes"), base_of("ring_max_mb"));
        assert_eq!(base_of("ring_s"), base_of("ring_seconds"));
        assert_eq!(base_of("min_windows"), "min_windows");
    }
}
