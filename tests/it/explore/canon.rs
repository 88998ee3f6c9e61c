//! When two states are equal: a state as bytes, without anything that cannot matter.
//!
//! Owns the equivalence. Two states with the same bytes have the same future, because:
//! - time is relative to now, and expired times are equal however long ago they expired;
//! - the names of tokens, outcomes and processes do not matter, nor does the order of replicas;
//! - the circuit only asks whether a generation is its own, or newer than its own. So generations
//!   are relative to the store's. Older ones count by their order, because replicas compare nothing
//!   else. While the store can still be emptied, they are kept unchanged, because it would start at
//!   0 again;
//! - totals, the window while it is not read, and the number of opens without a backoff decide
//!   nothing.

use commontrip::{
    Snapshot, State,
    model::{Kind, Memory},
};

use super::{
    replica::Replica,
    scope::{Scope, TICK},
    store::{Body, Ended, Filed, Outcome},
    world::{Letter, World},
};

/// The bytes of a state.
pub fn key(world: &World, scope: &Scope) -> Vec<u8> {
    let mut order: Vec<(Vec<u8>, usize)> = (0..world.replicas.len())
        .map(|i| {
            let mut writer = Writer::new(world, scope);
            writer.replica(&world.replicas[i]);
            (writer.bytes, i)
        })
        .collect();
    order.sort_unstable();
    let mut writer = Writer::new(world, scope);
    writer
        .bytes
        .extend([world.messages, world.crashes, world.empties, world.commands]);
    for (_, i) in &order {
        writer.lives.push(world.replicas[*i].life);
        writer.replica(&world.replicas[*i]);
    }
    writer.store();
    let mut letters: Vec<_> = world
        .net
        .iter()
        .map(|letter| {
            // Written as a draft first, with the names so far, to find the order.
            let mut draft = writer.draft();
            draft.letter(letter);
            (draft.bytes, letter)
        })
        .collect();
    letters.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    for (_, letter) in letters {
        writer.letter(letter);
    }
    writer.bytes
}

struct Writer<'a> {
    world: &'a World,
    scope: &'a Scope,
    /// Generations older than the store's that are compared with each other, in order.
    older: Vec<u64>,
    absolute: bool,
    tokens: Vec<u32>,
    outcomes: Vec<u32>,
    lives: Vec<u32>,
    bytes: Vec<u8>,
}

fn place(known: &mut Vec<u32>, number: u32) -> u8 {
    let found = known.iter().position(|k| *k == number);
    let place = found.unwrap_or_else(|| {
        known.push(number);
        known.len() - 1
    });
    place as u8
}

impl<'a> Writer<'a> {
    fn new(world: &'a World, scope: &'a Scope) -> Self {
        let mut older = Vec::new();
        let own = world.store.seen.generation;
        // Only publications that may still arrive are compared with what replicas know.
        for letter in &world.net {
            match letter {
                Letter::Answer { answer, .. } => older.push(answer.snapshot.generation),
                Letter::News(news) => older.push(news.generation),
                Letter::Request(_) => {}
            }
        }
        if !older.is_empty() {
            older.extend(world.replicas.iter().map(|r| r.seen.generation));
            older.extend(world.replicas.iter().map(|r| r.newest().generation));
        }
        older.retain(|generation| *generation < own);
        older.sort_unstable();
        older.dedup();
        Self {
            world,
            scope,
            older,
            absolute: world.may_be_emptied(scope),
            tokens: Vec::new(),
            outcomes: Vec::new(),
            lives: Vec::new(),
            bytes: Vec::with_capacity(96),
        }
    }

    fn draft(&self) -> Self {
        Self {
            older: self.older.clone(),
            tokens: self.tokens.clone(),
            outcomes: self.outcomes.clone(),
            lives: self.lives.clone(),
            bytes: Vec::new(),
            ..*self
        }
    }

    fn put(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    fn len(&mut self, len: usize) {
        self.put(len as u8);
    }

    /// A generation that is compared only with the store's.
    fn generation(&mut self, generation: u64) {
        let own = self.world.store.seen.generation;
        let byte = if self.absolute {
            generation as u8
        } else if generation < own {
            0
        } else {
            100 + (generation - own) as u8
        };
        self.put(byte);
    }

    /// A generation that is also compared with those of other replicas.
    fn heard(&mut self, generation: u64) {
        self.generation(generation);
        if let Ok(i) = self.older.binary_search(&generation) {
            self.put(1 + i as u8);
        }
    }

    fn left(&mut self, until: u64) {
        let ticks = until.saturating_sub(self.world.now) / TICK;
        self.put(ticks.min(200) as u8);
    }

    /// A token's name, and what the store knows of it.
    fn token(&mut self, token: u32) {
        let byte = place(&mut self.tokens, token);
        self.put(byte);
        let mut probes = self.world.store.probes.iter();
        match probes.find(|(other, _)| *other == token) {
            Some((_, deadline)) => self.left(*deadline),
            None => self.put(255),
        }
    }

    fn outcomes<'o>(&mut self, outcomes: impl Iterator<Item = &'o Outcome>) {
        let start = self.bytes.len();
        self.put(0);
        for (number, kind) in outcomes {
            self.bytes[start] += 1;
            let byte = place(&mut self.outcomes, *number);
            let counted = u8::from(self.world.store.counted.contains(number));
            let owed = u8::from(self.world.owed.contains(number));
            self.bytes.extend([byte, *kind as u8, counted * 2 + owed]);
        }
    }

