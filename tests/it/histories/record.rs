//! The records of a process, and the orders it receives.
//!
//! Times are `CLOCK_MONOTONIC`, which all processes of a machine share, so times of two processes
//! can be compared.

use std::time::{SystemTime, UNIX_EPOCH};

use commontrip::State;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::processes::wire::Totals;

/// The machine's monotonic clock.
pub fn now_ns() -> u64 {
    let t = clock_gettime(ClockId::Monotonic);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// How far the wall clock, which Redis uses, is ahead of the monotonic one now.
pub fn unix_ahead_ns() -> u64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH);
    let unix = unix.expect("the clock is past 1970").as_nanos() as u64;
    unix - now_ns()
}

/// How a process uses its circuits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Load {
    pub store_timeout_ms: u64,
    /// Callers of each circuit.
    pub workers: usize,
    /// The longest pause between two calls of one caller.
    pub pause_ms: u64,
    /// Calls in 100 that are dropped without an outcome.
    pub dropped: u8,
    /// Every call is recorded; otherwise only probes and changes of the view.
    pub detail: bool,
    /// How often the confirmed totals are recorded.
    pub tick_ms: u64,
    pub weather: Weather,
}

/// When the service behind each circuit fails: the same for all processes, and for the same seed.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Weather {
    pub seed: u64,
    pub since_ns: u64,
    /// From then on the service is healthy.
    pub until_ns: u64,
    pub slot_ms: u64,
    /// Slots in 100 in which it fails.
    pub bad: u8,
    /// Calls in 100 that fail in the other slots.
    pub failures: u8,
}

impl Weather {
    pub fn is_bad(&self, circuit: usize, at_ns: u64) -> bool {
        let slot = at_ns.saturating_sub(self.since_ns) / (self.slot_ms * 1_000_000);
        let seed = self.seed ^ (slot << 8) ^ circuit as u64;
        at_ns < self.until_ns && fastrand::Rng::with_seed(seed).u8(..100) < self.bad
    }

    pub fn fails(&self, circuit: usize, at_ns: u64) -> bool {
        self.is_bad(circuit, at_ns) || at_ns < self.until_ns && fastrand::u8(..100) < self.failures
    }
}

/// A circuit as a process saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sight {
    pub generation: u64,
    pub state: State,
    /// It is certainly the shared circuit, not this replica's local one.
    pub shared: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Got {
    Plain,
    Probe,
    Rejected,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    Success,
    Failure,
    Ignored,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// A permit is requested; the number identifies the call in its process.
    Asked(u64),
    /// The answer, and whether it may come from the local circuit.
    Answered { call: u64, got: Got, local: bool },
    /// The call is about to be settled with this outcome.
    Settles(u64, End),
    /// The circuit was only read.
    Looked,
    /// Everything up to some earlier moment has reached the store.
    Confirmed(Totals),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub at_ns: u64,
    pub circuit: usize,
    pub sight: Sight,
    pub what: What,
}

/// The state of a process, recorded periodically.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tick {
    pub at_ns: u64,
    pub did: Vec<Totals>,
    /// The part of it that has certainly reached the store.
    pub confirmed: Vec<Totals>,
    pub calls: u64,
    /// Calls that failed for a reason that is neither theirs nor the circuit's.
    pub wronged: u64,
    /// The longest run of failed calls on one circuit that no rejection ended.
    pub unprotected: u64,
    /// The longest time that the breaker added to one call.
    pub worst_added_ns: u64,
    /// Calls to which it added more than `store_timeout` and 50 ms.
    pub added_50: u64,
    /// Calls to which it added more than `store_timeout` and 500 ms, beyond the machine's own
    /// delays.
    pub held_up: u64,
    /// The longest delay of this process' timer.
    pub worst_stall_ns: u64,
    pub times_unavailable: u64,
}
