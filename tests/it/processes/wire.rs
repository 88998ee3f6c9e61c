//! What a test and its processes say to each other: one JSON value a line, over stdin and stdout.

use std::time::{SystemTime, UNIX_EPOCH};

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
    /// How often the store was away.
    pub times_away: u64,
    /// The store is away now.
    pub away: bool,
    /// Of the store, in words.
    pub last_error: Option<String>,
}

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
