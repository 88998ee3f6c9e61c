//! Reports of health checks, as the fleet's replicas keep them in the store.
//!
//! Owns the shape of a check's report, its keys in the store, and reading it; the health monitor
//! writes it.
//! Invariant: whatever bytes the store has, reading never panics, and one unreadable report does
//! not fail the others.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::{Instant, sleep};

use super::Operator;
use crate::{Store, StoreError, model::millis};

/// How long a report is kept after the check's last run: a day.
#[cfg(feature = "health")]
pub(crate) const KEPT_MS: u64 = 86_400_000;
/// The key under which the names of checks are kept, each with the time of its last run.
pub(crate) const INDEX: &str = "health:checks";
/// Reports read concurrently.
const AT_ONCE: usize = 16;
/// How often a requested run is polled for its result.
const RUN_LOOKS: Duration = Duration::from_millis(200);
/// How long to wait for a requested run, in addition to the check's timeout.
const RUN_WAIT: Duration = Duration::from_secs(5);

/// The status of a check. The order is from unknown to worst.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CheckStatus {
    /// It has not run yet, or not within four intervals and two timeouts.
    #[default]
    Unknown,
    /// It passes and is within its thresholds.
    Healthy,
    /// The last run failed, or a warning threshold is reached.
    Warning,
    /// As many consecutive runs failed as its failure threshold says, or a critical threshold is
    /// reached.
    Critical,
}

impl CheckStatus {
    /// All statuses, in order.
    pub const ALL: [Self; 4] = [Self::Unknown, Self::Healthy, Self::Warning, Self::Critical];

    /// The status as a word, as in JSON: `healthy`, ...
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }

    /// The number in metrics: 0 unknown, 1 healthy, 2 warning, 3 critical.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }
}

/// One run of a check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct CheckRun {
    /// When it ended, Unix ms by the store's clock, or by the replica's clock for a run made while
    /// the store was unavailable.
    pub at_ms: u64,
    /// Whether it passed.
    pub passed: bool,
    /// How long it took, µs.
    pub took_us: u64,
}

/// A period in which a check had a status, or a worse one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct CheckPeriod {
    /// When it began, as [`CheckRun::at_ms`]; 0 = never. A later period has a greater value.
    pub since_ms: u64,
    /// When it ended; 0 = it has not ended, or never began.
    pub until_ms: u64,
}

impl CheckPeriod {
    /// Whether it has begun and not ended.
    #[must_use]
    pub const fn lasts(self) -> bool {
        self.since_ms > 0 && self.until_ms == 0
    }

    /// Begins or ends the period, depending on whether the status holds at this time.
    #[cfg(feature = "health")]
    pub(crate) fn go_on(&mut self, holds: bool, at_ms: u64) {
        if holds && !self.lasts() {
            (self.since_ms, self.until_ms) = (at_ms.max(self.since_ms + 1), 0);
        } else if !holds && self.lasts() {
            self.until_ms = at_ms.max(self.since_ms);
        }
    }
}

/// The number of checks with each status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ChecksByStatus {
    /// All checks.
    pub total: usize,
    /// Checks whose status is unknown.
    pub unknown: usize,
    /// Healthy checks.
    pub healthy: usize,
    /// Checks with a warning.
    pub warning: usize,
    /// Critical checks.
    pub critical: usize,
}

impl ChecksByStatus {
    /// Counts checks by status.
    #[must_use]
    pub fn of(checks: &[CheckReport]) -> Self {
        let mut by = Self {
            total: checks.len(),
            ..Self::default()
        };
        for check in checks {
            *match check.status {
                CheckStatus::Unknown => &mut by.unknown,
                CheckStatus::Healthy => &mut by.healthy,
                CheckStatus::Warning => &mut by.warning,
                CheckStatus::Critical => &mut by.critical,
            } += 1;
        }
        by
    }
}

