//! The rules that a recorded history must keep.
//!
//! Owns the judgement and nothing else: a pure function from a [`History`] to its violations. What cannot be known for
//! certain is no violation: a probe is held from its answer until its settling begins, or its lease is over; a transition
//! may have happened [`MARGIN_NS`] before the time that its event has.
//! Where Redis was emptied, events begin anew; what lies before the last time is judged less (see each rule).

use std::collections::{BTreeMap, HashMap};

use commontrip::{Reason, State};

use super::record::{Got, Record, Sight, What};
use crate::processes::wire::Totals;

/// Redis cuts its clock to milliseconds, and the two clocks may be slewed against each other.
pub const MARGIN_NS: u64 = 5_000_000;

/// All that is known of a run.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub circuits: Vec<Circuit>,
    /// What each process said, in its order.
    pub lives: Vec<Past>,
}

#[derive(Clone, Debug, Default)]
pub struct Past {
    pub records: Vec<Record>,
    pub killed: bool,
}

impl Past {
    /// What of it concerns one circuit.
    pub fn of_circuit(&self, index: usize) -> Past {
        let records = self.records.iter().filter(|r| r.circuit == index);
        Past {
            records: records.copied().collect(),
            killed: self.killed,
        }
    }
}

/// What Redis has of a circuit, and what its policy permits.
#[derive(Clone, Debug, Default)]
pub struct Circuit {
    pub permitted: usize,
    pub lease_ns: u64,
    pub events: Vec<Happened>,
    /// When Redis lost everything: from, to.
    pub emptied: Vec<(u64, u64)>,
    /// Lifetime totals at the end; `None` where they are judged by other means.
    pub counted: Option<Totals>,
}

/// A transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Happened {
    pub at_ns: u64,
    pub generation: u64,
    pub from: State,
    pub to: State,
    pub reason: Reason,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// More probes were out at once than are permitted.
    TooManyProbes {
        circuit: usize,
        at_ns: u64,
        out: usize,
    },
    /// A permit or a rejection that no generation which could have been in force allows.
    WrongAnswer {
        circuit: usize,
        life: usize,
        call: u64,
        got: Got,
        generations: (u64, u64),
    },
    /// An event does not follow from the one before.
    BrokenChain { circuit: usize, event: Happened },
    /// A generation was seen that has no event, or one of another state.
    NoSuchGeneration {
        circuit: usize,
        life: usize,
        seen: Sight,
    },
    /// A process went back to an older generation.
    WentBack {
        circuit: usize,
        life: usize,
        from: u64,
        to: u64,
    },
    /// A total is not what was done: what, counted, least, most.
    WrongTotal(usize, &'static str, u64, u64, u64),
}

/// Everything that is wrong with a history.
pub fn violations(history: &History) -> Vec<Violation> {
    let mut lives = history.lives.clone();
    for past in &mut lives {
        // What was read first may be said later.
        past.records.sort_by_key(|record| record.at_ns);
    }
    let mut found = Vec::new();
    for (index, circuit) in history.circuits.iter().enumerate() {
        let lives: Vec<_> = lives.iter().map(|past| past.of_circuit(index)).collect();
        found.extend(probes(index, circuit, &lives));
        found.extend(chain(index, circuit));
        for (life, past) in lives.iter().enumerate() {
            found.extend(answers(index, circuit, life, past));
            found.extend(sights(index, circuit, life, past));
        }
        found.extend(totals(index, circuit, &lives));
    }
    found
}

/// Most shared probes that were certainly out at once, and when.
pub fn most_probes(circuit: &Circuit, lives: &[Past]) -> (usize, u64) {
    let mut edges = Vec::new();
    for past in lives {
        let mut asked = HashMap::new();
        let mut held: HashMap<u64, (u64, u64)> = HashMap::new();
        for record in &past.records {
            match record.what {
                What::Asked(call) => {
                    asked.insert(call, record.at_ns);
                }
                What::Answered {
                    call,
                    got: Got::Probe,
                    local: false,
                } => {
                    // The lease does not begin before it was asked for.
                    let since = asked.get(&call).copied().unwrap_or(record.at_ns);
                    let over = (since + circuit.lease_ns).saturating_sub(MARGIN_NS);
                    held.insert(call, (record.at_ns, over));
                }
                What::Settles(call, _) => {
                    if let Some((_, over)) = held.get_mut(&call) {
                        *over = record.at_ns.min(*over);
                    }
                }
                _ => {}
            }
        }
        let certain = held.into_values().filter(|(from, to)| from < to);
        edges.extend(certain.flat_map(|(from, to)| [(from, 1), (to, -1)]));
    }
    // At the same moment, ends come first.
    edges.sort_unstable();
    let (mut out, mut most) = (0_i64, (0, 0));
    for (at_ns, step) in edges {
        out += step;
        most = most.max((out as usize, at_ns));
    }
    most
}

