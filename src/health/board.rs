//! What this replica knows of its monitor's checks.

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::operator::{CheckReport, CheckStatus};

/// A report for each check, with the time at which its last run was seen.
#[derive(Debug)]
pub(crate) struct Board(Mutex<Vec<(CheckReport, Instant)>>);

impl Board {
    pub(super) fn new<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let now = Instant::now();
        let unknown = |name: &str| {
            let mut report = CheckReport::default();
            name.clone_into(&mut report.name);
            (report, now)
        };
        Self(Mutex::new(names.map(unknown).collect()))
    }

    pub(super) fn report(&self, place: usize) -> CheckReport {
        self.0.lock()[place].0.clone()
    }

    pub(super) fn put(&self, place: usize, report: CheckReport) {
        let (known, at) = &mut self.0.lock()[place];
        if known.last_run_ms != report.last_run_ms {
            *at = Instant::now();
        }
        *known = report;
    }

    /// Returns all reports as of now, in the order in which the checks were added.
    pub(crate) fn reports(&self) -> Vec<CheckReport> {
        let known = self.0.lock();
        let aged = |(report, at): &(CheckReport, Instant)| {
            let age_ms = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
            report.clone().aged(age_ms)
        };
        known.iter().map(aged).collect()
    }

    pub(super) fn worst(&self) -> CheckStatus {
        let reports = self.reports();
        let worst = reports.iter().map(|report| report.status).max();
        worst.unwrap_or_default()
    }
}