/// A check's status and its last runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct CheckReport {
    /// The check's name.
    pub name: String,
    /// The check's status.
    pub status: CheckStatus,
    /// Why it is not healthy; empty when it is.
    pub why: String,
    /// The circuit that it opens and closes.
    pub circuit: Option<String>,
    /// The replica that ran it last.
    pub replica: String,
    /// Whether the replica ran it for itself alone, because the store is unavailable. Always
    /// `false` in a report that was read from a store.
    pub local: bool,
    /// The interval between runs, ms.
    pub interval_ms: u64,
    /// How long a run may take, ms.
    pub timeout_ms: u64,
    /// When it was last run, as [`CheckRun::at_ms`]; 0 = not yet.
    pub last_run_ms: u64,
    /// When it last passed; 0 = not yet.
    pub last_pass_ms: u64,
    /// The error of the last failure; `None` before the first.
    pub last_error: Option<String>,
    /// Failures since it last passed.
    pub consecutive_failures: u64,
    /// Total runs.
    pub runs: u64,
    /// Total failures.
    pub failures: u64,
    /// How long the last run took, µs.
    pub latency_us: Option<u64>,
    /// The 95th percentile of the latency of successful runs in the history, µs (nearest rank).
    pub p95_us: Option<u64>,
    /// Share of runs in the history that passed, percent.
    pub uptime: Option<f64>,
    /// The last runs, oldest first, as many as the check keeps.
    pub history: Vec<CheckRun>,
    /// When the last on-demand run was requested, Unix ms by the store's clock; 0 = never.
    pub requested_ms: u64,
    /// When it was last not healthy, that is warning or critical.
    pub unhealthy: CheckPeriod,
    /// When it was last critical.
    pub critical: CheckPeriod,
}

/// Why a check was not run on demand.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckRunError {
    /// No replica has run such a check within the last day, or the monitor has no such check.
    #[error("there is no check {0:?}")]
    Unknown(String),
    /// No replica ran it in time. The request has expired, so no replica will run it later.
    #[error(
        "no replica ran it within {0:?}: is a replica up that has this check, or does a run take longer?"
    )]
    NotRun(Duration),
    /// The monitor has ended.
    #[error("the monitor has ended")]
    Ended,
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl CheckReport {
    /// The time without a run after which the status is unknown, ms: longer than another replica
    /// needs to take over.
    pub(crate) const fn stale_after_ms(&self) -> u64 {
        let intervals = self.interval_ms.saturating_mul(4);
        intervals.saturating_add(self.timeout_ms.saturating_mul(2))
    }

    /// The report as it is this long after the last run.
    pub(crate) fn aged(mut self, age_ms: u64) -> Self {
        if self.runs > 0 && age_ms > self.stale_after_ms() {
            self.status = CheckStatus::Unknown;
            self.why = format!("no replica has run it for {} s", age_ms / 1000);
        }
        self
    }

    /// Reads a check's report; `None` if it does not exist or cannot be decoded.
    pub(crate) async fn read(store: &dyn Store, name: &str) -> Result<Option<Self>, StoreError> {
        let kept = store.kept(&Self::key(name)).await?;
        let report: Option<Self> = kept.and_then(|bytes| decode(&bytes));
        Ok(report.map(|report| Self {
            name: name.to_owned(),
            local: false,
            ..report
        }))
    }

    /// The key of a check's report, and of the lease of the replica that runs it.
    pub(crate) fn key(name: &str) -> String {
        format!("health:check:{name}")
    }

    /// The key of a request for a run. Its value is the time of the request; it expires when the
    /// caller stops waiting.
    fn wanted_key(name: &str) -> String {
        format!("health:run:{name}")
    }

    /// When a run was requested that no replica has made yet.
    #[cfg(feature = "health")]
    pub(crate) async fn wanted(&self, store: &dyn Store) -> Result<Option<u64>, StoreError> {
        let kept = store.kept(&Self::wanted_key(&self.name)).await?;
        let at_ms: Option<u64> = kept.and_then(|bytes| decode(&bytes));
        Ok(at_ms.filter(|at_ms| *at_ms > self.requested_ms))
    }
}

/// Names of checks, each with the time of its last run.
pub(crate) type Index = BTreeMap<String, u64>;

/// The index of checks; empty if it cannot be decoded.
pub(crate) async fn index(store: &dyn Store) -> Result<Index, StoreError> {
    let kept = store.kept(INDEX).await?;
    Ok(kept.and_then(|bytes| decode(&bytes)).unwrap_or_default())
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    rmp_serde::from_slice(bytes).ok()
}

