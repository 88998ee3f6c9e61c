//! Which words are the same, and which are similar.

/// Suffixes that a name can have for its unit.
const UNITS: [&str; 7] = [
    "ms",
    "millis",
    "milliseconds",
    "inmilliseconds",
    "secs",
    "seconds",
    "inseconds",
];
/// The similarity from which a word counts as a typo of another one.
const ALIKE: f64 = 0.7;

/// Whether two words are the same except for capitals, separators, and the unit of the second one.
pub(super) fn is_same(one: &str, word: &str) -> bool {
    let plain = |text: &str| -> String {
        let letters = text.chars().filter(char::is_ascii_alphanumeric);
        letters.map(|c| c.to_ascii_lowercase()).collect()
    };
    let (one, word) = (plain(one), plain(word));
    let unit = word.strip_prefix(&one);
    unit.is_some_and(|unit| unit.is_empty() || UNITS.contains(&unit))
}

/// Returns the most similar known word, if any is similar enough, and its similarity.
pub(crate) fn nearest<'a>(
    word: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<(f64, &'a str)> {
    let alike = |other: &'a str| (strsim::normalized_damerau_levenshtein(word, other), other);
    let alike = known.into_iter().map(alike);
    let alike = alike.filter(|(likeness, _)| *likeness >= ALIKE);
    alike.max_by(|(one, _), (other, _)| one.total_cmp(other))
}
