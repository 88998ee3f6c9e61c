//! The other breakers, each used as its documentation shows and with its defaults. Only the wait in
//! the open state is longer than the run.

mod breaker_machines;
mod circuitbreaker_rs;
mod failsafe;
mod recloser;
pub mod tower_resilience;

use crate::subject::{State, Subject};

/// Every peer in this state, for calls from this many threads.
pub fn subjects(state: State, threads: usize) -> Vec<Subject> {
    let mut all = recloser::subjects(state);
    all.extend(failsafe::subjects(state));
    all.extend(circuitbreaker_rs::subjects(state));
    all.extend(breaker_machines::subjects(state, threads));
    all.push(tower_resilience::subject(state));
    all
}
