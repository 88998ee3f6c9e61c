//! `commontrip show`: everything about one circuit.
//!
//! Owns the layout. Returns status 1 also if the circuit rejects calls.

use std::fmt::Write as _;

use clap::Args;
use commontrip::{
    Event, Percentiles, Rules, Snapshot, State,
    model::Member,
    operator::{Details, View},
};
use serde::Serialize;

use crate::{
    Common, events, known,
    out::{BOLD, DIM, Done, Failure, Output, RED, YELLOW, shown},
    replicas,
    table::terminal_width,
    words::{self, wrap},
    zone::Zone,
};

/// How many of the newest events are shown.
const EVENTS: usize = 10;
/// Replicas that reported within this time are shown.
const RECENT_MS: u64 = 60_000;
/// The maximum width of a line.
const WIDTH: usize = 100;
/// Where the second column begins.
const LABEL: usize = 12;

/// The end of the help of `show`.
pub const AFTER_HELP: &str = "\
Exit status: 0 calls pass, 1 calls are rejected (open, half_open, forced_open) or there is no such circuit,
2 the command line is wrong, 3 the store does not answer.";

/// Arguments of `commontrip show`.
#[derive(Args, Debug)]
pub struct Options {
    /// The circuit
    name: String,

    #[command(flatten)]
    common: Common,
}

/// Shows the circuit.
pub async fn run(options: &Options) -> Done {
    let operator = options.common.connection.operator()?;
    let details = match operator.details(&options.name).await {
        Ok(details) => details,
        Err(error) => return Err(known::failure(&operator, error).await),
    };
    let out = &options.common.output;
    out.tell(&details, || {
        Page {
            out,
            text: String::new(),
        }
        .all(&details)
    })?;
    match details.circuit.snapshot.state.admits() {
        true => Ok(()),
        // The output has already said so.
        false => Err(Failure::Not(String::new())),
    }
}

/// Writes the state after a command, and what else the command did.
pub fn tell_state(
    out: &Output,
    view: &View,
    also: &impl Serialize,
    rows: &[(&str, String)],
) -> Done {
    #[derive(Serialize)]
    struct Now<'a, T> {
        #[serde(flatten)]
        circuit: &'a View,
        #[serde(flatten)]
        also: &'a T,
    }
    let now = Now {
        circuit: view,
        also,
    };
    out.tell_changed(&now, || {
        let mut page = Page {
            out,
            text: String::new(),
        };
        page.head(view, &[]);
        for (label, words) in rows {
            page.row(label, words);
        }
        page.text
    })
}

struct Page<'a> {
    out: &'a Output,
    text: String,
}

