//! Names in the names of variables: `payments` and `jitter` in `PAYMENTS_JITTER`.

/// A circuit's name as it is in variables: `payments-eu` is `PAYMENTS_EU`.
pub(super) fn upper(circuit: &str) -> String {
    let letter = |c: char| match c.is_ascii_alphanumeric() {
        true => c.to_ascii_uppercase(),
        false => '_',
    };
    circuit.chars().map(letter).collect()
}

/// What a variable is about (`None` for all), and its setting: the longest word that its name ends
/// in.
pub(super) fn longest<W>(
    name: &str,
    words: impl Iterator<Item = (&'static str, W)>,
) -> Option<(Option<&str>, &'static str, W)> {
    let found = words.filter_map(|(setting, word)| {
        let before = name.strip_suffix(&setting.to_ascii_uppercase())?;
        let of = match before {
            "" => None,
            _ => Some(before.strip_suffix('_').filter(|of| !of.is_empty())?),
        };
        Some((of, setting, word))
    });
    found.max_by_key(|(_, setting, _)| setting.len())
}

/// The places in a variable's name where a circuit's name may end and a setting begin.
pub(super) fn starts(name: &str) -> impl Iterator<Item = usize> + Clone {
    let after = name.match_indices('_').map(|(at, _)| at + 1);
    std::iter::once(0).chain(after)
}
