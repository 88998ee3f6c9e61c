//! The store of the exploration: the real [`Circuit`], with checks.
//!
//! Owns what each request must and must not do. Knows only the requests of replicas. Invariant:
//! `probes` and `heard` mirror the circuit, so that no state reads them from it twice.

use std::{collections::BTreeSet, rc::Rc};

use commontrip::{
    Counts, Event, Reason, Snapshot, State,
    model::{
        Acquire, Circuit, Command, Control, Head, Kind, Memory, Permission, Release, Report,
        Settled,
    },
};

use super::scope::{Broken, Rule, Scope, TICK, Violation, check};

/// One call's outcome: its number and kind.
pub type Outcome = (u32, Kind);

/// A report as a replica keeps it until it is answered.
#[derive(Clone, Debug, Default)]
pub struct Filed {
    pub seq: u64,
    pub generation: u64,
    pub counts: Vec<Outcome>,
    pub late: Vec<Outcome>,
    pub settled: Vec<Ended>,
}

impl Filed {
    pub fn outcomes(&self) -> impl Iterator<Item = &Outcome> {
        self.counts.iter().chain(&self.late)
    }
}

/// A probe with an outcome.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    pub token: u32,
    pub generation: u64,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub enum Body {
    Acquire(u32),
    Report(Rc<Filed>),
    Release(u32),
    /// Asks whether the store is back.
    Ask,
    Command(Command),
}

#[derive(Clone, Debug)]
pub struct Request {
    /// The number of the replica's life.
    pub from: u32,
    pub memory: Memory,
    pub body: Body,
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub permission: Permission,
    pub snapshot: Rc<Snapshot>,
}

#[derive(Clone, Debug, Default)]
pub struct Store {
    circuit: Rc<Circuit>,
    pub exists: bool,
    pub seen: Rc<Snapshot>,
    /// Token and lease deadline of each probe in flight.
    pub probes: Vec<(u32, u64)>,
    /// Replica and number of its last report.
    pub heard: Vec<(u32, u64)>,
    /// Outcomes in the lifetime totals that somebody could still report.
    pub counted: BTreeSet<u32>,
}

fn sum(outcomes: &[Outcome]) -> Counts {
    let mut counts = Counts::default();
    for (_, kind) in outcomes {
        match kind {
            Kind::Ignored => counts.ignored += 1,
            Kind::Success => counts.successes += 1,
            Kind::Failure | Kind::Trip => counts.failures += 1,
            Kind::Abandoned => counts.abandoned += 1,
        }
    }
    counts
}

fn totals(s: &Snapshot) -> [u64; 4] {
    let dropped = s.abandoned_total;
    [
        s.successes_total,
        s.failures_total,
        s.ignored_total,
        dropped,
    ]
}

fn token(number: u32) -> String {
    format!("t{number}")
}

/// Whether a memory obliges a store that lost the circuit to keep it open.
fn is_open(memory: &Memory, scope: &Scope) -> bool {
    matches!(memory.state, State::Open | State::HalfOpen) && memory.age_ms <= scope.recent_ms()
}

