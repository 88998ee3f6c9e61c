//! The settings of a chain, and their validation.

use std::{collections::HashSet, sync::Arc, time::Duration};

use super::{ChainError, Failover, Stage};
use crate::model::FOREVER;

/// Configures a chain; from [`Failover::builder`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use std::time::Duration;
/// use commontrip::failover::{Failover, Stage};
///
/// let chain = Failover::builder()
///     .stage(Stage::new("cloud", &payments).attempt_timeout(Duration::from_secs(10)))
///     .total_timeout(Duration::from_secs(30))
///     .build()?;
/// let served = chain.call(|_| async { Ok::<_, std::io::Error>(42) }).await?;
/// assert_eq!((served.value, served.fallback), (42, false));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct FailoverBuilder {
    stages: Vec<Stage>,
    total_timeout: Duration,
}

impl FailoverBuilder {
    pub(super) const fn new() -> Self {
        Self {
            stages: Vec::new(),
            total_timeout: FOREVER,
        }
    }

    /// Adds a stage at the end of the chain.
    pub fn stage(mut self, stage: Stage) -> Self {
        self.stages.push(stage);
        self
    }

    /// Sets the limit for the whole call: attempts, pauses, and circuits' requests to their store.
    /// Above 0; by default, only the limits of the stages apply.
    pub const fn total_timeout(mut self, timeout: Duration) -> Self {
        self.total_timeout = timeout;
        self
    }

    /// Builds the chain.
    ///
    /// # Errors
    /// [`ChainError`] when there is no stage, two stages have the same name, a timeout is 0, or an
    /// attempt timeout exceeds the total timeout.
    pub fn build(self) -> Result<Failover, ChainError> {
        let total = self.total_timeout.min(FOREVER);
        if self.stages.is_empty() {
            return Err(ChainError::NoStage);
        }
        if total.is_zero() {
            return Err(ChainError::TotalTimeout);
        }
        let mut names = HashSet::new();
        for stage in &self.stages {
            if !names.insert(Arc::clone(&stage.name)) {
                return Err(ChainError::Duplicate(stage.name.to_string()));
            }
            let attempt = stage.limit(total);
            if attempt.is_zero() {
                return Err(ChainError::AttemptTimeout(stage.name.to_string()));
            }
            if attempt > total {
                let stage = stage.name.to_string();
                return Err(ChainError::DoesNotFit {
                    stage,
                    attempt,
                    total,
                });
            }
        }
        #[cfg(feature = "metrics")]
        super::count::describe();
        Ok(Failover {
            stages: self.stages.into(),
            total_timeout: total,
        })
    }
}
