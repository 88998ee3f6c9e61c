//! One circuit in a few numbers, to send along with a response.
//!
//! Owns the choice of numbers; all of them are in [`CircuitStats`], too.

use serde::Serialize;

use super::{CircuitBreaker, CircuitStats};
use crate::model::State;

/// A circuit's state and a few numbers, for the metadata of a response.
///
/// Returned by [`CircuitBreaker::summary`], without I/O; serializes to one flat object.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// payments.call(|| async { Ok::<_, std::io::Error>(()) }).await?;
/// let json = serde_json::to_value(payments.summary())?;
/// assert_eq!((&json["state"], &json["successes"]), (&"closed".into(), &1.into()));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CircuitSummary {
    /// The circuit's name.
    pub circuit: String,
    /// The state on which this replica bases its decisions.
    pub state: State,
    /// Recorded calls in the fleet's window, as last received.
    pub calls: u64,
    /// Failures among them, in percent; `None` without calls.
    pub failure_rate: Option<f64>,
    /// How long the circuit has been open, across failed probes, ms; `None` if it is neither open
    /// nor half-open.
    pub open_ms: Option<u64>,
    /// Calls of this process that succeeded.
    pub successes: u64,
    /// Calls of this process that failed.
    pub failures: u64,
    /// Calls of this process that were rejected.
    pub rejected: u64,
    /// Calls that fallbacks of this process answered.
    pub fallbacks: u64,
}

impl CircuitBreaker {
    /// What this process has seen of this circuit; one element of [`Commontrip::stats`].
    ///
    /// [`Commontrip::stats`]: crate::Commontrip::stats
    #[must_use]
    pub fn stats(&self) -> CircuitStats {
        self.inner.stats()
    }

    /// The circuit's state and a few numbers, for the metadata of a response.
    #[must_use]
    pub fn summary(&self) -> CircuitSummary {
        let stats = self.inner.stats_in_brief();
        CircuitSummary {
            state: stats.cached.state,
            calls: stats.window_calls(),
            failure_rate: stats.failure_rate(),
            open_ms: stats.open_for().map(crate::model::millis),
            successes: stats.successes,
            failures: stats.failures,
            rejected: stats.rejected,
            fallbacks: stats.fallbacks.total(),
            circuit: stats.name,
        }
    }
}
