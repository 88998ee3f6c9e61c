//! Turns observations into facts: joins messages, transitions and calls.
//!
//! Owns the facts while the show runs; [`verdict`](super::verdict) judges them at the end. Does no
//! I/O and reads no clock: each observation brings its time, in Unix ms by this machine's clock,
//! exact to about 1 ms.

use std::collections::BTreeMap;

use commontrip::{Event, State};

use super::{
    facts::{Change, Fact, Probe, Spread, Tick},
    replica::{Calls, Said},
    upstream::Served,
};

/// A probe that was permitted before the circuit opened again arrives at most this much later. A
/// replica has sent a later one by its own decision.
const ON_ITS_WAY_MS: u64 = 100;

/// What is known of one replica.
#[derive(Debug, Default)]
pub struct Seen {
    /// Its name for people.
    pub name: String,
    /// Its name among the replicas that use the store.
    pub id: String,
    pub pid: u32,
    pub calls: Calls,
    pub ticked: Calls,
    /// Generation -> when the replica learned of it.
    pub knew: BTreeMap<u64, u64>,
    /// Generation -> when the replica first rejected a call.
    pub rejects: BTreeMap<u64, u64>,
    /// At its end: its state, and how often it lost the store.
    pub bye: Option<(State, u64)>,
    /// Why it last lost the store.
    pub last_error: Option<String>,
    pub gone: Option<String>,
}

/// One period in which the circuit was not closed.
#[derive(Clone, Copy, Debug)]
pub struct Outage {
    pub generation: u64,
    pub tripped_ms: u64,
    /// `u64::MAX` until it is over.
    pub closed_ms: u64,
}

/// A call's role for the circuit, judged by when it reached the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Normal,
    /// Made after the trip by a replica that did not know of it.
    Unaware,
    Probe,
}

pub struct Story {
    pub began_ms: u64,
    /// Add this to the store's time to get this machine's.
    pub store_lag_ms: i64,
    pub replicas: Vec<Seen>,
    pub events: Vec<Event>,
    pub outages: Vec<Outage>,
    pub served: Vec<Served>,
    pub healed_ms: Option<u64>,
    /// Generations whose spread is still to be reported.
    spreading: Vec<u64>,
    told_alone: bool,
}

impl Story {
    pub fn new(replicas: Vec<Seen>, store_lag_ms: i64) -> Self {
        Self {
            began_ms: 0,
            store_lag_ms,
            replicas,
            events: Vec::new(),
            outages: Vec::new(),
            served: Vec::new(),
            healed_ms: None,
            spreading: Vec::new(),
            told_alone: false,
        }
    }

    /// Seconds since the show began.
    pub fn at_s(&self, unix_ms: u64) -> f64 {
        unix_ms.saturating_sub(self.began_ms) as f64 / 1000.0
    }

    /// When a transition took place, by this machine's clock.
    pub fn when(&self, event: &Event) -> u64 {
        event.at_ms.saturating_add_signed(self.store_lag_ms)
    }

    pub fn transition(&mut self, event: &Event) -> Vec<Fact> {
        let at = self.when(event);
        let mut facts = Vec::new();
        match (event.from, event.to) {
            (State::Closed, State::Open) => self.outages.push(Outage {
                generation: event.generation,
                tripped_ms: at,
                closed_ms: u64::MAX,
            }),
            (_, State::Closed) => {
                if let Some(outage) = self.outages.last_mut() {
                    outage.closed_ms = outage.closed_ms.min(at);
                }
            }
            _ => {}
        }
        facts.extend(self.spread_of_all(at));
        if event.from == State::Closed || event.to == State::Closed {
            self.spreading.push(event.generation);
        }
        facts.push(Fact::Transition(Change {
            at_s: self.at_s(at),
            generation: event.generation,
            from: event.from,
            to: event.to,
            reason: event.reason,
            by: self.name_of(&event.by),
            calls: event.calls,
            failures: event.failures,
            wait_ms: event.until_ms.saturating_sub(event.at_ms),
            consecutive_opens: event.consecutive_opens,
        }));
        if self.replica(&event.by).is_none() {
            facts.push(Fact::Note {
                at_s: self.at_s(at),
                text: format!(
                    "{} is not of this show: somebody else uses this circuit",
                    event.by
                ),
            });
        }
        self.events.push(event.clone());
        facts.extend(self.spread_when_known(at));
        facts
    }

    pub fn said(&mut self, index: usize, said: Said, now_ms: u64) -> Vec<Fact> {
        let replica = &mut self.replicas[index];
        match said {
            Said::Ready { pid } => replica.pid = pid,
            Said::Knew { generation, at_ms } => {
                replica.knew.entry(generation).or_insert(at_ms);
            }
            Said::Rejects { generation, at_ms } => {
                replica.rejects.entry(generation).or_insert(at_ms);
                // A replica that rejects knows of the transition, even if its message arrives
                // later.
                let knew = replica.knew.entry(generation).or_insert(at_ms);
                *knew = at_ms.min(*knew);
            }
            Said::Counts(calls) => replica.calls = calls,
            Said::Bye {
                state,
                times_unavailable,
                last_error,
                ..
            } => {
                replica.bye = Some((state, times_unavailable));
                replica.last_error = last_error;
            }
            Said::Gone { how } => {
                let early = replica.bye.is_none();
                let text = format!("{} ended early: {how}", replica.name);
                replica.gone = Some(how);
                if early {
                    let at_s = self.at_s(now_ms);
                    return vec![Fact::Note { at_s, text }];
                }
            }
        }
        self.spread_when_known(now_ms)
    }

