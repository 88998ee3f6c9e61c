//! Circuits around reqwest clients, as a middleware of reqwest-middleware 0.5 (reqwest 0.13).
//!
//! Owns what reqwest's errors mean, how rejections travel in them, and how a response is rebuilt
//! around a body that is judged.

use std::{borrow::Cow, convert::Infallible, error::Error as StdError, fmt};

use async_trait::async_trait;
use http::{Extensions, Method};
use reqwest::{Body, Request, Response, ResponseBuilderExt};
use reqwest_middleware::{Error, Middleware, Next, Result};

use crate::{
    CallError, CircuitBreaker, Commontrip, NameError, Outcome, Permit, Policy, Rejection,
    http::{outcome as outcome_of_head, settle_with_body},
    keyed::KeyedCircuits,
};

type Key = Box<dyn Fn(&Request) -> Cow<'_, str> + Send + Sync>;

/// Puts a circuit around a client's requests: one for each host, for each key of yours, or one for all.
///
/// What an answer means [`http::outcome`](crate::http::outcome) says, by its head, and with
/// [`until_body_ends`](Self::until_body_ends) by its body; what an error means [`outcome`] says. A
/// rejected request reaches no socket; see [`rejection`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use commontrip::{Commontrip, Policy, reqwest::{CircuitBreakerMiddleware, rejection}};
///
/// let circuits = Commontrip::embedded()?;
/// let strict = Policy::consecutive(5)?;
/// let per_host = CircuitBreakerMiddleware::per_host(&circuits, move |host| match host {
///     "api.example.com" => strict.clone(),
///     _ => Policy::default(),
/// })?;
/// let client = reqwest_middleware::ClientBuilder::new(reqwest::Client::new())
///     .with(per_host)
///     .build();
/// # circuits.circuit("http:localhost:9", Policy::default())?.force_open(Default::default()).await?;
/// match client.get("http://localhost:9/").send().await {
///     Ok(response) => println!("{}", response.status()),
///     Err(error) => match rejection(&error) {
///         Some(rejection) => println!("not now: {rejection}"),
///         None => println!("failed: {error}"),
///     },
/// }
/// # Ok(()) }
/// ```
pub struct CircuitBreakerMiddleware {
    circuits: Circuits,
    with_body: bool,
}

enum Circuits {
    One(CircuitBreaker),
    Keyed(KeyedCircuits, Key),
}

impl CircuitBreakerMiddleware {
    /// One circuit for each host, named `http:` and the host, with the port where that is not the
    /// scheme's own: `http:api.example.com`. `policy` gets the host. At most 1,000 hosts, see
    /// [`KeyedCircuits`].
    ///
    /// # Errors
    /// [`NameError`]: not with this prefix.
    pub fn per_host(
        circuits: &Commontrip,
        policy: impl Fn(&str) -> Policy + Send + Sync + 'static,
    ) -> std::result::Result<Self, NameError> {
        let circuits = KeyedCircuits::new(circuits, "http:", policy)?;
        Ok(Self::per_key(circuits, host))
    }

    /// One circuit for each key of a request.
    #[must_use]
    pub fn per_key<K>(circuits: KeyedCircuits, key: K) -> Self
    where
        K: for<'a> Fn(&'a Request) -> Cow<'a, str> + Send + Sync + 'static,
    {
        Self {
            circuits: Circuits::Keyed(circuits, Box::new(key)),
            with_body: false,
        }
    }

    /// One circuit for all requests.
    #[must_use]
    pub const fn new(circuit: CircuitBreaker) -> Self {
        Self {
            circuits: Circuits::One(circuit),
            with_body: false,
        }
    }

    /// Judges a good answer by its body too. Default: by its head only.
    ///
    /// A body that is read to its end is a success; one that breaks off, or has another length than
    /// its `Content-Length`, a failure; one that is dropped before is a dropped call: its reader
    /// has left. A client's own timeout is a failure in the body as well. The whole body is timed;
    /// `call_timeout` ends the wait for the head only.
    ///
    /// The response is rebuilt around its body. Status, version, headers, extensions, URL, remote
    /// address, content length, trailers and upgrades stay; an error of the body gains a reqwest
    /// error around it, which is no less a timeout where it is one.
    #[must_use]
    pub fn until_body_ends(mut self) -> Self {
        self.with_body = true;
        self
    }

    fn circuit(&self, request: &Request) -> CircuitBreaker {
        match &self.circuits {
            Circuits::One(circuit) => circuit.clone(),
            Circuits::Keyed(circuits, key) => circuits.circuit(&key(request)),
        }
    }
}

