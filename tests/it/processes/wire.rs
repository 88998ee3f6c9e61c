//! Messages between a test and its processes: one JSON value on each line, over stdin and stdout.

use std::{
    ops::AddAssign,
    time::{SystemTime, UNIX_EPOCH},
};

use commontrip::{Policy, State};
use serde::{Deserialize, Serialize};

use crate::histories::record::{Load, Record, Tick};

/// Set in the environment of a process that should be a replica.
pub const ROLE: &str = "COMMONTRIP_TEST_CHILD";

/// The settings of a process.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Setup {
    pub redis: String,
    /// How many registries a process has; each is a separate replica with its own breakers.
    pub registries: usize,
    pub circuits: Vec<(String, Policy)>,
    /// The port that probes call.
    pub upstream: u16,
    /// Long by default, because Redis is slow only if the machine is.
    pub store_timeout_ms: Option<u64>,
    /// Command prefixes to start processes with, such as `ip netns exec x`; processes use them in
    /// turn.
    pub started_with: Vec<Vec<String>>,
    /// Set if its calls are recorded (`histories::replica`).
    pub load: Option<Load>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Success,
    Failure,
    Trip,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    Setup(Setup),
    /// Makes sequential calls from one registry on the first circuit.
    Call {
        registry: usize,
        verdict: Verdict,
        times: u64,
    },
    /// Requests one permit on the first circuit and keeps it.
    Hold,
    /// Ends the call of the kept permit.
    Settle(Verdict),
    Flush,
    /// Makes calls on all circuits without end, of which this many in 100 fail.
    Serve {
        failures: u8,
    },
    /// Makes timed calls on all circuits of the first registry from several threads; those of the
    /// listed circuits fail. Returns the measurements since the previous such order.
    Drive {
        failing: Vec<usize>,
    },
    /// Returns the views of all circuits.
    Look,
    /// Ends the calls and shuts down cleanly.
    Stop,
}

/// The answer to any order.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    pub admitted: u64,
    pub rejected: u64,
    pub views: Vec<View>,
    /// Totals so far, by circuit.
    pub totals: Vec<Totals>,
    /// Redis answers, and has all reports so far.
    pub in_touch: bool,
    /// The store is considered unavailable.
    pub away: bool,
    /// How often the store was unavailable.
    pub times_unavailable: u64,
    /// Its last error, as text.
    pub last_error: Option<String>,
    pub measured: Measured,
    /// The process' clock.
    pub unix_ms: u64,
}

/// How calls of several threads ended, and the time that the breaker took.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Measured {
    /// By circuit.
    pub told: Vec<Told>,
    pub breaker: Times,
    /// The same calls through a circuit that has no Redis.
    pub control: Times,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Told {
    pub ok: u64,
    pub failed: u64,
    pub rejected: u64,
    /// Any other result, for which there is no reason.
    pub other: u64,
}

impl AddAssign for Told {
    fn add_assign(&mut self, other: Told) {
        self.ok += other.ok;
        self.failed += other.failed;
        self.rejected += other.rejected;
        self.other += other.other;
    }
}

/// Durations of calls, without the time for which their thread was not scheduled.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Times {
    pub calls: u64,
    pub p50_ns: u64,
    pub p999_ns: u64,
    /// All durations above [`LONG_NS`].
    pub long_ns: Vec<u64>,
}

impl Times {
    /// Adds calls; the percentiles do not change.
    pub fn add(&mut self, more: Times) {
        self.calls += more.calls;
        self.long_ns.extend(more.long_ns);
    }
}

pub const LONG_NS: u64 = 50_000;

/// A circuit as one registry sees it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct View {
    pub state: State,
    pub generation: u64,
    /// Whether the last call was rejected.
    pub rejects: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub successes: u64,
    pub failures: u64,
    pub ignored: u64,
    pub rejected: u64,
}

/// A change of whether calls are rejected.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Seen {
    pub registry: usize,
    pub circuit: usize,
    pub generation: u64,
    pub rejects: bool,
    pub at_ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    Answer(Answer),
    Seen(Seen),
    Did(Record),
    Tick(Tick),
}

/// The wall clock, which Redis shares: both run on one machine, or on machines that agree to the
/// millisecond.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("the clock is past 1970").as_millis() as u64
}
