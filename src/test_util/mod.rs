//! For tests of code that uses circuits: a fleet in one process, a store with faults, transitions.
//!
//! Owns nothing that runs in production; uses the public API only. Everything here waits at most
//! [`PATIENCE`], and panics with what it saw: it is for tests.

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
/// How often they look.
const LOOK: Duration = Duration::from_millis(5);

/// Opens the circuit for the fleet by one call that [trips](Outcome::Trip) it, and waits until this
/// replica knows.
///
/// One call is enough whatever the thresholds; not where a `quorum` is asked for, and not in an
/// override.
///
/// # Panics
/// When the circuit is not open after [`PATIENCE`].
pub async fn trip(breaker: &CircuitBreaker) {
    if breaker.state() == State::Open {
        return;
    }
    // One that is rejected here is on its way to be open already, or will not be, which is said.
    if let Ok(permit) = breaker.acquire().await {
        permit.record(Outcome::trip());
    }
    until_state(breaker, State::Open).await;
}

/// Waits until this replica goes by that state. Makes no calls: an open circuit does not become
/// half-open by it.
///
/// # Panics
/// When it is in another state after [`PATIENCE`].
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

/// Whether it ended within [`PATIENCE`].
async fn in_time(work: impl Future<Output = ()>) -> bool {
    timeout(PATIENCE, work).await.is_ok()
}
