//! The states of a circuit and the reasons for entering them.
//!
//! Owns the words, which are the same in Rust, in Lua, on the wire and in Redis.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The state of a circuit.
///
/// The names come from resilience4j. The last three are overrides: an operator sets them, and they
/// end when they expire or by [`reset`](crate::CircuitBreaker::reset), never by outcomes.
///
/// ```
/// use commontrip::State;
///
/// assert_eq!("half_open".parse::<State>()?, State::HalfOpen);
/// assert!(State::ForcedOpen.is_override() && !State::ForcedOpen.admits());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum State {
    /// Calls pass and their outcomes are recorded.
    #[default]
    Closed,
    /// Calls are rejected until the wait is over.
    Open,
    /// A limited number of probes decides whether the circuit closes or opens again.
    HalfOpen,
    /// An override: calls are rejected.
    ForcedOpen,
    /// An override: calls pass and only lifetime totals are kept.
    Disabled,
    /// An override: calls pass and are recorded, and nothing trips (a dry run).
    MetricsOnly,
}

impl State {
    /// Returns the name of the state, as Redis stores it: `closed`, `half_open`, ...
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::ForcedOpen => "forced_open",
            Self::Disabled => "disabled",
            Self::MetricsOnly => "metrics_only",
        }
    }

    /// Returns the number of the state in metrics: 0 closed, 1 open, 2 half-open, 3 forced open, 4
    /// disabled, 5 metrics only.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Whether an operator set the state.
    #[must_use]
    pub const fn is_override(self) -> bool {
        matches!(self, Self::ForcedOpen | Self::Disabled | Self::MetricsOnly)
    }

    /// Whether every call passes in this state.
    #[must_use]
    pub const fn admits(self) -> bool {
        matches!(self, Self::Closed | Self::Disabled | Self::MetricsOnly)
    }

    /// Every state.
    pub const ALL: [Self; 6] = [
        Self::Closed,
        Self::Open,
        Self::HalfOpen,
        Self::ForcedOpen,
        Self::Disabled,
        Self::MetricsOnly,
    ];
}

/// A word that is not a state, or not a reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is not a {of}: write {known}")]
pub struct UnknownWord {
    word: String,
    of: &'static str,
    known: String,
}

impl UnknownWord {
    fn new(word: &str, of: &'static str, known: impl Iterator<Item = &'static str>) -> Self {
        Self {
            word: word.chars().take(100).collect(),
            of,
            known: known.collect::<Vec<_>>().join(", "),
        }
    }
}

impl FromStr for State {
    type Err = UnknownWord;

    /// Parses the name of a state, as [`as_str`](Self::as_str) returns it.
    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        let known = || Self::ALL.into_iter();
        let state = known().find(|state| state.as_str() == word);
        state.ok_or_else(|| UnknownWord::new(word, "state", known().map(Self::as_str)))
    }
}

impl FromStr for Reason {
    type Err = UnknownWord;

    /// Parses the name of a reason, as [`as_str`](Self::as_str) returns it.
    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        let known = || Self::ALL.into_iter();
        let reason = known().find(|reason| reason.as_str() == word);
        reason.ok_or_else(|| UnknownWord::new(word, "reason", known().map(Self::as_str)))
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a circuit entered its state, or why a call was rejected.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// let event = payments.force_open(Default::default()).await?;
/// println!("{}: {}", event.state, event.reason);
/// # assert_eq!(event.state, commontrip::State::ForcedOpen);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// Nothing has happened to the circuit yet.
    #[default]
    Created,
    /// `failure_rate_threshold` was reached.
    FailureRate,
    /// `failure_count_threshold` was reached.
    FailureCount,
    /// `consecutive_failures_threshold` was reached.
    ConsecutiveFailures,
    /// `slow_call_rate_threshold` was reached.
    SlowCallRate,
    /// An outcome opened the circuit at once ([`Outcome::Trip`](crate::Outcome::Trip)).
    Tripped,
    /// The wait in open has ended: probes are permitted.
    WaitElapsed,
    /// A probe failed.
    ProbeFailed,
    /// Probes were in flight, but did not decide within `max_wait_duration_in_half_open_state`.
    HalfOpenTimeout,
    /// Enough probes succeeded.
    Recovered,
    /// An operator set an override.
    Override,
    /// An override expired.
    OverrideExpired,
    /// An operator reset the circuit.
    Reset,
    /// Redis had lost the circuit, or had an older state, and a replica remembered it. For an open
    /// circuit or an override, only the event has this reason: the state keeps its own.
    Adopted,
    /// Events only: a policy was stored with the circuit, or removed. The state does not change.
    Policy,
    /// Rejections only: all probes that half-open permits are in flight.
    ProbesOut,
    /// Rejections only: the share of calls that the recovery ramp admits is used up.
    Ramp,
    /// Rejections only: the store is unavailable and the policy says
    /// [`Reject`](crate::OnStoreFailure::Reject).
    StoreUnavailable,
    /// Rejections only: the store has not answered yet, and the policy says
    /// [`Reject`](crate::OnStoreFailure::Reject).
    AwaitingStore,
    /// Rejections only: a probe is due, and another call of this process is asking for its permit.
    ProbeRequested,
}

