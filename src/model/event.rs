//! One transition of a circuit, or one change of its stored policy, as the circuit's event stream keeps it.

use serde::{Deserialize, Serialize};

use super::{Reason, State};

/// One transition, or one change of the policy that is stored with the circuit.
///
/// Appended by the very call that made it, so exactly once for the whole fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Event {
    /// The generation that the transition began, or in which the policy was stored. Grows by one each time, with a jump only when
    /// Redis had lost the circuit and a replica remembered more.
    pub generation: u64,
    /// The state before.
    pub from: State,
    /// The state after.
    pub to: State,
    /// Why; [`Reason::Policy`] where it is no transition.
    pub reason: Reason,
    /// When, Unix ms, by the store's clock.
    pub at_ms: u64,
    /// When the new state ends by itself, Unix ms; 0 when it does not.
    pub until_ms: u64,
    /// Opens without a calm time between them; the backoff's step.
    pub consecutive_opens: u64,
    /// Calls in the window at that moment.
    pub calls: u64,
    /// Failures in the window at that moment.
    pub failures: u64,
    /// Slow calls in the window at that moment.
    pub slow: u64,
    /// The replica whose call made the transition, or the operator.
    pub by: String,
    /// The operator's words, for what operators do; else empty.
    pub note: String,
    /// From where the operator did it: a replica, a host, an address; else empty.
    pub origin: String,
    /// The policy that was stored, `key=integer` pairs; empty where none was, or it was taken away.
    pub policy: String,
}

impl Event {
    /// Whether the circuit changed its state, or at least its generation.
    #[must_use]
    pub fn is_transition(&self) -> bool {
        self.reason != Reason::Policy
    }

    /// Whether it came after the transition to a generation.
    pub(crate) fn is_after(&self, generation: u64) -> bool {
        self.generation > generation || self.generation == generation && !self.is_transition()
    }
}
