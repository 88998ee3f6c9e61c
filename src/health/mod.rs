//! Checks that one replica runs for the whole fleet.
//!
//! Owns the monitor. [`Check`] defines one check, `asks` the ready-made ones, `runner` which
//! replica runs a check, `judge` what its runs mean. [`operator`](crate::operator) owns where
//! reports are kept and how others read them.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use commontrip::{Commontrip, health::{Check, HealthMonitor}};
//!
//! let circuits = Commontrip::embedded()?;
//! let monitor = HealthMonitor::builder(&circuits)
//!     .check(Check::new("disk", || async { std::fs::metadata("/").map(|_| ()) }))
//!     .start()?;
//! println!("{:?}", monitor.status());
//! # Ok(()) }
//! ```

mod asks;
mod board;
mod check;
mod judge;
mod runner;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

pub(crate) use self::board::Board;
pub use self::check::Check;
use self::runner::{Asker, Runner};
#[doc(inline)]
pub use crate::operator::{CheckPeriod, CheckReport, CheckRun, CheckRunError, CheckStatus};
use crate::{Commontrip, operator::Operator};

/// Why a monitor was not started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HealthError {
    /// The name is invalid.
    #[error(
        "{0:?} cannot name a check: a name has 1 to 200 bytes, no control characters and no braces"
    )]
    Name(String),
    /// Two checks have the same name.
    #[error("two checks are named {0:?}: each needs its own name")]
    Twice(String),
    /// A setting of a check is out of range.
    #[error("the {what} of the check {check:?} must {must}")]
    Setting {
        /// The check.
        check: String,
        /// The setting.
        what: &'static str,
        /// What it must be.
        must: &'static str,
    },
}