impl fmt::Debug for CircuitBreakerMiddleware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let circuits: &dyn fmt::Debug = match &self.circuits {
            Circuits::One(circuit) => circuit,
            Circuits::Keyed(circuits, _) => circuits,
        };
        f.debug_tuple("CircuitBreakerMiddleware")
            .field(circuits)
            .finish()
    }
}

#[async_trait]
impl Middleware for CircuitBreakerMiddleware {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<Response> {
        let circuit = self.circuit(&request);
        let method = self.with_body.then(|| request.method().clone());
        let call = || next.run(request, extensions);
        let answer = match method {
            None => circuit.call_with(outcome, call).await,
            Some(method) => {
                let answer = circuit.open(outcome_of_error, call).await;
                answer.map(|(response, permit)| settling(&method, response, permit))
            }
        };
        answer.map_err(|error| match error {
            CallError::Failed(error) => error,
            CallError::Rejected(rejection) => unanswered("the request was not sent", rejection),
            CallError::TimedOut(limit) => {
                let timed_out = CallError::<Infallible>::TimedOut(limit);
                unanswered("the request was dropped", timed_out)
            }
        })
    }
}

/// The same response, whose body settles the permit.
fn settling(method: &Method, response: Response, permit: Permit) -> Response {
    let url = response.url().clone();
    let response = settle_with_body(method, http::Response::<Body>::from(response), permit);
    let (mut parts, body) = response.into_parts();
    // The one thing that http's response has no place for.
    let mut with_url = http::response::Builder::new().url(url);
    if let Some(url) = with_url.extensions_mut() {
        parts.extensions.extend(std::mem::take(url));
    }
    Response::from(http::Response::from_parts(parts, Body::wrap(body)))
}

/// An error with a cause, and so with the cause of whatever wraps it transparently.
fn unanswered(what: &'static str, why: impl StdError + Send + Sync + 'static) -> Error {
    match Error::middleware(why) {
        Error::Middleware(error) => Error::Middleware(error.context(what)),
        error => error,
    }
}

/// The key of [`per_host`](CircuitBreakerMiddleware::per_host): the host, with its port where that is not the
/// scheme's own.
pub fn host(request: &Request) -> Cow<'_, str> {
    let url = request.url();
    let host = url.host_str().unwrap_or("unknown");
    match url.port() {
        Some(port) => Cow::Owned(format!("{host}:{port}")),
        None => Cow::Borrowed(host),
    }
}

/// What the result of a request means: an answer as [`http::outcome`](crate::http::outcome) says, by its
/// head.
///
/// An error is a failure where the request was sent, or could not be: no connection, a timeout, a
/// connection that broke. It is ignored where it is the caller's: a request that could not be built, a
/// redirect that is not followed, another middleware's error. An error that another middleware has wrapped,
/// as retries do, is what it wraps.
#[must_use]
pub fn outcome(result: &Result<Response>) -> Outcome {
    match result {
        Ok(response) => outcome_of_head(response.status(), response.headers()),
        Err(error) => outcome_of_error(error),
    }
}

fn outcome_of_error(error: &Error) -> Outcome {
    match cause::<reqwest::Error>(error) {
        Some(error) if !error.is_builder() && !error.is_redirect() => Outcome::failure(),
        _ => Outcome::Ignored,
    }
}

/// The rejection in an error, when a circuit has rejected the request, also where another middleware has
/// wrapped it.
#[must_use]
pub fn rejection(error: &Error) -> Option<&Rejection> {
    cause(error)
}

/// The first error of that type in the chain of causes.
fn cause<T: StdError + 'static>(error: &Error) -> Option<&T> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // Transparent: its cause is what its content's is.
        next = match error.downcast_ref() {
            Some(Error::Reqwest(error)) => Some(error),
            Some(Error::Middleware(error)) => Some(error.as_ref()),
            None => error.source(),
        };
    }
    None
}
