//! What is recorded about a circuit outside of the tally: probes, transitions, reports.
//!
//! Owns these counts and their shapes; `stats` shows them. Invariant: they only grow.

use std::{collections::BTreeMap, time::Duration};

use crate::model::{Counts, Kind, Reason, State};

/// Probes of one process, by result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProbeStats {
    /// Probes that helped to close the circuit.
    pub successes: u64,
    /// Probes that opened the circuit again, including successes that were slow.
    pub failures: u64,
    /// Probes whose outcome said nothing, and whose permit was given back.
    pub ignored: u64,
    /// Probes that were dropped: they opened the circuit again, unless another probe of the same
    /// half-open period had succeeded. Probes that ran too long are among the failures.
    pub abandoned: u64,
}

/// A transition of a circuit.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// payments.force_open(Default::default()).await?;
/// for (transition, times) in &circuits.stats()[0].transitions {
///     println!("{} -> {}: {times}", transition.from, transition.to);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Transition {
    /// The state before.
    pub from: State,
    /// The state after.
    pub to: State,
    /// Why.
    pub reason: Reason,
    /// Whether only this replica changed: the store was unavailable, or there was no quorum.
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

/// Counts that are recorded where they occur, none of them on the path of a plain call.
#[derive(Debug, Default)]
pub(super) struct OwnStats {
    /// Outcomes that were never in the tally: those of earlier generations, and of probes.
    pub(super) aside: Counts,
    pub(super) probes: ProbeStats,
    pub(super) transitions: BTreeMap<Transition, u64>,
    pub(super) reports: u64,
    pub(super) reports_failed: u64,
    pub(super) report_time: Duration,
}

impl OwnStats {
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
