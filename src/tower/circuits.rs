//! Which circuit a request goes through.

use std::{borrow::Cow, fmt};

use crate::{CircuitBreaker, keyed::KeyedCircuits};

/// Finds the circuit of a request: a [`CircuitBreaker`] for all, or [`PerKey`].
pub trait Circuits<Req> {
    /// Shows the request's circuit.
    fn with<T>(&self, request: &Req, look: impl FnOnce(&CircuitBreaker) -> T) -> T;
}

impl<Req> Circuits<Req> for CircuitBreaker {
    #[inline]
    fn with<T>(&self, _: &Req, look: impl FnOnce(&CircuitBreaker) -> T) -> T {
        look(self)
    }
}

/// One circuit for each key; made by [`CircuitBreakerLayer::per_key`](super::CircuitBreakerLayer::per_key).
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