impl Store {
    pub fn perform(
        &mut self,
        scope: &Scope,
        request: &Request,
        now: u64,
    ) -> Result<Answer, Violation> {
        let before = self.clone();
        let mut head = Head {
            replica: format!("r{}", request.from),
            policy: scope.rules(),
            memory: request.memory.clone(),
            ..Head::default()
        };
        self.break_head(scope, &mut head, now);
        let circuit = Rc::make_mut(&mut self.circuit);
        let mut permission = Permission::Rejected;
        let seen = match &request.body {
            Body::Acquire(number) => {
                let mut acquire = Acquire::default();
                if scope.is_broken(Broken::NeverReaps)
                    && head.memory.generation <= before.seen.generation
                {
                    head.policy.probe_lease_ms = 1_000_000 * TICK;
                }
                (acquire.head, acquire.token) = (head, token(*number));
                let grant = circuit.acquire(&acquire, now);
                permission = grant.permission;
                grant.snapshot
            }
            Body::Report(filed) => circuit.report(&before.report(scope, filed, head), now),
            Body::Release(number) => {
                let token = token(*number);
                circuit.release(&Release { head, token }, now)
            }
            Body::Ask => {
                let token = "-".to_owned();
                circuit.release(&Release { head, token }, now)
            }
            Body::Command(command) => {
                let mut control = Control::default();
                (control.head, control.command) = (head, *command);
                control.for_ms = TICK;
                control.author = "operator".to_owned();
                circuit.control(&control, now)
            }
        };
        self.seen = Rc::new(seen);
        self.exists = true;
        let events = circuit.events_after(before.seen.generation);
        let mut published = circuit.take_published();
        if scope.is_broken(Broken::PublishesTwice) {
            published.extend(published.last().cloned());
        }
        if scope.is_broken(Broken::ForgetsProbes) && !events.is_empty() {
            for (number, _) in &before.probes {
                let release = Release {
                    token: token(*number),
                    ..Release::default()
                };
                circuit.release(&release, now);
            }
        }
        self.look();
        before.check_events(self, &events, &published, &request.memory)?;
        before.check_generation(self, &request.memory)?;
        let lost = request.memory.generation > before.seen.generation;
        check(
            !(lost && is_open(&request.memory, scope) && self.seen.state.admits())
                || matches!(request.body, Body::Command(_)),
            Rule::StaysOpen,
            || format!("a replica remembered {:?}", request.memory),
        )?;
        before.check_moves(self, request, &events, now)?;
        self.check_totals(&before, &request.body)?;
        let snapshot = Rc::clone(&self.seen);
        Ok(Answer {
            permission,
            snapshot,
        })
    }

    /// Changes the memories that the store receives, if that rule is broken deliberately.
    fn break_head(&mut self, scope: &Scope, head: &mut Head, now: u64) {
        let lost = head.memory.generation > self.seen.generation;
        match scope.broken {
            Some(Broken::IgnoresMemories) => head.memory = Memory::default(),
            Some(Broken::HoldsMemoriesOld) => head.memory.age_ms = u64::MAX,
            Some(Broken::SkipsTheWait) if lost => {
                let mut release = Release::default();
                (release.head, release.token) = (head.clone(), "-".to_owned());
                release.head.policy.probe_lease_ms = 0;
                (release.head.memory.left_ms, release.head.memory.age_ms) = (0, 0);
                Rc::make_mut(&mut self.circuit).release(&release, now);
            }
            _ => {}
        }
    }

    fn report(&self, scope: &Scope, filed: &Filed, mut head: Head) -> Report {
        let mut generation = filed.generation;
        let mut settled: Vec<_> = filed
            .settled
            .iter()
            .map(|ended| Settled {
                token: token(ended.token),
                generation: ended.generation,
                kind: ended.kind,
                retry_after_ms: 0,
            })
            .collect();
        match scope.broken {
            Some(Broken::ForgetsNumbers) => {
                head.replica = format!("r{}", 1_000_000 + self.heard.len())
            }
            Some(Broken::TakesAnyGeneration) => {
                generation = self.seen.generation;
                settled.iter_mut().for_each(|s| s.generation = generation);
            }
            Some(Broken::TakesAnyToken) => {
                for s in &mut settled {
                    s.generation = self.seen.generation;
                    if let Some((number, _)) = self.probes.first() {
                        s.token = token(*number);
                    }
                }
            }
            _ => {}
        }
        Report {
            head,
            seq: filed.seq,
            generation,
            counts: sum(&filed.counts),
            late: sum(&filed.late),
            settled,
            ..Report::default()
        }
    }

    /// Reads the circuit's content back.
    fn look(&mut self) {
        let held = self.circuit.held();
        let number = |name: &str| name[1..].parse().unwrap();
        let empty = std::collections::BTreeMap::new();
        let probes = held.get(":probes").unwrap_or(&empty).iter();
        self.probes = probes
            .map(|(token, deadline)| (number(token), deadline.parse().unwrap()))
            .collect();
        let heard = held.get(":seq").unwrap_or(&empty).iter();
        self.heard = heard
            .map(|(replica, seq)| {
                let seq = seq.split(' ').next().unwrap();
                (number(replica), seq.parse().unwrap())
            })
            .collect();
    }

