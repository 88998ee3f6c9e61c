//! Errors in the log, without the secrets in them.
//!
//! Owns which parts of a URL are shown: its scheme and its host. Paths, queries and user names of
//! webhooks are secrets.

/// The text with every URL cut after its host.
pub(super) fn masked(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, url) = rest.split_at(at + 3);
        shown.push_str(before);
        let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ')' | '>' | ',' | '`');
        let (url, after) = url.split_at(url.find(ends).unwrap_or(url.len()));
        let end = url.find(['/', '?', '#']).unwrap_or(url.len());
        let host = url[..end].rsplit('@').next().unwrap_or_default();
        shown.push_str(host);
        if host.len() < url.len() {
            shown.push_str("/***");
        }
        rest = after;
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use super::masked;

    #[test]
    fn of_a_url_the_host_is_shown() {
        let cases = [
            ("no URL at all", "no URL at all"),
            (
                "for url (https://hooks.slack.com/services/T0/B0/xyz)",
                "for url (https://hooks.slack.com/***)",
            ),
            (
                "http://ana:pw@host:8080/x?key=1: refused",
                "http://host:8080/***",
            ),
            (
                "\"https://a/b\" and https://c",
                "\"https://a/***\" and https://c",
            ),
            ("https://a?key=1 x", "https://a/*** x"),
        ];
        for (text, shown) in cases {
            assert!(masked(text).starts_with(shown), "{text}: {}", masked(text));
            assert!(!masked(text).contains("key") && !masked(text).contains("pw"));
        }
    }
}
