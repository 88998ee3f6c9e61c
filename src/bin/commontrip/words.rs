//! Descriptions of circuits: times, shares, states, reasons, events.
//!
//! Owns the text that people read; writes nothing. Text from elsewhere has already passed
//! [`shown`].

use std::time::Duration;

use commontrip::{Event, Reason, Snapshot, State};

use crate::out::{CYAN, GREEN, MAGENTA, RED, YELLOW, shown};

/// A duration in its two largest units: `2m 5s`, `3h 20m`; `0s` for less than a second.
pub fn span(ms: u64) -> String {
    let seconds = match ms / 1000 {
        seconds @ 0..3600 => seconds,
        seconds @ 3600..86_400 => seconds - seconds % 60,
        seconds => seconds - seconds % 3600,
    };
    let words = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    let units: Vec<_> = words.split(' ').take(2).collect();
    units.join(" ").replace("days", "d").replace("day", "d")
}

/// A duration, exactly: `1m 30s`, `250ms`.
pub fn exactly(ms: u64) -> String {
    humantime::format_duration(Duration::from_millis(ms)).to_string()
}

/// How long before `now` a time was; `never` for 0.
pub fn ago(now: u64, then: u64) -> String {
    match then {
        0 => "never".to_owned(),
        then => format!("{} ago", span(now.saturating_sub(then))),
    }
}

/// A percentage: `62.5%`; `-` for `None`.
pub fn percent(rate: Option<f64>) -> String {
    rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}%"))
}

/// A part of a whole as a percentage.
pub fn share(part: u64, of: u64) -> String {
    percent((of > 0).then(|| part as f64 * 100.0 / of as f64))
}

/// A duration in microseconds: `730 µs`, `12.3 ms`, `1.2 s`.
pub fn micros(us: u128) -> String {
    match us {
        0..1000 => format!("{us} µs"),
        1000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

/// A number with its noun: `1 call`, `2 calls`.
pub fn count(n: u64, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}

/// The colour of a state.
pub const fn colour(state: State) -> &'static str {
    match state {
        State::Open | State::ForcedOpen => RED,
        State::HalfOpen => YELLOW,
        State::Disabled => MAGENTA,
        State::MetricsOnly => CYAN,
        _ => GREEN,
    }
}

/// Why a state was entered, with the counts of the window at that moment.
pub fn cause(reason: Reason, [calls, failures, slow]: [u64; 3]) -> String {
    // If no call succeeded, some may have been abandoned; these count as failures then.
    let failed = match failures < calls {
        true => "failed",
        false => "did not succeed",
    };
    let of = |part: u64, what: &str| {
        let calls = count(calls, "call");
        format!("{part} of {calls} {what}")
    };
    match reason {
        Reason::FailureRate if calls == 0 => "too large a share of calls failed".to_owned(),
        Reason::FailureCount if calls == 0 => "too many calls failed".to_owned(),
        Reason::SlowCallRate if calls == 0 => "too large a share of calls was slow".to_owned(),
        Reason::Created => "nothing has happened to it yet".to_owned(),
        Reason::FailureRate => format!("{} ({})", of(failures, failed), share(failures, calls)),
        Reason::FailureCount => of(failures, failed),
        Reason::ConsecutiveFailures => "too many calls in a row did not succeed".to_owned(),
        Reason::SlowCallRate => format!("{} ({})", of(slow, "were slow"), share(slow, calls)),
        Reason::Tripped => "a call told the circuit to open at once".to_owned(),
        Reason::WaitElapsed => "the wait is over, probes may go out".to_owned(),
        Reason::ProbeFailed => "a probe failed".to_owned(),
        Reason::HalfOpenTimeout => "probes went out and none decided in time".to_owned(),
        Reason::Recovered => "the probes succeeded".to_owned(),
        Reason::Override => "an operator set it".to_owned(),
        Reason::OverrideExpired => "the override expired".to_owned(),
        Reason::Reset => "an operator reset it".to_owned(),
        Reason::Adopted => "Redis had lost it; restored from a replica's memory".to_owned(),
        Reason::Policy => "settings were stored".to_owned(),
        other => other.to_string(),
    }
}

/// Why a circuit is in its state. `events` are its newest, as far as available: they keep the
/// counts that opened it, which later leave the window.
pub fn why<'a>(seen: &Snapshot, events: impl IntoIterator<Item = &'a Event>) -> String {
    if seen.state.is_override() {
        let by = shown(&seen.override_author);
        return match seen.override_reason.as_str() {
            "" => format!("by {by}"),
            reason => format!("by {by}: {}", shown(reason)),
        };
    }
    let of_event = |event: &Event| [event.calls, event.failures, event.slow];
    let began = |event: &&Event| event.is_transition() && event.generation == seen.generation;
    let began = events.into_iter().find(began).map(of_event);
    cause(
        seen.reason,
        began.unwrap_or([seen.calls, seen.failures, seen.slow]),
    )
}

