//! Helpers for tests of code that uses circuits: a fleet in one process, a store with faults,
//! assertions on transitions.
//!
//! Owns nothing that runs in production; uses the public API only. Every helper waits at most
//! [`PATIENCE`], and then panics with what it saw.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use commontrip::{Policy, State, test_util::{Fleet, trip}};
//!
//! let fleet = Fleet::new(2)?;
//! let payments = fleet.circuit("payments", Policy::default())?;
//! trip(&payments[0]).await;
//! fleet.settle().await;
//! assert_eq!(payments[1].state(), State::Open);
//! # Ok(()) }
//! ```

mod faulty;
mod fleet;
mod record;

use std::time::Duration;

use tokio::time::{sleep, timeout};

pub use self::{
    faulty::{Fault, FaultyStore, Injected, Operation},
    fleet::Fleet,
    record::{Step, compare},
};
use crate::{CircuitBreaker, Outcome, State};

/// How long the helpers wait before they panic: far longer than a busy machine needs.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How often the helpers look.
const LOOK: Duration = Duration::from_millis(5);

/// Opens the circuit for the fleet with one call that [trips](Outcome::Trip) it, and waits until
/// this replica knows.
///
/// One call is enough for any thresholds, but not if the policy has a `quorum`, and not in an
/// override.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::{State, test_util::{trip, until_state}};
///
/// trip(&payments).await;
/// until_state(&payments, State::Open).await;
/// assert!(payments.acquire().await.is_err());
/// # Ok(()) }
/// ```
///
/// # Panics
/// If the circuit is not open within [`PATIENCE`].
pub async fn trip(breaker: &CircuitBreaker) {
    if breaker.state() == State::Open {
        return;
    }
    // If the call is rejected, the circuit is about to open, or `until_state` panics with its
    // state.
    if let Ok(permit) = breaker.acquire().await {
        permit.record(Outcome::trip());
    }
    until_state(breaker, State::Open).await;
}

/// Waits until this replica has that state. Makes no calls, so an open circuit does not become
/// half-open.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::{State, test_util::until_state};
///
/// payments.force_open(Default::default()).await?;
/// until_state(&payments, State::ForcedOpen).await;
/// # Ok(()) }
/// ```
///
/// # Panics
/// If it does not have that state within [`PATIENCE`].
pub async fn until_state(breaker: &CircuitBreaker, state: State) {
    let there = in_time(async {
        while breaker.state() != state {
            sleep(LOOK).await;
        }
    })
    .await;
    assert!(
        there,
        "circuit {:?} is {} after {PATIENCE:?}, not {state}",
        breaker.name(),
        breaker.state()
    );
}

/// Whether `work` ended within [`PATIENCE`].
async fn in_time(work: impl Future<Output = ()>) -> bool {
    timeout(PATIENCE, work).await.is_ok()
}
