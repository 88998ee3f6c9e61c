//! Replicas of a service in one process, with one manual clock.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::sleep;

use super::{FaultyStore, LOOK, PATIENCE, in_time};
use crate::{BuildError, CircuitBreaker, Clock, Commontrip, MemoryStore, NameError, Policy};

/// How long a call may wait for the store. Only a fault makes it wait.
const STORE_TIMEOUT: Duration = Duration::from_millis(500);

/// N replicas on one [`MemoryStore`], with one manual clock.
///
/// What depends on the clock (windows, waits in open, leases, the age of decisions) stands still
/// until [`advance`](Self::advance). Replicas report by tokio's time; [`settle`](Self::settle)
/// makes them report at once.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use commontrip::{Policy, State, assert_transitions, test_util::{Fleet, trip}};
///
/// let fleet = Fleet::new(3)?;
/// let payments = fleet.circuit("payments", Policy::default())?;
/// trip(&payments[0]).await;
/// fleet.settle().await;
/// assert_eq!(payments[2].state(), State::Open);
///
/// fleet.advance(Duration::from_secs(30)).await;
/// for _ in 0..2 {
///     payments[2].acquire().await?.success();
///     fleet.settle().await;
/// }
/// assert_transitions!(payments[1], [
///     Closed => Open(Tripped),
///     Open => HalfOpen,
///     HalfOpen => Closed(Recovered),
/// ]);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Fleet {
    store: MemoryStore,
    replicas: Vec<Replica>,
    /// The circuits of [`Fleet::circuit`], to know when all replicas agree on them.
    taken: Mutex<Vec<Vec<CircuitBreaker>>>,
}

#[derive(Debug)]
struct Replica {
    circuits: Commontrip,
    store: FaultyStore,
}

impl Fleet {
    /// Creates this many replicas, named `replica-0` and so on.
    ///
    /// # Errors
    /// [`BuildError::NoRuntime`] outside of a tokio runtime.
    pub fn new(replicas: usize) -> Result<Self, BuildError> {
        let store = MemoryStore::new(Clock::manual());
        let replica = |number| {
            let faulty = FaultyStore::new(store.clone());
            let circuits = Commontrip::builder()
                .store(faulty.clone())
                .clock(store.clock().clone())
                .store_timeout(STORE_TIMEOUT)
                .replica(&format!("replica-{number}"))
                .build()?;
            Ok(Replica {
                circuits,
                store: faulty,
            })
        };
        let replicas: Result<Vec<_>, BuildError> = (0..replicas).map(replica).collect();
        Ok(Self {
            replicas: replicas?,
            store,
            taken: Mutex::default(),
        })
    }

    /// Returns the clock of the store and of all replicas.
    #[must_use]
    pub const fn clock(&self) -> &Clock {
        self.store.clock()
    }

    /// Returns the store that the replicas share, without faults.
    #[must_use]
    pub const fn store(&self) -> &MemoryStore {
        &self.store
    }

    /// Returns the replicas' registries.
    pub fn replicas(&self) -> impl ExactSizeIterator<Item = &Commontrip> {
        self.replicas.iter().map(|replica| &replica.circuits)
    }

    /// Returns one replica's link to the store, for [faults](FaultyStore::inject) of this replica
    /// only; `None` if there is no such replica.
    #[must_use]
    pub fn link(&self, replica: usize) -> Option<&FaultyStore> {
        self.replicas.get(replica).map(|replica| &replica.store)
    }

    /// Returns one circuit as each replica holds it.
    ///
    /// # Errors
    /// As [`Commontrip::circuit`].
    pub fn circuit(&self, name: &str, policy: Policy) -> Result<Vec<CircuitBreaker>, NameError> {
        let of = |replica: &Commontrip| replica.circuit(name, policy.clone());
        let breakers: Result<Vec<_>, _> = self.replicas().map(of).collect();
        let breakers = breakers?;
        self.taken.lock().push(breakers.clone());
        Ok(breakers)
    }

    /// Moves the clock and [settles](Self::settle).
    pub async fn advance(&self, by: Duration) {
        self.settle().await;
        self.clock().advance(by);
        self.settle().await;
    }

    /// Makes all replicas report, and waits until each knows what the store knows, except those
    /// that cannot reach the store.
    ///
    /// # Panics
    /// If they do not agree within [`PATIENCE`].
    pub async fn settle(&self) {
        let taken = self.taken.lock().clone();
        let agreed = in_time(async {
            loop {
                for replica in self.replicas() {
                    replica.flush().await;
                }
                if self.agrees(&taken).await {
                    return;
                }
                sleep(LOOK).await;
            }
        })
        .await;
        assert!(
            agreed,
            "the fleet does not agree after {PATIENCE:?}: {taken:?}"
        );
    }

    async fn agrees(&self, taken: &[Vec<CircuitBreaker>]) -> bool {
        for (number, replica) in self.replicas.iter().enumerate() {
            let health = replica.circuits.health();
            if replica.store.has_faults() || health.unavailable_for.is_some() {
                continue;
            }
            if health.reports_pending > 0 {
                return false;
            }
            for breaker in taken.iter().filter_map(|replicas| replicas.get(number)) {
                let now = breaker.snapshot().await;
                if now.is_ok_and(|now| breaker.cached().generation < now.generation) {
                    return false;
                }
            }
        }
        true
    }

    /// Shuts down all replicas.
    pub async fn shutdown(&self) {
        for replica in self.replicas() {
            replica.shutdown().await;
        }
    }
}
