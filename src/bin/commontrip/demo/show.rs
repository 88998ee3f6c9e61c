//! The timeline: facts as lines for people, at most 80 columns wide.
//!
//! Owns words, colours and widths; decides nothing.

use std::fmt::Write as _;

use commontrip::{Reason, State};

use super::{
    facts::{Change, Fact, Probe, Spread, Start, Tick},
    replica::Calls,
};
use crate::{
    out::{BOLD, DIM, GREEN, RED, YELLOW, paint},
    words::wrap,
};

/// Up to this many replicas have a mark each in the lines of counts.
const MARKS: usize = 32;
/// Up to this many replicas are named on a line.
const NAMED: usize = 8;
/// Where the second and the third column of a line begin.
const FIRST: usize = 10;
const SECOND: usize = 17;

/// Turns facts into text.
pub struct Show {
    pub colour: bool,
}

/// Whole milliseconds in words.
pub fn ms(ms: u64) -> String {
    match ms {
        0 => "under 1 ms".to_owned(),
        ms if ms < 10_000 => format!("{ms} ms"),
        ms => format!("{:.1} s", ms as f64 / 1000.0),
    }
}

fn seconds(ms: u64) -> String {
    format!("{:.1} s", ms as f64 / 1000.0)
}

impl Show {
    pub fn paint(&self, colour: &str, text: &str) -> String {
        paint(self.colour, colour, text)
    }

    pub fn text(&self, fact: &Fact) -> String {
        match fact {
            Fact::Start(start) => self.start(start),
            Fact::Serving { url, token } => {
                let url = self.paint(BOLD, url);
                let token = token.as_deref().unwrap_or("that of COMMONTRIP_ADMIN_TOKEN");
                format!("  dashboard {url}\n  token     {token}  (to command circuits there)\n\n")
            }
            Fact::Upstream {
                at_s,
                failing: true,
                error_percent,
            } => {
                let text = format!("{error_percent} % of its answers are errors from now on");
                self.line(Some(*at_s), RED, "UPSTREAM FAILS", &text)
            }
            Fact::Upstream { at_s, .. } => {
                let text = "it answers normally again, but no replica knows yet";
                self.line(Some(*at_s), GREEN, "UPSTREAM HEALS", text)
            }
            Fact::Transition(change) => self.change(change),
            Fact::Spread(spread) => self.spread(spread),
            // A note reports these once.
            Fact::Probe(Probe { alone: true, .. }) => String::new(),
            Fact::Probe(probe) => self.probe(probe),
            Fact::Tick(tick) => self.tick(tick),
            Fact::Note { at_s, text } => self.line(Some(*at_s), YELLOW, "NOTE", text),
            // The summary reports these together.
            Fact::Replica(_) | Fact::Verdict(_) => String::new(),
        }
    }

    /// A line of the timeline: time, event, and details.
    fn line(&self, at_s: Option<f64>, colour: &str, what: &str, text: &str) -> String {
        let when = at_s.map_or_else(String::new, |at| format!("{at:5.1} s"));
        let what = self.paint(colour, &format!("{what:SECOND$}"));
        let indent = " ".repeat(FIRST + SECOND);
        let text = wrap(text, 79 - FIRST - SECOND).join(&format!("\n{indent}"));
        format!("{when:FIRST$}{what}{text}\n")
    }

    fn start(&self, s: &Start) -> String {
        let fleet = s.replicas.len();
        let title = format!(
            "commontrip demo: {fleet} replica{} of a service share the circuit `{}`",
            if fleet == 1 { "" } else { "s" },
            s.circuit
        );
        let mut text = format!("{}\n\n", self.paint(BOLD, &title));
        let mut row = |what: &str, words: String| {
            let rows = wrap(&words, 79 - 12).join("\n            ");
            let _ = writeln!(text, "  {what:10}{rows}");
        };
        let pids: Vec<_> = s.replicas.iter().map(|r| r.pid).collect();
        let (first, last) = (pids.iter().min(), pids.iter().max());
        row(
            "replicas",
            match (s.store.as_str(), first, last) {
                ("embedded", ..) => {
                    "in this process (--redis URL: a process each, on a Redis)".to_owned()
                }
                (_, Some(first), Some(last)) if fleet > 1 => {
                    format!("{fleet} processes, pids {first} to {last}")
                }
                (_, first, _) => format!("1 process, pid {}", first.unwrap_or(&0)),
            },
        );
        if s.store == "embedded" {
            row("store", "embedded: the memory of this process".to_owned());
        } else {
            row("store", s.store.clone());
            let hint = "watch it from another terminal:";
            row("", hint.to_owned());
            let key = format!("commontrip:{{{}}}", s.circuit).replace('\'', r"'\''");
            let _ = writeln!(text, "            redis-cli -u {} HGETALL '{key}'", s.store);
        }
        let mut row = |what: &str, words: String| {
            let rows = wrap(&words, 79 - 12).join("\n            ");
            let _ = writeln!(text, "  {what:10}{rows}");
        };
        row("upstream", format!("a flaky TCP server on {}", s.upstream));
        row(
            "policy",
            format!(
                "opens for the fleet at {} % failures within {}; waits {}, longer each time; \
                 then {} probe{} at once for all replicas together; {} good ones close it",
                s.failure_rate_threshold,
                seconds(s.window_ms),
                seconds(s.wait_ms),
                s.probes_allowed,
                if s.probes_allowed == 1 { "" } else { "s" },
                s.success_threshold,
            ),
        );
        row(
            "marks",
            "one a replica:  · calls pass   x some fail   # rejects at once".to_owned(),
        );
        let width = fleet.clamp(8, MARKS);
        let head = format!(
            "{:>7}   {:width$}{:>8}{:>9}{:>10}",
            "time", "replicas", "ok", "failed", "rejected"
        );
        let _ = writeln!(text, "\n{}", self.paint(DIM, &head));
        text
    }

