//! One replica of the exploration: what a breaker keeps of a circuit, and how it acts.
//!
//! Repeats the logic of `src/breaker` in a few lines: `inner/news.rs` (take, tally to late),
//! `inner/reports.rs` (memory), `outbox.rs` (numbers, one report at a time), `ask.rs` (a grant that
//! is too old or unknown is given back), `outage.rs` (unavailable, asking until it is back).

use std::rc::Rc;

use commontrip::{
    Snapshot, State,
    model::{Kind, Memory, Permission},
};

use super::{
    scope::{Broken, Rule, Scope, Violation, check},
    store::{Answer, Body, Ended, Filed, Outcome, Request},
};

/// Whether the store answers this replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    #[default]
    There,
    Unavailable,
    /// It has answered, but the replica does not know its state of the circuit yet.
    Back,
}

/// A call that runs as a probe.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub token: u32,
    pub generation: u64,
    /// When the store takes the permit back.
    pub deadline: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Replica {
    /// The number of this life; each process has its own.
    pub life: u32,
    pub link: Link,
    pub seen: Rc<Snapshot>,
    pub confirmed: Option<u64>,
    /// The last publication, until the next answer.
    pub hint: Option<Rc<Snapshot>>,
    pub number: u64,
    pub pending: Option<Rc<Filed>>,
    /// Outcomes of the present generation.
    pub tally: Vec<Outcome>,
    pub late: Vec<Outcome>,
    pub settled: Vec<Ended>,
    pub releases: Vec<u32>,
    pub calls: Vec<Call>,
}

impl Replica {
    pub fn new(life: u32) -> Self {
        Self {
            life,
            ..Self::default()
        }
    }

    pub fn memory(&self, now: u64) -> Memory {
        let seen = &self.seen;
        let age_ms = self.confirmed.map_or(0, |at| now - at);
        let left = match seen.state {
            State::HalfOpen => 0,
            _ => seen.left_ms().saturating_sub(age_ms) as i64,
        };
        Memory {
            generation: seen.generation,
            state: seen.state,
            left_ms: if seen.until_ms == 0 && seen.state.is_override() {
                -1
            } else {
                left
            },
            age_ms,
            opens: seen.consecutive_opens,
            author: seen.override_author.clone(),
            reason: seen.override_reason.clone(),
            why: seen.reason,
            probes: seen.probes,
        }
    }

    pub fn request(&self, body: Body, now: u64) -> Request {
        let memory = self.memory(now);
        let from = self.life;
        Request { from, memory, body }
    }

    pub fn unsent(&self) -> usize {
        self.tally.len() + self.late.len()
    }

    /// Outcomes whose report was not answered yet.
    pub fn outcomes(&self) -> impl Iterator<Item = &Outcome> {
        let pending = self.pending.iter().flat_map(|filed| filed.outcomes());
        self.tally.iter().chain(&self.late).chain(pending)
    }

    /// Adopts a state of the circuit, unless a newer one is known.
    pub fn take(&mut self, scope: &Scope, news: &Rc<Snapshot>, now: u64) -> Result<(), Violation> {
        let (known, newest) = (self.seen.generation, self.newest());
        let older = news.generation < known;
        let takes_any = scope.is_broken(Broken::TakesOlderNews)
            || self.link == Link::Back && scope.is_broken(Broken::TakesAnyNewsWhenBack);
        if self.link == Link::Unavailable || older && !takes_any {
            return Ok(());
        }
        let same = news.generation == newest.generation && news.state == newest.state;
        self.seen = Rc::clone(news);
        self.hint = None;
        self.confirmed = Some(now);
        self.link = Link::There;
        if !same {
            self.late.append(&mut self.tally);
        }
        check(!older, Rule::GenerationNeverGoesBack, || {
            format!("r{} knew {known} and took {}", self.life, news.generation)
        })
    }

    /// The newest known state; new counts belong to it.
    pub fn newest(&self) -> Rc<Snapshot> {
        Rc::clone(self.hint.as_ref().unwrap_or(&self.seen))
    }

    /// Applies a publication if it is newer, but does not add it to the memory.
    pub fn hint(&mut self, scope: &Scope, news: &Rc<Snapshot>, now: u64) -> Result<(), Violation> {
        if scope.is_broken(Broken::TakesOlderNews) {
            return self.take(scope, news, now);
        }
        if self.link == Link::There && news.generation > self.newest().generation {
            self.hint = Some(Rc::clone(news));
            self.late.append(&mut self.tally);
        }
        Ok(())
    }

    /// The report to send: the unanswered one, or a new one.
    pub fn report(&mut self, scope: &Scope) -> Rc<Filed> {
        let mut filed = match self.pending.take() {
            None => {
                self.number += 1;
                Rc::new(Filed {
                    seq: self.number,
                    generation: self.newest().generation,
                    counts: std::mem::take(&mut self.tally),
                    late: std::mem::take(&mut self.late),
                    settled: std::mem::take(&mut self.settled),
                })
            }
            Some(filed) => filed,
        };
        if scope.is_broken(Broken::RenumbersReports) && filed.seq <= self.number {
            self.number += 1;
            Rc::make_mut(&mut filed).seq = self.number;
        }
        self.pending = Some(Rc::clone(&filed));
        filed
    }

    /// Ends a call, possibly long after its lease.
    pub fn end(&mut self, call: usize, outcome: Outcome) {
        let Call {
            token, generation, ..
        } = self.calls.remove(call);
        let kind = outcome.1;
        self.late.push(outcome);
        if kind == Kind::Ignored {
            self.releases.push(token);
        } else {
            self.settled.push(Ended {
                token,
                generation,
                kind,
            });
        }
    }

    /// Ends a call of the present generation.
    pub fn file(&mut self, outcome: Outcome) {
        self.tally.push(outcome);
    }

    pub fn admits(&self) -> bool {
        self.newest().state == State::Closed
    }

    /// Processes an answer of the store.
    pub fn hear(
        &mut self,
        scope: &Scope,
        body: &Body,
        answer: &Answer,
        now: u64,
    ) -> Result<(), Violation> {
        match *body {
            Body::Ask => {
                self.link = Link::Back;
                return Ok(());
            }
            Body::Report(_) => self.pending = None,
            Body::Acquire(_) | Body::Release(_) | Body::Command(_) => {}
        }
        self.take(scope, &answer.snapshot, now)?;
        if let (Body::Acquire(token), Permission::Probe) = (body, answer.permission) {
            if answer.snapshot.generation < self.seen.generation {
                self.releases.push(*token);
            } else {
                self.calls.push(Call {
                    token: *token,
                    generation: answer.snapshot.generation,
                    deadline: answer.snapshot.now_ms + scope.rules().probe_lease_ms,
                });
            }
        }
        Ok(())
    }

    /// The store did not answer in time.
    pub fn give_up(&mut self, scope: &Scope, body: &Body) {
        self.link = Link::Unavailable;
        self.hint = None;
        match *body {
            // The store may have granted it.
            Body::Acquire(token) | Body::Release(token) => self.releases.push(token),
            Body::Report(_) if scope.is_broken(Broken::ForgetsReports) => self.pending = None,
            Body::Report(_) | Body::Ask | Body::Command(_) => {}
        }
    }
}
