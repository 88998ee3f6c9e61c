//! The health of a registry and its store.
//!
//! Owns what is recorded about it, and the form in which users see it; `outage` acts on it.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use crate::model::Latencies;

/// What is recorded about the store's answers.
#[derive(Debug, Default)]
pub(super) struct Outage {
    /// Whether a task asks the store until all circuits are back.
    pub(super) asking: AtomicBool,
    /// Notified when more circuits continue without the store.
    pub(super) more: Notify,
    pub(super) trouble: Mutex<Trouble>,
    pub(super) round_trips: Mutex<Latencies>,
    pub(super) contradicted: AtomicU64,
}

impl Outage {
    pub(super) fn note_trouble(&self) {
        let mut trouble = self.trouble.lock();
        trouble.since.get_or_insert_with(Instant::now);
        trouble.times += 1;
    }

    pub(super) fn note_contradiction(&self) {
        self.contradicted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_round_trip(&self, took: Duration) {
        self.round_trips.lock().record(took, 1);
    }
}

#[derive(Debug, Default)]
pub(super) struct Trouble {
    pub(super) since: Option<Instant>,
    pub(super) last_error: Option<String>,
    pub(super) times: u64,
    /// Shards whose circuits are unavailable.
    pub(super) shards: BTreeSet<u16>,
}

/// The health of a registry and its store.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// println!("{:?}", circuits.health());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RegistryHealth {
    /// Whether circuits decide about calls; `false` while
    /// [`Commontrip::set_enabled`](crate::Commontrip::set_enabled) admits every call of this
    /// process.
    pub enabled: bool,
    /// Circuits that are switched off individually in this process, by
    /// [`CircuitBreaker::set_enabled`](crate::CircuitBreaker::set_enabled).
    pub circuits_off: usize,
    /// How long the store has been unavailable to at least one circuit; `None` while it answers.
    pub unavailable_for: Option<Duration>,
    /// Circuits that decide without the store: all of them with a single server, those of a shard
    /// in a Cluster, one if the store refuses its requests.
    pub circuits_unavailable: usize,
    /// How often the store became unavailable.
    pub times_unavailable: u64,
    /// The last error, in words; once [`ended`](Self::ended), the reason for the end.
    pub last_error: Option<String>,
    /// Whether this registry no longer asks the store or reports to it: it was shut down, or the
    /// runtime on which it was created is gone. This process alone decides about calls.
    pub ended: bool,
    /// Whether changes of every circuit are pushed to this process.
    pub push: bool,
    /// How often the store contradicted a published change: somebody else publishes under circuits'
    /// names, or Redis has lost what it had just published.
    pub publications_contradicted: u64,
    /// Circuits with outcomes that the store has not confirmed.
    pub reports_pending: usize,
    /// How long the store took to answer reports, or to fail, since the registry was created; one
    /// round trip can carry reports of several circuits.
    pub round_trips: Latencies,
}
