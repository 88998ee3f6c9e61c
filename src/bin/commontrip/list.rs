//! `commontrip list`: the circuits of the store, in a table.

use clap::{
    Args, ValueEnum,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use commontrip::{Snapshot, State, operator::View};
use serde_json::json;

use crate::{
    Common,
    known::{self, Unreadable},
    out::{Done, Failure, RED, YELLOW, say, shown, tell},
    table::{Cell, Table, coloured},
    words,
};

/// Arguments of `commontrip list`.
#[derive(Args, Debug)]
pub struct Options {
    /// Only circuits whose name contains this; with `*` (any text) or `?` (one character), the
    /// pattern must match the whole name
    pattern: Option<String>,

    /// Only circuits in these states
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = states())]
    state: Vec<State>,

    /// The order
    #[arg(long, value_name = "BY", default_value = "worst")]
    sort: Sort,

    /// At most this many [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,

    #[command(flatten)]
    common: Common,
}

/// The order of the list.
#[derive(ValueEnum, Debug, Clone, Copy)]
enum Sort {
    /// Open ones, then half-open, overrides, closed; among them the highest failure rate
    Worst,
    /// By name
    Name,
    /// The highest failure rate
    Rate,
    /// The most calls in the window
    Calls,
}

fn states() -> impl TypedValueParser<Value = State> {
    let words = State::ALL.map(|state| {
        let word = PossibleValue::new(state.as_str());
        word.alias(match state {
            State::HalfOpen => "half-open",
            State::ForcedOpen => "forced-open",
            State::MetricsOnly => "metrics-only",
            state => state.as_str(),
        })
    });
    PossibleValuesParser::new(words).try_map(|word| word.replace('-', "_").parse::<State>())
}

/// Lists the circuits.
pub async fn run(options: &Options) -> Done {
    let operator = options.common.connection.operator()?;
    let mut unread = Unreadable::default();
    let all = known::circuits(&operator, &mut unread).await?;
    let now_ms = all.iter().map(|view| view.snapshot.now_ms).max();
    let (total, pattern) = (all.len(), options.pattern.as_deref());
    let mut views: Vec<View> = all
        .into_iter()
        .filter(|view| pattern.is_none_or(|pattern| matches(pattern, view.name.as_str())))
        .collect();
    let named = views.len();
    views.retain(|view| options.state.is_empty() || options.state.contains(&view.snapshot.state));
    sort(&mut views, options.sort);
    let limit = options.limit.unwrap_or(u64::MAX);
    let more = (views.len() as u64).saturating_sub(limit);
    views.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let out = &options.common.output;
    if out.json {
        let listed = json!({
            "now_ms": now_ms.unwrap_or(0),
            "circuits": views,
            "more": more,
            "incomplete": unread.incomplete,
        });
        out.tell(&listed, String::new)?;
    } else if !views.is_empty() {
        tell(&table(&views).text(out))?;
        if more > 0 {
            say(&format!("{} more", words::count(more, "circuit")));
        }
    }
    // The circuits that could not be read may have matched.
    if !views.is_empty() || !unread.is_empty() {
        return unread.end();
    }
    let empty = match (total, named) {
        (0, _) => {
            "no circuits here. A circuit is listed once a service has made calls through it.\n\
             Are --redis and --prefix those of the service? `commontrip doctor` looks at the way there."
                .to_owned()
        }
        (n, 0) => {
            let pattern = shown(pattern.unwrap_or_default());
            let all = words::count(n as u64, "circuit");
            format!("no circuit's name matches `{pattern}`; `commontrip list` shows all: {all}")
        }
        (_, n) => {
            let states: Vec<_> = options.state.iter().map(|state| state.as_str()).collect();
            let all = words::count(n as u64, "circuit");
            format!("none of {all} is {}", states.join(" or "))
        }
    };
    match named {
        0 if pattern.is_some() => Err(Failure::Not(empty)),
        _ if out.json => Ok(()),
        _ => tell(&format!("{empty}\n")),
    }
}

fn sort(views: &mut [View], by: Sort) {
    let rate = |view: &View| view.failure_rate.unwrap_or(-1.0);
    match by {
        Sort::Worst => views.sort_by(View::worst_first),
        Sort::Name => views.sort_by(|a, b| a.name.cmp(&b.name)),
        Sort::Rate => views.sort_by(|a, b| rate(b).total_cmp(&rate(a))),
        Sort::Calls => views.sort_by_key(|view| std::cmp::Reverse(view.snapshot.calls)),
    }
}

fn table(views: &[View]) -> Table {
    let heads = vec![
        "NAME",
        "STATE",
        ">SINCE",
        ">LEFT",
        ">FAILING",
        "?>CALLS",
        "?>REJECTED",
        "?>REPLICAS",
        "WHY",
    ];
    let mut table = Table::new(heads);
    for view in views {
        let seen = &view.snapshot;
        table.row(vec![
            shown(view.name.as_str()).into(),
            coloured(words::colour(seen.state), seen.state.as_str()),
            words::span(seen.now_ms.saturating_sub(seen.since_ms)).into(),
            left(seen).into(),
            rate(view),
            seen.calls.to_string().into(),
            seen.rejected_total.to_string().into(),
            seen.replicas.to_string().into(),
            why(seen).into(),
        ]);
    }
    table
}

fn left(seen: &Snapshot) -> String {
    match seen.until_ms {
        0 => "-".to_owned(),
        _ => words::span(seen.left_ms()),
    }
}

fn rate(view: &View) -> Cell {
    let text = words::percent(view.failure_rate);
    match view.failure_rate {
        Some(50.0..) => coloured(RED, text),
        Some(rate) if rate > 0.0 => coloured(YELLOW, text),
        _ => text.into(),
    }
}

/// Why a circuit needs attention; empty for a healthy one.
fn why(seen: &Snapshot) -> String {
    let why = match (seen.state, seen.policy.is_empty()) {
        (State::Closed, true) => String::new(),
        (State::Closed, false) => format!("stored policy {}", shown(&seen.policy)),
        _ => words::why(seen, []),
    };
    let kinds = match seen.state.is_override() {
        true => String::new(),
        false => words::kinds(seen),
    };
    let parts = [why, kinds];
    let said: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    said.join("; ")
}

/// Whether a name contains a text, or matches a pattern with `*` and `?` as a whole. Ignores case.
fn matches(pattern: &str, name: &str) -> bool {
    let lower = |text: &str| text.to_lowercase().chars().collect::<Vec<_>>();
    let (pattern, name) = (lower(pattern), lower(name));
    if !pattern.iter().any(|c| "*?".contains(*c)) {
        return pattern.is_empty() || name.windows(pattern.len()).any(|part| part == pattern);
    }
    // `star` is the position of the last `*`, and how much of the name it covers.
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => {
                let Some((at, taken)) = star else {
                    return false;
                };
                star = Some((at, taken + 1));
                (p, n) = (at + 1, taken + 1);
            }
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_pattern_is_a_part_or_with_stars_the_whole() {
        for (pattern, name, does) in [
            ("pay", "eu-payments", true),
            ("PAY", "payments", true),
            ("", "payments", true),
            ("payz", "payments", false),
            ("pay*", "payments", true),
            ("pay*", "eu-payments", false),
            ("*ments", "payments", true),
            ("*m*t?", "payments", true),
            ("p*y*x", "payments", false),
            ("pa?ments", "payments", true),
            ("?", "", false),
            ("*", "", true),
            ("longer than the name", "name", false),
            ("ü*", "über", true),
        ] {
            assert_eq!(matches(pattern, name), does, "{pattern} {name}");
        }
    }
}
