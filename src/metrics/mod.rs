//! Statistics for the exporters of the `metrics` crate: Prometheus, StatsD, OpenTelemetry, ...
//!
//! Owns the names and labels; knows no exporter, and uses only the public API. Adds no work to a
//! call: at an interval, such as one second, it reads [`Commontrip::stats`] and
//! [`Commontrip::health`]. Invariant: one circuit has one series of each gauge, and all labels
//! except `name` have few values. If several registries are exported to one recorder, the label
//! `registry` distinguishes them.
//!
//! | name | kind | labels | says |
//! |---|---|---|---|
//! | `circuit_breaker_state` | gauge | `name` | what this replica decides by: 0 closed, 1 open, 2 half-open, 3 forced open, 4 disabled, 5 metrics only |
//! | `circuit_breaker_generation` | gauge | `name` | increases by one with each transition |
//! | `circuit_breaker_requests_total` | counter | `name`, `result` | this process' calls; `result`: `success`, `failure`, `ignored`, `rejected`, `timeout`, `abandoned`: each call has one. `abandoned` calls were dropped before they ended, and are not failures |
//! | `circuit_breaker_slow_calls_total` | counter | `name` | slow calls among the successes, failures and timeouts |
//! | `circuit_breaker_failures_by_kind_total` | counter | `name`, `kind` | failures and timeouts that have a [kind](crate::FailureKind): at most 15 kinds, and `other` |
//! | `circuit_breaker_latency_seconds` | histogram | `name` | how long recorded calls took |
//! | `circuit_breaker_failure_rate` | gauge | `name` | failure rate of the fleet's window, 0 to 1; 0 without calls |
//! | `circuit_breaker_window_calls` | gauge | `name` | recorded calls in the fleet's window |
//! | `circuit_breaker_transitions_total` | counter | `name`, `from`, `to`, `reason`, `local` | transitions as this process saw them; `local="true"` marks those of its local circuit |
//! | `circuit_breaker_probes_total` | counter | `name`, `result` | this process' probes; `result`: `success`, `failure`, `ignored`, `abandoned` |
//! | `circuit_breaker_fallbacks_total` | counter | `name`, `kind` | calls of this process that a fallback answered; `kind`: `fixed`, `computed`, `last_good`, `stage` |
//! | `circuit_breaker_open_for_seconds` | gauge | `name` | time since the circuit opened, across failed probes; 0 if it is neither open nor half-open |
//! | `circuit_breaker_open_seconds_total` | counter | `name` | total time that the fleet's circuit was open, as last received, in whole seconds: the same in every replica |
//! | `circuit_breaker_staleness_seconds` | gauge | `name` | time since the store last confirmed the circuit; grows while there are no calls |
//! | `circuit_breaker_reports_total` | counter | `result` | reports of this process: `filed`, `failed` |
//! | `circuit_breaker_report_seconds` | histogram | | how long the store took to answer reports |
//! | `circuit_breaker_store_up` | gauge | | 0 while the store is unavailable for at least one circuit, otherwise 1 |
//! | `circuit_breaker_store_unavailable_seconds` | gauge | | how long the store has been unavailable; 0 while it answers |
//! | `health_check_status` | gauge | `check` | [`Exporter::with_checks`]: 0 unknown, 1 healthy, 2 warning, 3 critical |
//! | `health_check_up` | gauge | `check` | whether the last run passed |
//! | `health_check_latency_seconds` | gauge | `check` | how long the last run took |
//! | `health_check_uptime_ratio` | gauge | `check` | share of the remembered runs that passed, 0 to 1 |
//! | `queue_jobs` | gauge | `queue`, `state` | [`Exporter::with_queue`]: jobs of the fleet's queue; `state`: `ready`, `delayed`, `running`, `dead`. `NaN` once Redis has not answered for 30 s |
//! | `queue_oldest_seconds` | gauge | `queue` | how long the oldest due job has waited for a worker; 0 if none is due, `NaN` as above |
//!
//! `commontrip serve` exports the numbers of the whole fleet, as `circuit_breaker_fleet_*`.
//!
//! A call that a fallback answers has failed or was rejected, and has that result. A result
//! `fallback` would count it twice, so `circuit_breaker_fallbacks_total` is a separate counter.
//! Chains of the feature `failover` also count the stage that served, in
//! `circuit_breaker_failover_total`.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use commontrip::{Commontrip, metrics::Exporter};
//!
//! let circuits = Commontrip::embedded()?;
//! let _exporter = Exporter::start(&circuits, Duration::from_secs(1));
//! # Ok(()) }
//! ```

mod series;

#[cfg(any(feature = "health", feature = "queue"))]
use std::sync::Arc;
#[cfg(feature = "health")]
use std::sync::OnceLock;
use std::{collections::BTreeSet, fmt, time::Duration};

use ::metrics::{Recorder, with_local_recorder};
use parking_lot::Mutex;

use self::series::Series;
use crate::{CircuitStats, Commontrip, Observer, RegistryHealth};

pub use crate::series::BUCKETS;

/// Exports the statistics of a registry to the recorder of the `metrics` crate, at an interval.
///
/// Ends when it is dropped, and when the registry is shut down or dropped, which it does not keep
/// alive; gauges then keep their last values. One registry needs one exporter. If two registries
/// are exported to one recorder, the label `registry` distinguishes their series.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use commontrip::{Commontrip, metrics::{BUCKETS, Exporter}};
/// use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
///
/// let prometheus = PrometheusBuilder::new()
///     .set_buckets_for_metric(Matcher::Prefix("circuit_breaker_".to_owned()), &BUCKETS)?
///     .install_recorder()?; // or install(), which serves /metrics
///
/// let circuits = Commontrip::embedded()?;
/// let _exporter = Exporter::start(&circuits, Duration::from_secs(1));
/// # for _ in 0..3000 {
/// #     if prometheus.render().contains("store_up 1") { break }
/// #     tokio::time::sleep(Duration::from_millis(10)).await;
/// # }
/// # assert!(prometheus.render().contains("circuit_breaker_store_up 1"));
/// # Ok(()) }
/// ```
#[must_use = "dropping it ends the export"]
pub struct Exporter {
    _observer: Observer,
    _place: Option<Place>,
    #[cfg(feature = "health")]
    checks: Checks,
    #[cfg(feature = "queue")]
    queues: Queues,
}

