//! The layer: which circuits, what answers mean, what refused calls get.

use std::borrow::Cow;

use tower::Layer;

use super::{
    ByResult, CircuitBreakerService, Errors, GrpcResponses, HttpResponses, PerKey, Refused,
    RespondWith,
};
use crate::{CircuitBreaker, keyed::KeyedCircuits};

/// Puts a circuit, or one for each key, around a service.
///
/// By default `Ok` is a success and `Err` a failure, and the service's error is
/// [`CallError`](crate::CallError) of the inner one's.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct CircuitBreakerLayer<P = CircuitBreaker, C = ByResult, R = Errors> {
    circuits: P,
    classifier: C,
    refusals: R,
}

impl CircuitBreakerLayer {
    /// All requests go through this circuit.
    pub const fn new(circuit: CircuitBreaker) -> Self {
        Self {
            circuits: circuit,
            classifier: ByResult,
            refusals: Errors,
        }
    }
}

impl<K> CircuitBreakerLayer<PerKey<K>> {
    /// Each request goes through the circuit of its key: [`http::host`](crate::http::host), a route, a
    /// tenant.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use axum::{Router, body::Body, extract::{MatchedPath, Request}, routing::get};
    /// use commontrip::{Commontrip, Policy, keyed::KeyedCircuits, tower::{CircuitBreakerLayer, Http}};
    ///
    /// let circuits = Commontrip::embedded()?;
    /// let routes = KeyedCircuits::new(&circuits, "route:", |_| Policy::default())?.at_most(100);
    /// let layer = CircuitBreakerLayer::per_key(routes, |request: &Request| {
    ///     let route = request.extensions().get::<MatchedPath>();
    ///     route.map_or("none", MatchedPath::as_str).into()
    /// });
    /// let app: Router = Router::new()
    ///     .route("/users/{id}", get(async || "a user"))
    ///     .route_layer(layer.classifier(Http).rejection_response());
    /// # Ok(()) }
    /// ```
    pub fn per_key<Req>(circuits: KeyedCircuits, key: K) -> Self
    where
        K: for<'a> Fn(&'a Req) -> Cow<'a, str>,
    {
        Self {
            circuits: PerKey { circuits, key },
            classifier: ByResult,
            refusals: Errors,
        }
    }
}

impl<P, C, R> CircuitBreakerLayer<P, C, R> {
    /// What answers mean: [`Http`](super::Http), [`HttpBody`](super::HttpBody), [`Grpc`](super::Grpc), or
    /// a function `|result: &Result<_, _>| -> Outcome`.
    pub fn classifier<C2>(self, classifier: C2) -> CircuitBreakerLayer<P, C2, R> {
        CircuitBreakerLayer {
            circuits: self.circuits,
            classifier,
            refusals: self.refusals,
        }
    }

    /// Answers rejected calls with 503 and `Retry-After`, and calls past `call_timeout` with 504, so that
    /// the error stays the inner service's: for servers, axum's among them.
    ///
    /// The body of the answers is made from a `String`.
    pub fn rejection_response(self) -> CircuitBreakerLayer<P, C, HttpResponses> {
        self.refusals(HttpResponses)
    }

    /// Answers rejected calls with the gRPC status `UNAVAILABLE` and calls past `call_timeout` with
    /// `DEADLINE_EXCEEDED`, so that the error stays the inner service's: for servers, and for clients that
    /// want to see a status.
    pub fn grpc_rejection_response(self) -> CircuitBreakerLayer<P, C, GrpcResponses> {
        self.refusals(GrpcResponses)
    }

    /// Answers rejected calls, and those past `call_timeout`, with what a function makes of them.
    pub fn respond_with<F, Res>(self, respond: F) -> CircuitBreakerLayer<P, C, RespondWith<F>>
    where
        F: Fn(Refused) -> Res,
    {
        self.refusals(RespondWith(respond))
    }

    fn refusals<R2>(self, refusals: R2) -> CircuitBreakerLayer<P, C, R2> {
        CircuitBreakerLayer {
            circuits: self.circuits,
            classifier: self.classifier,
            refusals,
        }
    }
}

impl<S, P: Clone, C: Clone, R: Clone> Layer<S> for CircuitBreakerLayer<P, C, R> {
    type Service = CircuitBreakerService<S, P, C, R>;

    fn layer(&self, inner: S) -> Self::Service {
        let Self {
            circuits,
            classifier,
            refusals,
        } = self.clone();
        CircuitBreakerService {
            inner,
            circuits,
            classifier,
            refusals,
        }
    }
}