impl Page<'_> {
    fn all(mut self, details: &Details) -> String {
        self.head(&details.circuit, &details.events);
        self.numbers(details);
        self.policy(details);
        self.members(details);
        self.events(details);
        self.text
    }

    fn row(&mut self, label: &str, words: &str) {
        let indent = format!("\n{:LABEL$}", "");
        let width = terminal_width().unwrap_or(WIDTH).min(WIDTH);
        let rows = wrap(words, width - LABEL).join(&indent);
        let label = self.out.paint(DIM, &format!("{label:LABEL$}"));
        let _ = writeln!(self.text, "{label}{rows}");
    }

    fn head(&mut self, view: &View, events: &[Event]) {
        let seen = &view.snapshot;
        let name = self.out.paint(BOLD, &shown(view.name.as_str()));
        let state = self
            .out
            .paint(words::colour(seen.state), seen.state.as_str());
        let _ = writeln!(self.text, "{name}  {state}: {}", words::meaning(seen.state));
        let why = words::why(seen, events);
        self.row("why", &why);
        let zone = self.out.zone();
        let since = zone.date(seen.since_ms);
        let ago = words::ago(seen.now_ms, seen.since_ms);
        self.row("since", &format!("{since}, {ago}"));
        if let Some(left) = left(seen, &zone) {
            self.row("left", &left);
        }
        if seen.ramp_until_ms > seen.now_ms {
            let left = words::span(seen.ramp_until_ms - seen.now_ms);
            self.row(
                "ramp",
                &format!("calls are admitted by and by, all of them in {left}"),
            );
        }
        let opens = match seen.consecutive_opens {
            0 | 1 => String::new(),
            n => format!(", {n} opens since it was last stable"),
        };
        self.row("generation", &format!("{}{opens}", seen.generation));
    }

    fn numbers(&mut self, details: &Details) {
        let (view, seen) = (&details.circuit, &details.circuit.snapshot);
        let limit = |key: &str| details.policy.in_force.get(key).copied().unwrap_or(0);
        let window = match limit("window_calls") {
            0 => format!("of the last {}", words::exactly(limit("window_ms"))),
            n => format!("of the last {n}"),
        };
        let least = limit("minimum_number_of_calls");
        let judged = match (seen.calls < least, limit("minimum_applies_to")) {
            (false, _) => String::new(),
            (true, 0) => format!("; rates are judged from {least} on"),
            (true, _) => format!("; it can open from {least} on"),
        };
        self.row(
            "window",
            &format!("{} {window}{judged}", words::count(seen.calls, "call")),
        );
        if seen.undecided > 0 {
            let abandoned = words::count(seen.undecided, "abandoned call");
            let judged = match (limit("abandoned_calls"), seen.failures < seen.calls) {
                (0, _) => "not judged: `abandoned_calls` is 0",
                (_, true) => "not judged: other calls succeeded",
                (_, false) => "counted as failures: no call succeeded",
            };
            self.row("", &format!("{abandoned}, {judged}"));
        }
        let opens = |what: &str, key: &str| match limit(key) {
            0 => None,
            n => Some(format!("{what} {}", Rules::in_words(key, n))),
        };
        let at: Vec<_> = [
            opens("opens at", "failure_rate_threshold"),
            opens("opens at failures:", "failure_count_threshold"),
            opens(
                "opens at failures in a row:",
                "consecutive_failures_threshold",
            ),
        ]
        .into_iter()
        .flatten()
        .collect();
        let rate = self.rate(view.failure_rate, limit("failure_rate_threshold"));
        let run = match seen.consecutive_failures {
            0 => String::new(),
            n => format!(", the last {n} in a row"),
        };
        let at = at.join(", ");
        self.row(
            "failures",
            &format!("{} ({rate}; {at}){run}", seen.failures),
        );
        let slow = match limit("slow_call_duration_threshold_ms") {
            0 => "slow calls are not judged".to_owned(),
            ms => {
                let threshold = limit("slow_call_rate_threshold");
                let rate = self.rate(view.slow_rate, threshold);
                let from = words::exactly(ms);
                format!(
                    "{} ({rate}; slow from {from} on, opens at {threshold}%)",
                    seen.slow
                )
            }
        };
        self.row("slow", &slow);
        let latency = seen
            .latency
            .as_ref()
            .map_or("not recorded".to_owned(), latency);
        self.row("latency", &latency);
        self.row(
            "ever",
            &format!(
                "{} ok, {} failed, {} slow, {} abandoned, {} ignored, {} rejected",
                seen.successes_total,
                seen.failures_total,
                seen.slow_total,
                seen.abandoned_total,
                seen.ignored_total,
                seen.rejected_total
            ),
        );
        if seen.open_total_ms > 0 {
            let total = open_time(seen.open_total_ms);
            let now = match seen.open_ms() {
                Some(ms) => {
                    let at = self.out.zone().date(seen.opened_ms);
                    format!(", {} since it opened ({at})", open_time(ms))
                }
                None => String::new(),
            };
            self.row("open", &format!("{total} in its life{now}"));
        }
        let now = seen.now_ms;
        let success = words::ago(now, seen.last_success_ms);
        let failure = words::ago(now, seen.last_failure_ms);
        self.row("last", &format!("success {success}, failure {failure}"));
        for (i, kind) in seen.failure_kinds.iter().enumerate() {
            let recent = match kind.recent {
                0 => String::new(),
                n => format!("{n} in the past minutes, "),
            };
            let detail = match kind.detail.as_str() {
                "" => String::new(),
                detail => format!(": {}", shown(detail)),
            };
            let (of, count) = (shown(&kind.kind), kind.count);
            let last = words::ago(now, kind.last_ms);
            let label = if i == 0 { "what failed" } else { "" };
            self.row(
                label,
                &format!("{of}  {recent}{count} in all, last {last}{detail}"),
            );
        }
    }

    fn rate(&self, rate: Option<f64>, threshold: u64) -> String {
        let text = words::percent(rate);
        match rate {
            Some(rate) if threshold > 0 && rate >= threshold as f64 => self.out.paint(RED, &text),
            Some(rate) if rate > 0.0 => self.out.paint(YELLOW, &text),
            _ => text,
        }
    }

    fn policy(&mut self, details: &Details) {
        let differ = &details.circuit.snapshot.policies_differ;
        if !differ.is_empty() {
            let words = format!("differ between replicas: {}", shown(differ));
            self.row("policies", &self.out.paint(YELLOW, &words));
        }
        let name = shown(details.circuit.name.as_str());
        let policy = &details.policy;
        let version = details.circuit.snapshot.policy_version;
        if policy.stored.is_empty() {
            let all = format!(
                "as in code, nothing is stored; `commontrip policy show {name}` has all of it"
            );
            return self.row("policy", &all);
        }
        self.row(
            "policy",
            &format!("version {version}, differs from the code's:"),
        );
        for (key, n) in &policy.stored {
            let stored = Rules::in_words(key, *n);
            let in_code = policy.code.get(key).map(|n| Rules::in_words(key, *n));
            let in_code = in_code.unwrap_or_default();
            self.row("", &format!("{key} {stored} (code: {in_code})"));
        }
    }

    fn members(&mut self, details: &Details) {
        let seen = &details.circuit.snapshot;
        if matches!(seen.state, State::Open | State::HalfOpen) {
            let allowed = "permitted_number_of_calls_in_half_open_state";
            let allowed = details.policy.in_force.get(allowed).copied().unwrap_or(0);
            let (well, ill) = (seen.probe_successes, seen.probe_failures);
            let out = details.probes.len();
            self.row(
                "probes",
                &format!("{out} of {allowed} out, {well} succeeded, {ill} failed"),
            );
            for probe in &details.probes {
                let left = words::span(probe.until_ms.saturating_sub(seen.now_ms));
                let held = format!("held by {} for {left} at most", shown(&probe.replica));
                self.row("", &held);
            }
        }
        let is_there = |member: &&Member| {
            member.seen_ms + RECENT_MS >= seen.now_ms || member.alone_until_ms > seen.now_ms
        };
        let (there, gone): (Vec<_>, Vec<_>) = details.replicas.iter().partition(is_there);
        let n = words::count(there.len() as u64, "replica");
        self.row("replicas", &format!("{n} reported within the last minute"));
        for member in there {
            let name = shown(&member.name);
            let said = replicas::state(seen.now_ms, member).join(", ");
            self.row("", &format!("{name}  {said}"));
        }
        if let Some(last) = gone.first() {
            let (n, ago) = (gone.len(), words::ago(seen.now_ms, last.seen_ms));
            self.row("", &format!("{n} more, last seen {ago} or before"));
        }
    }

    fn events(&mut self, details: &Details) {
        let skipped = details.events.len().saturating_sub(EVENTS);
        let name = shown(details.circuit.name.as_str());
        let head = match skipped {
            0 => "events, oldest first".to_owned(),
            n => format!("events, oldest first ({n} older: `commontrip events {name}`)"),
        };
        let _ = writeln!(self.text, "\n{}", self.out.paint(DIM, &head));
        if details.events.is_empty() {
            self.text += "none\n";
        }
        let events = details.events[skipped..].iter().map(|event| (None, event));
        self.text += &events::table(&self.out.zone(), events).text(self.out);
    }
}

