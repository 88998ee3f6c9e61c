//! Checks that one replica of the fleet runs, and all of them see.
//!
//! Owns the monitor; what one check is says [`Check`], whose turn it is `runner`, what runs mean `judge`.
//! Where reports are kept, and how others read them, is [`operator`](crate::operator)'s.

mod board;
mod check;
mod judge;
mod runner;

use std::{collections::BTreeSet, fmt, sync::Arc};

use tokio::{sync::watch, task::JoinSet};

pub(crate) use self::board::Board;
pub use self::check::Check;
use self::runner::Runner;
pub use crate::operator::{CheckReport, CheckRun, CheckStatus};
use crate::{Commontrip, operator::Operator};

/// Why a monitor was not started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HealthError {
    /// No check can have that name.
    #[error(
        "{0:?} cannot name a check: a name has 1 to 200 bytes, no control characters and no braces"
    )]
    Name(String),
    /// Two checks have the same name.
    #[error("two checks are named {0:?}: each needs a name of its own")]
    Twice(String),
    /// A setting of a check is out of its range.
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
/// Every replica starts the same monitor; of each check one replica at a time has its lease, runs it, and
/// keeps what it said in the store, where the others read it. Dropping it, or [`stop`](Self::stop), ends
/// this replica's part, and another one goes on within an interval.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
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
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl HealthMonitor {
    /// Says which checks there are.
    pub fn builder(circuits: &Commontrip) -> HealthMonitorBuilder {
        HealthMonitorBuilder {
            circuits: circuits.clone(),
            checks: Vec::new(),
        }
    }

    /// Every check as last seen, in the order in which they were given; no I/O.
    #[must_use]
    pub fn checks(&self) -> Vec<CheckReport> {
        self.board.reports()
    }

    /// One check as last seen; `None` when the monitor has none of that name. No I/O.
    #[must_use]
    pub fn check(&self, name: &str) -> Option<CheckReport> {
        self.checks().into_iter().find(|report| report.name == name)
    }

    /// How the worst check stands: [`CheckStatus::Unknown`] only when nothing is known of any.
    #[must_use]
    pub fn status(&self) -> CheckStatus {
        self.board.worst()
    }

    /// Ends this replica's part and waits until its leases were given back, so that another replica goes on
    /// within an interval.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }

    #[cfg(feature = "metrics")]
    pub(crate) fn board(&self) -> Arc<Board> {
        Arc::clone(&self.board)
    }
}

impl Drop for HealthMonitor {
    /// The tasks end by themselves, for nobody can stop them any more, and give their leases back.
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

/// Says which checks a [`HealthMonitor`] has.
#[derive(Debug)]
#[must_use = "checks run after start"]
pub struct HealthMonitorBuilder {
    circuits: Commontrip,
    checks: Vec<Check>,
}

impl HealthMonitorBuilder {
    /// This check too.
    pub fn check(mut self, check: Check) -> Self {
        self.checks.push(check);
        self
    }

    /// Starts them, the first run within a tenth of the interval. Must be called in a tokio runtime.
    ///
    /// Ends also with the registry. A bound circuit keeps its registry as long as the monitor lives.
    ///
    /// # Errors
    /// [`HealthError`] when a name or a setting is not valid, or two checks have one name.
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
        for (place, check) in self.checks.into_iter().enumerate() {
            let (watch, operator) = (watch.clone(), operator.clone());
            let runner = Runner::new(watch, operator, check, Arc::clone(&board), place);
            tasks.spawn(runner.run(stopped.clone()));
        }
        Ok(HealthMonitor { board, stop, tasks })
    }
}
