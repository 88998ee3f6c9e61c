//! What a chain must be.

use std::{collections::HashSet, sync::Arc, time::Duration};

use super::{ChainError, Failover, Stage};
use crate::model::FOREVER;

/// Describes a chain; from [`Failover::builder`].
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

    /// Adds a stage, after those that there are.
    pub fn stage(mut self, stage: Stage) -> Self {
        self.stages.push(stage);
        self
    }

    /// Sets how long the whole may take: attempts, pauses and what circuits ask of their store. Above 0;
    /// without it there is no limit but those of the stages.
    pub const fn total_timeout(mut self, timeout: Duration) -> Self {
        self.total_timeout = timeout;
        self
    }

    /// Makes the chain.
    ///
    /// # Errors
    /// [`ChainError`] when there is no stage, two have one name, or a timeout is 0 or does not fit.
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