impl Operator {
    /// Every health check that a replica of the fleet has run within the last day, worst first.
    ///
    /// Empty if the store keeps only circuits.
    ///
    /// # Errors
    /// [`StoreError`] when the store does not answer.
    pub async fn checks(&self) -> Result<Vec<CheckReport>, StoreError> {
        let index = match index(&*self.store).await {
            Err(StoreError::Unsupported(_)) => Index::new(),
            index => index?,
        };
        if index.is_empty() {
            return Ok(Vec::new());
        }
        let store = &*self.store;
        let read = |name: String| async move { CheckReport::read(store, &name).await };
        let reads = index.into_keys().map(read);
        let reports = stream::iter(reads).buffered(AT_ONCE).try_collect();
        let (reports, now_ms): (Vec<_>, _) = tokio::try_join!(reports, self.now_ms())?;
        let reports = reports.into_iter().flatten();
        let mut reports: Vec<_> = reports.map(|report| as_of(report, now_ms)).collect();
        reports.sort_by(|a, b| b.status.cmp(&a.status).then_with(|| a.name.cmp(&b.name)));
        Ok(reports)
    }

    /// One health check; `None` when no replica has run it within the last day.
    ///
    /// # Errors
    /// [`StoreError`] when the store does not answer, or no check can have that name.
    pub async fn check(&self, name: &str) -> Result<Option<CheckReport>, StoreError> {
        let report = CheckReport::read(&*self.store, name);
        let (report, now_ms) = tokio::try_join!(report, self.now_ms())?;
        Ok(report.map(|report| as_of(report, now_ms)))
    }

    /// Asks the replica that runs a check to run it now, and waits for the result.
    ///
    /// An operator runs nothing itself. It leaves a request in the store, which the replica with
    /// the check's lease sees within a second. The request expires after `wait`, by default after
    /// the check's timeout plus 5 s. Concurrent requests share one run.
    ///
    /// ```no_run
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use commontrip::operator::Operator;
    ///
    /// let store = commontrip::RedisStore::builder().open("redis://127.0.0.1:6379")?;
    /// let operator = Operator::new(store);
    /// let report = operator.run_check("orders-db", None).await?;
    /// println!("{}", report.status.as_str());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`CheckRunError::Unknown`] when no replica has run it within the last day,
    /// [`CheckRunError::NotRun`] when no run ended in time, [`CheckRunError::Store`] when the store
    /// does not answer.
    pub async fn run_check(
        &self,
        name: &str,
        wait: Option<Duration>,
    ) -> Result<CheckReport, CheckRunError> {
        let Some(before) = self.check(name).await? else {
            return Err(CheckRunError::Unknown(name.to_owned()));
        };
        let wait = wait.unwrap_or(RUN_WAIT + Duration::from_millis(before.timeout_ms));
        let wait = wait.min(crate::model::FOREVER);
        // Later than the previous request, even if the clock was set back.
        let asked_ms = self.now_ms().await?.max(before.requested_ms + 1);
        let request = rmp_serde::to_vec(&asked_ms);
        let request = request.map_err(|e| StoreError::Encoding(e.to_string()))?;
        let key = CheckReport::wanted_key(name);
        self.store.keep(&key, &request, millis(wait).max(1)).await?;
        let until = Instant::now() + wait;
        while Instant::now() < until {
            sleep(RUN_LOOKS).await;
            let report = self.check(name).await?;
            if let Some(report) = report.filter(|report| report.requested_ms >= asked_ms) {
                return Ok(report);
            }
            // A concurrent caller may have overwritten this request with an earlier one.
            let kept = self.store.kept(&key).await?;
            let kept = kept.and_then(|kept| rmp_serde::from_slice::<u64>(&kept).ok());
            if kept.is_none_or(|kept| kept < asked_ms) {
                let left = until.saturating_duration_since(Instant::now());
                self.store.keep(&key, &request, millis(left).max(1)).await?;
            }
        }
        Err(CheckRunError::NotRun(wait))
    }
}

fn as_of(report: CheckReport, now_ms: u64) -> CheckReport {
    let age_ms = now_ms.saturating_sub(report.last_run_ms);
    report.aged(age_ms)
}
