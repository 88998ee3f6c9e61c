//! The whole state of the exploration: store, replicas, network, time, and the possible next steps.
//!
//! An undisturbed request is executed and answered in one step. Late, repeated and lost messages
//! are separate steps, and a scope limits their number. Invariant: a step is possible only where
//! the breaker could take it.

use std::{collections::BTreeSet, fmt, rc::Rc};

use commontrip::{
    Snapshot, State,
    model::{Command, Kind, Permission},
};

use super::{
    replica::{Link, Replica},
    scope::{Rule, Scope, TICK, Violation, check},
    store::{Answer, Body, Request, Store},
};

/// The start of an exploration, Unix ms.
const BASE: u64 = 1_735_689_600_000;

/// A message in the network.
#[derive(Clone, Debug)]
pub enum Letter {
    /// A request whose replica has given up.
    Request(Rc<Request>),
    /// An answer that a replica waits for.
    Answer { to: u32, body: Body, answer: Answer },
    /// A published change; any replica may receive it, any number of times.
    News(Rc<Snapshot>),
}

/// The fate of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Answered,
    /// It is late or lost, and the replica gives up.
    Late,
    /// It is answered, and the network repeats it later.
    Twice,
    /// Its answer is late or lost.
    Slow,
}

impl Way {
    const ALL: [Self; 4] = [Self::Answered, Self::Late, Self::Twice, Self::Slow];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Tick,
    Acquire(u8, Way),
    Report(u8, Way),
    Release(u8, Way),
    Ask(u8, Way),
    /// A call in the closed state fails.
    Fail(u8),
    End(u8, u8, Kind),
    Hear(u8),
    /// A late request or a late answer arrives.
    Arrive(u8),
    GiveUp(u8),
    /// A publication is delayed.
    Keep,
    HearLate(u8, u8),
    Crash(u8),
    Empty,
    Command(u8, Command),
}

impl Step {
    /// Whether the step can happen without faults.
    pub const fn is_fair(self) -> bool {
        match self {
            Self::Acquire(_, way)
            | Self::Report(_, way)
            | Self::Release(_, way)
            | Self::Ask(_, way) => matches!(way, Way::Answered),
            Self::Crash(_) | Self::Empty | Self::Keep | Self::Command(..) => false,
            _ => true,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = |way: Way| match way {
            Way::Answered => "",
            Way::Late => "; the request is late, it gives up",
            Way::Twice => "; the network will repeat the request",
            Way::Slow => "; the answer is late",
        };
        match *self {
            Self::Tick => write!(f, "time passes"),
            Self::Acquire(r, w) => write!(f, "replica {r} asks for a permit{}", way(w)),
            Self::Report(r, w) => write!(f, "replica {r} reports{}", way(w)),
            Self::Release(r, w) => write!(f, "replica {r} gives a permit back{}", way(w)),
            Self::Ask(r, w) => write!(f, "replica {r} asks whether the store is back{}", way(w)),
            Self::Fail(r) => write!(f, "a call of replica {r} fails"),
            Self::End(r, i, kind) => write!(f, "probe {i} of replica {r} ends: {kind:?}"),
            Self::Hear(r) => write!(f, "replica {r} hears of the change"),
            Self::Arrive(i) => write!(f, "letter {i} arrives"),
            Self::GiveUp(i) => write!(f, "letter {i} is too late, its replica gives up"),
            Self::Keep => write!(f, "a publication is late"),
            Self::HearLate(i, r) => write!(f, "replica {r} hears letter {i}"),
            Self::Crash(r) => write!(f, "replica {r} dies, another takes its place"),
            Self::Empty => write!(f, "the store is emptied"),
            Self::Command(r, command) => write!(f, "an operator at replica {r}: {command:?}"),
        }
    }
}

#[derive(Clone, Debug)]
pub struct World {
    pub now: u64,
    pub store: Store,
    pub replicas: Vec<Replica>,
    pub net: Vec<Letter>,
    pub messages: u8,
    pub crashes: u8,
    pub empties: u8,
    pub commands: u8,
    /// Outcomes of living replicas that no store has counted yet.
    pub owed: BTreeSet<u32>,
    lives: u32,
    tokens: u32,
    outcomes: u32,
}

impl World {
    pub fn new(scope: &Scope) -> Self {
        let lives = scope.replicas as u32;
        Self {
            now: BASE,
            store: Store::default(),
            replicas: (0..lives).map(Replica::new).collect(),
            net: Vec::new(),
            messages: scope.messages,
            crashes: scope.crashes,
            empties: scope.empties,
            commands: scope.commands,
            owed: BTreeSet::new(),
            lives,
            tokens: 0,
            outcomes: 0,
        }
    }

    /// Whether the whole fleet knows that the circuit is closed.
    pub fn is_closed(&self) -> bool {
        let store = &self.store.seen;
        let agrees = |r: &Replica| {
            r.link == Link::There
                && r.seen.state == State::Closed
                && r.seen.generation == store.generation
        };
        store.state == State::Closed && self.replicas.iter().all(agrees)
    }