/// Never more probes out at once than are permitted, over the whole fleet.
fn probes(index: usize, circuit: &Circuit, lives: &[Past]) -> Option<Violation> {
    let (out, at_ns) = most_probes(circuit, lives);
    (out > circuit.permitted).then_some(Violation::TooManyProbes {
        circuit: index,
        at_ns,
        out,
    })
}

/// One event a transition: each follows from the one before. Over a loss a replica's memory may begin anywhere.
fn chain(index: usize, circuit: &Circuit) -> Vec<Violation> {
    let first = Happened {
        at_ns: 0,
        generation: 0,
        from: State::Closed,
        to: State::Closed,
        reason: Reason::Created,
    };
    let mut before = first;
    let mut broken = Vec::new();
    for event in &circuit.events {
        let lost =
            |(from, to): &(u64, u64)| before.at_ns <= *to && *from <= event.at_ns + MARGIN_NS;
        let lossy = circuit.emptied.iter().any(lost);
        let next = event.generation == before.generation + 1 && event.from == before.to;
        let adopted = event.reason == Reason::Adopted && event.generation > before.generation;
        let legal = matches!(
            (event.from, event.to),
            (State::Closed | State::HalfOpen, State::Open)
                | (State::Open, State::HalfOpen)
                | (State::HalfOpen, State::Closed)
        );
        let legal = legal || event.reason == Reason::Adopted && !circuit.emptied.is_empty();
        let jumps = !circuit.emptied.is_empty() && adopted;
        if !(lossy || jumps || next && legal) {
            broken.push(Violation::BrokenChain {
                circuit: index,
                event: *event,
            });
        }
        before = *event;
    }
    broken
}

/// When the present record of events began.
fn record_since(circuit: &Circuit) -> u64 {
    circuit.emptied.iter().map(|(_, to)| *to).max().unwrap_or(0)
}

/// From when on a process knows of the present record: it does not learn of a loss before its next report is answered, and
/// of what it had done at its second confirmation and not at its first, the report left between the two.
fn judged_since(circuit: &Circuit, past: &Past) -> u64 {
    let since = record_since(circuit);
    if since == 0 {
        return 0;
    }
    let mut confirmed = past.records.iter().filter_map(|record| match record.what {
        What::Confirmed(totals) if record.at_ns > since => Some((record.at_ns, totals)),
        _ => None,
    });
    let Some((_, first)) = confirmed.next() else {
        return u64::MAX;
    };
    let second = confirmed.find(|(_, totals)| *totals != first);
    second.map_or(u64::MAX, |(at_ns, _)| at_ns)
}

/// The states of the generations that the present record has.
fn states(circuit: &Circuit) -> BTreeMap<u64, Happened> {
    let since = record_since(circuit);
    let kept = circuit.events.iter();
    let kept = kept.filter(|event| event.at_ns + MARGIN_NS >= since);
    kept.map(|event| (event.generation, *event)).collect()
}

