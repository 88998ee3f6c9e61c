//! The memory that a circuit takes in this process, compared with other breakers.
//!
//!     cargo bench --bench memory                          # a moment
//!     cargo bench --bench memory -- --json figures.json   # the figures for programs, too
//!
//! `memory/idle` is for breakers that were only made; `memory/1t` and `memory/2t` are for those
//! that one or two threads have called. This crate's circuits belong to one registry on the
//! embedded store, so the figures include what a Redis would otherwise hold. The registry's tasks
//! run on the thread that is measured.
//!
//! A separate bench, because the counting allocator would slow down the breakers of `compare` that
//! allocate.

#![allow(missing_docs, clippy::expect_used)]

#[path = "compare/arguments.rs"]
mod arguments;
#[path = "compare/report.rs"]
mod report;

use std::{process::ExitCode, thread};

use allocation_counter::measure;
use arguments::{Arguments, USAGE};
use breaker_machines::AsyncCircuitBreaker;
use commontrip::{Commontrip, Policy};
use futures_util::FutureExt;
use recloser::Recloser;
use report::{Figure, Unit};

const UNIT: Unit = Unit {
    key: "bytes",
    head: "bytes",
};
const OURS: &str = "commontrip";
const BREAKERS: i64 = 1_000;
const CALLS: usize = 100;

/// Bytes that this thread allocated and did not free.
fn kept(work: impl FnOnce()) -> i64 {
    measure(work).bytes_current
}

/// Bytes for each breaker: after all are made, after calls of one thread, after calls of a second
/// one.
fn sizes<B: Sync>(
    make: impl Fn(i64) -> B,
    call: impl Fn(&B) + Sync,
    settle: impl Fn(),
) -> [f64; 3] {
    let mut all = Vec::with_capacity(BREAKERS as usize);
    let calls = |all: &[B]| all.iter().for_each(|b| (0..CALLS).for_each(|_| call(b)));
    let idle = kept(|| {
        all.extend((0..BREAKERS).map(&make));
        settle();
    });
    let one = kept(|| {
        calls(&all);
        settle();
    });
    let theirs = || kept(|| calls(&all));
    let other = thread::scope(|scope| scope.spawn(theirs).join().expect("no call panics"));
    let two = other + kept(&settle);
    // The breakers themselves are in the list, which was allocated earlier.
    let idle = idle + BREAKERS * size_of::<B>() as i64;
    [idle, idle + one, idle + one + two].map(|bytes| bytes as f64 / BREAKERS as f64)
}

fn ours() -> [f64; 3] {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let _entered = runtime.enter();
    let circuits = Commontrip::embedded().expect("there is a runtime");
    sizes(
        |n| {
            let circuit = circuits.circuit(&format!("circuit-{n}"), Policy::default());
            circuit.expect("the name is valid")
        },
        |breaker| {
            let call = breaker.call(async || Ok::<_, ()>(()));
            call.now_or_never()
                .expect("its decision is cached")
                .expect("closed");
        },
        || runtime.block_on(circuits.flush()),
    )
}

fn recloser() -> [f64; 3] {
    let call = |b: &Recloser| b.call(|| Ok::<_, ()>(())).expect("closed");
    sizes(|_| Recloser::default(), call, || ())
}

fn breaker_machines() -> [f64; 3] {
    sizes(
        |n| AsyncCircuitBreaker::builder(format!("circuit-{n}")).build_async(),
        |b| {
            let call = b.call(async || Ok::<_, ()>(()));
            call.now_or_never()
                .expect("it waits for nothing")
                .expect("closed");
        },
        || (),
    )
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let mut figures = Vec::new();
    type Sizes = fn() -> [f64; 3];
    let breakers: [(&str, Sizes); 3] = [
        (OURS, ours),
        ("recloser", recloser),
        ("breaker-machines", breaker_machines),
    ];
    for (breaker, sizes) in breakers {
        for (part, value) in ["idle", "1t", "2t"].into_iter().zip(sizes()) {
            let case = format!("memory/{part}");
            if arguments.want(&case) {
                figures.push(Figure {
                    case,
                    breaker,
                    value,
                });
            }
        }
    }
    if !arguments.test {
        report::print(&figures, &UNIT, OURS);
    }
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