/// Health checks of one registry's fleet, as this replica sees them.
///
/// Every replica starts the same monitor. For each check, one replica at a time holds a lease, runs
/// the check, and keeps its report in the store, where the others read it. Dropping the monitor, or
/// [`stop`](Self::stop), ends this replica's part; another one takes over within an interval.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use commontrip::{Commontrip, health::{Check, CheckStatus, HealthMonitor}};
///
/// let circuits = Commontrip::embedded()?;
/// let monitor = HealthMonitor::builder(&circuits)
///     .check(Check::new("disk", || async {
///         std::fs::metadata("/").map(|_| ())
///     })
///     .interval(Duration::from_millis(50)))
///     .start()?;
/// while monitor.status() == CheckStatus::Unknown {
///     tokio::time::sleep(Duration::from_millis(10)).await;
/// }
/// assert_eq!(monitor.check("disk").map(|disk| disk.status), Some(CheckStatus::Healthy));
/// # Ok(()) }
/// ```
#[must_use = "checks end when this is dropped"]
pub struct HealthMonitor {
    board: Arc<Board>,
    operator: Operator,
    /// For each check, how to request a run from its runner.
    askers: BTreeMap<String, Asker>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl HealthMonitor {
    /// Configures a monitor for this registry's fleet.
    pub fn builder(circuits: &Commontrip) -> HealthMonitorBuilder {
        HealthMonitorBuilder {
            circuits: circuits.clone(),
            checks: Vec::new(),
        }
    }

    /// Returns every check as last seen, in the order in which the checks were added; no I/O.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// use commontrip::health::{Check, HealthMonitor};
    ///
    /// let monitor = HealthMonitor::builder(&circuits)
    ///     .check(Check::new("disk", || async { std::fs::metadata("/").map(|_| ()) }))
    ///     .start()?;
    /// for check in monitor.checks() {
    ///     println!("{} is {}: {}", check.name, check.status.as_str(), check.why);
    /// }
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn checks(&self) -> Vec<CheckReport> {
        self.board.reports()
    }

    /// Returns one check as last seen; `None` if the monitor has no check of that name. No I/O.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use commontrip::{Commontrip, Policy};
    /// # let circuits = Commontrip::embedded()?;
    /// # let payments = circuits.circuit("payments", Policy::default())?;
    /// use commontrip::health::{Check, HealthMonitor};
    ///
    /// let monitor = HealthMonitor::builder(&circuits)
    ///     .check(Check::new("disk", || async { std::fs::metadata("/").map(|_| ()) }))
    ///     .start()?;
    /// assert!(monitor.check("disk").is_some() && monitor.check("net").is_none());
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn check(&self, name: &str) -> Option<CheckReport> {
        self.checks().into_iter().find(|report| report.name == name)
    }

    /// Runs a check now, and returns its report.
    ///
    /// The check runs in this replica if it has the check's lease or the store is unavailable.
    /// Otherwise the request goes to the replica that has the lease, as with
    /// [`Operator::run_check`](crate::operator::Operator::run_check). The run counts like any
    /// other, also for a bound circuit.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let circuits = commontrip::Commontrip::embedded()?;
    /// use commontrip::health::{Check, HealthMonitor};
    ///
    /// let monitor = HealthMonitor::builder(&circuits)
    ///     .check(Check::new("disk", || async { std::fs::metadata("/").map(|_| ()) }))
    ///     .start()?;
    /// assert!(monitor.check_now("disk").await?.history[0].passed);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`CheckRunError`] when there is no such check, or no replica ran it in time.
    pub async fn check_now(&self, name: &str) -> Result<CheckReport, CheckRunError> {
        let Some(asker) = self.askers.get(name) else {
            return Err(CheckRunError::Unknown(name.to_owned()));
        };
        let (answer, answered) = oneshot::channel();
        asker.send(answer).map_err(|_| CheckRunError::Ended)?;
        match answered.await {
            Ok(Some(report)) => Ok(report),
            Ok(None) => self.operator.run_check(name, None).await,
            Err(_) => Err(CheckRunError::Ended),
        }
    }

    /// Returns the status of the worst check; [`CheckStatus::Unknown`] only if all checks are
    /// unknown.
    #[must_use]
    pub fn status(&self) -> CheckStatus {
        self.board.worst()
    }

    /// Ends this replica's part and waits until its leases are returned, so that another replica
    /// takes over within an interval.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }

    #[cfg(any(feature = "alerts", feature = "metrics", feature = "otel"))]
    pub(crate) fn board(&self) -> Arc<Board> {
        Arc::clone(&self.board)
    }
}

impl Drop for HealthMonitor {
    /// Detached tasks end on their own, because the `stop` channel closes, and return their leases.
    fn drop(&mut self) {
        self.tasks.detach_all();
    }
}

impl fmt::Debug for HealthMonitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthMonitor")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

/// Configures the checks of a [`HealthMonitor`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::health::{Check, HealthMonitor};
///
/// let monitor = HealthMonitor::builder(&circuits)
///     .check(Check::new("disk", || async { std::fs::metadata("/").map(|_| ()) }))
///     .start()?;
/// monitor.stop().await;
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "checks run only after start"]
pub struct HealthMonitorBuilder {
    circuits: Commontrip,
    checks: Vec<Check>,
}

impl HealthMonitorBuilder {
    /// Adds a check.
    pub fn check(mut self, check: Check) -> Self {
        self.checks.push(check);
        self
    }

    /// Starts the checks; each first run starts within a tenth of its interval. Must be called in a
    /// tokio runtime.
    ///
    /// The monitor also ends with the registry. But a bound circuit keeps its registry alive as
    /// long as the monitor lives.
    ///
    /// # Errors
    /// [`HealthError`] when a name or a setting is invalid, or two checks have the same name.
    pub fn start(self) -> Result<HealthMonitor, HealthError> {
        let mut names = BTreeSet::new();
        for check in &self.checks {
            check.validate()?;
            if !names.insert(&check.name) {
                return Err(HealthError::Twice(check.name.clone()));
            }
        }
        let names = self.checks.iter().map(|check| check.name.as_str());
        let board = Arc::new(Board::new(names));
        let (stop, stopped) = watch::channel(false);
        let (watch, operator) = (self.circuits.watch(), Operator::of(&self.circuits));
        let mut tasks = JoinSet::new();
        let mut askers = BTreeMap::new();
        for (place, check) in self.checks.into_iter().enumerate() {
            let (watch, operator) = (watch.clone(), operator.clone());
            let (asker, asked) = mpsc::unbounded_channel();
            askers.insert(check.name.clone(), asker);
            let runner = Runner::new(watch, operator, check, Arc::clone(&board), place);
            tasks.spawn(runner.run(asked, stopped.clone()));
        }
        Ok(HealthMonitor {
            board,
            operator,
            askers,
            stop,
            tasks,
        })
    }
}