/// The queues to export.
#[cfg(feature = "queue")]
type Queues = Arc<Mutex<Vec<crate::queue::Depth>>>;

/// The checks to export, once they are known.
#[cfg(feature = "health")]
type Checks = Arc<OnceLock<Arc<crate::health::Board>>>;

impl Exporter {
    /// Exports to the global recorder, which should already be installed: now, and then at the
    /// interval `every` (1 s is good; at least 1 ms).
    ///
    /// Latencies recorded before are left out; counters include everything. The series of a second
    /// registry that is exported at the same time have the label `registry="2"`, those of a third
    /// `"3"`; [`named`](Self::named) gives them a better one.
    pub fn start(circuits: &Commontrip, every: Duration) -> Self {
        let place = Place::take();
        let mut exporter = Self::on_global(place.label(), circuits, every);
        exporter._place = Some(place);
        exporter
    }

    /// Exports to this recorder instead of the global one; otherwise as [`start`](Self::start).
    ///
    /// Two registries on one such recorder overwrite each other unless they are
    /// [`named`](Self::named).
    pub fn start_on<R>(recorder: R, circuits: &Commontrip, every: Duration) -> Self
    where
        R: Recorder + Send + 'static,
    {
        Self::on_own(recorder, None, circuits, every)
    }

    /// Sets the label `registry` of all series of an exporter, to distinguish them from another
    /// registry's.
    pub fn named(registry: &str) -> Named {
        Named(registry.to_owned())
    }

    fn on_global(registry: Option<String>, circuits: &Commontrip, every: Duration) -> Self {
        Self::looking(registry, circuits, every, |series, health, stats| {
            series.set(health, stats);
        })
    }

    fn on_own<R>(
        recorder: R,
        registry: Option<String>,
        circuits: &Commontrip,
        every: Duration,
    ) -> Self
    where
        R: Recorder + Send + 'static,
    {
        Self::looking(registry, circuits, every, move |series, health, stats| {
            with_local_recorder(&recorder, || series.set(health, stats));
        })
    }

    fn looking(
        registry: Option<String>,
        circuits: &Commontrip,
        every: Duration,
        set: impl Fn(&mut Series, &RegistryHealth, &[CircuitStats]) + Send + 'static,
    ) -> Self {
        let mut series = Series::after(registry, &circuits.stats(), &circuits.health());
        #[cfg(feature = "health")]
        let checks = Arc::clone(&series.checks);
        #[cfg(feature = "queue")]
        let queues = Arc::clone(&series.queues);
        let look =
            move |health: &RegistryHealth, stats: &[CircuitStats]| set(&mut series, health, stats);
        Self {
            _observer: circuits.observe(every, look),
            _place: None,
            #[cfg(feature = "health")]
            checks,
            #[cfg(feature = "queue")]
            queues,
        }
    }

    /// Also exports the checks of a monitor, as this replica sees them; only of the first one
    /// given.
    #[cfg(feature = "health")]
    pub fn with_checks(self, monitor: &crate::health::HealthMonitor) -> Self {
        let _ = self.checks.set(monitor.board());
        self
    }

    /// Also exports how many jobs a queue has, and how long they wait; call it once for each queue.
    /// Redis is asked every 5 s.
    #[cfg(feature = "queue")]
    pub fn with_queue<T: Send + Sync + 'static>(self, queue: &crate::queue::Queue<T>) -> Self {
        self.queues.lock().push(queue.depth());
        self
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exporter")
    }
}

/// A registry's name for its series; made by [`Exporter::named`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use std::time::Duration;
/// use commontrip::metrics::Exporter;
///
/// let _exporter = Exporter::named("shop").start(&circuits, Duration::from_secs(1));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "it exports nothing until it is started"]
pub struct Named(String);

impl Named {
    /// [`Exporter::start`] under this name.
    pub fn start(self, circuits: &Commontrip, every: Duration) -> Exporter {
        Exporter::on_global(Some(self.0), circuits, every)
    }

    /// [`Exporter::start_on`] under this name.
    pub fn start_on<R>(self, recorder: R, circuits: &Commontrip, every: Duration) -> Exporter
    where
        R: Recorder + Send + 'static,
    {
        Exporter::on_own(recorder, Some(self.0), circuits, every)
    }
}

/// The numbers of the unnamed exporters on the global recorder.
static PLACES: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// The lowest number that no other unnamed exporter has; released on drop.
struct Place(u32);

impl Place {
    fn take() -> Self {
        let mut taken = PLACES.lock();
        let free = (1..=u32::MAX).find(|n| !taken.contains(n));
        // There are fewer exporters than numbers.
        let place = free.unwrap_or(u32::MAX);
        taken.insert(place);
        Self(place)
    }

    /// The first exporter has none, because most processes have one registry.
    fn label(&self) -> Option<String> {
        (self.0 > 1).then(|| {
            let registry = self.0.to_string();
            tracing::warn!(
                registry,
                "another registry is exported to the same recorder; Exporter::named tells their series apart by a name"
            );
            registry
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        PLACES.lock().remove(&self.0);
    }
}
