//! What a replica asks of a circuit.
//!
//! Owns the shapes of the requests; each is one MessagePack array on the wire, its fields in the
//! order given here. Twin: the headers of `lua/*.lua`.

use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

use super::{Counts, Latencies, Reason, Rules, Runs, Snapshot, State};

/// The longest time that goes over the wire, ms: a hundred years.
pub(super) const LONGEST_MS: u64 = 100 * 365 * 86_400_000;

/// As good as without end, and small enough to be added to any time: a year.
pub(crate) const FOREVER: Duration = Duration::from_secs(365 * 86_400);

/// A duration in whole milliseconds, rounded up; what is longer than a hundred years is cut.
pub(crate) fn millis(time: Duration) -> u64 {
    let ms = time.as_nanos().div_ceil(1_000_000);
    u64::try_from(ms).map_or(LONGEST_MS, |ms| ms.min(LONGEST_MS))
}

/// What every request begins with.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// Unix ms, for tests; 0 = the store's clock.
    pub now_ms: u64,
    /// `0..=999`, drawn anew for each request; jitter is made of it.
    pub entropy: u64,
    /// Who asks; unique to one registry of one process. Of an operator, from where.
    pub replica: String,
    /// The policy in code.
    pub policy: Rules,
    /// An operator asks, who has no policy in code: the one that replicas last reported counts.
    pub is_operator: bool,
    /// What the replica remembers of the circuit.
    pub memory: Memory,
    /// The circuit as the replica has last seen it. Not sent: an answer in which only counts are
    /// new is made whole with it.
    pub seen: Snapshot,
}

/// What a replica remembers of a circuit, for a store that lost it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The newest generation seen; 0 = none.
    pub generation: u64,
    /// Its state.
    pub state: State,
    /// Time left in the state; -1 = it has no end.
    pub left_ms: i64,
    /// How long ago the store last confirmed this.
    pub age_ms: u64,
    /// Consecutive opens.
    pub opens: u64,
    /// The override's author.
    pub author: String,
    /// The override's reason.
    pub reason: String,
    /// Why the circuit entered its state.
    pub why: Reason,
    /// Probe permits that were out when the store confirmed this.
    pub probes: u64,
}

/// Asks for leave to make one call.
#[derive(Clone, Debug, Default)]
pub struct Acquire {
    /// Common part.
    pub head: Head,
    /// Names the permit, should it be a probe; unique to this request.
    pub token: String,
}

/// Files outcomes.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Common part.
    pub head: Head,
    /// Number of this report, growing by one from 1 for each replica and circuit.
    pub seq: u64,
    /// The generation that `counts` belongs to.
    pub generation: u64,
    /// Outcomes of calls that were permitted in `generation`.
    pub counts: Counts,
    /// Outcomes of calls that were permitted before it.
    pub late: Counts,
    /// Runs of failures in `counts`.
    pub runs: Runs,
    /// The longest time that the service asked to be left alone in `counts`, ms; 0 = none.
    pub retry_after_ms: u64,
    /// How many outcomes in `counts` ask for an open circuit.
    pub trips: u64,
    /// Probes that have an outcome.
    pub settled: Vec<Settled>,
    /// How long this replica is open for itself yet, ms; 0 = it is not.
    pub alone_ms: u64,
    /// How long calls took, those of any generation; `ignored` ones are not in it.
    pub latencies: Latencies,
}

/// One probe's outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Settled {
    /// The permit's token.
    pub token: String,
    /// The generation that it was given under.
    pub generation: u64,
    /// What became of it.
    pub kind: Kind,
    /// How long the service asked to be left alone, ms; 0 = it did not.
    pub retry_after_ms: u64,
}

/// What became of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing that counts.
    Ignored,
    /// It succeeded.
    Success,
    /// It failed.
    Failure,
    /// It failed and asks for an open circuit.
    Trip,
    /// It was dropped before it ended: a failure, unless another of this half-open has succeeded.
    Abandoned,
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(*self as u8)
    }
}

/// Gives a permit back.
#[derive(Clone, Debug, Default)]
pub struct Release {
    /// Common part.
    pub head: Head,
    /// The permit's token.
    pub token: String,
}

/// An operator's command.
#[derive(Clone, Debug, Default)]
pub struct Control {
    /// Common part.
    pub head: Head,
    /// What to do.
    pub command: Command,
    /// How long an override lasts, ms; 0 = until it is ended.
    pub for_ms: u64,
    /// Who commands.
    pub author: String,
    /// Why.
    pub reason: String,
    /// For [`Command::Policy`]: `key=integer` pairs; empty = take the stored policy away.
    pub policy: String,
    /// For [`Command::Policy`]: 0, or one more than the version of the stored policy must be for it to
    /// be replaced; else nothing happens.
    pub expects: u64,
}

/// What an operator can command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// To closed, with an empty window and no backoff.
    #[default]
    Reset,
    /// Reject every call.
    ForceOpen,
    /// Admit every call.
    Disable,
    /// Admit every call and record it.
    MetricsOnly,
    /// Store a policy with the circuit.
    Policy,
}

/// Whether one call may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// No.
    Rejected,
    /// Yes.
    Permitted,
    /// Yes, as a probe.
    Probe,
}

impl<'de> Deserialize<'de> for Permission {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u8::deserialize(deserializer)? {
            0 => Ok(Self::Rejected),
            1 => Ok(Self::Permitted),
            2 => Ok(Self::Probe),
            other => Err(serde::de::Error::custom(format!(
                "permission {other} is not one of 0, 1, 2"
            ))),
        }
    }
}

/// The answer to [`Acquire`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Grant {
    /// Whether the call may be made.
    pub permission: Permission,
    /// The circuit afterwards.
    pub snapshot: Snapshot,
}

/// A policy on the wire; none of an operator.
struct Sent<'a>(Option<&'a Rules>);

impl Serialize for Sent<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(rules) => rules.serialize(serializer),
            None => [0_u64; 0].serialize(serializer),
        }
    }
}

impl Head {
    /// What is sent of it.
    fn parts(&self) -> (u64, u64, &str, Sent<'_>, &Memory) {
        let policy = Sent((!self.is_operator).then_some(&self.policy));
        (
            self.now_ms,
            self.entropy,
            &self.replica,
            policy,
            &self.memory,
        )
    }
}

impl Serialize for Head {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.parts().serialize(serializer)
    }
}

/// Writes the fields of the head and then the given ones as one array.
macro_rules! array_coded {
    ($($request:ty { $($field:ident),+ })+) => {$(
        impl Serialize for $request {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let (now_ms, entropy, replica, policy, memory) = self.head.parts();
                (now_ms, entropy, replica, policy, memory, $(&self.$field),+).serialize(serializer)
            }
        }
    )+};
}

array_coded! {
    Acquire { token }
    Report { seq, generation, counts, late, runs, retry_after_ms, trips, settled, alone_ms, latencies }
    Release { token }
    Control { command, for_ms, author, reason, policy, expects }
}