    pub fn served(&mut self, served: Served) -> Vec<Fact> {
        self.served.push(served);
        if self.role(&served) != Role::Probe {
            return Vec::new();
        }
        let mut facts = Vec::new();
        let mut before = self.events.iter().rev();
        let before = before.find(|e| self.when(e) <= served.arrived_ms);
        let alone = before.is_some_and(|e| {
            e.to == State::Open && served.arrived_ms - self.when(e) > ON_ITS_WAY_MS
        });
        let at_s = self.at_s(served.answered_ms);
        let replica = self.replicas[served.replica].name.clone();
        if alone && !std::mem::replace(&mut self.told_alone, true) {
            let text = format!(
                "{replica} makes calls although the circuit is open: it uses its local circuit, as others may"
            );
            facts.push(Fact::Note { at_s, text });
        }
        let decided = |e: &Event| {
            e.from == State::HalfOpen
                && (served.arrived_ms..served.answered_ms).contains(&self.when(e))
        };
        facts.push(Fact::Probe(Probe {
            at_s,
            replica,
            ok: served.ok,
            took_ms: served.answered_ms.saturating_sub(served.arrived_ms),
            out: served.in_flight,
            late: self.events.last().is_some_and(decided),
            alone,
        }));
        facts
    }

    pub fn tick(&mut self, now_ms: u64) -> Fact {
        let mut fleet = Calls::default();
        let mut replicas = BTreeMap::new();
        for replica in &mut self.replicas {
            let since = replica.calls.since(replica.ticked);
            replica.ticked = replica.calls;
            fleet = fleet.plus(since);
            replicas.insert(replica.name.clone(), since);
        }
        Fact::Tick(Tick {
            at_s: self.at_s(now_ms),
            fleet,
            replicas,
        })
    }

    /// Returns a call's role. A replica that reports a generation older than the trip's cannot have
    /// been given a probe: a probe's permit comes with the newer generation.
    pub fn role(&self, served: &Served) -> Role {
        let within = |o: &&Outage| (o.tripped_ms..o.closed_ms).contains(&served.arrived_ms);
        match self.outages.iter().find(within) {
            None => Role::Normal,
            Some(outage) if served.generation < outage.generation => Role::Unaware,
            Some(_) => Role::Probe,
        }
    }

    /// How long after a transition a replica knew of it or of a later one.
    pub fn knew_after(&self, replica: &Seen, event: &Event) -> Option<u64> {
        let at = replica.knew.range(event.generation..).map(|(_, at)| *at);
        Some(at.min()?.saturating_sub(self.when(event)))
    }

    /// Notes which replicas lost the store. The probe limit applies only to replicas that have it.
    pub fn unavailable_note(&self, now_ms: u64) -> Option<Fact> {
        let unavailable = |r: &&Seen| r.bye.is_some_and(|(_, times)| times > 0);
        let unavailable: Vec<_> = self.replicas.iter().filter(unavailable).collect();
        let why = unavailable
            .last()?
            .last_error
            .as_deref()
            .unwrap_or_default();
        let text = format!(
            "{} of {} replicas lost the store for a while and used their local circuits: {why}",
            unavailable.len(),
            self.replicas.len()
        );
        let at_s = self.at_s(now_ms);
        Some(Fact::Note { at_s, text })
    }

    fn name_of(&self, id: &str) -> String {
        let own = self.replica(id);
        own.map_or_else(|| id.to_owned(), |r| r.name.clone())
    }

    /// Finds a replica by its id, which ends with the registry's random part.
    fn replica(&self, id: &str) -> Option<&Seen> {
        let (given, _) = id.rsplit_once('.')?;
        self.replicas.iter().find(|r| r.id == given)
    }

    fn spread_when_known(&mut self, now_ms: u64) -> Vec<Fact> {
        let known = |replica: &Seen, generation| {
            replica.gone.is_some() || replica.knew.range(generation..).next().is_some()
        };
        let all = |generation: &u64| self.replicas.iter().all(|r| known(r, *generation));
        match self.spreading.iter().all(all) {
            true => self.spread_of_all(now_ms),
            false => Vec::new(),
        }
    }

    /// Reports when each replica learned of the pending transitions, as far as it is known now.
    pub fn spread_of_all(&mut self, now_ms: u64) -> Vec<Fact> {
        let told = std::mem::take(&mut self.spreading);
        let events = self.events.iter();
        let events = events.filter(|event| told.contains(&event.generation));
        events
            .map(|event| {
                let mut after_ms = BTreeMap::new();
                let mut missing = Vec::new();
                for replica in &self.replicas {
                    match self.knew_after(replica, event) {
                        Some(ms) => drop(after_ms.insert(replica.name.clone(), ms)),
                        None => missing.push(replica.name.clone()),
                    }
                }
                Fact::Spread(Spread {
                    at_s: self.at_s(now_ms),
                    generation: event.generation,
                    to: event.to,
                    by: self.name_of(&event.by),
                    after_ms,
                    missing,
                })
            })
            .collect()
    }
}
