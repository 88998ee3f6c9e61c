//! Circuits around services: mocks for the service contract, and real services over real sockets.

mod axum;
mod examples;
mod fetched;
mod http;
mod hyper;
mod layers;
mod ours;
mod panics;
mod served;
mod service;
mod tonic;

use commontrip::{CircuitBreaker, Commontrip};

use crate::upstream::after;
use crate::wait::until;

/// A circuit for a single call.
struct Once {
    circuits: Commontrip,
    breaker: CircuitBreaker,
}

/// How calls ended: successes, failures, dropped ones.
type Counts = (u64, u64, u64);
const SUCCESS: Counts = (1, 0, 0);
const FAILURE: Counts = (0, 1, 0);
const DROPPED: Counts = (0, 0, 1);

impl Once {
    fn new() -> Once {
        let circuits = Commontrip::embedded().unwrap();
        let breaker = circuits.circuit("once", after(99)).unwrap();
        Once { circuits, breaker }
    }

    fn counted(&self) -> Counts {
        let stats = &self.circuits.stats()[0];
        (
            stats.successes,
            stats.failures,
            stats.ignored + stats.abandoned,
        )
    }

    /// Waits until the call is counted, and checks the result.
    async fn ends_as(&self, expected: Counts, what: &str) {
        until(what, async || self.counted() != (0, 0, 0)).await;
        assert_eq!(self.counted(), expected, "{what}");
    }
}