    pub fn may_be_emptied(&self, scope: &Scope) -> bool {
        self.empties > 0 && self.store.seen.generation <= scope.emptied_up_to
    }

    /// Whether a replica waits for this kind of answer.
    fn waits(&self, life: u32, acquire: bool) -> bool {
        self.net.iter().any(|letter| match letter {
            Letter::Answer { to, body, .. } => {
                *to == life && matches!(body, Body::Acquire(_)) == acquire
            }
            _ => false,
        })
    }

    pub fn steps(&self, scope: &Scope) -> Vec<Step> {
        let mut steps = vec![Step::Tick];
        for (i, replica) in self.replicas.iter().enumerate() {
            self.steps_of(scope, i as u8, replica, &mut steps);
        }
        for (i, letter) in self.net.iter().enumerate() {
            let i = i as u8;
            match letter {
                Letter::Request(_) => steps.push(Step::Arrive(i)),
                Letter::Answer { .. } => steps.extend([Step::Arrive(i), Step::GiveUp(i)]),
                Letter::News(_) => {
                    let all = 0..self.replicas.len() as u8;
                    steps.extend(all.map(|r| Step::HearLate(i, r)));
                }
            }
        }
        if self.messages > 0 && self.store.exists {
            steps.push(Step::Keep);
        }
        if self.may_be_emptied(scope) && self.store.exists {
            steps.push(Step::Empty);
        }
        steps
    }

    fn steps_of(&self, scope: &Scope, r: u8, replica: &Replica, steps: &mut Vec<Step>) {
        let mut ways = |step: fn(u8, Way) -> Step| {
            let all = if self.messages > 0 { 4 } else { 1 };
            steps.extend(Way::ALL[..all].iter().map(|way| step(r, *way)));
        };
        let free = !self.waits(replica.life, false);
        if replica.link == Link::Unavailable {
            if free {
                ways(Step::Ask);
            }
        } else {
            let room = replica.calls.len() < scope.calls && replica.releases.len() < scope.unsent;
            if room && !self.waits(replica.life, true) {
                ways(Step::Acquire);
            }
            if free {
                ways(Step::Report);
                if !replica.releases.is_empty() {
                    ways(Step::Release);
                }
            }
            if replica.newest().generation < self.store.seen.generation {
                steps.push(Step::Hear(r));
            }
            if self.commands > 0 {
                let commands = [Command::Reset, Command::ForceOpen];
                steps.extend(commands.map(|command| Step::Command(r, command)));
            }
        }
        if replica.unsent() < scope.unsent {
            if replica.admits() {
                steps.push(Step::Fail(r));
            }
            for i in 0..replica.calls.len() {
                let kinds = [Kind::Success, Kind::Failure, Kind::Ignored, Kind::Abandoned];
                steps.extend(kinds.map(|kind| Step::End(r, i as u8, kind)));
            }
        }
        if self.crashes > 0 {
            steps.push(Step::Crash(r));
        }
    }

    /// The world after a step.
    pub fn after(&self, scope: &Scope, step: Step) -> Result<Self, Violation> {
        let mut next = self.clone();
        next.take(scope, step)?;
        next.forget(scope);
        next.check(scope)?;
        Ok(next)
    }

    fn take(&mut self, scope: &Scope, step: Step) -> Result<(), Violation> {
        match step {
            Step::Tick => self.now += TICK,
            Step::Acquire(r, way) => {
                self.tokens += 1;
                self.exchange(scope, r, Body::Acquire(self.tokens), way)?;
            }
            Step::Report(r, way) => {
                let filed = self.replicas[r as usize].report(scope);
                self.exchange(scope, r, Body::Report(filed), way)?;
            }
            Step::Release(r, way) => {
                if let Some(token) = self.replicas[r as usize].releases.pop() {
                    self.exchange(scope, r, Body::Release(token), way)?;
                }
            }
            Step::Ask(r, way) => self.exchange(scope, r, Body::Ask, way)?,
            Step::Command(r, command) => {
                self.commands -= 1;
                self.exchange(scope, r, Body::Command(command), Way::Answered)?;
            }
            Step::Fail(r) => {
                let outcome = (self.owe(), Kind::Failure);
                self.replicas[r as usize].file(outcome);
            }
            Step::End(r, i, kind) => {
                let outcome = (self.owe(), kind);
                self.replicas[r as usize].end(i as usize, outcome);
            }
            Step::Hear(r) => {
                let news = Rc::clone(&self.store.seen);
                self.replicas[r as usize].hint(scope, &news, self.now)?;
            }
            Step::Keep => {
                self.messages -= 1;
                self.net.push(Letter::News(Rc::clone(&self.store.seen)));
            }
            Step::HearLate(i, r) => {
                if let Letter::News(news) = &self.net[i as usize] {
                    self.replicas[r as usize].hint(scope, news, self.now)?;
                }
            }
            Step::Arrive(i) => match self.net.remove(i as usize) {
                Letter::Request(request) => {
                    self.perform(scope, &request)?;
                }
                Letter::Answer { to, body, answer } => {
                    let now = self.now;
                    self.life(to).hear(scope, &body, &answer, now)?;
                }
                Letter::News(_) => {}
            },
            Step::GiveUp(i) => {
                if let Letter::Answer { to, body, .. } = self.net.remove(i as usize) {
                    self.life(to).give_up(scope, &body);
                }
            }
            Step::Crash(r) => self.crash(r as usize),
            Step::Empty => {
                self.empties -= 1;
                self.store = Store::default();
            }
        }
        Ok(())
    }

