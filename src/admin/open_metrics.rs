//! OpenMetrics, for scrapers that ask for it.
//!
//! Owns which scrapers get it, and how it differs from Prometheus' text format; knows no metric.

use axum::http::{HeaderMap, header};

/// The media type of OpenMetrics.
pub(super) const KIND: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether a scraper accepts OpenMetrics, which it gets even if it accepts other formats too.
pub(super) fn is_accepted(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter();
    let accepted = accepted.filter_map(|value| value.to_str().ok());
    let mut ranges = accepted.flat_map(|value| value.split(','));
    ranges.any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        kind.eq_ignore_ascii_case("application/openmetrics-text")
            && !parts.any(|part| {
                part.strip_prefix("q=")
                    .is_some_and(|q| q.parse() == Ok(0.0))
            })
    })
}

/// Converts Prometheus' text to OpenMetrics, in which the name of a counter's family lacks the
/// `_total` of its series.
pub(super) fn of(text: &str) -> String {
    let mut open = String::with_capacity(text.len() + 8);
    for line in text.lines() {
        let meta = line
            .strip_prefix("# ")
            .and_then(|line| line.split_once(' '));
        match meta.and_then(|(word, rest)| Some((word, rest.split_once(' ')?))) {
            Some((word, (name, rest))) => {
                let family = name.strip_suffix("_total").unwrap_or(name);
                open.extend(["# ", word, " ", family, " ", rest, "\n"]);
            }
            None => open.extend([line, "\n"]),
        }
    }
    open.push_str("# EOF\n");
    open
}