/// The leading kind of failure: of the past two minutes, otherwise the last one. Empty if no
/// failure has a kind.
pub fn kinds(seen: &Snapshot) -> String {
    let all: u64 = seen.failure_kinds.iter().map(|kind| kind.recent).sum();
    match seen.failure_kinds.first() {
        Some(first) if first.recent > 0 => {
            format!("{} {} of {all}", shown(&first.kind), first.recent)
        }
        Some(last) if seen.state != State::Closed => format!("last {}", shown(&last.kind)),
        _ => String::new(),
    }
}

/// What a state means for a call.
pub const fn meaning(state: State) -> &'static str {
    match state {
        State::Closed => "calls pass",
        State::Open => "calls are rejected until the wait is over",
        State::HalfOpen => "a few probes decide, other calls are rejected",
        State::ForcedOpen => "an operator override rejects every call",
        State::Disabled => "an operator override admits every call; only lifetime totals are kept",
        State::MetricsOnly => {
            "an operator override admits and counts every call; nothing opens the circuit"
        }
        _ => "",
    }
}

/// Describes an event: `closed -> open`, or `policy`.
pub fn change(event: &Event) -> String {
    match event.is_transition() {
        true => format!("{} -> {}", event.from, event.to),
        false => "policy".to_owned(),
    }
}

/// The colour of an event.
pub fn change_colour(event: &Event) -> &'static str {
    match event.is_transition() {
        true => colour(event.to),
        false => CYAN,
    }
}

/// Describes the cause of an event, its end, and its author.
pub fn story(event: &Event) -> String {
    let mut words = match (event.is_transition(), event.policy.as_str()) {
        (true, _) => cause(event.reason, [event.calls, event.failures, event.slow]),
        (false, "") => "nothing is stored any more".to_owned(),
        (false, policy) => format!("stored {}", shown(policy)),
    };
    if !event.leading_failure.is_empty() {
        words += &format!(", {}", shown(&event.leading_failure));
    }
    if event.until_ms > event.at_ms && event.is_transition() {
        let lasts = exactly(event.until_ms - event.at_ms);
        let most = if event.to == State::HalfOpen {
            "at most "
        } else {
            ""
        };
        words += &format!(", for {most}{lasts}");
    }
    words += &format!(", by {}", shown(&event.by));
    if !event.origin.is_empty() && event.origin != event.by {
        words += &format!(" from {}", shown(&event.origin));
    }
    if !event.note.is_empty() {
        words += &format!(": {}", shown(&event.note));
    }
    words
}

/// Breaks text between words into rows of at most `width`.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut rows = vec![String::new()];
    let mut length = 0;
    for word in text.split(' ') {
        let more = word.chars().count();
        if length > 0 && length + 1 + more > width {
            rows.push(String::new());
            length = 0;
        }
        // `rows` is never empty.
        if let Some(row) = rows.last_mut() {
            if length > 0 {
                row.push(' ');
                length += 1;
            }
            row.push_str(word);
            length += more;
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units() {
        assert_eq!(span(0), "0s");
        assert_eq!(span(125_400), "2m 5s");
        assert_eq!(span(3 * 3_600_000 + 20 * 60_000 + 59_000), "3h 20m");
        assert_eq!(span(2 * 86_400_000 + 5_000_000), "2d 1h");
        assert!(!span(u64::MAX).is_empty() && !exactly(u64::MAX).is_empty());
    }

    #[test]
    fn where_no_call_succeeded_not_all_need_have_failed() {
        let said = |reason, counts| cause(reason, counts);
        let some = said(Reason::FailureRate, [20, 10, 0]);
        assert_eq!(some, "10 of 20 calls failed (50.0%)");
        let all = said(Reason::FailureRate, [20, 20, 0]);
        assert_eq!(all, "20 of 20 calls did not succeed (100.0%)");
        let all = said(Reason::FailureCount, [5, 5, 0]);
        assert_eq!(all, "5 of 5 calls did not succeed");
    }
}