    /// An empty store adopts the generation of a closed circuit, which is not a transition.
    fn begins_with(&self, memory: &Memory) -> u64 {
        if self.exists || memory.state != State::Closed {
            return self.seen.generation;
        }
        self.seen.generation.max(memory.generation)
    }

    fn check_events(
        &self,
        after: &Self,
        events: &[Event],
        published: &[Snapshot],
        memory: &Memory,
    ) -> Result<(), Violation> {
        let rule = Rule::OneEventATransition;
        let (mut state, mut generation) = (self.seen.state, self.begins_with(memory));
        let mut whole = events.len() == published.len();
        for (event, snapshot) in events.iter().zip(published) {
            let next = if event.reason == Reason::Adopted {
                memory.generation.max(generation) + 1
            } else {
                generation + 1
            };
            whole &= event.from == state && event.generation == next;
            whole &= snapshot.generation == next && snapshot.state == event.to;
            (state, generation) = (event.to, next);
        }
        whole &= state == after.seen.state && generation == after.seen.generation;
        check(whole, rule, || {
            format!("{events:?} published as {published:?}")
        })
    }

    fn check_generation(&self, after: &Self, memory: &Memory) -> Result<(), Violation> {
        let (was, is) = (self.seen.generation, after.seen.generation);
        check(
            is >= was && is >= memory.generation,
            Rule::GenerationNeverGoesBack,
            || format!("from {was}, remembered {}, to {is}", memory.generation),
        )
    }

    /// A report changes only its own subject; a release changes nothing.
    fn check_moves(
        &self,
        after: &Self,
        Request { memory, body, .. }: &Request,
        events: &[Event],
        now: u64,
    ) -> Result<(), Violation> {
        let own = |e: &&Event| matches!(e.reason, Reason::Adopted | Reason::OverrideExpired);
        let loaded = events.iter().take_while(own).last();
        let moved = events.iter().any(|e| !own(&e));
        let (state, generation) = loaded.map_or_else(
            || (self.seen.state, self.begins_with(memory)),
            |event| (event.to, event.generation),
        );
        let allowed = match body {
            Body::Acquire(_) | Body::Command(_) => return Ok(()),
            Body::Release(_) | Body::Ask => false,
            Body::Report(filed) => {
                let out = |token: u32| self.probes.iter().any(|(t, d)| *t == token && *d > now);
                let counts = state == State::Closed
                    && filed.generation == generation
                    && !filed.counts.is_empty();
                let settles = state == State::HalfOpen
                    && filed
                        .settled
                        .iter()
                        .any(|s| s.generation == generation && out(s.token));
                counts || settles
            }
        };
        let progress = |s: &Snapshot| (s.probe_successes, s.probe_failures, s.calls, s.failures);
        let same = loaded.is_some() || progress(&self.seen) == progress(&after.seen);
        check(
            allowed || !moved && same,
            Rule::OtherGenerationsMoveNothing,
            || format!("{body:?} moved {:?} to {:?}", self.seen, after.seen),
        )
    }

    fn check_totals(&mut self, before: &Self, body: &Body) -> Result<(), Violation> {
        let (was, is) = (totals(&before.seen), totals(&self.seen));
        if was == is {
            return Ok(());
        }
        let mut expected = was;
        let mut first = true;
        if let Body::Report(filed) = body {
            for (number, kind) in filed.outcomes() {
                expected[match kind {
                    Kind::Success => 0,
                    Kind::Failure | Kind::Trip => 1,
                    Kind::Ignored => 2,
                    Kind::Abandoned => 3,
                }] += 1;
                first &= self.counted.insert(*number);
            }
        }
        check(first && expected == is, Rule::ExactlyOnce, || {
            format!("totals went from {was:?} to {is:?} by {body:?}")
        })
    }
}
