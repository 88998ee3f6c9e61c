//! Who stands in for whom.

use std::{collections::BTreeMap, time::Duration};

use commontrip::{
    CallError, CircuitBreaker,
    failover::{End, Exhausted, Failover, Stage},
};

use super::{
    gateway::Refusal,
    lab::{Error, Setup},
    provider::Provider,
    verdict::{retry_after, said},
};

/// Providers in the order in which they are asked.
pub struct Chain {
    pub order: Vec<Provider>,
    pub failover: Failover,
}

impl Chain {
    /// This one first, then the usual ones.
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
        // Each may take its time; this is for their sum.
        let total = setup.attempt_timeout * 5;
        Ok(Self {
            order,
            failover: failover.total_timeout(total).build()?,
        })
    }

    /// The provider whose stage is called so.
    pub fn named(&self, stage: &str) -> Provider {
        let mut order = self.order.iter();
        let found = order.find(|provider| provider.name() == stage);
        found.copied().unwrap_or(self.order[0])
    }
}

/// What the caller is told when nobody gave an answer.
pub fn refusal(failed: &Exhausted<genai::Error>) -> Refusal {
    let each = || failed.attempts.iter();
    if failed.end == End::CallersError
        && let Some(tried) = each().next_back()
        && let CallError::Failed(error) = &tried.error
    {
        return Refusal::Question(format!("{} says {}", tried.stage, said(error)));
    }
    let words = each().map(|tried| match &tried.error {
        CallError::Failed(error) => format!("; {}: {}", tried.stage, said(error)),
        other => format!("; {}: {other}", tried.stage),
    });
    // The first that may be asked again is enough. One whose circuit is closed may be asked at once;
    // of one that an operator has opened without an end nobody knows.
    let wait = each().filter_map(|tried| match &tried.error {
        CallError::Failed(error) => Some(retry_after(error).unwrap_or_default()),
        CallError::Rejected(rejection) => rejection.retry_after,
        _ => Some(Duration::ZERO),
    });
    Refusal::Nobody(
        wait.min(),
        format!("nobody answers{}", words.collect::<String>()),
    )
}
