//! What the show reports: one fact at a time, as text or as a line of JSON.
//!
//! Times named `at_s` are seconds since the show began; `_ms` are whole milliseconds, so 0 means
//! "less than one".

use std::collections::BTreeMap;

use commontrip::{Reason, State};
use serde::Serialize;

use super::replica::Calls;

/// The values of `kind` with `--json`, for `--help`.
pub const KINDS: &str = "\
With --json each line is one object; its `kind` is one of
  start       the circuit, the store, the policy, and every replica with its pid
  serving     with --serve, where the dashboard is, and the token that commands need, or null
              where COMMONTRIP_ADMIN_TOKEN has it
  upstream    the upstream begins to fail or is well again
  transition  the circuit changed: from, to, reason, by whom, window counts
  spread      how many ms after a trip or close each replica knew
  probe       one probe as the upstream saw it: by whom, result, how many were out
  tick        calls of the fleet and of each replica since the tick before
  note        something that a reader should know
  replica     one replica's totals, at the end
  verdict     the promises, kept or broken, and the measured numbers
Times: at_s in seconds since the start, _ms in milliseconds.";

#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fact {
    Start(Start),
    Serving {
        url: String,
        token: Option<String>,
    },
    Upstream {
        at_s: f64,
        failing: bool,
        error_percent: u64,
    },
    Transition(Change),
    Spread(Spread),
    Probe(Probe),
    Tick(Tick),
    Note {
        at_s: f64,
        text: String,
    },
    Replica(Total),
    Verdict(Verdict),
}

#[derive(Clone, Debug, Serialize)]
pub struct Start {
    pub circuit: String,
    /// `embedded` or the URL without its password.
    pub store: String,
    /// The prefix of the keys in that Redis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    pub upstream: String,
    pub seed: u64,
    pub seconds: f64,
    pub failure_rate_threshold: u64,
    pub window_ms: u64,
    pub wait_ms: u64,
    pub probes_allowed: u64,
    pub success_threshold: u64,
    pub replicas: Vec<Member>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Member {
    pub replica: String,
    pub pid: u32,
}

#[derive(Clone, Debug, Serialize)]
pub struct Change {
    pub at_s: f64,
    pub generation: u64,
    pub from: State,
    pub to: State,
    pub reason: Reason,
    pub by: String,
    /// Calls and failures in the window at that moment.
    pub calls: u64,
    pub failures: u64,
    /// The maximum duration of the new state; 0 = no limit.
    pub wait_ms: u64,
    pub consecutive_opens: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Spread {
    pub at_s: f64,
    pub generation: u64,
    pub to: State,
    pub by: String,
    pub after_ms: BTreeMap<String, u64>,
    pub missing: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Probe {
    pub at_s: f64,
    pub replica: String,
    pub ok: bool,
    pub took_ms: u64,
    /// Probes in flight at the upstream when this one had arrived.
    pub out: usize,
    /// Whether the answer came after the other probes had decided.
    pub late: bool,
    /// Whether the circuit was open, so that a replica without the store sent the probe by its own
    /// decision.
    pub alone: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct Tick {
    pub at_s: f64,
    #[serde(flatten)]
    pub fleet: Calls,
    pub replicas: BTreeMap<String, Calls>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Total {
    pub replica: String,
    pub pid: u32,
    #[serde(flatten)]
    pub calls: Calls,
    pub probes: u64,
    /// Delay after the first trip; `None` if the replica never learned of it.
    pub knew_after_ms: Option<u64>,
    pub first_rejection_after_ms: Option<u64>,
    /// `None` if the replica ended before the show did.
    pub state: Option<State>,
    pub times_unavailable: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    pub kept: bool,
    pub promises: Vec<Promise>,
    pub replicas: usize,
    #[serde(flatten)]
    pub calls: Calls,
    pub tripped_at_s: Option<f64>,
    /// From the first trip until the last replica knew of it.
    pub spread_ms: Option<u64>,
    pub probes: u64,
    pub probes_most: u64,
    pub probes_allowed: u64,
    /// Calls by replicas that did not know of the trip yet.
    pub reached_after_trip: u64,
    /// From the recovery of the upstream to the closing of the circuit.
    pub recovery_ms: Option<u64>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Promise {
    /// `trip_seen`, `probe_limit` or `closed`.
    pub promise: &'static str,
    pub kept: bool,
    pub text: String,
}
