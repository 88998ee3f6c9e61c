//! failsafe: consecutive failures only, and its default, which adds a success rate over a time
//! window.

use std::{sync::Arc, time::Duration};

use failsafe::{
    Config, Error, FailurePolicy, StateMachine, backoff,
    failure_policy::{consecutive_failures, success_rate_over_time_window},
};

use crate::{
    call::{Refused, refuse, upstream, upstream_async},
    subject::{FAILURES, LONG, State, Subject},
};

fn rejected(error: &Error<Refused>) -> bool {
    matches!(error, Error::Rejected)
}

pub fn subjects(state: State) -> Vec<Subject> {
    let wait = || backoff::constant(LONG);
    let consecutive = || consecutive_failures(5, wait());
    // The values of `Config::new()`, with a different wait.
    let rate = success_rate_over_time_window(0.8, 5, Duration::from_secs(30), wait());
    let mut both = of("failsafe", state, rate.or_else(consecutive()));
    both.extend(of("failsafe (consecutive)", state, consecutive()));
    both
}

fn of<P>(name: &'static str, state: State, policy: P) -> Vec<Subject>
where
    P: FailurePolicy + Send + Sync + 'static,
{
    let breaker = Arc::new(Config::new().failure_policy(policy).build());
    if state == State::Open {
        for _ in 0..FAILURES {
            let _ = failsafe::CircuitBreaker::call(&*breaker, refuse);
        }
    }
    vec![
        Subject::blocking(
            name,
            state,
            Arc::clone(&breaker),
            |b| failsafe::CircuitBreaker::call(&**b, upstream),
            rejected,
        ),
        Subject::awaited(
            name,
            state,
            breaker,
            async |b: &mut Arc<StateMachine<P, ()>>| {
                failsafe::futures::CircuitBreaker::call(&**b, upstream_async()).await
            },
            rejected,
        ),
    ]
}
