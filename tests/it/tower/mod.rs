//! Circuits around services: mocks for what a service must keep to, and the real ones over real sockets.

mod axum;
mod examples;
mod fetched;
mod http;
mod hyper;
mod served;
mod service;
mod tonic;

use commontrip::{CircuitBreaker, Commontrip};

use crate::upstream::after;
use crate::wait::until;

/// A circuit of its own, for one call.
struct Once {
    circuits: Commontrip,
    breaker: CircuitBreaker,
}

/// What became of a call: successes, failures, dropped ones.
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

    /// Waits for the call to be counted, and sees that it is as it should be.
    async fn ends_as(&self, expected: Counts, what: &str) {
        until(what, async || self.counted() != (0, 0, 0)).await;
        assert_eq!(self.counted(), expected, "{what}");
    }
}
