//! The key that identifies an alert, the same for every sender.
//!
//! Owns the format of `dedup_key`: the store's namespace, the circuit, the rule with its numbers,
//! and the generation in which the alert began. All replicas know these, even after Redis has lost
//! everything, so each makes the same key.

use std::fmt::Write;

/// Maximum length of a key, bytes: PagerDuty's limit.
const LONGEST: usize = 255;

/// The key of an alert. `of` is a circuit or check, and the episode; `None` for the store itself.
pub(super) fn dedup_key(namespace: &str, of: Option<(&str, u64)>, rule: &str) -> String {
    let namespace = escaped(namespace);
    let key = match of {
        Some((circuit, episode)) => format!("{namespace}/{}/{rule}/{episode}", escaped(circuit)),
        None => format!("{namespace}/{rule}"),
    };
    if key.len() <= LONGEST {
        return key;
    }
    // The part that fits, and a hash that tells keys with the same beginning apart.
    let tail = format!("~{:016x}", fnv_1a(&key));
    let mut end = LONGEST - tail.len();
    while !key.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{tail}", &key[..end])
}

/// A part of a key, with separators and bytes that no header can carry escaped.
fn escaped(part: &str) -> String {
    let mut escaped = String::with_capacity(part.len());
    for byte in part.bytes() {
        match byte {
            b'/' | b'%' | b'~' => drop(write!(escaped, "%{byte:02X}")),
            _ if byte.is_ascii_graphic() => escaped.push(char::from(byte)),
            _ => drop(write!(escaped, "%{byte:02X}")),
        }
    }
    escaped
}

/// FNV-1a, 64 bits (http://www.isthe.com/chongo/tech/comp/fnv): the same in every release.
fn fnv_1a(text: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_all_that_identifies_the_alert() {
        let key = dedup_key("commontrip", Some(("payments", 7)), "opened");
        assert_eq!(key, "commontrip/payments/opened/7");
        let store = dedup_key("commontrip", None, "store_unavailable:30000");
        assert_eq!(store, "commontrip/store_unavailable:30000");
    }

    #[test]
    fn names_with_separators_do_not_meet() {
        let one = dedup_key("a/b", Some(("c", 1)), "opened");
        let two = dedup_key("a", Some(("b/c", 1)), "opened");
        assert_ne!(one, two);
    }

    #[test]
    fn long_names_are_cut_and_stay_apart() {
        let key = |end: &str, n| {
            dedup_key(
                "p",
                Some((&format!("{}{end}", "ü".repeat(99)), n)),
                "opened",
            )
        };
        let keys = [key("a", 1), key("b", 1), key("a", 2)];
        for key in &keys {
            assert!(key.len() <= LONGEST && key.is_ascii(), "{key}");
        }
        assert!(keys[0] != keys[1] && keys[0] != keys[2]);
    }
}
