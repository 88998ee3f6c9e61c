//! Fallbacks: values in place of errors, and the last good ones, in one process and over the fleet.

mod example;
mod fleet;
mod instead;
mod process;

use std::time::Duration;

use commontrip::{CircuitBreaker, Commontrip, Policy};

const HOUR: Duration = Duration::from_secs(3600);

fn circuit(circuits: &Commontrip) -> CircuitBreaker {
    let policy = Policy::builder().wait_duration_in_open_state(HOUR);
    let policy = policy.build().unwrap();
    circuits.circuit("speech", policy).unwrap()
}
