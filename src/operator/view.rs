//! Circuits as an operator sees them, and as they appear in JSON.
//!
//! Owns the order (worst first) and the values computed from a snapshot; knows no transport.

use std::{cmp::Ordering, collections::BTreeMap};

use serde::{Serialize, Serializer};

use super::{in_code, settings};
use crate::{
    Event, Name, Rules, Snapshot, State,
    model::{Interval, Lease, Member, Members},
};

/// A circuit as an operator sees it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::operator::Operator;
///
/// # payments.reset().await?;
/// let mut views = Operator::of(&circuits).circuits(0).await?;
/// views.sort_by(|one, other| one.worst_first(other));
/// for view in views {
///     println!("{}: {}, failure rate {:?} %", view.name, view.snapshot.state, view.failure_rate);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct View {
    /// The circuit's name.
    #[serde(serialize_with = "name_as_text")]
    pub name: Name,
    /// The circuit's snapshot.
    #[serde(flatten)]
    pub snapshot: Snapshot,
    /// Failures among the recorded calls of the window, percent; `None` without calls.
    pub failure_rate: Option<f64>,
    /// Slow calls among them, percent.
    pub slow_rate: Option<f64>,
    /// Time until the state expires, ms, as of `now_ms`; 0 if it does not expire.
    pub left_ms: u64,
    /// Counts of its past, oldest first; as many slices as were requested.
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

    /// Orders circuits that need attention first: by state, then failure rate, then name.
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

/// Settings by key; the keys are those of [`Rules`].
pub type Settings = BTreeMap<String, u64>;

/// The policies of a circuit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Policies {
    /// The policy in code, as replicas last reported it; the defaults before the first report.
    pub code: Settings,
    /// The settings stored with the circuit, which win.
    pub stored: Settings,
    /// The policy in force.
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

/// A circuit with its policies, probes, replicas and events.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::operator::Operator;
///
/// # payments.reset().await?;
/// let details = Operator::of(&circuits).details("payments").await?;
/// println!("{details:?}");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Details {
    /// The circuit, with the counts of its past hour.
    pub circuit: View,
    /// The circuit's policies.
    pub policy: Policies,
    /// Outstanding probe permits, the first to expire first.
    pub probes: Vec<Lease>,
    /// Replicas that reported within the last hour, the most recent first.
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
