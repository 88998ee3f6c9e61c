//! Health checks as the fleet's replicas left them in the store.
//!
//! Owns the shape of a check's report, where it is kept, and reading it; who runs checks writes it.
//! Invariant: whatever is found in the store, reading it never panics and never fails for one check.

use std::collections::BTreeMap;

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::Operator;
use crate::{Store, StoreError};

/// How long a report is kept after its last run: a day.
#[cfg(feature = "health")]
pub(crate) const KEPT_MS: u64 = 86_400_000;
/// Where the names of checks are kept, each with when it was last run.
pub(crate) const INDEX: &str = "health:checks";
/// Reports that are read at once.
const AT_ONCE: usize = 16;

/// How a check stands. The order is from nothing known to worst.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CheckStatus {
    /// It has not been run yet, or not for four intervals and two timeouts.
    #[default]
    Unknown,
    /// It passes, within its thresholds.
    Healthy,
    /// The last run failed, or a threshold of warning is reached.
    Warning,
    /// So many runs in a row failed as its failure threshold says, or a critical threshold is reached.
    Critical,
}

impl CheckStatus {
    /// All of them, in their order.
    pub const ALL: [Self; 4] = [Self::Unknown, Self::Healthy, Self::Warning, Self::Critical];

    /// The word for it, as in JSON: `healthy`, ...
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
    /// When it ended, Unix ms by the store's clock; by the replica's, where that ran it for itself.
    pub at_ms: u64,
    /// Whether it passed.
    pub passed: bool,
    /// How long it took, µs.
    pub took_us: u64,
}

/// A check: how it stands, and its last runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct CheckReport {
    /// Its name.
    pub name: String,
    /// How it stands.
    pub status: CheckStatus,
    /// Why it is not healthy; empty when it is.
    pub why: String,
    /// The circuit that it opens and closes.
    pub circuit: Option<String>,
    /// The replica that ran it last.
    pub replica: String,
    /// The replica ran it for itself alone, for the store is away. Never so of what is read from a store.
    pub local: bool,
    /// How often it is run, ms.
    pub interval_ms: u64,
    /// How long a run may take, ms.
    pub timeout_ms: u64,
    /// When it was last run, as [`CheckRun::at_ms`]; 0 = not yet.
    pub last_run_ms: u64,
    /// When it last passed; 0 = not yet.
    pub last_pass_ms: u64,
    /// What the last failure said; `None` before one.
    pub last_error: Option<String>,
    /// Failures since it last passed.
    pub consecutive_failures: u64,
    /// Runs in all.
    pub runs: u64,
    /// Failures in all.
    pub failures: u64,
    /// How long the last run took, µs.
    pub latency_us: Option<u64>,
    /// The 95th percentile of how long runs of the history took that passed, µs (nearest rank).
    pub p95_us: Option<u64>,
    /// Runs of the history that passed, percent.
    pub uptime: Option<f64>,
    /// The last runs, oldest first, as many as the check keeps.
    pub history: Vec<CheckRun>,
}

impl CheckReport {
    /// After so long without a run nobody runs it: longer than it takes another replica to take over.
    pub(crate) const fn stale_after_ms(&self) -> u64 {
        let intervals = self.interval_ms.saturating_mul(4);
        intervals.saturating_add(self.timeout_ms.saturating_mul(2))
    }

    /// How it stands when the last run was so long ago.
    pub(crate) fn aged(mut self, age_ms: u64) -> Self {
        if self.runs > 0 && age_ms > self.stale_after_ms() {
            self.status = CheckStatus::Unknown;
            self.why = format!("nobody has run it for {} s", age_ms / 1000);
        }
        self
    }

    /// What is kept of a check; `None` where that is nothing, or nothing that can be read.
    pub(crate) async fn read(store: &dyn Store, name: &str) -> Result<Option<Self>, StoreError> {
        let kept = store.kept(&Self::key(name)).await?;
        let report: Option<Self> = kept.and_then(|bytes| decode(&bytes));
        Ok(report.map(|report| Self {
            name: name.to_owned(),
            local: false,
            ..report
        }))
    }

    /// Where a check's report is kept, and who runs it leased.
    pub(crate) fn key(name: &str) -> String {
        format!("health:check:{name}")
    }
}

/// Names of checks, each with when it was last noted.
pub(crate) type Index = BTreeMap<String, u64>;

/// The index of checks, without those that were forgotten; empty where it cannot be read.
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
    /// None where the store keeps circuits only.
    ///
    /// # Errors
    /// [`StoreError`] when the store does not answer.
    pub async fn checks(&self) -> Result<Vec<CheckReport>, StoreError> {
        let index = match index(&*self.store).await {
            Err(StoreError::Refused(_)) => Index::new(),
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
}

fn as_of(report: CheckReport, now_ms: u64) -> CheckReport {
    let age_ms = now_ms.saturating_sub(report.last_run_ms);
    report.aged(age_ms)
}
