//! What a test and its processes say to each other: one JSON value a line, over stdin and stdout.

use std::{
    ops::AddAssign,
    time::{SystemTime, UNIX_EPOCH},
};

use commontrip::{Policy, State};
use serde::{Deserialize, Serialize};

use crate::histories::record::{Load, Record, Tick};

/// Present in the environment of a process that is to be a replica.
pub const ROLE: &str = "COMMONTRIP_TEST_CHILD";

/// What a process begins with.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Setup {
    pub redis: String,
    /// How often the service has this circuit's breaker in one process: registries, each a replica of its own.
    pub registries: usize,
    pub circuits: Vec<(String, Policy)>,
    /// The port where probes call.
    pub upstream: u16,
    /// Long when it is not given: Redis is slow then only because the machine is.
    pub store_timeout_ms: Option<u64>,
    /// What to start processes with, such as `ip netns exec x`; they take turns with these.
    pub started_with: Vec<Vec<String>>,
    /// Present when its calls are recorded (`histories::replica`).
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
    /// Makes calls one after another, from one registry, on the first circuit.
    Call {
        registry: usize,
        verdict: Verdict,
        times: u64,
    },
    /// Asks for one permit on the first circuit and keeps it.
    Hold,
    /// Ends the call whose permit was kept.
    Settle(Verdict),
    Flush,
    /// Calls on all circuits without end, so many in 100 of them failures.
    Serve {
        failures: u8,
    },
    /// Calls on all circuits of the first registry from several threads, and times each call; those of the circuits named
    /// fail. Tells what was measured since the same order before.
    Drive {
        failing: Vec<usize>,
    },
    /// Tells how all circuits are seen.
    Look,
    /// Ends the calls and shuts down in good order.
    Stop,
}

/// The answer to any order.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    pub admitted: u64,
    pub rejected: u64,
    pub views: Vec<View>,
    /// What was done so far, by circuit.
    pub totals: Vec<Totals>,
    /// Redis answers, and has all reports that were sent.
    pub in_touch: bool,
    /// The store is held to be away.
    pub away: bool,
    /// How often the store was away.
    pub times_away: u64,
    /// Its last error, in words.
    pub last_error: Option<String>,
    pub measured: Measured,
    /// The process' clock.
    pub unix_ms: u64,
}

/// What calls of several threads were told, and how long the breaker took over them.
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
    /// Anything else: there is no reason for it.
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

/// How long calls took, without the time for which the machine did not run them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Times {
    pub calls: u64,
    pub p50_ns: u64,
    pub p999_ns: u64,
    /// All that took longer than [`LONG_NS`].
    pub long_ns: Vec<u64>,
}

impl Times {
    /// Adds calls; the percentiles stay.
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
    /// What the last call was told.
    pub rejects: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub successes: u64,
    pub failures: u64,
    pub ignored: u64,
    pub not_permitted: u64,
}

/// A change of what calls are told.
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

/// Wall clock, as Redis has it: they run on one machine, or so close that milliseconds agree.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("the clock is past 1970").as_millis() as u64
}