/// A plain permit needs a generation that admits, a probe one that is half-open, a rejection one that does not admit:
/// any from the newest that the process knew before it asked to the newest that there was when it was answered.
fn answers(index: usize, circuit: &Circuit, life: usize, past: &Past) -> Vec<Violation> {
    let states = states(circuit);
    let since = judged_since(circuit, past);
    let lossy = !circuit.emptied.is_empty();
    let mut wrong = Vec::new();
    let mut newest = 0;
    let mut asked = HashMap::new();
    for record in &past.records {
        if record.sight.shared && record.at_ns > since {
            newest = newest.max(record.sight.generation);
        }
        match record.what {
            What::Asked(call) => {
                asked.insert(call, (record.at_ns, newest));
            }
            What::Answered {
                call,
                got,
                local: false,
            } => {
                let Some((asked_ns, floor)) = asked.remove(&call) else {
                    continue;
                };
                let there = |event: &&Happened| event.at_ns <= record.at_ns + MARGIN_NS;
                let newest = states.values().filter(there).map(|e| e.generation).max();
                let ceiling = newest.unwrap_or(0).max(floor);
                let allows = |generation: u64| {
                    let state = match states.get(&generation) {
                        Some(event) => event.to,
                        None if generation == 0 => State::Closed,
                        // Before the present record began: nobody knows. Else it is no generation.
                        None => return lossy,
                    };
                    match got {
                        Got::Plain => state.admits(),
                        Got::Probe => state == State::HalfOpen,
                        Got::Rejected => !state.admits(),
                    }
                };
                if asked_ns > since && !(floor..=ceiling).any(allows) {
                    wrong.push(Violation::WrongAnswer {
                        circuit: index,
                        life,
                        call,
                        got,
                        generations: (floor, ceiling),
                    });
                }
            }
            _ => {}
        }
    }
    wrong
}

/// What a process sees of the shared circuit has an event with that state, and never goes back.
fn sights(index: usize, circuit: &Circuit, life: usize, past: &Past) -> Vec<Violation> {
    let states = states(circuit);
    let since = judged_since(circuit, past);
    let begins = match circuit.emptied.is_empty() {
        true => 1,
        // What was remembered over the loss has no event.
        false => states.keys().next().copied().unwrap_or(u64::MAX),
    };
    let mut wrong = Vec::new();
    let mut newest = 0;
    for seen in past.records.iter().filter(|r| r.sight.shared) {
        let (at_ns, seen) = (seen.at_ns, seen.sight);
        if seen.generation < newest {
            wrong.push(Violation::WentBack {
                circuit: index,
                life,
                from: newest,
                to: seen.generation,
            });
        }
        if seen.generation > newest && at_ns > since && seen.generation >= begins {
            let event = states.get(&seen.generation);
            if event.is_none_or(|event| event.to != seen.state) {
                wrong.push(Violation::NoSuchGeneration {
                    circuit: index,
                    life,
                    seen,
                });
            }
        }
        newest = newest.max(seen.generation);
    }
    wrong
}

type Part = fn(&Totals) -> u64;

const PARTS: [(&str, Part); 4] = [
    ("successes", |totals| totals.successes),
    ("failures", |totals| totals.failures),
    ("ignored", |totals| totals.ignored),
    ("not_permitted", |totals| totals.not_permitted),
];

/// Everything that was done is counted, and once; what a killed process did, between what was confirmed and what it did.
fn totals(index: usize, circuit: &Circuit, lives: &[Past]) -> Vec<Violation> {
    let Some(counted) = circuit.counted else {
        return Vec::new();
    };
    let bounds: Vec<_> = lives.iter().map(bounds).collect();
    let mut wrong = Vec::new();
    for (what, part) in PARTS {
        let least = bounds.iter().map(|(least, _)| part(least)).sum();
        let most = bounds.iter().map(|(_, most)| part(most)).sum();
        let counted = part(&counted);
        if !(least..=most).contains(&counted) {
            wrong.push(Violation::WrongTotal(index, what, counted, least, most));
        }
    }
    wrong
}

/// What of one process' doing must be, and may be, counted.
fn bounds(past: &Past) -> (Totals, Totals) {
    use super::record::End;
    let mut did = Totals::default();
    let mut confirmed = Totals::default();
    let mut unanswered = 0;
    for record in &past.records {
        match record.what {
            What::Asked(_) => unanswered += 1,
            What::Answered { got, .. } => {
                unanswered -= 1;
                did.not_permitted += u64::from(got == Got::Rejected);
            }
            What::Settles(_, End::Success) => did.successes += 1,
            What::Settles(_, End::Failure) => did.failures += 1,
            What::Settles(_, End::Ignored) => did.ignored += 1,
            What::Confirmed(totals) => confirmed = totals,
            What::Looked => {}
        }
    }
    if !past.killed {
        return (did, did);
    }
    // A caller that heard no more may have been rejected. A probe given to it may be released at once as well.
    did.not_permitted += unanswered;
    did.ignored += unanswered;
    (confirmed, did)
}