impl Reason {
    /// Every reason. The number of a reason is its index here.
    pub(crate) const ALL: [Self; 20] = [
        Self::Created,
        Self::FailureRate,
        Self::FailureCount,
        Self::ConsecutiveFailures,
        Self::SlowCallRate,
        Self::Tripped,
        Self::WaitElapsed,
        Self::ProbeFailed,
        Self::HalfOpenTimeout,
        Self::Recovered,
        Self::Override,
        Self::OverrideExpired,
        Self::Reset,
        Self::Adopted,
        Self::Policy,
        Self::ProbesOut,
        Self::Ramp,
        Self::StoreUnavailable,
        Self::AwaitingStore,
        Self::ProbeRequested,
    ];

    /// Returns the name of the reason, as Redis stores it: `failure_rate`, `probe_failed`, ...
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::FailureRate => "failure_rate",
            Self::FailureCount => "failure_count",
            Self::ConsecutiveFailures => "consecutive_failures",
            Self::SlowCallRate => "slow_call_rate",
            Self::Tripped => "tripped",
            Self::WaitElapsed => "wait_elapsed",
            Self::ProbeFailed => "probe_failed",
            Self::HalfOpenTimeout => "half_open_timeout",
            Self::Recovered => "recovered",
            Self::Override => "override",
            Self::OverrideExpired => "override_expired",
            Self::Reset => "reset",
            Self::Adopted => "adopted",
            Self::Policy => "policy",
            Self::ProbesOut => "probes_out",
            Self::Ramp => "ramp",
            Self::StoreUnavailable => "store_unavailable",
            Self::AwaitingStore => "awaiting_store",
            Self::ProbeRequested => "probe_requested",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_know_every_reason_that_a_circuit_can_have() {
        let lua = include_str!("../../lua/lib/hash.lua");
        let words = lua.split("local REASONS = '").nth(1).unwrap();
        let words = words.split("\n\n").next().unwrap();
        let words: Vec<_> = words.split([' ', '\'', '.', '\n']).collect();
        let words: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
        let of_no_state = [
            Reason::Policy,
            Reason::ProbesOut,
            Reason::Ramp,
            Reason::StoreUnavailable,
            Reason::AwaitingStore,
            Reason::ProbeRequested,
        ];
        let known = Reason::ALL[1..].iter();
        let known = known.filter(|reason| !of_no_state.contains(reason));
        assert_eq!(words, known.map(|r| r.as_str()).collect::<Vec<_>>());
    }

    #[test]
    fn words_are_the_serde_names_and_come_back() {
        for state in State::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
            assert_eq!(state.as_str().parse(), Ok(state));
            assert_eq!(State::ALL[usize::from(state.number())], state);
        }
        for (i, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
            assert_eq!(reason.as_str().parse(), Ok(reason));
            assert_eq!(reason as usize, i);
        }
        let error = "ajar".parse::<State>().unwrap_err().to_string();
        assert_eq!(
            error,
            "\"ajar\" is not a state: write closed, open, half_open, forced_open, disabled, metrics_only"
        );
    }
}
