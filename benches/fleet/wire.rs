//! The messages between the bench and its processes, one JSON value on each line, and the logs that
//! replicas keep.
//!
//! Times are microseconds of `CLOCK_MONOTONIC`, which all processes of a machine share.

use std::time::{SystemTime, UNIX_EPOCH};

use commontrip::{Policy, State};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Set in the environment of a process that should be a worker.
pub const ROLE: &str = "COMMONTRIP_BENCH_REPLICA";

/// The replicas of one process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setup {
    pub redis: String,
    pub circuit: String,
    pub policy: Policy,
    /// The numbers of its replicas in the fleet.
    pub replicas: std::ops::Range<usize>,
    /// Calls a second of each replica.
    pub rate: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    /// The upstream dies, or recovers.
    Dead(bool),
    /// Return each replica's view of the circuit.
    Look,
    /// Return the logs since the last time.
    Take,
    /// Shut down cleanly.
    Stop,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Done,
    Views(Vec<View>),
    Logs(Vec<Log>),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct View {
    pub state: State,
    pub push: bool,
    pub away: bool,
    pub times_unavailable: u64,
    pub last_error: Option<String>,
}

/// What one replica did and saw.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Log {
    pub calls: Vec<Call>,
    pub seen: Vec<Seen>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Call {
    /// How late the machine was in starting the call.
    pub late_us: u64,
    /// How long the breaker took to decide.
    pub decision_us: u64,
    /// When the call was at the upstream; if it was rejected, the moment of the decision.
    pub begun_us: u64,
    pub ended_us: u64,
    pub end: End,
    pub probe: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    Succeeded,
    Failed,
    Rejected,
}

/// A change of the state by which a replica decides.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Seen {
    pub at_us: u64,
    pub state: State,
}

pub fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000
}

/// How far Unix time is ahead of [`now_us`].
pub fn unix_ahead_us() -> u64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH);
    unix.expect("the clock is past 1970").as_micros() as u64 - now_us()
}