    fn memory(&mut self, memory: &Memory) {
        let dead = !self.absolute && memory.generation <= self.world.store.seen.generation;
        if dead {
            return self.put(255);
        }
        self.generation(memory.generation);
        self.put(memory.state as u8);
        if matches!(memory.state, State::Open | State::HalfOpen) {
            let over = self.scope.recent_ms() / TICK + 1;
            self.put((memory.age_ms / TICK).min(over) as u8);
            self.put((memory.left_ms / TICK as i64).max(0) as u8);
            self.put(u8::from(memory.probes > 0));
        } else if memory.state.is_override() {
            self.put((memory.left_ms / TICK as i64 + 1).min(200) as u8);
        }
    }

    fn filed(&mut self, filed: &Filed) {
        self.generation(filed.generation);
        self.outcomes(filed.counts.iter());
        self.outcomes(filed.late.iter());
        self.ended(&filed.settled);
    }

    fn ended(&mut self, ended: &[Ended]) {
        self.len(ended.len());
        for Ended {
            token,
            generation,
            kind,
        } in ended
        {
            self.token(*token);
            self.generation(*generation);
            self.put(match kind {
                Kind::Success => 1,
                Kind::Abandoned => 3,
                _ => 2,
            });
        }
    }

    fn replica(&mut self, replica: &Replica) {
        self.put(replica.link as u8);
        self.heard(replica.seen.generation);
        self.put(replica.seen.state as u8);
        self.put(u8::from(replica.hint.is_some()));
        if let Some(hint) = &replica.hint {
            self.heard(hint.generation);
            self.put(hint.state as u8);
        }
        self.memory(&replica.memory(self.world.now));
        self.len(replica.calls.len());
        for call in &replica.calls {
            self.token(call.token);
            self.generation(call.generation);
            self.left(call.deadline);
        }
        self.ended(&replica.settled);
        self.len(replica.releases.len());
        for token in &replica.releases {
            self.token(*token);
        }
        self.outcomes(replica.tally.iter());
        self.outcomes(replica.late.iter());
        self.put(u8::from(replica.pending.is_some()));
        if let Some(filed) = &replica.pending {
            self.filed(filed);
            self.number(replica.life, filed.seq);
        }
    }

    /// All that matters about a report's number: whether the store has seen it or a newer one, and
    /// how many late reports are older.
    fn number(&mut self, life: u32, seq: u64) {
        let late = self.late_reports(life);
        self.len(late.iter().filter(|other| **other < seq).count());
        let mut heard = self.world.store.heard.iter();
        let seen = heard.any(|(other, last)| *other == life && seq <= *last);
        self.put(u8::from(seen));
    }

    fn late_reports(&self, life: u32) -> Vec<u64> {
        let late = self.world.net.iter().filter_map(|letter| match letter {
            Letter::Request(request) if request.from == life => match &request.body {
                Body::Report(filed) => Some(filed.seq),
                _ => None,
            },
            _ => None,
        });
        late.collect()
    }

    fn store(&mut self) {
        let store = &self.world.store;
        let seen = &store.seen;
        self.put(u8::from(store.exists));
        self.generation(seen.generation);
        self.put(seen.state as u8);
        if seen.state != State::Closed {
            self.put(u8::from(seen.until_ms == 0));
            self.left(seen.until_ms);
            // A publication contains the time that was left then.
            self.snapshot(seen);
        } else {
            self.bytes.extend([seen.calls as u8, seen.failures as u8]);
        }
        if seen.state == State::HalfOpen {
            self.bytes
                .extend([seen.probe_successes as u8, seen.probe_failures as u8]);
        }
        self.len(store.probes.len());
        // Named tokens are written where they are named, the others in the order of their
        // deadlines.
        let named = |token: &u32| self.tokens.contains(token);
        let others = store.probes.iter().filter(|(token, _)| !named(token));
        let mut others: Vec<_> = others
            .map(|(token, deadline)| (*deadline, *token))
            .collect();
        others.sort_unstable();
        for (_, token) in others {
            self.token(token);
        }
    }

    fn letter(&mut self, letter: &Letter) {
        match letter {
            Letter::Request(request) => {
                self.put(1);
                let life = place(&mut self.lives, request.from);
                self.put(life);
                self.memory(&request.memory);
                self.body(request.from, &request.body);
            }
            Letter::Answer { to, body, answer } => {
                self.put(2);
                let life = place(&mut self.lives, *to);
                self.put(life);
                self.body(*to, body);
                self.put(answer.permission as u8);
                self.snapshot(&answer.snapshot);
                self.left(answer.snapshot.now_ms + self.scope.lease * TICK);
            }
            Letter::News(news) => {
                self.put(3);
                self.snapshot(news);
            }
        }
    }

    fn snapshot(&mut self, seen: &Snapshot) {
        self.heard(seen.generation);
        self.put(seen.state as u8);
        // The time left then; a memory that is made from an answer contains it.
        if seen.state.is_override() {
            self.put((seen.left_ms() / TICK) as u8 + u8::from(seen.until_ms == 0) * 100);
        } else if self.absolute || seen.generation > self.world.store.seen.generation {
            self.put((seen.left_ms() / TICK) as u8);
            self.put(u8::from(seen.probes > 0));
        }
    }

    fn body(&mut self, life: u32, body: &Body) {
        match body {
            Body::Acquire(token) => {
                self.put(1);
                self.token(*token);
            }
            Body::Report(filed) => {
                self.put(2);
                self.filed(filed);
                self.number(life, filed.seq);
            }
            Body::Release(token) => {
                self.put(3);
                self.token(*token);
            }
            Body::Ask => self.put(4),
            Body::Command(_) => self.put(5),
        }
    }
}
