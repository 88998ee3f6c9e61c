//! What this process has seen of its circuits, in numbers.
//!
//! Owns the shape of the statistics and what is noted for them off the way of a call: transitions,
//! probes, reports. Outcomes and latencies are the tally's own counters, which are read where they
//! stand. Invariant: every count only grows, for as long as the registry lives.

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
    Commontrip, Health,
    cell::Cell,
    registry::{Shared, stopped},
};
use crate::model::{Counts, Kind, Latencies, Reason, Snapshot, State};

/// One circuit, as this process has seen it since its registry was made.
///
/// Counts are this process's own and only grow; those of the fleet are in [`cached`](Self::cached).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CircuitStats {
    /// The circuit's name.
    pub name: String,
    /// What this replica decides by.
    pub cached: Snapshot,
    /// How long ago the store last confirmed what is known of the shared circuit; `None` before its
    /// first answer. Grows while there are no calls, for nothing is asked then.
    pub stale_for: Option<Duration>,
    /// Calls that succeeded, slow ones and probes included.
    pub successes: u64,
    /// Calls that failed, slow ones, probes and timeouts included.
    pub failures: u64,
    /// Successes and failures that took at least `slow_call_duration_threshold`.
    pub slow: u64,
    /// Permitted calls that said nothing about the service.
    pub ignored: u64,
    /// Permitted calls that were dropped before they ended; those that had run for too long are
    /// among the failures too.
    pub abandoned: u64,
    /// Those of them that had run for too long.
    pub abandoned_failures: u64,
    /// Calls that were rejected.
    pub rejected: u64,
    /// Calls that were dropped because they took longer than `call_timeout`; they are among the
    /// failures.
    pub timeouts: u64,
    /// Probes that this process made, by what became of them; they are among the outcomes too.
    pub probes: ProbeStats,
    /// How long the recorded calls took (`latency_recording` says which those are).
    pub latencies: Latencies,
    /// How often the circuit went from one state to another, as far as this process has noticed.
    pub transitions: BTreeMap<Transition, u64>,
    /// Reports that the store has filed.
    pub reports: u64,
    /// Reports that it has not; they were sent again, or given up as not valid.
    pub reports_failed: u64,
    /// How long the answers to all of them took, together. One round trip can carry reports of
    /// several circuits, and counts for each.
    pub report_time: Duration,
    /// Length of the window, where that is a time.
    window: Option<Duration>,
}

/// Probes of one process, by what they said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProbeStats {
    /// Those that helped to close the circuit.
    pub successes: u64,
    /// Those that opened it again; a success that was slow is one.
    pub failures: u64,
    /// Those that said nothing, and whose permit was given back.
    pub ignored: u64,
    /// Those that were dropped: they opened the circuit again, unless another of the same half-open
    /// had succeeded. Those that had run for too long are among the failures.
    pub abandoned: u64,
}

/// One way in which a circuit changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Transition {
    /// The state before.
    pub from: State,
    /// The state after.
    pub to: State,
    /// Why.
    pub reason: Reason,
    /// Whether this replica went alone: the store was away, or there was no quorum.
    pub local: bool,
}

impl Transition {
    const fn place(&self) -> (u8, u8, u8, bool) {
        (
            self.from as u8,
            self.to as u8,
            self.reason as u8,
            self.local,
        )
    }
}

impl Ord for Transition {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.place().cmp(&other.place())
    }
}

impl PartialOrd for Transition {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl CircuitStats {
    /// Calls that failed in a way of their own: failures without timeouts.
    #[must_use]
    pub const fn failures_in_time(&self) -> u64 {
        self.failures.saturating_sub(self.timeouts)
    }

    /// Calls that were dropped before they ended and are not among the failures.
    #[must_use]
    pub const fn undecided(&self) -> u64 {
        self.abandoned.saturating_sub(self.abandoned_failures)
    }

    /// Recorded calls in the fleet's window, as last heard; 0 where that is longer ago than the window
    /// is long.
    #[must_use]
    pub fn window_calls(&self) -> u64 {
        match (self.window, self.stale_for) {
            (Some(window), Some(age)) if age > window => 0,
            _ => self.cached.calls,
        }
    }

    /// Failures among the recorded calls of the fleet's window, `0.0..=1.0`; `None` without calls.
    #[must_use]
    pub fn failure_rate(&self) -> Option<f64> {
        let calls = Some(self.window_calls()).filter(|calls| *calls > 0)?;
        Some(self.cached.failures as f64 / calls as f64)
    }
}

/// What is noted of a circuit where it happens, none of it on the way of a plain call.
#[derive(Debug, Default)]
pub(super) struct Noted {
    /// Outcomes that never were in the tally: of earlier generations, and of probes.
    pub(super) aside: Counts,
    probes: ProbeStats,
    transitions: BTreeMap<Transition, u64>,
    reports: u64,
    reports_failed: u64,
    report_time: Duration,
}

impl Noted {
    pub(super) fn note_probe(&mut self, kind: Kind) {
        let count = match kind {
            Kind::Success => &mut self.probes.successes,
            Kind::Failure | Kind::Trip => &mut self.probes.failures,
            Kind::Ignored => &mut self.probes.ignored,
            Kind::Abandoned => &mut self.probes.abandoned,
        };
        *count += 1;
    }

    pub(super) fn note_transition(&mut self, transition: Transition) {
        *self.transitions.entry(transition).or_default() += 1;
    }

    pub(super) fn note_report(&mut self, filed: bool, took: Duration) {
        self.reports += u64::from(filed);
        self.reports_failed += u64::from(!filed);
        self.report_time += took;
    }
}

impl Cell {
    fn stats(&self) -> CircuitStats {
        let (cached, stale_for) = self.seen_and_age();
        let mut counts = self.tally.totals();
        let latencies = self.tally.latencies();
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
            rejected: counts.not_permitted,
            // After the failures: a timeout is noted before its failure, so none is missing here.
            timeouts: self.timeouts.load(Ordering::SeqCst),
            probes: noted.probes,
            latencies,
            transitions: noted.transitions.clone(),
            reports: noted.reports,
            reports_failed: noted.reports_failed,
            report_time: noted.report_time,
            window: timed.then(|| Duration::from_millis(rules.window_ms)),
        }
    }
}

impl Shared {
    fn stats(&self) -> Vec<CircuitStats> {
        let mut stats: Vec<_> = self.cells().iter().map(|cell| cell.stats()).collect();
        stats.sort_by(|a, b| a.name.cmp(&b.name));
        stats
    }
}

impl Commontrip {
    /// What this process has seen of each of its circuits, by name; no I/O.
    ///
    /// Counts are up to date to the call. It reads what every thread has counted, so it is meant for
    /// once a second and not for each call.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
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

    /// Has somebody look at [`health`](Self::health) and [`stats`](Self::stats) at once and then
    /// `every` so often (at least 1 ms), once more when the registry is shut down, and then no longer.
    ///
    /// Does not keep the registry alive. `look` runs in a task of the registry's runtime and should
    /// not block.
    pub fn observe(
        &self,
        every: Duration,
        mut look: impl FnMut(&Health, &[CircuitStats]) + Send + 'static,
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

/// Somebody who looks at a registry every so often; dropping it ends that.
///
/// Made by [`Commontrip::observe`].
#[derive(Debug)]
#[must_use = "dropping it ends the looking"]
pub struct Observer(JoinHandle<()>);

impl Drop for Observer {
    fn drop(&mut self) {
        self.0.abort();
    }
}
