//! The order in which providers stand in for each other.

use std::{collections::BTreeMap, time::Duration};

use commontrip::{
    CallError, CircuitBreaker,
    failover::{End, Exhausted, Failover, Stage},
};

use super::{
    gateway::Refusal,
    lab::{Error, Setup},
    provider::Provider,
    verdict::said,
};

/// Providers in the order in which they are asked.
pub struct Chain {
    pub order: Vec<Provider>,
    pub failover: Failover,
}

impl Chain {
    /// The chain that starts with this provider and continues with the others in their default
    /// order.
    pub fn beginning_with(
        first: Provider,
        breakers: &BTreeMap<Provider, CircuitBreaker>,
        setup: &Setup,
    ) -> Result<Self, Error> {
        let others = Provider::BY_DEFAULT.into_iter().filter(|p| *p != first);
        let order: Vec<_> = std::iter::once(first).chain(others).collect();
        let mut failover = Failover::builder();
        for provider in &order {
            let stage = Stage::new(provider.name(), &breakers[provider]);
            failover = failover.stage(stage.attempt_timeout(setup.attempt_timeout));
        }
        // Each attempt has its own timeout; this one is for all together.
        let total = setup.attempt_timeout * 5;
        Ok(Self {
            order,
            failover: failover.total_timeout(total).build()?,
        })
    }

    /// The provider of the stage with this name.
    pub fn named(&self, stage: &str) -> Provider {
        let mut order = self.order.iter();
        let found = order.find(|provider| provider.name() == stage);
        found.copied().unwrap_or(self.order[0])
    }
}

/// The caller's answer when no provider gave one.
pub fn refusal(failed: &Exhausted<genai::Error>) -> Refusal {
    let each = || failed.attempts.iter();
    if failed.end == End::CallersError
        && let Some(tried) = each().next_back()
        && let CallError::Failed(error) = &tried.error
    {
        return Refusal::Question(format!("{} says {}", tried.stage, said(error)));
    }
    let words = each().map(|tried| match &tried.error {
        CallError::Failed(error) => missed(&tried.stage, said(error)),
        other => missed(&tried.stage, other),
    });
    nobody(failed.retry_after(), words)
}

/// Why one provider gave no answer.
pub fn missed(stage: &str, words: impl std::fmt::Display) -> String {
    format!("; {stage}: {words}")
}

pub fn nobody(wait: Option<Duration>, misses: impl IntoIterator<Item = String>) -> Refusal {
    let words: String = misses.into_iter().collect();
    Refusal::Nobody(wait, format!("nobody answers{words}"))
}
