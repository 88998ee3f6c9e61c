//! The cost of a call through this crate and through other breakers, in one run.
//!
//!     cargo bench --bench compare                          # all cases, about a minute
//!     cargo bench --bench compare -- closed/async          # cases with this in their name
//!     cargo bench --bench compare --features tower         # ours as a tower service, too
//!     cargo bench --bench compare -- --json figures.json   # the figures for programs, too
//!     cargo bench --bench compare -- --test                # each case once: does it work?
//!
//! A case is `state/manner/threads`: `closed` or `open`; `sync` or `async` (a peer without such
//! calls has no line there); one thread, or two that share one breaker. The call is a no-op. The
//! figure is the wall time of a batch divided by the calls of one thread, the median over the
//! rounds. `bare` is the no-op alone. `closed/async/1t/history/N` already has N calls in the
//! window. The state of each breaker is checked before and after the rounds.
//!
//! This does not use criterion, which measures one case after the other: on a machine whose speed
//! drifts, only interleaved measurements can be compared.

#![allow(missing_docs, clippy::expect_used, clippy::disallowed_methods)]

mod arguments;
mod call;
mod history;
#[cfg(feature = "tower")]
mod layered;
mod ours;
mod peers;
mod report;
mod rounds;
mod subject;
mod threads;

use std::{process::ExitCode, sync::Arc};

use arguments::{Arguments, USAGE};
use history::{History, RECORDS};
use ours::Ours;
use peers::tower_resilience;
use report::{Figure, Unit};
use rounds::{Batches, Measured};
use subject::{State, Subject};
use threads::Partner;

const UNIT: Unit = Unit {
    key: "median_ns",
    head: "ns a call",
};

/// The call alone, sync and async.
fn bare() -> [Subject; 2] {
    let (name, state) = ("bare", State::Closed);
    [
        Subject::blocking(name, state, (), |()| call::upstream(), |_| false),
        Subject::awaited(
            name,
            state,
            (),
            async |(): &mut ()| call::upstream_async().await,
            |_| false,
        ),
    ]
}

/// All cases.
fn cases<'a>(ours: &'a Ours, partner: &Arc<Partner>) -> Vec<Box<dyn Measured + 'a>> {
    let mut all: Vec<Box<dyn Measured>> = Vec::new();
    for state in [State::Closed, State::Open] {
        for threads in [1, 2] {
            let alone = bare().into_iter().filter(|_| state == State::Closed);
            let subjects = alone
                .chain(ours.subjects(state, threads))
                .chain(peers::subjects(state, threads));
            for subject in subjects {
                all.push(Box::new(Batches::new(subject, threads, partner)));
            }
        }
    }
    for records in RECORDS {
        let mine = History::new(ours::NAME, records, |n| ours.with_history(n));
        let theirs = History::new(
            tower_resilience::NAME,
            records,
            tower_resilience::with_history,
        );
        all.push(Box::new(mine));
        all.push(Box::new(theirs));
    }
    all
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    let _entered = runtime.enter();
    let ours = Ours::new(&runtime);
    let partner = Arc::new(Partner::start(runtime.handle().clone()));
    let mut all = cases(&ours, &partner);
    all.retain(|measured| arguments.want(&measured.label().case));
    if all.is_empty() {
        return Err("no case has that in its name".to_owned());
    }
    for measured in &mut all {
        measured.round();
        measured.check();
    }
    if arguments.test {
        println!("{} breakers work in their cases", all.len());
        return Ok(());
    }
    let medians = rounds::medians(&mut all);
    let figures: Vec<Figure> = all
        .iter()
        .zip(medians)
        .map(|(measured, value)| {
            measured.check();
            let label = measured.label().clone();
            Figure {
                case: label.case,
                breaker: label.breaker,
                value,
            }
        })
        .collect();
    report::print(&figures, &UNIT, ours::NAME);
    match &arguments.json {
        Some(file) => {
            report::write(file, &figures, &UNIT).map_err(|error| format!("--json: {error}"))
        }
        None => Ok(()),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::read(std::env::args().skip(1));
    match arguments.and_then(|arguments| run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}
