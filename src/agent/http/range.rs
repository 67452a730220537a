//! `Range` of a request (RFC 9110, section 14). Pure.

/// What of a file is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it: also where the header asks for several ranges, or for what is not understood.
    All,
    /// From this byte to that one, both included.
    Part { from: u64, to: u64 },
    /// Bytes that it has not.
    Nothing,
}

/// What a header asks for, of a file of this length.
pub(super) fn wanted(header: &str, length: u64) -> Wanted {
    let Some(spec) = header.trim().strip_prefix("bytes=").filter(|spec| !spec.contains(',')) else {
        return Wanted::All;
    };
    let Some((first, last)) = spec.trim().split_once('-') else { return Wanted::All };
    let number = |digits: &str| match digits.bytes().all(|b| b.is_ascii_digit()) {
        // Beyond all numbers is beyond the file.
        true => Some(digits.parse().unwrap_or(u64::MAX)),
        false => None,
    };
    match (first, last) {
        ("", "") => Wanted::All,
        ("", count) => match number(count) {
            None => Wanted::All,
            Some(0) => Wanted::Nothing,
            Some(_) if length == 0 => Wanted::Nothing,
            Some(count) => Wanted::Part { from: length.saturating_sub(count), to: length - 1 },
        },
        (from, to) => match (number(from), if to.is_empty() { Some(u64::MAX) } else { number(to) }) {
            (Some(from), Some(to)) if from > to => Wanted::All,
            (Some(from), Some(_)) if from >= length => Wanted::Nothing,
            (Some(from), Some(to)) => Wanted::Part { from, to: to.min(length - 1) },
            _ => Wanted::All,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_as_the_standard_gives_them() {
        let part = |from, to| Wanted::Part { from, to };
        for (header, length, expected) in [
            ("bytes=0-499", 10_000, part(0, 499)),
            ("bytes=500-999", 10_000, part(500, 999)),
            ("bytes=-500", 10_000, part(9_500, 9_999)),
            ("bytes=9500-", 10_000, part(9_500, 9_999)),
            ("bytes=0-", 10_000, part(0, 9_999)),
            ("bytes=9999-20000", 10_000, part(9_999, 9_999)),
            ("bytes=-20000", 10_000, part(0, 9_999)),
            ("bytes=10000-", 10_000, Wanted::Nothing),
            ("bytes=-0", 10_000, Wanted::Nothing),
            ("bytes=0-0", 0, Wanted::Nothing),
            ("bytes=99999999999999999999-", 10_000, Wanted::Nothing),
            ("bytes=5-4", 10_000, Wanted::All),
            ("bytes=0-1,5-6", 10_000, Wanted::All),
            ("lines=0-1", 10_000, Wanted::All),
            ("bytes=+1-2", 10_000, Wanted::All),
            ("bytes=-", 10_000, Wanted::All),
            ("bytes=", 10_000, Wanted::All),
        ] {
            assert_eq!(wanted(header, length), expected, "{header}");
        }
    }

    proptest! {
        #[test]
        fn a_part_lies_in_the_file(header in "bytes=[0-9]{0,20}-[0-9]{0,20}", length in 0_u64..1_000) {
            if let Wanted::Part { from, to } = wanted(&header, length) {
                prop_assert!(from <= to && to < length);
            }
        }
    }
}
