//! The request body of an alert: plain, for Slack, for PagerDuty.
//!
//! Owns the formats, and what must be escaped or cut in each; pure. Names of circuits are untrusted
//! text.

use serde::Serialize;

use super::{Action, Notification};
use crate::State;

/// Slack's limit on a block's text, characters (https://api.slack.com/reference/block-kit/blocks).
const SLACK_LONGEST: usize = 3000;
/// PagerDuty's limit on a summary, characters (https://developer.pagerduty.com/docs/events-api-v2).
const SUMMARY_LONGEST: usize = 1024;

/// The receiver of a body.
pub(super) enum Format {
    Plain,
    Slack,
    PagerDuty { routing_key: String },
}

/// The body to post.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Body<'a> {
    Plain(&'a Notification),
    Slack(Slack),
    PagerDuty(Box<PagerDuty<'a>>),
}

#[derive(Serialize)]
pub(super) struct Slack {
    text: String,
    blocks: Vec<Block>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block {
    Section { text: Text },
    Context { elements: Vec<Text> },
}

#[derive(Serialize)]
struct Text {
    r#type: &'static str,
    text: String,
}

#[derive(Serialize)]
pub(super) struct PagerDuty<'a> {
    routing_key: &'a str,
    event_action: &'static str,
    dedup_key: &'a str,
    client: &'static str,
    payload: Payload<'a>,
}

#[derive(Serialize)]
struct Payload<'a> {
    summary: String,
    source: &'a str,
    severity: &'static str,
    timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    component: Option<&'a str>,
    class: &'static str,
    custom_details: &'a Notification,
}

impl Format {
    pub(super) fn body<'a>(&'a self, of: &'a Notification) -> Body<'a> {
        match self {
            Self::Plain => Body::Plain(of),
            Self::Slack => Body::Slack(slack(of)),
            Self::PagerDuty { routing_key } => Body::PagerDuty(Box::new(PagerDuty {
                routing_key,
                event_action: of.action.as_str(),
                dedup_key: &of.dedup_key,
                client: "commontrip",
                payload: Payload {
                    summary: cut(&of.text, SUMMARY_LONGEST),
                    source: &of.replica,
                    severity: severity(of.rule),
                    timestamp: rfc3339(of.at_ms),
                    component: of.circuit.as_deref().or(of.check.as_deref()),
                    class: of.rule,
                    custom_details: of,
                },
            })),
        }
    }
}

fn slack(of: &Notification) -> Slack {
    let sign = match of.action {
        Action::Trigger => ":red_circle:",
        Action::Resolve => ":large_green_circle:",
    };
    let markdown = |text: String| Text {
        r#type: "mrkdwn",
        text,
    };
    let text = format!("{sign} {}", escaped(&of.text, SLACK_LONGEST - 30));
    let state = of.state.map_or("", State::as_str);
    let context = format!("{} {state} {} {}", of.rule, of.replica, rfc3339(of.at_ms));
    let context = markdown(escaped(&context, SLACK_LONGEST));
    Slack {
        blocks: vec![
            Block::Section {
                text: markdown(text.clone()),
            },
            Block::Context {
                elements: vec![context],
            },
        ],
        text,
    }
}

/// Text that Slack shows literally, without mentions or links, cut to `most` characters.
fn escaped(text: &str, most: usize) -> String {
    let (mut escaped, mut length) = (String::with_capacity(text.len()), 0);
    for c in text.chars() {
        let mut plain = [0; 4];
        let part = match c {
            '&' => "&amp;",
            '<' => "&lt;",
            '>' => "&gt;",
            c => c.encode_utf8(&mut plain),
        };
        length += part.chars().count();
        if length > most {
            break;
        }
        escaped.push_str(part);
    }
    escaped
}

fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some(_) => text.chars().take(most - 1).chain(['…']).collect(),
        None => text.to_owned(),
    }
}

/// An open circuit or a critical check affects users at once; the other rules are signs.
fn severity(rule: &str) -> &'static str {
    match rule {
        "opened" | "open_for" | "check_critical" => "critical",
        "store_unavailable" => "error",
        _ => "warning",
    }
}

/// A time in UTC, as `2026-11-28T09:14:16.123Z`.
fn rfc3339(unix_ms: u64) -> String {
    let (days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let (year, month, day) = civil(days);
    let (seconds, ms) = (ms / 1000, ms % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// Days since 1970 as a date; Hinnant's `civil_from_days`
/// (https://howardhinnant.github.io/date_algorithms.html).
const fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + (month <= 2) as u64;
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_782_399_999), "2000-02-28T23:59:59.999Z");
        assert_eq!(rfc3339(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(rfc3339(1_795_857_256_123), "2026-11-28T09:14:16.123Z");
    }

    #[test]
    fn what_is_escaped_for_slack_calls_nobody_and_is_cut_between_characters() {
        assert_eq!(
            escaped("a <!channel> & b", 99),
            "a &lt;!channel&gt; &amp; b"
        );
        assert_eq!(escaped("ab<c", 5), "ab");
        assert_eq!(escaped("ab<c", 6), "ab&lt;");
    }

    #[test]
    fn a_summary_is_cut_by_characters() {
        assert_eq!(cut("üüü", 3), "üüü");
        assert_eq!(cut("üüüü", 3), "üü…");
    }
}
