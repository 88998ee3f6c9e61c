//! The states of a circuit and the reasons for entering them.
//!
//! Owns the words, which are the same in Rust, in Lua, on the wire and in Redis.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The state of a circuit.
///
/// The words are resilience4j's. The last three are overrides: an operator sets them, and they
/// end by their own expiry or by [`reset`](crate::CircuitBreaker::reset), never by outcomes.
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
    /// The word for the state, as Redis stores it: `closed`, `half_open`, ...
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

    /// The state that a word stands for; `None` for any other word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == word)
    }

    /// The number for the state in metrics: 0 closed, 1 open, 2 half-open, 3 forced open, 4 disabled,
    /// 5 metrics only.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Whether the state is set by an operator.
    #[must_use]
    pub const fn is_override(self) -> bool {
        matches!(self, Self::ForcedOpen | Self::Disabled | Self::MetricsOnly)
    }

    /// Whether calls pass in this state without asking.
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

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a circuit entered its state, or why a call was rejected.
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
    /// An outcome asked for it ([`Outcome::Trip`](crate::Outcome::Trip)).
    Tripped,
    /// The wait in open is over: probes may go out.
    WaitElapsed,
    /// A probe failed.
    ProbeFailed,
    /// Probes went out and none decided within `max_wait_duration_in_half_open_state`.
    HalfOpenTimeout,
    /// Enough probes succeeded.
    Recovered,
    /// An operator set an override.
    Override,
    /// An override's time is up.
    OverrideExpired,
    /// An operator reset the circuit.
    Reset,
    /// Redis had lost the circuit, or had an older state, and a replica remembered. Where that was
    /// an open circuit or an override only the event says so: the state keeps its own reason.
    Adopted,
    /// Events only: a policy was stored with the circuit, or taken away; its state goes on.
    Policy,
    /// Rejections only: the probes that half-open permits are out.
    ProbesOut,
    /// Rejections only: the share of calls that the recovery ramp admits is used up.
    Ramp,
    /// Rejections only: the store is away and the policy says [`Reject`](crate::OnStoreFailure::Reject).
    StoreAway,
    /// Rejections only: the store has not answered yet, and the policy says
    /// [`Reject`](crate::OnStoreFailure::Reject).
    AwaitingStore,
    /// Rejections only: a probe is due, and another call of this process is asking for its permit.
    ProbeRequested,
}

impl Reason {
    /// Every reason; a reason's number is its place here.
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
        Self::StoreAway,
        Self::AwaitingStore,
        Self::ProbeRequested,
    ];

    /// The word for the reason, as Redis stores it: `failure_rate`, `probe_failed`, ...
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
            Self::StoreAway => "store_away",
            Self::AwaitingStore => "awaiting_store",
            Self::ProbeRequested => "probe_requested",
        }
    }

    /// The reason that a word stands for; `None` for any other word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.as_str() == word)
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
            Reason::StoreAway,
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
            assert_eq!(State::from_word(state.as_str()), Some(state));
            assert_eq!(State::ALL[usize::from(state.number())], state);
        }
        for (i, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
            assert_eq!(Reason::from_word(reason.as_str()), Some(reason));
            assert_eq!(reason as usize, i);
        }
        assert_eq!(State::from_word("ajar"), None);
    }
}
