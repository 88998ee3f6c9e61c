//! Circuits around reqwest clients, as a middleware of reqwest-middleware 0.5 (reqwest 0.13).
//!
//! Owns the classification of reqwest's errors, how they carry rejections, and how a response is
//! rebuilt around a body that settles the permit.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use commontrip::{Commontrip, Policy, keyed::KeyedCircuits};
//! use commontrip::reqwest::CircuitBreakerMiddleware;
//!
//! let circuits = Commontrip::embedded()?;
//! let middleware = CircuitBreakerMiddleware::per_host(&circuits, |_host| Policy::default())?;
//! let client = reqwest_middleware::ClientBuilder::new(reqwest::Client::new()).with(middleware).build();
//! # Ok(()) }
//! ```

use std::{borrow::Cow, convert::Infallible, error::Error as StdError, fmt};

use async_trait::async_trait;
use http::{Extensions, Method};
use reqwest::{Body, Request, Response, ResponseBuilderExt};
use reqwest_middleware::{Error, Middleware, Next, Result};

use crate::{
    CallError, CircuitBreaker, Commontrip, FailureKind, NameError, Outcome, Permit, Policy,
    Rejection,
    http::{is_ours, kind_of_error, outcome as outcome_of_head, settle_with_body},
    keyed::KeyedCircuits,
};

type Key = Box<dyn Fn(&Request) -> Cow<'_, str> + Send + Sync>;

/// Puts a circuit around a client's requests: one for each host, one for each of your own keys, or
/// one for all.
///
/// Responses are classified by their head, like [`http::outcome`](crate::http::outcome), and with
/// [`until_body_ends`](Self::until_body_ends) also by their body; errors by [`outcome`]. A rejected
/// request never reaches a socket; see [`rejection`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
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
    /// Uses one circuit for each host, named `http:` and the host, with the port unless it is the
    /// scheme's default: `http:api.example.com`. `policy` gets the host. At most 1,000 hosts, see
    /// [`KeyedCircuits`].
    ///
    /// # Errors
    /// [`NameError`], which cannot occur with this prefix.
    pub fn per_host(
        circuits: &Commontrip,
        policy: impl Fn(&str) -> Policy + Send + Sync + 'static,
    ) -> std::result::Result<Self, NameError> {
        let circuits = KeyedCircuits::new(circuits, "http:", policy)?;
        Ok(Self::per_key(circuits, host))
    }

    /// Uses one circuit for each key of a request.
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

    /// Uses one circuit for all requests.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// use commontrip::reqwest::CircuitBreakerMiddleware;
    /// use reqwest_middleware::ClientBuilder;
    ///
    /// let client = ClientBuilder::new(reqwest::Client::new())
    ///     .with(CircuitBreakerMiddleware::new(payments))
    ///     .build();
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub const fn new(circuit: CircuitBreaker) -> Self {
        Self {
            circuits: Circuits::One(circuit),
            with_body: false,
        }
    }

    /// Classifies a successful response by its body, too. Default: by its head only.
    ///
    /// A body that is read to its end is a success. One that breaks off, or does not have the
    /// length of its `Content-Length`, is a failure. One that is dropped before its end is an
    /// abandoned call. A client's own timeout is a failure in the body as well. The latency
    /// includes the whole body; `call_timeout` limits the wait for the head only.
    ///
    /// The response is rebuilt around its body. Status, version, headers, extensions, URL, remote
    /// address, content length, trailers and upgrades stay. An error of the body is wrapped in a
    /// reqwest error, which still reports a timeout as one.
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

/// Returns the same response with a body that settles the permit.
fn settling(method: &Method, response: Response, permit: Permit) -> Response {
    let url = response.url().clone();
    let response = settle_with_body(method, http::Response::<Body>::from(response), permit);
    let (mut parts, body) = response.into_parts();
    // The only part that an `http::Response` has no place for.
    let mut with_url = http::response::Builder::new().url(url);
    if let Some(url) = with_url.extensions_mut() {
        parts.extensions.extend(std::mem::take(url));
    }
    Response::from(http::Response::from_parts(parts, Body::wrap(body)))
}

/// Wraps `why` as the cause of an error, because a transparent wrapper exposes only the cause.
fn unanswered(what: &'static str, why: impl StdError + Send + Sync + 'static) -> Error {
    match Error::middleware(why) {
        Error::Middleware(error) => Error::Middleware(error.context(what)),
        error => error,
    }
}

/// The key of [`per_host`](CircuitBreakerMiddleware::per_host): the host, with its port unless that
/// is the scheme's default.
pub fn host(request: &Request) -> Cow<'_, str> {
    let url = request.url();
    let host = url.host_str().unwrap_or("unknown");
    match url.port() {
        Some(port) => Cow::Owned(format!("{host}:{port}")),
        None => Cow::Borrowed(host),
    }
}

/// Classifies the result of a request; a response by its head, like
/// [`http::outcome`](crate::http::outcome).
///
/// An error is a failure if the request was sent, or could not be sent: no connection, a timeout, a
/// broken connection. An error on the caller's side is ignored: a request that could not be built,
/// a redirect that is not followed, a request body that fails, a connection that a local layer
/// rejected, another middleware's error. If another middleware, such as a retry, wrapped an error,
/// the inner error counts. The kind of a failure is `timeout`, `connect`, `connection reset`,
/// `ended early` or otherwise `error`.
///
/// ```
/// use commontrip::{Outcome, reqwest::outcome};
///
/// let error = reqwest_middleware::Error::middleware(std::io::Error::other("down"));
/// println!("{:?}", outcome(&Err(error)));
/// ```
#[must_use]
pub fn outcome(result: &Result<Response>) -> Outcome {
    match result {
        Ok(response) => outcome_of_head(response.status(), response.headers()),
        Err(error) => outcome_of_error(error),
    }
}

fn outcome_of_error(error: &Error) -> Outcome {
    match cause::<reqwest::Error>(error) {
        None => Outcome::Ignored,
        Some(error) if error.is_builder() || error.is_redirect() => Outcome::Ignored,
        Some(error) if is_ours(error) => Outcome::Ignored,
        Some(error) => Outcome::failure_of(kind_of_request(error)),
    }
}

fn kind_of_request(error: &reqwest::Error) -> FailureKind {
    match error {
        error if error.is_timeout() => "timeout".into(),
        error if error.is_connect() => "connect".into(),
        error => kind_of_error(error),
    }
}

/// Finds the rejection in an error, if a circuit rejected the request; also if another middleware
/// has wrapped it.
#[must_use]
pub fn rejection(error: &Error) -> Option<&Rejection> {
    cause(error)
}

/// Finds the first error of this type in the chain of causes.
fn cause<T: StdError + 'static>(error: &Error) -> Option<&T> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // `Error` is transparent: its source is its content's source, so continue with the content.
        next = match error.downcast_ref() {
            Some(Error::Reqwest(error)) => Some(error),
            Some(Error::Middleware(error)) => Some(error.as_ref()),
            None => error.source(),
        };
    }
    None
}
