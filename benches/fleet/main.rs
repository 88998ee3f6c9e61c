//! What a fleet costs its Redis and how soon it acts as one: N replicas, an upstream that dies and comes back.
//!
//! Each replica has its own registry, so its own connections and its own push connection, and makes calls as a Poisson
//! process. Up to 16 replicas are processes (this program again), more are tasks of one process; the output says which.
//! Upstream and network are simulated by waits of 1 to 5 ms, so calls load nothing but the breaker.
//!
//!     cargo bench --bench fleet                               10, 100, 1,000 replicas, one Redis and a Cluster; 4 minutes
//!     cargo bench --bench fleet -- --replicas 10,100 --topology one
//!     cargo bench --bench fleet -- --long                     more outages, longer steady phases
//!     cargo bench --bench fleet -- --test                     everything once, small and short
//!     cargo bench --bench fleet -- --json FILE                the figures as an array of objects, too
//!
//! A case: steady; outages, each from the upstream's death until all replicas reject, then from its recovery until all
//! admit; then both again with push cut (the crate's user loses `SUBSCRIBE`). Columns are phases, rows figures:
//!
//! - *steady*: what Redis executes for the replicas. What scripts call is not counted, for it is within their time;
//!   one `ZADD` a minute, replica and circuit (the index) is not counted either, for scripts send that too.
//! - *outage*: the trip is the moment in Redis' own record of events, which is a millisecond's; its middle is taken.
//!   *evident* is when all outcomes of the fleet, known at once, would have met the policy: the trip's delay from
//!   there is what sharing costs. A replica *knows* when its cached state is no longer closed (looked at every ms).
//!   *leaked* calls began at the upstream after the trip and are no probes.
//!
//! Exit status 1 when more probes were out at once than the policy permits while every replica had its Redis: that is a
//! broken guarantee. Times are asserted nowhere; *late* says by how much the machine was, 1 ms being the timer's grain.

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

// What `cluster_servers` takes from the module above it.
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
