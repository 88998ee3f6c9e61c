//! Which circuit a request goes through.

use std::{borrow::Cow, fmt};

use crate::{CircuitBreaker, keyed::KeyedCircuits};

/// Selects the circuit of a request: one [`CircuitBreaker`] for all requests, or [`PerKey`].
pub trait Circuits<Req> {
    /// Calls `look` with the request's circuit.
    fn with<T>(&self, request: &Req, look: impl FnOnce(&CircuitBreaker) -> T) -> T;

    /// The circuit of all requests, if there is only one.
    fn only(&self) -> Option<&CircuitBreaker> {
        None
    }
}

impl<Req> Circuits<Req> for CircuitBreaker {
    #[inline]
    fn with<T>(&self, _: &Req, look: impl FnOnce(&CircuitBreaker) -> T) -> T {
        look(self)
    }

    fn only(&self) -> Option<&CircuitBreaker> {
        Some(self)
    }
}

/// One circuit for each key; made by
/// [`CircuitBreakerLayer::per_key`](super::CircuitBreakerLayer::per_key).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::{http::host, keyed::KeyedCircuits, tower::CircuitBreakerLayer};
///
/// let hosts = KeyedCircuits::new(&circuits, "http:", |_host| Policy::default())?;
/// let layer = CircuitBreakerLayer::per_key(hosts, host::<()>);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct PerKey<K> {
    pub(super) circuits: KeyedCircuits,
    pub(super) key: K,
}

impl<Req, K> Circuits<Req> for PerKey<K>
where
    K: for<'a> Fn(&'a Req) -> Cow<'a, str>,
{
    fn with<T>(&self, request: &Req, look: impl FnOnce(&CircuitBreaker) -> T) -> T {
        look(&self.circuits.circuit(&(self.key)(request)))
    }
}

impl<K> fmt::Debug for PerKey<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PerKey").field(&self.circuits).finish()
    }
}