fn left(seen: &Snapshot, zone: &Zone) -> Option<String> {
    let left = words::span(seen.left_ms());
    let at = zone.date(seen.until_ms);
    match (seen.state, seen.until_ms) {
        (state, 0) if state.is_override() => Some("no end; `reset` ends it".to_owned()),
        (_, 0) => None,
        (state, _) if state.is_override() && seen.left_ms() == 0 => {
            Some("its time is up, the next report ends it".to_owned())
        }
        (State::Open, _) if seen.left_ms() == 0 => {
            Some("the wait is over, the next call goes out as a probe".to_owned())
        }
        (State::Open, _) => Some(format!("{left}, then probes go out ({at})")),
        (State::HalfOpen, _) => Some(format!("{left} for the probes to decide")),
        _ => Some(format!("{left}, until {at}")),
    }
}

fn open_time(ms: u64) -> String {
    match ms {
        ..1000 => words::exactly(ms),
        _ => words::span(ms),
    }
}

fn latency(seen: &Percentiles) -> String {
    let [mean, p50, p95, p99] =
        [seen.mean, seen.p50, seen.p95, seen.p99].map(|time| words::micros(time.as_micros()));
    let n = seen.count;
    format!("mean {mean}, p50 {p50}, p95 {p95}, p99 {p99} ({n} calls)")
}
