//! Fallbacks: values in place of errors, and last good values, in one process and across the fleet.

mod counted;
mod example;
mod fleet;
mod gated;
mod herd;
mod instead;
mod process;
mod share;
mod writes;

use std::time::Duration;

use commontrip::{CircuitBreaker, Commontrip, Policy};

const HOUR: Duration = Duration::from_secs(3600);

fn circuit(circuits: &Commontrip) -> CircuitBreaker {
    let policy = Policy::builder().wait_duration_in_open_state(HOUR);
    let policy = policy.build().unwrap();
    circuits.circuit("speech", policy).unwrap()
}