    fn owe(&mut self) -> u32 {
        self.outcomes += 1;
        self.owed.insert(self.outcomes);
        self.outcomes
    }

    fn life(&mut self, life: u32) -> &mut Replica {
        let found = self.replicas.iter_mut().find(|r| r.life == life);
        found.expect("answers end with their replica")
    }

    fn exchange(&mut self, scope: &Scope, r: u8, body: Body, way: Way) -> Result<(), Violation> {
        let request = self.replicas[r as usize].request(body.clone(), self.now);
        let to = request.from;
        self.messages -= u8::from(way != Way::Answered);
        if way == Way::Late {
            self.life(to).give_up(scope, &body);
            self.net.push(Letter::Request(Rc::new(request)));
            return Ok(());
        }
        let answer = self.perform(scope, &request)?;
        if way == Way::Slow {
            self.net.push(Letter::Answer { to, body, answer });
            return Ok(());
        }
        if way == Way::Twice {
            self.net.push(Letter::Request(Rc::new(request)));
        }
        let now = self.now;
        self.life(to).hear(scope, &body, &answer, now)
    }

    fn perform(&mut self, scope: &Scope, request: &Request) -> Result<Answer, Violation> {
        let known: Vec<_> = self.store.probes.iter().map(|(token, _)| *token).collect();
        let answer = self.store.perform(scope, request, self.now)?;
        self.owed.retain(|o| !self.store.counted.contains(o));
        // A permit that is given again has a new lease, which also applies to the call that runs on
        // it.
        if let (Body::Acquire(token), Permission::Probe) = (&request.body, answer.permission)
            && !known.contains(token)
        {
            let calls = self.replicas.iter_mut().flat_map(|r| &mut r.calls);
            for call in calls.filter(|call| call.token == *token) {
                call.deadline = self.now + scope.rules().probe_lease_ms;
            }
        }
        Ok(answer)
    }

    fn crash(&mut self, r: usize) {
        self.crashes -= 1;
        let dead = std::mem::replace(&mut self.replicas[r], Replica::new(self.lives));
        self.lives += 1;
        for (outcome, _) in dead.outcomes() {
            self.owed.remove(outcome);
        }
        self.net
            .retain(|letter| !matches!(letter, Letter::Answer { to, .. } if *to == dead.life));
    }

    /// Drops messages that can no longer change anything, and outcomes that nobody can report.
    fn forget(&mut self, scope: &Scope) {
        if scope.broken.is_none() && !self.may_be_emptied(scope) {
            let store = &self.store;
            let generation = store.seen.generation;
            self.net.retain(|letter| match letter {
                Letter::Request(request) => {
                    request.memory.generation > generation
                        || match &request.body {
                            Body::Report(filed) => {
                                let heard =
                                    |(l, n): &(u32, u64)| *l == request.from && filed.seq <= *n;
                                !store.heard.iter().any(heard)
                            }
                            Body::Ask => false,
                            _ => true,
                        }
                }
                _ => true,
            });
        }
        let late = self.net.iter().filter_map(|letter| match letter {
            Letter::Request(request) => match &request.body {
                Body::Report(filed) => Some(filed),
                _ => None,
            },
            _ => None,
        });
        let alive: BTreeSet<u32> = self
            .replicas
            .iter()
            .flat_map(Replica::outcomes)
            .chain(late.flat_map(|filed| filed.outcomes()))
            .map(|(outcome, _)| *outcome)
            .collect();
        self.store.counted.retain(|o| alive.contains(o));
    }

    /// Checks what must hold in every state.
    fn check(&self, scope: &Scope) -> Result<(), Violation> {
        let calls = self.replicas.iter().flat_map(|r| &r.calls);
        let live = calls.filter(|call| call.deadline > self.now).count() as u64;
        check(live <= scope.permitted, Rule::ProbeLimit, || {
            format!("{live} probes are out, {} permitted", scope.permitted)
        })?;
        let kept = |owed: &u32| {
            let mut all = self.replicas.iter().flat_map(Replica::outcomes);
            all.any(|(outcome, _)| outcome == owed)
        };
        check(self.owed.iter().all(kept), Rule::ExactlyOnce, || {
            format!("an outcome of {:?} was never counted", self.owed)
        })
    }

    /// A short description of the store and the replicas, for a trace.
    pub fn in_words(&self) -> String {
        let seen = |s: &Snapshot| format!("{} {}", s.state, s.generation);
        let mut words = format!("store {}", seen(&self.store.seen));
        words += &format!(", probes {}", self.store.probes.len());
        for replica in &self.replicas {
            words += &format!(" | {} {:?}", seen(&replica.seen), replica.link);
            words += &format!(", calls {}", replica.calls.len());
        }
        words
    }
}
