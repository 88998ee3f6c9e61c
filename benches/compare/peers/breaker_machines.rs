//! breaker-machines: failures of the last 60 seconds, in a list of at most 1,000 events.
//!
//! Its `CircuitBreaker` is called through `&mut`. One thread owns it; two threads share it in the
//! kind of mutex that its `AsyncCircuitBreaker` uses.

use std::{
    hint::black_box,
    sync::{Arc, Mutex},
};

use breaker_machines::{AsyncCircuitBreaker, CircuitBreaker, CircuitBuilder, CircuitError};

use crate::{
    call::{Refused, drive, refuse, refuse_async, upstream, upstream_async},
    subject::{FAILURES, LONG, State, Subject},
};

const NAME: &str = "breaker-machines";

fn builder() -> CircuitBuilder {
    CircuitBreaker::builder("compare").half_open_timeout_secs(LONG.as_secs_f64())
}

fn rejected(error: &CircuitError<Refused>) -> bool {
    matches!(error, CircuitError::Open { .. })
}

fn call(breaker: &Mutex<CircuitBreaker>) -> Result<u64, CircuitError<Refused>> {
    breaker.lock().expect("no call panics").call(upstream)
}

pub fn subjects(state: State, threads: usize) -> Vec<Subject> {
    vec![blocking(state, threads), awaited(state)]
}

fn blocking(state: State, threads: usize) -> Subject {
    let mut breaker = builder().build();
    if state == State::Open {
        for _ in 0..FAILURES {
            let _ = breaker.call(refuse);
        }
    }
    let breaker = Arc::new(Mutex::new(breaker));
    let shared = Subject::blocking(NAME, state, Arc::clone(&breaker), |b| call(b), rejected);
    if threads > 1 {
        return shared;
    }
    Subject {
        work: Arc::new(move |calls| {
            let mut breaker = breaker.lock().expect("no call panics");
            for _ in 0..calls {
                let _ = black_box(breaker.call(upstream));
            }
        }),
        ..shared
    }
}

fn awaited(state: State) -> Subject {
    let breaker = Arc::new(builder().build_async());
    if state == State::Open {
        for _ in 0..FAILURES {
            let _ = drive(breaker.call(refuse_async));
        }
    }
    Subject::awaited(
        NAME,
        state,
        breaker,
        async |b: &mut Arc<AsyncCircuitBreaker>| b.call(upstream_async).await,
        rejected,
    )
}
