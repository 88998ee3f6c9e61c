//! The circuit as a pure state machine: states, policy, windows, transitions.
//!
//! Owns every rule; reads no clock, does no I/O, imports nothing from other modules of the crate.
//! `now` is always an argument, in Unix milliseconds. Twin: `lua/`, which has the same rules for a
//! circuit in Redis.

mod circuit;
mod claims;
mod event;
mod failure_kind;
mod fast_path;
mod history;
mod in_use;
mod kinds;
pub(crate) mod latency;
mod members;
mod name;
mod operations;
mod outcome;
mod policy;
mod quorum;
mod request;
mod slices;
mod snapshot;
mod state;
mod stored;
mod totals;
mod turn;
mod window;
mod windows;

#[cfg(feature = "config")]
pub(crate) use self::policy::{PRESETS, words as policy_words};
pub(crate) use self::{
    failure_kind::{MOST_KINDS, OTHER, Word},
    history::History,
    kinds::Kinds,
    latency::{BUCKETS, bucket_of},
    members::Times,
    operations::pace_ms,
    request::{FOREVER, LONGEST_MS, millis},
    snapshot::{LARGEST, MOST_GENERATIONS, text},
    window::{Shape, Sums, before},
};
pub use circuit::Circuit;
pub use claims::{Claim, ClaimStep, Claimed, Claims, Phase, Verdict};
pub use event::Event;
pub use failure_kind::FailureKind;
pub use fast_path::Request;
pub use history::{Interval, Slice};
pub use kinds::{KindCount, KindNote};
pub use latency::{Latencies, Percentiles};
pub use members::{Lease, Member, Members};
pub use name::{Name, NameError};
pub use outcome::{Counts, Outcome, Runs};
pub use policy::{
    AbandonedCalls, LatencyRecording, MinimumAppliesTo, OnStoreFailure, Policy, PolicyBuilder,
    PolicyError, Rules, TimedOutCalls,
};
pub use request::{
    Acquire, Command, Control, Grant, Head, Kind, Memory, Permission, Release, Report, Settled,
};
pub use snapshot::Snapshot;
pub use state::{Reason, State, UnknownWord};
