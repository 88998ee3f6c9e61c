//! Circuits as an operator sees them, and as they are written in JSON.
//!
//! Owns the order (worst first) and what is computed from a snapshot; knows no transport.

use std::{cmp::Ordering, collections::BTreeMap};

use serde::{Serialize, Serializer};

use super::{in_code, settings};
use crate::{
    Event, Name, Rules, Snapshot, State,
    model::{Interval, Lease, Member, Members},
};

/// A circuit.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct View {
    /// Its name.
    #[serde(serialize_with = "name_as_text")]
    pub name: Name,
    /// The circuit itself.
    #[serde(flatten)]
    pub snapshot: Snapshot,
    /// Failures among the recorded calls of the window, percent; `None` without calls.
    pub failure_rate: Option<f64>,
    /// Slow calls among them, percent.
    pub slow_rate: Option<f64>,
    /// Until the state ends by itself, ms, as of `now_ms`; 0 when it does not.
    pub left_ms: u64,
    /// What was reported in its past, oldest first; as much as was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Interval>,
}

fn name_as_text<S: Serializer>(name: &Name, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name.as_str())
}

impl View {
    pub(super) fn new(name: &Name, snapshot: Snapshot, history: Vec<Interval>) -> Self {
        Self {
            name: name.clone(),
            failure_rate: snapshot.failure_rate(),
            slow_rate: snapshot.slow_rate(),
            left_ms: snapshot.left_ms(),
            snapshot,
            history,
        }
    }

    /// What needs somebody's eyes before what does not: the state, then the failure rate, then names.
    #[must_use]
    pub fn worst_first(&self, other: &Self) -> Ordering {
        let badness = |view: &Self| match view.snapshot.state {
            State::Open => 0,
            State::HalfOpen => 1,
            State::ForcedOpen => 2,
            State::Disabled => 3,
            State::MetricsOnly => 4,
            State::Closed => 5,
        };
        let rate = |view: &Self| view.failure_rate.unwrap_or(-1.0);
        badness(self)
            .cmp(&badness(other))
            .then_with(|| rate(other).total_cmp(&rate(self)))
            .then_with(|| self.name.cmp(&other.name))
    }
}

/// Settings by their keys, those of [`Rules`].
pub type Settings = BTreeMap<String, u64>;

/// The policies of a circuit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Policies {
    /// The one in code, as replicas last reported it; the defaults before they did.
    pub code: Settings,
    /// What is stored with the circuit and wins.
    pub stored: Settings,
    /// What holds.
    pub in_force: Settings,
}

impl Policies {
    pub(super) fn of(seen: &Snapshot) -> Self {
        let code = *in_code(seen).rules();
        let in_force = code.with(&seen.policy);
        let pairs = seen.policy.split_whitespace();
        let pairs = pairs.filter_map(|pair| pair.split_once('='));
        let known = pairs.filter(|(key, _)| Rules::KEYS.contains(key));
        let stored = known.filter_map(|(key, n)| Some((key.to_owned(), n.parse().ok()?)));
        Self {
            code: settings(code.pairs()),
            stored: stored.collect(),
            in_force: settings(in_force.pairs()),
        }
    }
}

/// Everything that there is to know about a circuit.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Details {
    /// The circuit, with all that is kept of its past.
    pub circuit: View,
    /// Its policies.
    pub policy: Policies,
    /// Probe permits that are out, the soonest to end first.
    pub probes: Vec<Lease>,
    /// Replicas that have reported within the last hour, the last one first.
    pub replicas: Vec<Member>,
    /// Transitions and operators' commands, oldest first, at most 256.
    pub events: Vec<Event>,
}

impl Details {
    pub(super) fn new(circuit: View, members: Members, events: Vec<Event>) -> Self {
        Self {
            policy: Policies::of(&circuit.snapshot),
            circuit,
            probes: members.probes,
            replicas: members.replicas,
            events,
        }
    }
}
