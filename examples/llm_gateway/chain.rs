//! Who stands in for whom.

use std::{collections::BTreeMap, time::Duration};

use commontrip::{
    CallError, CircuitBreaker, Rejection,
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
    let misses = each().map(|tried| match &tried.error {
        CallError::Failed(error) => Miss::failed(&tried.stage, error),
        CallError::Rejected(rejection) => Miss::rejected(&tried.stage, rejection),
        other => Miss::in_words(&tried.stage, other),
    });
    nobody(misses.collect())
}

/// Why one provider gave no answer, and when it may be asked again.
pub struct Miss {
    words: String,
    wait: Option<Duration>,
}

impl Miss {
    pub fn failed(stage: &str, error: &genai::Error) -> Self {
        Self {
            words: format!("; {stage}: {}", said(error)),
            wait: Some(retry_after(error).unwrap_or_default()),
        }
    }

    /// Of a circuit that an operator has opened without an end nobody knows when it will let calls
    /// through.
    pub fn rejected(stage: &str, rejection: &Rejection) -> Self {
        Self {
            words: format!("; {stage}: {rejection}"),
            wait: rejection.retry_after,
        }
    }

    /// One whose circuit is closed may be asked at once.
    pub fn in_words(stage: &str, words: impl std::fmt::Display) -> Self {
        Self {
            words: format!("; {stage}: {words}"),
            wait: Some(Duration::ZERO),
        }
    }
}

/// The first that may be asked again is enough.
pub fn nobody(misses: Vec<Miss>) -> Refusal {
    let wait = misses.iter().filter_map(|miss| miss.wait).min();
    let words: String = misses.into_iter().map(|miss| miss.words).collect();
    Refusal::Nobody(wait, format!("nobody answers{words}"))
}
