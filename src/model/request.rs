//! Requests of a replica to a circuit.
//!
//! Owns the shapes of the requests. Each is sent as one MessagePack array, with its fields in the
//! order given here. Twin: the headers of `lua/*.lua`.

use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

use super::{Counts, KindNote, Latencies, Reason, Rules, Runs, Snapshot, State};

/// The longest time in a request, ms: a hundred years.
pub(crate) const LONGEST_MS: u64 = 100 * 365 * 86_400_000;

/// Practically without end, and small enough to be added to any time: a year.
pub(crate) const FOREVER: Duration = Duration::from_secs(365 * 86_400);

/// Converts a duration to whole milliseconds, rounded up, at most a hundred years.
pub(crate) fn millis(time: Duration) -> u64 {
    let ms = time.as_nanos().div_ceil(1_000_000);
    u64::try_from(ms).map_or(LONGEST_MS, |ms| ms.min(LONGEST_MS))
}

/// The common start of every request.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// Unix ms, for tests; 0 = the store's clock.
    pub now_ms: u64,
    /// `0..=999`, random for each request; used for jitter.
    pub entropy: u64,
    /// The caller; unique to one registry of one process. For an operator, where the command comes
    /// from.
    pub replica: String,
    /// The policy in code.
    pub policy: Rules,
    /// Whether an operator asks. Operators have no policy in code: the policy that replicas last
    /// reported is used.
    pub is_operator: bool,
    /// What the replica remembers of the circuit.
    pub memory: Memory,
    /// The circuit as the replica last saw it. Not sent: it completes answers that contain only the
    /// counts that changed.
    pub seen: Snapshot,
}

/// What a replica remembers of a circuit, for a store that has lost it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The newest generation seen; 0 = none.
    pub generation: u64,
    /// Its state.
    pub state: State,
    /// Time left in the state, ms; -1 = no end.
    pub left_ms: i64,
    /// Time since the store last confirmed this, ms.
    pub age_ms: u64,
    /// Consecutive opens.
    pub opens: u64,
    /// The override's author.
    pub author: String,
    /// The override's reason.
    pub reason: String,
    /// Why the circuit entered its state.
    pub why: Reason,
    /// Probes that were in flight when the store confirmed this.
    pub probes: u64,
}

/// Asks for permission to make one call.
#[derive(Clone, Debug, Default)]
pub struct Acquire {
    /// Common part.
    pub head: Head,
    /// Identifies the permit if it is a probe; unique to this request.
    pub token: String,
}

/// Reports outcomes.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Common part.
    pub head: Head,
    /// Number of this report: 1 for the first report of a replica to a circuit, then one more each
    /// time.
    pub seq: u64,
    /// The generation that `counts` belongs to.
    pub generation: u64,
    /// Outcomes of calls that were permitted in `generation`.
    pub counts: Counts,
    /// Outcomes of calls that were permitted in earlier generations.
    pub late: Counts,
    /// Runs of failures in `counts`.
    pub runs: Runs,
    /// The longest time for which the service asked to be left alone in `counts`, ms; 0 = none.
    pub retry_after_ms: u64,
    /// How many outcomes in `counts` open the circuit whatever the thresholds.
    pub trips: u64,
    /// Probes that have an outcome.
    pub settled: Vec<Settled>,
    /// How much longer the local circuit of this replica is open, ms; 0 = it is not.
    pub alone_ms: u64,
    /// How long calls of any generation took, without ignored calls.
    pub latencies: Latencies,
    /// The kinds of failures of any generation, at most 16.
    pub kinds: Vec<KindNote>,
}

/// The outcome of one probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Settled {
    /// The permit's token.
    pub token: String,
    /// The generation in which the permit was given.
    pub generation: u64,
    /// The outcome.
    pub kind: Kind,
    /// How long the service asked to be left alone, ms; 0 = it did not ask.
    pub retry_after_ms: u64,
}

/// The outcome of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It says nothing about the service.
    Ignored,
    /// It succeeded.
    Success,
    /// It failed.
    Failure,
    /// It failed, and opens the circuit at once.
    Trip,
    /// It was dropped before it ended: a failure, unless another probe of this half-open period has
    /// succeeded.
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
    /// How long an override lasts, ms; 0 = no end.
    pub for_ms: u64,
    /// The operator.
    pub author: String,
    /// Why.
    pub reason: String,
    /// For [`Command::Policy`]: `key=integer` pairs; empty = remove the stored policy.
    pub policy: String,
    /// 0 = anything. Otherwise the expected value plus one, and nothing changes if it does not
    /// match. For [`Command::Policy`] this is the version of the stored policy; for the others the
    /// generation of the override in force, 0 without one.
    pub expects: u64,
}

/// A command of an operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Close the circuit, with an empty window and without backoff.
    #[default]
    Reset,
    /// Reject every call.
    ForceOpen,
    /// Admit every call.
    Disable,
    /// Admit every call and record it.
    MetricsOnly,
    /// Store a policy with the circuit, or remove it.
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

/// A policy as it is sent; an empty array for an operator.
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
    /// Returns the parts that are sent.
    fn parts(&self) -> (u64, u64, &str, Sent<'_>, &Memory) {
        let Self {
            now_ms,
            entropy,
            replica,
            policy,
            is_operator,
            memory,
            seen: _,
        } = self;
        let policy = Sent((!is_operator).then_some(policy));
        (*now_ms, *entropy, replica, policy, memory)
    }
}

impl Serialize for Head {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.parts().serialize(serializer)
    }
}

/// Serializes the fields of the head and then the given fields as one array.
macro_rules! array_coded {
    ($($request:ident { $($field:ident),+ })+) => {$(
        impl Serialize for $request {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let Self { head, $($field),+ } = self;
                let (now_ms, entropy, replica, own, memory) = head.parts();
                (now_ms, entropy, replica, own, memory, $($field),+).serialize(serializer)
            }
        }
    )+};
}

array_coded! {
    Acquire { token }
    Report { seq, generation, counts, late, runs, retry_after_ms, trips, settled, alone_ms, latencies, kinds }
    Release { token }
    Control { command, for_ms, author, reason, policy, expects }
}
