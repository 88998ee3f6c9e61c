//! The circuit as a pure machine: states, policy, windows, transitions.
//!
//! Owns every rule; reads no clock, does no I/O, imports nothing of ours. `now` is always an
//! argument, in Unix milliseconds. Twin: `lua/`, which says the same where the state is.

mod brief;
mod circuit;
mod claims;
mod event;
mod held;
mod history;
mod in_use;
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
mod window;
mod windows;

pub(crate) use self::{
    history::{Begin, SLICE_MS, intervals},
    latency::{BUCKETS, bucket_of},
    members::Times,
    operations::pace_ms,
    request::{FOREVER, millis},
    snapshot::{LARGEST, MOST_GENERATIONS, text},
    window::{Sums, before},
};
pub use brief::Request;
pub use circuit::Circuit;
pub use claims::{Claim, Claims};
pub use event::Event;
pub use history::Interval;
pub use latency::{Latencies, Percentiles};
pub use members::{Lease, Member, Members};
pub use name::{Name, NameError};
pub use outcome::{Counts, Outcome, Runs};
pub use policy::{
    AbandonedCalls, LatencyRecording, OnStoreFailure, Policy, PolicyBuilder, PolicyError, Rules,
};
pub use request::{
    Acquire, Command, Control, Grant, Head, Kind, Memory, Permission, Release, Report, Settled,
};
pub use snapshot::Snapshot;
pub use state::{Reason, State};
