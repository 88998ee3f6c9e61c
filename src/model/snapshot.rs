//! A circuit as one reply shows it.

use serde::{Deserialize, Serialize};

use super::{Reason, State};

/// A circuit at one moment, as the store saw it.
///
/// Times are Unix milliseconds by the store's clock; 0 means "none". Fields come in the order in
/// which the scripts reply. Twin: `picture` in `lua/lib/circuit.lua`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Snapshot {
    /// The state.
    pub state: State,
    /// Grows by one at each transition; 0 for a circuit that never had one.
    pub generation: u64,
    /// When this was read.
    pub now_ms: u64,
    /// When the state was entered.
    pub since_ms: u64,
    /// When the state ends by itself: an open circuit's wait, an override's expiry, a half-open's
    /// longest time.
    pub until_ms: u64,
    /// Why the state was entered.
    pub reason: Reason,
    /// Opens without a calm time (`backoff_reset_after`) between them.
    pub consecutive_opens: u64,
    /// Recorded calls in the window; while open, those that opened it.
    pub calls: u64,
    /// Failures among them.
    pub failures: u64,
    /// Slow calls among them.
    pub slow: u64,
    /// Length of the present run of failures.
    pub consecutive_failures: u64,
    /// Probe permits that are out, in open and half-open.
    pub probes: u64,
    /// Probes of this half-open that succeeded.
    pub probe_successes: u64,
    /// Probes of this half-open that failed.
    pub probe_failures: u64,
    /// When the recovery ramp ends.
    pub ramp_until_ms: u64,
    /// Who set the override.
    pub override_author: String,
    /// Why, in the author's words.
    pub override_reason: String,
    /// The policy stored with the circuit, `key=integer` pairs; empty when there is none.
    pub policy: String,
    /// Successes in the circuit's life.
    pub successes_total: u64,
    /// Failures in the circuit's life.
    pub failures_total: u64,
    /// Slow calls in the circuit's life.
    pub slow_total: u64,
    /// Ignored outcomes in the circuit's life.
    pub ignored_total: u64,
    /// Rejected calls in the circuit's life.
    pub not_permitted_total: u64,
    /// When a success was last reported.
    pub last_success_ms: u64,
    /// When a failure was last reported.
    pub last_failure_ms: u64,
    /// How long a replica should wait between reports, ms; 0 in replies to anything but a report.
    pub pace_ms: u64,
    /// Replicas that reported lately.
    pub replicas: u64,
    /// Replicas that failed within the window; 0 where `quorum` is 1.
    pub failing: u64,
    /// Replicas that are open for themselves; 0 where `quorum` is 1.
    pub alone: u64,
}

impl Snapshot {
    /// Failures among the recorded calls of the window, in percent; `None` without calls.
    #[must_use]
    pub fn failure_rate(&self) -> Option<f64> {
        (self.calls > 0).then(|| self.failures as f64 * 100.0 / self.calls as f64)
    }

    /// Milliseconds until the state ends by itself, as of `now_ms`; 0 when it does not.
    #[must_use]
    pub const fn left_ms(&self) -> u64 {
        self.until_ms.saturating_sub(self.now_ms)
    }
}
