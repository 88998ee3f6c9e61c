//! tower-resilience-circuitbreaker: a tower service (`ready` and `call`), with its default count
//! window and with a time window that keeps a list of calls.
//!
//! Two threads that meet in its open state wait for a timer of 1 ms, which shows in the figures.

use tower::{Service, ServiceExt, service_fn};
use tower_resilience_circuitbreaker::{
    CircuitBreaker, CircuitBreakerError, CircuitBreakerLayer, DefaultClassifier, SlidingWindowType,
};

use crate::{
    call::{Refused, drive, upstream_async},
    subject::{LONG, State, Subject},
};

pub const NAME: &str = "tower-resilience-circuitbreaker";

fn rejected(error: &CircuitBreakerError<Refused>) -> bool {
    matches!(error, CircuitBreakerError::OpenCircuit)
}

fn protect(layer: &CircuitBreakerLayer<DefaultClassifier>, state: State) -> Subject {
    let service = layer.layer_fn(service_fn(|()| upstream_async()));
    if state == State::Open {
        drive(service.force_open());
    }
    of(state, service)
}

fn of<S>(state: State, service: CircuitBreaker<S, DefaultClassifier>) -> Subject
where
    S: Service<(), Response = u64, Error = Refused, Future: Send> + Clone + Send + Sync + 'static,
{
    Subject::awaited(
        NAME,
        state,
        service,
        async |service: &mut CircuitBreaker<S, DefaultClassifier>| {
            service.ready().await?.call(()).await
        },
        rejected,
    )
}

pub fn subject(state: State) -> Subject {
    let layer = CircuitBreakerLayer::builder().wait_duration_in_open(LONG);
    protect(&layer.build().expect("the settings are valid"), state)
}

/// A closed breaker with this many calls in its time window.
pub fn with_history(records: u64) -> Subject {
    let layer = CircuitBreakerLayer::builder()
        .sliding_window_type(SlidingWindowType::TimeBased)
        .sliding_window_duration(LONG)
        .minimum_number_of_calls(20);
    let subject = protect(
        &layer.build().expect("the settings are valid"),
        State::Closed,
    );
    (subject.work)(records);
    subject
}
