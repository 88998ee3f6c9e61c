//! The rules that a recorded history must keep.
//!
//! Owns only the judgement: a pure function from a [`History`] to its violations. What is not
//! certain is not a violation: a probe is held from its answer until its settlement begins or its
//! lease ends; a transition may have happened [`MARGIN_NS`] before the time of its event. If Redis
//! was emptied, events start again, and everything before the last loss is judged less strictly
//! (see each rule).

use std::collections::{BTreeMap, HashMap};

use commontrip::{Reason, State};

use super::record::{Got, Record, Sight, What};
use crate::processes::wire::Totals;

/// Redis truncates its clock to milliseconds, and the two clocks may drift apart.
pub const MARGIN_NS: u64 = 5_000_000;

/// All observations of a run.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub circuits: Vec<Circuit>,
    /// The records of each process, in its order.
    pub lives: Vec<Past>,
}

#[derive(Clone, Debug, Default)]
pub struct Past {
    pub records: Vec<Record>,
    pub killed: bool,
}

impl Past {
    /// The records that concern one circuit.
    pub fn of_circuit(&self, index: usize) -> Past {
        let records = self.records.iter().filter(|r| r.circuit == index);
        Past {
            records: records.copied().collect(),
            killed: self.killed,
        }
    }
}

/// A circuit in Redis, and what its policy permits.
#[derive(Clone, Debug, Default)]
pub struct Circuit {
    pub permitted: usize,
    pub lease_ns: u64,
    pub events: Vec<Happened>,
    /// When Redis lost all data: from, to.
    pub emptied: Vec<(u64, u64)>,
    /// Lifetime totals at the end; `None` if they are judged in another way.
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
    /// More probes were in flight at once than are permitted.
    TooManyProbes {
        circuit: usize,
        at_ns: u64,
        out: usize,
    },
    /// A permit or a rejection that no generation in force at the time allows.
    WrongAnswer {
        circuit: usize,
        life: usize,
        call: u64,
        got: Got,
        generations: (u64, u64),
    },
    /// An event does not follow from the previous one.
    BrokenChain { circuit: usize, event: Happened },
    /// A process saw a generation that has no event, or an event with another state.
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
    /// A total does not match the calls: name, counted, least, most.
    WrongTotal(usize, &'static str, u64, u64, u64),
}

/// All violations in a history.
pub fn violations(history: &History) -> Vec<Violation> {
    let mut lives = history.lives.clone();
    for past in &mut lives {
        // A value that was read first may be recorded later.
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

/// The maximum number of shared probes that were certainly in flight at once, and when.
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
                    // The lease does not begin before the request.
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

/// The fleet never has more probes in flight than permitted.
fn probes(index: usize, circuit: &Circuit, lives: &[Past]) -> Option<Violation> {
    let (out, at_ns) = most_probes(circuit, lives);
    (out > circuit.permitted).then_some(Violation::TooManyProbes {
        circuit: index,
        at_ns,
        out,
    })
}

/// One event for each transition, which follows from the previous one. After a loss, a replica's
/// memory may start at any generation.
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

/// When a process knows of the present record. It learns of a loss when its next report is
/// answered. If its second confirmation covers calls that the first one does not, that report was
/// sent between the two.
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

/// The states of the generations in the present record.
fn states(circuit: &Circuit) -> BTreeMap<u64, Happened> {
    let since = record_since(circuit);
    let kept = circuit.events.iter();
    let kept = kept.filter(|event| event.at_ns + MARGIN_NS >= since);
    kept.map(|event| (event.generation, *event)).collect()
}

/// A plain permit needs a generation that admits, a probe a half-open one, a rejection one that
/// does not admit. Any generation counts from the newest that the process knew before it asked to
/// the newest at the time of the answer.
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
                        // Before the present record began, this is not known. Afterwards there is
                        // no such generation.
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

/// The maximum time for which a process shows a publication before an answer confirms or
/// contradicts it.
const UNCONFIRMED_NS: u64 = 500_000_000;

/// Each state that a process sees of the shared circuit has an event, and generations never
/// decrease.
fn sights(index: usize, circuit: &Circuit, life: usize, past: &Past) -> Vec<Violation> {
    let states = states(circuit);
    let since = judged_since(circuit, past);
    let begins = match circuit.emptied.is_empty() {
        true => 1,
        // Generations that a memory carried over the loss have no event.
        false => states.keys().next().copied().unwrap_or(u64::MAX),
    };
    let mut wrong = Vec::new();
    let (mut newest, mut newest_since) = (0, 0);
    for seen in past.records.iter().filter(|r| r.sight.shared) {
        let (at_ns, seen) = (seen.at_ns, seen.sight);
        // Redis may lose a transition right after its publication; then no answer has it.
        let published_only = circuit.emptied.iter().any(|&(_, emptied)| {
            (newest_since..newest_since + UNCONFIRMED_NS).contains(&emptied) && emptied < at_ns
        });
        if seen.generation < newest && published_only {
            newest = seen.generation;
        }
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
        if seen.generation > newest {
            (newest, newest_since) = (seen.generation, at_ns);
        }
    }
    wrong
}

type Part = fn(&Totals) -> u64;

const PARTS: [(&str, Part); 4] = [
    ("successes", |totals| totals.successes),
    ("failures", |totals| totals.failures),
    ("ignored", |totals| totals.ignored),
    ("rejected", |totals| totals.rejected),
];

/// Every outcome is counted once. For a killed process, the total is between the confirmed and the
/// recorded outcomes.
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

/// The minimum and maximum of one process' outcomes that are counted.
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
                did.rejected += u64::from(got == Got::Rejected);
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
    // A call without an answer may have been rejected. A probe given to it may be released at once
    // as well.
    did.rejected += unanswered;
    did.ignored += unanswered;
    (confirmed, did)
}
