//! The layer: its circuits, its classifier, and what rejected calls get.

use std::borrow::Cow;

use tower::Layer;

use super::{
    BoxErrors, ByResult, CircuitBreakerService, Errors, GrpcResponses, HttpResponses, PerKey,
    Refused, RespondWith,
};
use crate::{CircuitBreaker, keyed::KeyedCircuits};

/// Wraps a service in a circuit, or in one circuit per key.
///
/// By default, `Ok` is a success and `Err` a failure, and the service's error is a
/// [`CallError`](crate::CallError) of the inner service's error.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::tower::CircuitBreakerLayer;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// let service = ServiceBuilder::new()
///     .layer(CircuitBreakerLayer::new(payments))
///     .service(service_fn(async |id: u32| Ok::<_, std::io::Error>(format!("order {id}"))));
/// assert_eq!(service.oneshot(7).await?, "order 7");
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct CircuitBreakerLayer<P = CircuitBreaker, C = ByResult, R = Errors> {
    circuits: P,
    classifier: C,
    refusals: R,
}

impl CircuitBreakerLayer {
    /// Sends all requests through this circuit.
    pub const fn new(circuit: CircuitBreaker) -> Self {
        Self {
            circuits: circuit,
            classifier: ByResult,
            refusals: Errors,
        }
    }
}

impl<K> CircuitBreakerLayer<PerKey<K>> {
    /// Sends each request through the circuit of its key: [`http::host`](crate::http::host), a
    /// route, a tenant.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
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
    /// Sets the classifier: [`Http`](super::Http), [`HttpBody`](super::HttpBody),
    /// [`Grpc`](super::Grpc), or a function `|result: &Result<_, _>| -> Outcome`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// use commontrip::tower::{CircuitBreakerLayer, Http};
    ///
    /// let layer = CircuitBreakerLayer::new(payments).classifier(Http);
    /// # Ok(()) }
    /// ```
    pub fn classifier<C2>(self, classifier: C2) -> CircuitBreakerLayer<P, C2, R> {
        CircuitBreakerLayer {
            circuits: self.circuits,
            classifier,
            refusals: self.refusals,
        }
    }

    /// Makes every error a [`BoxError`](tower::BoxError), for outer layers that need one:
    /// `LoadShed`, `Buffer`, `Timeout`. A [`CallError`](crate::CallError) of a boxed error does not
    /// convert into one.
    ///
    /// A rejected call is a [`Rejection`](crate::Rejection), a call past `call_timeout` a
    /// [`Refused`], and the inner service's errors are unchanged.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// use commontrip::tower::CircuitBreakerLayer;
    /// use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
    ///
    /// let service = ServiceBuilder::new()
    ///     .layer(CircuitBreakerLayer::new(payments).boxed_errors())
    ///     .service(service_fn(async |_: u32| Err::<(), _>(std::io::Error::other("down"))));
    /// let error: BoxError = service.oneshot(7).await.unwrap_err();
    /// assert_eq!(error.to_string(), "down");
    /// # Ok(()) }
    /// ```
    pub fn boxed_errors(self) -> CircuitBreakerLayer<P, C, BoxErrors> {
        self.refusals(BoxErrors)
    }

    /// Answers rejected calls with 503 and `Retry-After`, and calls past `call_timeout` with 504.
    /// The error type remains the inner service's, as servers such as axum require.
    ///
    /// The response body must implement `From<String>`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// use commontrip::tower::{CircuitBreakerLayer, Http};
    ///
    /// let layer = CircuitBreakerLayer::new(payments).classifier(Http).rejection_response();
    /// # Ok(()) }
    /// ```
    pub fn rejection_response(self) -> CircuitBreakerLayer<P, C, HttpResponses> {
        self.refusals(HttpResponses)
    }

    /// Answers rejected calls with the gRPC status `UNAVAILABLE`, and calls past `call_timeout`
    /// with `DEADLINE_EXCEEDED`. The error type remains the inner service's: for servers, and for
    /// clients that need a status.
    pub fn grpc_rejection_response(self) -> CircuitBreakerLayer<P, C, GrpcResponses> {
        self.refusals(GrpcResponses)
    }

    /// Answers rejected calls and calls past `call_timeout` with the response that this function
    /// returns.
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
