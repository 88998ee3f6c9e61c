//! Replicas of a service in one process, with one clock that only moves when it is told to.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::sleep;

use super::{FaultyStore, LOOK, PATIENCE, in_time};
use crate::{BuildError, CircuitBreaker, Clock, Commontrip, MemoryStore, NameError, Policy};

/// So long a call may wait for the store: only where a fault makes it.
const STORE_TIMEOUT: Duration = Duration::from_millis(500);

/// N replicas on one [`MemoryStore`], with one manual clock.
///
/// What takes its time from the clock (windows, waits in open, leases, the age of decisions) stands still
/// until [`advance`](Self::advance). How often replicas report goes by tokio's time;
/// [`settle`](Self::settle) has them report at once.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
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
    /// Circuits that were taken, to know when all replicas agree on them.
    taken: Mutex<Vec<Vec<CircuitBreaker>>>,
}

#[derive(Debug)]
struct Replica {
    circuits: Commontrip,
    store: FaultyStore,
}

impl Fleet {
    /// So many replicas, named `replica-0` and so on.
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

    /// The clock of the store and of all replicas.
    #[must_use]
    pub const fn clock(&self) -> &Clock {
        self.store.clock()
    }

    /// The store that they share, without faults.
    #[must_use]
    pub const fn store(&self) -> &MemoryStore {
        &self.store
    }

    /// The replicas' registries.
    pub fn replicas(&self) -> impl ExactSizeIterator<Item = &Commontrip> {
        self.replicas.iter().map(|replica| &replica.circuits)
    }

    /// The way to the store of one replica, for [faults](FaultyStore::inject) that this one has; `None`
    /// when there is no such replica.
    #[must_use]
    pub fn link(&self, replica: usize) -> Option<&FaultyStore> {
        self.replicas.get(replica).map(|replica| &replica.store)
    }

    /// One circuit as each replica holds it.
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

    /// Has all replicas report, and waits until each knows what the store knows; those with
    /// a fault between them and the store excepted.
    ///
    /// # Panics
    /// When they do not agree after [`PATIENCE`].
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
            if replica.store.has_faults() || health.away_for.is_some() {
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

    /// Ends all replicas.
    pub async fn shutdown(&self) {
        for replica in self.replicas() {
            replica.shutdown().await;
        }
    }
}