    fn change(&self, c: &Change) -> String {
        let line = |colour, what, text: &str| self.line(Some(c.at_s), colour, what, text);
        match (c.from, c.to) {
            (State::Closed, State::Open) => {
                let share = c.failures * 100 / c.calls.max(1);
                let text = format!(
                    "{} of the fleet's last {} calls had failed ({share} %); {}'s report tipped it. \
                     Open for {}",
                    c.failures,
                    c.calls,
                    c.by,
                    seconds(c.wait_ms)
                );
                line(RED, "TRIP", &text)
            }
            (_, State::HalfOpen) => line(
                YELLOW,
                "HALF-OPEN",
                &format!("the wait is over; {} asked first and opened the gate", c.by),
            ),
            (State::HalfOpen, State::Open) if c.reason == Reason::ProbeFailed => {
                let wait = seconds(c.wait_ms);
                let text = format!("a probe failed: too early. Open for {wait} this time");
                line(RED, "OPEN AGAIN", &text)
            }
            (_, State::Closed) => {
                let text = format!("the probes succeeded; {} brought the last one home", c.by);
                line(GREEN, "CLOSED", &text)
            }
            (from, to) => line(
                YELLOW,
                &to.as_str().to_uppercase(),
                &format!("was {from}; {}, by {}", c.reason, c.by),
            ),
        }
    }

    fn spread(&self, s: &Spread) -> String {
        let mut order: Vec<_> = s.after_ms.iter().collect();
        order.sort_by_key(|(name, after)| (**after, *name != &s.by, name.len(), *name));
        let (Some(first), Some(last)) = (order.first(), order.last()) else {
            return String::new();
        };
        let mut text = if order.len() <= NAMED {
            let each: Vec<_> = order.iter().map(|(n, at)| format!("{n} {at}")).collect();
            format!("ms until each replica knew: {}", each.join(", "))
        } else {
            let middle = order[order.len() / 2].1;
            format!(
                "first {} {}, half of them {}, last {} {}",
                first.0,
                ms(*first.1),
                ms(*middle),
                last.0,
                ms(*last.1)
            )
        };
        let all = s.missing.is_empty();
        if !all {
            let _ = write!(text, "; not heard from: {}", s.missing.join(", "));
        }
        let what = if all { "  all knew" } else { "  some knew" };
        self.line(None, if all { BOLD } else { RED }, what, &text)
    }

    fn probe(&self, p: &Probe) -> String {
        let (colour, result) = match p.ok {
            true => (GREEN, "ok"),
            false => (RED, "error"),
        };
        let late = if p.late { ", too late to decide" } else { "" };
        let text = format!("{result} after {} ms ({} out){late}", p.took_ms, p.out);
        self.line(None, colour, &format!("  probe by {}", p.replica), &text)
    }

    fn tick(&self, tick: &Tick) -> String {
        let mut by_number: Vec<_> = tick.replicas.iter().collect();
        by_number.sort_by_key(|(name, _)| (name.len(), *name));
        let marks = by_number.into_iter().map(|(_, calls)| mark(*calls));
        let width = tick.replicas.len().clamp(8, MARKS);
        let mut shown = String::new();
        if tick.replicas.len() <= MARKS {
            for mark in marks {
                let mark_text = mark.to_string();
                shown += &match mark {
                    'x' | '#' => self.paint(RED, &mark_text),
                    _ => self.paint(GREEN, &mark_text),
                };
            }
            shown += &" ".repeat(width.saturating_sub(tick.replicas.len()));
        } else {
            let marks: Vec<_> = marks.collect();
            let count = |m: char| marks.iter().filter(|mark| **mark == m).count();
            let text = format!("{} ·  {} x  {} #", count('·'), count('x'), count('#'));
            shown = format!("{text:width$}");
        }
        let Calls {
            ok,
            failed,
            rejected,
        } = tick.fleet;
        format!(
            "{:5.1} s   {shown}{ok:>8}{failed:>9}{rejected:>10}\n",
            tick.at_s
        )
    }
}

fn mark(calls: Calls) -> char {
    match calls {
        Calls {
            ok,
            failed,
            rejected,
        } if rejected > ok + failed => '#',
        Calls { failed: 1.., .. } => 'x',
        Calls { ok: 1.., .. } => '·',
        _ => ' ',
    }
}
