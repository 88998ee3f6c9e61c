//! This crate as a tower service, called like the peer: `ready` and `call`.

use commontrip::{
    CallError, CircuitBreaker,
    tower::{CircuitBreakerLayer, CircuitBreakerService},
};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::{
    call::{Refused, upstream_async},
    subject::{State, Subject},
};

pub const NAME: &str = "commontrip (tower)";

pub fn subject(state: State, breaker: CircuitBreaker) -> Subject {
    let layer = CircuitBreakerLayer::new(breaker);
    of(state, layer.layer(service_fn(|()| upstream_async())))
}

fn of<S>(state: State, service: CircuitBreakerService<S>) -> Subject
where
    S: Service<(), Response = u64, Error = Refused, Future: Send> + Clone + Send + Sync + 'static,
{
    Subject::awaited(
        NAME,
        state,
        service,
        async |service: &mut CircuitBreakerService<S>| service.ready().await?.call(()).await,
        |error: &CallError<Refused>| error.rejection().is_some(),
    )
}
