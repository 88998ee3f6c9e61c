//! Statistics of this process about its circuits.
//!
//! Owns their shape and the counts recorded off the path of a call: transitions, probes, reports.
//! Outcomes and latencies are the tally's own counters, read in place. Invariant: every count only
//! grows, for as long as the registry lives.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use super::{
    Commontrip, FallbackStats, RegistryHealth,
    inner::CircuitInner,
    own_stats::{ProbeStats, Transition},
    shared::{Shared, stopped},
};
use crate::model::{Latencies, Snapshot};

/// One circuit, as this process has seen it since its registry was created.
///
/// Counts are this process' own and only grow; the fleet's counts are in [`cached`](Self::cached).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// payments.acquire().await?.failure();
/// let stats = circuits.stats();
/// assert_eq!((stats[0].successes, stats[0].failures), (0, 1));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CircuitStats {
    /// The circuit's name.
    pub name: String,
    /// The snapshot on which this replica bases its decisions.
    pub cached: Snapshot,
    /// How long ago the store last confirmed what is known of the shared circuit; `None` before its
    /// first answer. Grows while there are no calls, because the store is not asked then.
    pub stale_for: Option<Duration>,
    /// Calls that succeeded, slow ones and probes included.
    pub successes: u64,
    /// Calls that failed, slow ones, probes and timeouts included.
    pub failures: u64,
    /// Successes and failures that took at least `slow_call_duration_threshold`.
    pub slow: u64,
    /// Permitted calls whose outcome said nothing about the service.
    pub ignored: u64,
    /// Permitted calls that were dropped before they ended. Those that ran too long are among the
    /// failures too.
    pub abandoned: u64,
    /// Abandoned calls that ran too long.
    pub abandoned_failures: u64,
    /// Calls that were rejected.
    pub rejected: u64,
    /// Calls that were dropped because they took longer than `call_timeout`; they are among the
    /// failures.
    pub timeouts: u64,
    /// Failures that have a [kind](crate::FailureKind), by kind; at most 16 kinds, the last of
    /// which is `other`.
    pub failure_kinds: BTreeMap<String, u64>,
    /// Probes that this process made, by result; they are among the outcomes too.
    pub probes: ProbeStats,
    /// Calls that fallbacks answered; they are among the failures or the rejected calls too.
    pub fallbacks: FallbackStats,
    /// How long the recorded calls took: mean and percentiles. `latency_recording` decides which
    /// calls are recorded.
    pub latencies: Latencies,
    /// How often the circuit changed from one state to another, as far as this process noticed.
    pub transitions: BTreeMap<Transition, u64>,
    /// Reports that the store accepted.
    pub reports: u64,
    /// Reports that the store did not accept; they were sent again, or given up as invalid.
    pub reports_failed: u64,
    /// The total time that the answers to all of these took. One round trip can carry reports of
    /// several circuits, and counts for each of them.
    pub report_time: Duration,
    /// Length of the window, if it is a time window.
    pub(crate) window: Option<Duration>,
    /// How old `cached` is.
    pub(crate) age: Duration,
}

impl CircuitStats {
    /// Failures that are not timeouts.
    #[must_use]
    pub const fn failures_in_time(&self) -> u64 {
        self.failures.saturating_sub(self.timeouts)
    }

    /// Calls that were dropped before they ended and are not among the failures.
    #[must_use]
    pub const fn undecided(&self) -> u64 {
        self.abandoned.saturating_sub(self.abandoned_failures)
    }

    /// How long the circuit has been open, including half-open periods and failed probes; `None` if
    /// it is neither open nor half-open. An override is neither.
    #[must_use]
    pub fn open_for(&self) -> Option<Duration> {
        let open_ms = self.cached.open_ms()?;
        Some(Duration::from_millis(open_ms) + self.age)
    }

    /// How long the circuit was open in its life, for the whole fleet, as last received: each time
    /// from its opening until it closed, including half-open periods.
    #[must_use]
    pub fn open_total(&self) -> Duration {
        let since = self.cached.open_ms().map_or(Duration::ZERO, |_| self.age);
        Duration::from_millis(self.cached.open_total_ms) + since
    }

    /// Recorded calls in the fleet's window, as last received; 0 if that is longer ago than the
    /// window is long.
    #[must_use]
    pub fn window_calls(&self) -> u64 {
        match (self.window, self.stale_for) {
            (Some(window), Some(age)) if age > window => 0,
            _ => self.cached.calls,
        }
    }

    /// Failures among the recorded calls of the fleet's window, in percent; `None` without calls.
    #[must_use]
    pub fn failure_rate(&self) -> Option<f64> {
        self.failures_of(100.0)
    }

