//! What a fleet costs its Redis, and how soon it acts as one: N replicas, and an upstream that dies
//! and recovers.
//!
//! Each replica has its own registry, and so its own connections and push connection, and makes
//! calls as a Poisson process. Up to 16 replicas are processes (of this program); more are tasks of
//! one process. The output says which. Waits of 1 to 5 ms simulate upstream and network, so calls
//! put load on nothing but the breaker.
//!
//!     cargo bench --bench fleet                               10, 100, 1,000 replicas, one Redis and a Cluster; 4 minutes
//!     cargo bench --bench fleet -- --replicas 10,100 --topology one
//!     cargo bench --bench fleet -- --long                     more outages, longer steady phases
//!     cargo bench --bench fleet -- --test                     everything once, small and short
//!     cargo bench --bench fleet -- --json FILE                the figures as an array of objects, too
//!
//! A case has these phases: steady; outages, each from the upstream's death until all replicas
//! reject, and from its recovery until all admit; then both again with push cut (the crate's user
//! loses `SUBSCRIBE`). Columns are phases, rows are figures:
//!
//! - *steady*: what Redis executes for the replicas. Commands that scripts call are not counted,
//!   because the scripts' time includes them. One `ZADD` for each minute, replica and circuit (the
//!   index) is not counted either, because scripts call that command too.
//! - *outage*: the time of the trip is from Redis' own record of events, which has whole
//!   milliseconds; the middle of the millisecond is taken. *evident* is when all outcomes of the
//!   fleet, if known at once, would have met the trip condition: the delay from there to the trip
//!   is the cost of sharing. A replica *knows* when its cached state is no longer closed (polled
//!   every ms). *leaked* calls began at the upstream after the trip and are not probes.
//!
//! The exit status is 1 if more probes were in flight than the policy permits while every replica
//! had its Redis: that would break a guarantee. The bench asserts no times. *late* says by how much
//! the machine was late; the timer's resolution is 1 ms.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods
)]

#[allow(
    dead_code,
    reason = "the tests move slots and kill masters, this does not"
)]
#[path = "../../tests/it/topology/cluster_servers.rs"]
mod cluster_servers;
#[path = "../../tests/it/support.rs"]
mod support;
#[path = "../../tests/it/wait.rs"]
mod wait;

mod args;
mod figures;
mod fleet;
mod outage;
mod plan;
mod replica;
mod scenario;
mod servers;
mod upstream;
mod wire;
mod worker;

use std::{env, process::ExitCode};

// `cluster_servers` imports these from its parent module.
use servers::{ms, tell};

fn main() -> ExitCode {
    if env::var_os(wire::ROLE).is_some() {
        worker::process();
        return ExitCode::SUCCESS;
    }
    let args = match args::parse(env::args().skip(1)) {
        Ok(args) => args,
        Err(words) => {
            eprintln!("{words}\n\n{}", args::USAGE);
            return ExitCode::from(2);
        }
    };
    match scenario::run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(words) => {
            eprintln!("fleet: {words}");
            ExitCode::FAILURE
        }
    }
}
