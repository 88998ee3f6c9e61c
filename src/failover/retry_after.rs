//! How long callers should wait after a chain did not serve.
//!
//! Owns what each stage last reported about that; the circuits own the waits of open circuits.

use std::time::Duration;

use tokio::time::Instant;

use super::Stage;

/// What a stage last reported.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Said {
    /// It was not tried, or it failed without giving a time.
    #[default]
    Nothing,
    /// It may be tried at this time.
    Until(Instant),
    /// It was rejected, and the end of that is unknown.
    Unknown,
}

impl Said {
    pub(super) fn after(wait: Option<Duration>) -> Self {
        // A time beyond the clock's range counts as no time.
        let until = wait.and_then(|wait| Instant::now().checked_add(wait));
        until.map_or(Self::Nothing, Self::Until)
    }

    pub(super) fn rejected(wait: Option<Duration>) -> Self {
        match Self::after(wait) {
            Self::Nothing => Self::Unknown,
            until => until,
        }
    }
}

/// How long until the first stage may admit a call again; `None` if no stage gave a time.
pub(super) fn retry_after(stages: &[Stage], said: &[Said]) -> Option<Duration> {
    let now = Instant::now();
    let mut told = false;
    let mut first = None;
    for (place, stage) in stages.iter().enumerate() {
        let said = said.get(place).copied().unwrap_or_default();
        // The stage's failure may have opened its circuit.
        let circuit = stage.breaker.expected_rejection();
        let circuit = circuit.map(|rejection| Said::rejected(rejection.retry_after));
        let until = match (said, circuit) {
            (Said::Unknown, _) | (_, Some(Said::Unknown)) => continue,
            (Said::Until(one), Some(Said::Until(other))) => one.max(other),
            (Said::Until(until), _) | (_, Some(Said::Until(until))) => until,
            (Said::Nothing, _) => {
                first = Some(now);
                continue;
            }
        };
        told = true;
        first = Some(first.map_or(until, |first: Instant| first.min(until)));
    }
    let first = first.filter(|_| told)?;
    Some(first.saturating_duration_since(now))
}
