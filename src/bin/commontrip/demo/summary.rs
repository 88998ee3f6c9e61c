//! The end of the timeline: a table, the promises, one line of verdict.

use std::fmt::Write as _;

use super::{
    facts::{Fact, Total, Verdict},
    show::{self, Show},
};
use crate::{
    out::{BOLD, DIM, GREEN, RED},
    words::wrap,
};

/// Up to this many replicas have a row each in the table.
const ROWS: usize = 16;
/// With more replicas, the table shows only this many: those that learned last.
const SLOWEST: usize = 8;

impl Show {
    /// Joins the facts of the end.
    pub fn summary(&self, ending: &[Fact]) -> String {
        let totals: Vec<_> = ending
            .iter()
            .filter_map(|fact| match fact {
                Fact::Replica(total) => Some(total),
                _ => None,
            })
            .collect();
        let verdict = ending.iter().find_map(|fact| match fact {
            Fact::Verdict(verdict) => Some(verdict),
            _ => None,
        });
        let Some(verdict) = verdict else {
            return String::new();
        };
        let mut text = self.table(totals, verdict);
        self.promises(&mut text, verdict);
        text
    }

    fn table(&self, mut totals: Vec<&Total>, verdict: &Verdict) -> String {
        let hidden = totals.len().saturating_sub(SLOWEST);
        let hidden = if totals.len() > ROWS { hidden } else { 0 };
        if hidden > 0 {
            totals.sort_by_key(|t| std::cmp::Reverse(t.knew_after_ms.unwrap_or(u64::MAX)));
            totals.truncate(SLOWEST);
        }
        let head = format!(
            "  {:8}{:>7}{:>7}{:>8}{:>10}{:>8}{:>13}{:>15}",
            "replica",
            "calls",
            "ok",
            "failed",
            "rejected",
            "probes",
            "knew of trip",
            "first rejected"
        );
        let mut text = format!("\n{}\n", self.paint(DIM, &head));
        let after = |ms: Option<u64>| ms.map_or_else(|| "never".to_owned(), show::ms);
        for t in totals {
            let _ = writeln!(
                text,
                "  {:8}{:>7}{:>7}{:>8}{:>10}{:>8}{:>13}{:>15}",
                t.replica,
                t.calls.made(),
                t.calls.ok,
                t.calls.failed,
                t.calls.rejected,
                t.probes,
                after(t.knew_after_ms),
                after(t.first_rejection_after_ms),
            );
        }
        if hidden > 0 {
            let _ = writeln!(text, "  and {hidden} replicas that knew sooner");
        }
        let calls = verdict.calls;
        let fleet = format!(
            "  {:8}{:>7}{:>7}{:>8}{:>10}{:>8}{:>13}",
            "fleet",
            calls.made(),
            calls.ok,
            calls.failed,
            calls.rejected,
            verdict.probes,
            after(verdict.spread_ms),
        );
        let _ = writeln!(text, "{}", self.paint(BOLD, &fleet));
        text
    }

    fn promises(&self, text: &mut String, verdict: &Verdict) {
        text.push('\n');
        let mut row = |mark: &str, colour: &str, words: &str| {
            let rows = wrap(words, 79 - 10).join("\n          ");
            let _ = writeln!(text, "  {}{rows}", self.paint(colour, &format!("{mark:8}")));
        };
        for promise in &verdict.promises {
            match promise.kept {
                true => row("kept", GREEN, &promise.text),
                false => row("BROKEN", RED, &promise.text),
            }
        }
        let spared = format!(
            "{} calls were rejected at once instead of waiting for errors; after the trip the \
             upstream still got {} call{} from replicas that had not heard of it yet",
            verdict.calls.rejected,
            verdict.reached_after_trip,
            if verdict.reached_after_trip == 1 {
                ""
            } else {
                "s"
            },
        );
        row("seen", DIM, &spared);
        let broken = verdict.promises.iter().filter(|p| !p.kept);
        let broken: Vec<_> = broken.map(|p| p.text.as_str()).collect();
        let (colour, line) = if broken.is_empty() {
            let fleet = match verdict.replicas {
                1 => "1 replica".to_owned(),
                n => format!("{n} replicas"),
            };
            let line = format!("{fleet}, one breaker: tripped, probed and closed together.");
            (GREEN, line)
        } else {
            (RED, format!("A promise was broken: {}.", broken.join("; ")))
        };
        let line = wrap(&line, 77).join("\n  ");
        let _ = writeln!(text, "\n  {}", self.paint(colour, &line));
    }
}