    /// [`failure_rate`](Self::failure_rate) as a share, `0.0..=1.0`, for metrics.
    #[cfg(any(feature = "metrics", feature = "otel"))]
    pub(crate) fn failure_share(&self) -> Option<f64> {
        self.failures_of(1.0)
    }

    fn failures_of(&self, whole: f64) -> Option<f64> {
        let calls = self.window_calls();
        (calls > 0).then(|| self.cached.failures as f64 * whole / calls as f64)
    }
}

impl CircuitInner {
    pub(super) fn stats(&self) -> CircuitStats {
        let latencies = self.tally.latencies();
        let failure_kinds = self.outbox.lock().kinds.counts().collect();
        let transitions = self.noted.lock().transitions.clone();
        CircuitStats {
            latencies,
            failure_kinds,
            transitions,
            ..self.stats_in_brief()
        }
    }

    /// [`stats`](Self::stats) without the expensive parts: latencies, kinds of failure,
    /// transitions.
    pub(super) fn stats_in_brief(&self) -> CircuitStats {
        let (cached, age, stale_for) = self.seen_and_ages();
        let mut counts = self.tally.totals();
        let noted = self.noted.lock();
        counts += noted.aside;
        let rules = self.policy.load().rules;
        let timed = rules.window_calls == 0;
        CircuitStats {
            name: self.name.as_str().to_owned(),
            cached,
            stale_for,
            successes: counts.successes,
            failures: counts.failures,
            slow: counts.slow(),
            ignored: counts.ignored,
            abandoned: counts.abandoned,
            abandoned_failures: counts.abandoned_failures,
            rejected: counts.rejected,
            // Read after the failures: a timeout is counted before its failure, so none is missing
            // here.
            timeouts: self.timeouts.load(Ordering::SeqCst),
            failure_kinds: BTreeMap::new(),
            probes: noted.probes,
            fallbacks: self.answered.seen(),
            latencies: Latencies::default(),
            transitions: BTreeMap::new(),
            reports: noted.reports,
            reports_failed: noted.reports_failed,
            report_time: noted.report_time,
            window: timed.then(|| Duration::from_millis(rules.window_ms)),
            age,
        }
    }
}

impl Shared {
    pub(super) fn stats(&self) -> Vec<CircuitStats> {
        let mut stats: Vec<_> = self.inners().iter().map(|inner| inner.stats()).collect();
        stats.sort_by(|a, b| a.name.cmp(&b.name));
        stats
    }
}

impl Commontrip {
    /// Statistics of each circuit of this process, sorted by name; no I/O.
    ///
    /// They include a call as soon as it returns. Reading them visits the counters of every thread,
    /// so use this about once a second and not for each call.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use commontrip::{Commontrip, Policy};
    ///
    /// let circuits = Commontrip::embedded()?;
    /// let payments = circuits.circuit("payments", Policy::default())?;
    /// payments.call(|| async { Ok::<_, std::io::Error>(()) }).await?;
    /// let stats = circuits.stats();
    /// assert_eq!((stats[0].name.as_str(), stats[0].successes), ("payments", 1));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn stats(&self) -> Vec<CircuitStats> {
        self.shared().stats()
    }

    /// Calls `look` with [`health`](Self::health) and [`stats`](Self::stats) now, then at intervals
    /// of `every` (at least 1 ms), and a last time when the registry is shut down.
    ///
    /// Does not keep the registry alive. `look` runs in a task on the registry's runtime and should
    /// not block.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// use std::time::Duration;
    ///
    /// let _observer = circuits.observe(Duration::from_secs(1), |health, circuits| {
    ///     println!("{} circuits, {health:?}", circuits.len());
    /// });
    /// # Ok(()) }
    /// ```
    pub fn observe(
        &self,
        every: Duration,
        mut look: impl FnMut(&RegistryHealth, &[CircuitStats]) + Send + 'static,
    ) -> Observer {
        let shared = Arc::clone(self.shared());
        let mut stop = shared.stop.subscribe();
        let task = self.shared().spawn(async move {
            let mut ticks = interval(every.max(Duration::from_millis(1)));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let goes_on = tokio::select! {
                    _ = ticks.tick() => true,
                    () = stopped(&mut stop) => false,
                };
                look(&shared.health(), &shared.stats());
                if !goes_on {
                    return;
                }
            }
        });
        Observer(task)
    }
}

/// A periodic observer of a registry. Dropping it stops it.
///
/// Returned by [`Commontrip::observe`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use std::time::Duration;
///
/// let observer = circuits.observe(Duration::from_secs(1), |_, stats| println!("{}", stats.len()));
/// drop(observer); // ends it
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "dropping it stops the observer"]
pub struct Observer(JoinHandle<()>);

impl Drop for Observer {
    fn drop(&mut self) {
        self.0.abort();
    }
}
