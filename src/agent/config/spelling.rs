//! The nearest right spelling.

/// The known word that `word` was most probably meant to be, if one is near enough to say so.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // The distance takes time and memory with the product of the lengths; no key is nearly so long.
    if word.len() > 64 {
        return None;
    }
    let lower = word.to_lowercase();
    let enough = (word.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(&lower, &k.to_lowercase()), k))
        .filter(|(distance, _)| *distance <= enough)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}

/// Words as a list for people: `a, b or c`.
pub(super) fn alternatives(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).to_string(),
        [head @ .., last] => format!("{} or {last}", head.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_likely_word_and_no_unlikely_one() {
        let known = ["smoothing", "hysteresis", "min_windows"];
        assert_eq!(nearest("smothing", known), Some("smoothing"));
        assert_eq!(nearest("Hysterysis", known), Some("hysteresis"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(nearest("", known), None);
        assert_eq!(nearest("fite", ["Fight", "Normal"]), None);
        assert_eq!(nearest("fight", ["Fight", "Normal"]), Some("Fight"));
    }
}
