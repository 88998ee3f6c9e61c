//! circuitbreaker-rs: totals and failures in a row, no window.

use circuitbreaker_rs::{BreakerError, CircuitBreaker, DefaultPolicy};

use crate::{
    call::{Refused, refuse, upstream, upstream_async},
    subject::{FAILURES, LONG, State, Subject},
};

type Breaker = CircuitBreaker<DefaultPolicy, Refused>;

fn rejected(error: &BreakerError<Refused>) -> bool {
    matches!(error, BreakerError::Open)
}

pub fn subjects(state: State) -> Vec<Subject> {
    let name = "circuitbreaker-rs";
    let breaker = Breaker::builder().cooldown(LONG).build();
    if state == State::Open {
        for _ in 0..FAILURES {
            let _ = breaker.call(refuse);
        }
    }
    vec![
        Subject::blocking(name, state, breaker.clone(), |b| b.call(upstream), rejected),
        Subject::awaited(
            name,
            state,
            breaker,
            async |b: &mut Breaker| b.call_async(upstream_async).await,
            rejected,
        ),
    ]
}
