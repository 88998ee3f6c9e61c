//! `commontrip doctor`: reports what the crate finds in a Redis, to people and programs.
//!
//! Owns the layout of the text and the exit status; the crate provides the findings.

use std::{fmt::Write as _, process::ExitCode};

use clap::Args;
use commontrip::store::{Finding, Verdict};
use serde::Serialize;

use crate::{
    Common,
    connect::ENVIRONMENT,
    out::{CYAN, Failure, GREEN, RED, YELLOW, paint, shown, tell},
    words::wrap,
};

/// The end of the help of `doctor`.
pub fn after_help() -> String {
    let more = "\
It changes nothing except a temporary circuit, which it deletes. What the user may not read is reported as
a note. Exit status: 0 no failure, 1 a failure, 2 the command line is wrong.";
    format!("{ENVIRONMENT}\n\n{more}")
}

/// The default `store_timeout` of a service, ms. Answer times are compared with it.
const TIMEOUT_MS: u64 = 50;

/// Arguments of `commontrip doctor`.
#[derive(Args, Debug)]
pub struct Options {
    /// Only print the ACL rules of a user who may do what is needed and nothing else
    #[arg(long, conflicts_with = "json")]
    acl: bool,

    /// With --acl: also the rules for queues
    #[arg(long, requires = "acl")]
    queues: bool,

    #[command(flatten)]
    common: Common,
}

/// Runs the checks. Status: 0 no failure, 1 a failure, 2 the command line is wrong.
pub fn run(options: &Options) -> ExitCode {
    match examine(options) {
        Ok(status) => status,
        Err(failure) => failure.end(),
    }
}

fn examine(options: &Options) -> Result<ExitCode, Failure> {
    let store = options.common.connection.open(TIMEOUT_MS)?;
    if options.acl {
        let rules = match options.queues {
            true => store.acl_rules_with_queues(),
            false => store.acl_rules(),
        };
        tell(&format!("{rules}\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime =
        runtime.map_err(|error| Failure::Usage(format!("cannot start a runtime: {error}")))?;
    let findings = Findings::new(runtime.block_on(store.examine()));
    let out = &options.common.output;
    let status = match findings.verdict {
        Verdict::Failure => ExitCode::from(1),
        _ => ExitCode::SUCCESS,
    };
    match out.tell(&findings, || findings.text(out.colour())) {
        // A reader that stopped reading does not change the findings.
        Ok(()) | Err(Failure::Unread) => Ok(status),
        Err(failure) => Err(failure),
    }
}

/// The findings, and the worst verdict among them.
#[derive(Serialize)]
struct Findings {
    verdict: Verdict,
    checks: Vec<Finding>,
}

const WIDTH: usize = 100;
/// The columns where the name of a check and its finding begin.
const NAME: usize = 9;
const FOUND: usize = NAME + 13;

impl Findings {
    fn new(checks: Vec<Finding>) -> Self {
        let worst = checks.iter().map(|check| check.verdict).max();
        let verdict = worst.unwrap_or(Verdict::Ok);
        Self { verdict, checks }
    }

    fn text(&self, colour: bool) -> String {
        let mut text = String::new();
        let indent = format!("\n{:FOUND$}", "");
        for check in &self.checks {
            let (word, code) = word(check.verdict);
            let mark = paint(colour, code, &format!("{word:NAME$}"));
            let name = format!("{:width$}", check.name, width = FOUND - NAME);
            let rows = |words: &str| wrap(&shown(words), WIDTH - FOUND).join(&indent);
            let _ = writeln!(text, "{mark}{name}{}", rows(&check.found));
            for words in check.means.iter().chain(&check.advice) {
                let _ = writeln!(text, "{:FOUND$}{}", "", rows(words));
            }
        }
        let count = |verdict| {
            let checks = self.checks.iter();
            checks.filter(|check| check.verdict == verdict).count()
        };
        let numbered = |n: usize, word: &str| match n {
            0 => None,
            1 => Some(format!("1 {word}")),
            n => Some(format!("{n} {word}s")),
        };
        let counts = [
            numbered(count(Verdict::Failure), "failure"),
            numbered(count(Verdict::Warning), "warning"),
            numbered(count(Verdict::Note), "note"),
        ];
        let counts: Vec<_> = counts.into_iter().flatten().collect();
        let conclusion = match self.verdict {
            Verdict::Failure => "commontrip cannot share circuits here",
            Verdict::Warning => "it works, for now",
            _ => "all is well",
        };
        let counts = match counts.is_empty() {
            true => String::new(),
            false => format!(" ({})", counts.join(", ")),
        };
        let (_, code) = word(self.verdict);
        let line = paint(colour, code, &format!("{conclusion}{counts}"));
        let _ = writeln!(text, "\n{line}");
        text
    }
}

fn word(verdict: Verdict) -> (&'static str, &'static str) {
    match verdict {
        Verdict::Ok => ("ok", GREEN),
        Verdict::Note => ("note", CYAN),
        Verdict::Warning => ("warning", YELLOW),
        _ => ("FAIL", RED),
    }
}
