//! Entries of a circuit's event stream: transitions, and changes of the stored policy.

use serde::{Deserialize, Serialize};

use super::{Reason, State};

/// One transition of a circuit, or one change of its stored policy.
///
/// Appended together with the change, so exactly once for the whole fleet.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// let mut events = payments.events().await?;
/// payments.force_open(commontrip::Override::because("drill")).await?;
///
/// let event = events.next().await.expect("the registry is in use");
/// println!("{} -> {}: {}", event.from, event.to, event.reason);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Event {
    /// The generation that the transition began, or in which the policy was stored. Grows by one
    /// each time, and jumps only if Redis had lost the circuit and a replica remembered a later
    /// generation.
    pub generation: u64,
    /// The state before.
    pub from: State,
    /// The state after.
    pub to: State,
    /// Why; [`Reason::Policy`] if it is not a transition.
    pub reason: Reason,
    /// When, Unix ms, by the store's clock.
    pub at_ms: u64,
    /// When the new state ends by itself, Unix ms; 0 if it has no end.
    pub until_ms: u64,
    /// Opens without a calm time between them: the step of the backoff.
    pub consecutive_opens: u64,
    /// Calls in the window at that moment.
    pub calls: u64,
    /// Failures in the window at that moment.
    pub failures: u64,
    /// Slow calls in the window at that moment.
    pub slow: u64,
    /// The replica whose call made the transition, or the operator.
    pub by: String,
    /// The reason that an operator gave; otherwise empty.
    pub note: String,
    /// Where the command of the operator came from: a replica, a host, an address; otherwise empty.
    pub origin: String,
    /// The policy that was stored, `key=integer` pairs; empty if none was stored, or it was
    /// removed.
    pub policy: String,
    /// When the circuit opened: the most frequent kind of failure in that minute and the one
    /// before, and its share of the failures that have a kind: `timeout 12 of 20`; otherwise empty.
    #[serde(default)]
    pub leading_failure: String,
}

impl Event {
    /// Whether this is a transition: the circuit changed its state, or at least its generation.
    #[must_use]
    pub fn is_transition(&self) -> bool {
        self.reason != Reason::Policy
    }

    /// Whether this event is later than the transition to a generation.
    pub(crate) fn is_after(&self, generation: u64) -> bool {
        self.generation > generation || self.generation == generation && !self.is_transition()
    }
}
