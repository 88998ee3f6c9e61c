//! One circuit and its transitions: the one writer of state and generation.
//!
//! Owns what each transition sets, the events and the publications; [`operations`](super) says
//! which transition when. Invariants: every transition adds one to the generation, appends one
//! event and publishes once; the generation never goes back while a caller remembers it.
//! Twin: `lua/lib/circuit.lua`.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::{
    Event, Head, Interval, Kind, Members, Memory, Reason, Rules, Snapshot, State, Times,
    history::History,
    in_use::Policies,
    request::LONGEST_MS,
    slices::Slices,
    snapshot::{MOST_GENERATIONS, Span},
    window::Sums,
    windows::Windows,
};

/// How many transitions are kept.
const EVENTS: usize = 256;
/// A difference in time between a store and its callers that is no delay of an answer, ms.
const STEP_MS: u64 = 1000;

/// One circuit, as Redis holds it. The default is one that no store has heard of.
#[derive(Clone, Debug, Default)]
pub struct Circuit {
    /// Whether anything was ever written.
    pub(super) exists: bool,
    pub(super) state: State,
    pub(super) generation: u64,
    pub(super) since_ms: u64,
    pub(super) until_ms: u64,
    pub(super) reason: Reason,
    pub(super) consecutive_opens: u64,
    pub(super) window: Windows,
    pub(super) consecutive_failures: u64,
    pub(super) probe_successes: u64,
    pub(super) probe_failures: u64,
    pub(super) ramp_until_ms: u64,
    pub(super) retry_after_until_ms: u64,
    pub(super) totals: Totals,
    pub(super) override_author: String,
    pub(super) override_reason: String,
    pub(super) policy: String,
    pub(super) policy_version: u64,
    /// The policies in code that replicas have.
    pub(super) policies: Policies,
    /// In what they differ.
    pub(super) differ: String,
    pub(super) pace_ms: u64,
    pub(super) live_replicas: u64,
    /// Token -> lease deadline.
    pub(super) probes: BTreeMap<String, u64>,
    pub(super) replicas: HashMap<String, Noted>,
    /// Replica -> when it last reported a failure.
    pub(super) failing: BTreeMap<String, u64>,
    /// Replica -> until when it is open for itself.
    pub(super) alone: BTreeMap<String, u64>,
    /// How long calls took, whatever the state was.
    pub(super) latencies: Slices,
    pub(super) history: History,
    events: VecDeque<Event>,
    published: Vec<Snapshot>,
}

/// A replica that reports here.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Noted {
    /// Number of its last report.
    pub(super) number: u64,
    /// When it was seen.
    pub(super) seen: u64,
    /// The moment of that by which it is known to be noted.
    pub(super) moment: u64,
    /// The id of its policy.
    pub(super) policy: u64,
}

/// Counts of a circuit's whole life.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    pub(super) successes: u64,
    pub(super) failures: u64,
    pub(super) slow: u64,
    pub(super) ignored: u64,
    pub(super) not_permitted: u64,
    pub(super) abandoned: u64,
    pub(super) last_success_ms: u64,
    pub(super) last_failure_ms: u64,
}

/// What one operation works under: who asks, when, by which rules.
pub(super) struct Turn<'a> {
    pub(super) now: u64,
    pub(super) entropy: u64,
    pub(super) replica: &'a str,
    pub(super) in_code: Rules,
    pub(super) rules: Rules,
}

/// The generation after this one. After the last there is the first: no fleet comes there, but
/// somebody may have written it.
const fn next(generation: u64) -> u64 {
    if generation < MOST_GENERATIONS {
        generation + 1
    } else {
        1
    }
}

/// What an event says of whoever made it; the origin and the stored policy are an operator's.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Words<'a> {
    pub(super) by: &'a str,
    pub(super) note: &'a str,
    pub(super) origin: &'a str,
    pub(super) policy: &'a str,
    /// What the event says, where that is not the reason of the state.
    pub(super) why: Option<Reason>,
}

impl<'a> Words<'a> {
    pub(super) fn of(by: &'a str) -> Self {
        Self {
            by,
            ..Self::default()
        }
    }
}

impl Circuit {
    /// A circuit that goes on from a snapshot: its state, and its window's totals at their rate.
    ///
    /// What a replica begins with when the store is away.
    #[must_use]
    pub fn resume(seen: &Snapshot, rules: &Rules, now: u64) -> Self {
        let seen = &seen.clone().bounded();
        let ends = |at: u64| match at {
            0 => 0,
            at => now + at.saturating_sub(seen.now_ms),
        };
        let mut circuit = Self {
            exists: true,
            state: seen.state,
            generation: seen.generation,
            since_ms: now.saturating_sub(seen.now_ms.saturating_sub(seen.since_ms)),
            until_ms: ends(seen.until_ms),
            reason: seen.reason,
            consecutive_opens: seen.consecutive_opens,
            consecutive_failures: seen.consecutive_failures,
            ramp_until_ms: ends(seen.ramp_until_ms),
            override_author: seen.override_author.clone(),
            override_reason: seen.override_reason.clone(),
            policy: seen.policy.clone(),
            policy_version: seen.policy_version,
            ..Self::default()
        };
        if matches!(seen.state, State::Closed | State::MetricsOnly) {
            circuit.window.seed(rules, now, seen.sums());
        }
        circuit
    }

    /// Takes the snapshots that transitions have published since the last time.
    pub fn take_published(&mut self) -> Vec<Snapshot> {
        std::mem::take(&mut self.published)
    }

    /// What came after the transition to `generation`, oldest first; the newest 256 are kept.
    #[must_use]
    pub fn events_after(&self, generation: u64) -> Vec<Event> {
        let newer = self.events.iter().filter(|e| e.is_after(generation));
        newer.cloned().collect()
    }

    /// What was reported in the past hour of use, oldest first; the newest `most` slices.
    #[must_use]
    pub fn history(&self, most: usize) -> Vec<Interval> {
        self.history.newest(most, self.counted())
    }

    /// Who takes part, as of `now`.
    #[must_use]
    pub fn members(&self, now: u64) -> Members {
        let seen = self.replicas.iter();
        let seen: Times = seen
            .map(|(name, noted)| (name.clone(), noted.seen))
            .collect();
        let (probes, alone) = (self.probes.clone(), self.alone.clone());
        Members::new(now, probes, &seen, &self.failing, alone)
    }

    /// Whether outcomes are filed in the window.
    pub(super) const fn records(&self) -> bool {
        matches!(self.state, State::Closed | State::MetricsOnly)
    }

    pub(super) fn turn<'a>(&self, head: &'a Head, now: u64) -> Turn<'a> {
        let in_code = match head.is_operator {
            true => Rules::default().with(&self.code()),
            false => head.policy,
        };
        Turn {
            now,
            entropy: head.entropy,
            replica: &head.replica,
            in_code,
            rules: in_code.with(&self.policy),
        }
    }

    /// Begins an operation that writes: adopts what the caller remembers, ends an override whose
    /// time is up.
    pub(super) fn load<'a>(&mut self, head: &'a Head, now: u64) -> Turn<'a> {
        let t = self.turn(head, now);
        self.pace_ms = 0;
        if !self.exists {
            self.since_ms = now;
        }
        self.keep_in_time(&t);
        self.adopt(&t, &head.memory);
        self.exists = true;
        if self.state.is_override() && self.until_ms > 0 && now >= self.until_ms {
            self.consecutive_opens = 0;
            self.transition(
                &t,
                State::Closed,
                Reason::OverrideExpired,
                0,
                Words::of(t.replica),
            );
        }
        t
    }

    fn keep_in_time(&mut self, t: &Turn<'_>) {
        let times = Span {
            since: self.since_ms,
            until: self.until_ms,
            ramp_until: self.ramp_until_ms,
            retry_after_until: self.retry_after_until_ms,
        };
        let times = times.as_of(t.now, self.state, &t.rules);
        self.since_ms = times.since;
        self.until_ms = times.until;
        self.ramp_until_ms = times.ramp_until;
        self.retry_after_until_ms = times.retry_after_until;
    }

    /// Takes over what the caller remembers of a circuit that was lost or is in an older state; of
    /// the present one, how much of it is left, where the store's clock was set back.
    fn adopt(&mut self, t: &Turn<'_>, memory: &Memory) {
        let left = u64::try_from(memory.left_ms).map_or(0, |left| left.min(LONGEST_MS));
        if memory.generation == self.generation {
            let same = memory.state == self.state && self.state != State::HalfOpen;
            // The caller's clock, which nobody sets, says so.
            if same && memory.left_ms >= 0 && self.until_ms > t.now + left + STEP_MS {
                self.until_ms = t.now + left;
            }
            return;
        }
        // The last one of all would be adopted again and again.
        if memory.generation < self.generation || memory.generation >= MOST_GENERATIONS {
            return;
        }
        self.generation = memory.generation;
        let recent = memory.age_ms <= t.rules.longest_wait_ms() + t.rules.probe_lease_ms;
        let adopted = Words {
            why: Some(Reason::Adopted),
            ..Words::of(t.replica)
        };
        if matches!(memory.state, State::Open | State::HalfOpen) && recent {
            self.consecutive_opens = memory.opens;
            // Where a probe may be out, or is about to be, for as long as that is.
            let may_probe = memory.state == State::HalfOpen
                || left <= STEP_MS
                || memory.probes > 0
                || memory.age_ms >= t.rules.wait_duration_in_open_state_ms;
            let lease = if may_probe { t.rules.probe_lease_ms } else { 0 };
            let until = t.now + left.min(t.rules.longest_wait_ms()).max(lease);
            let reason = match memory.state {
                State::Open => memory.why,
                _ => Reason::Adopted,
            };
            self.transition(t, State::Open, reason, until, adopted);
        } else if memory.state.is_override() && memory.left_ms != 0 {
            self.override_author.clone_from(&memory.author);
            self.override_reason.clone_from(&memory.reason);
            let until = if memory.left_ms < 0 { 0 } else { t.now + left };
            let note = &memory.reason;
            self.transition(
                t,
                memory.state,
                memory.why,
                until,
                Words { note, ..adopted },
            );
        } else if memory.state != State::Closed || self.exists {
            self.generation = next(self.generation);
            self.reason = Reason::Adopted;
            self.announce(t, self.state, self.reason, Words::of(t.replica));
            self.publish(t);
        }
    }

    pub(super) fn transition(
        &mut self,
        t: &Turn<'_>,
        to: State,
        reason: Reason,
        until_ms: u64,
        words: Words<'_>,
    ) {
        let from = std::mem::replace(&mut self.state, to);
        let ramp = if reason == Reason::Recovered && words.why.is_none() {
            t.rules.ramp_duration_ms
        } else {
            0
        };
        self.generation = next(self.generation);
        self.since_ms = t.now;
        self.until_ms = until_ms;
        self.reason = reason;
        self.ramp_until_ms = if ramp > 0 { t.now + ramp } else { 0 };
        self.probe_successes = 0;
        self.probe_failures = 0;
        if !to.is_override() {
            self.override_author.clear();
            self.override_reason.clear();
        }
        self.announce(t, from, words.why.unwrap_or(reason), words);
        if matches!(to, State::Closed | State::MetricsOnly) {
            self.window.forget();
            self.failing.clear();
            self.consecutive_failures = 0;
            self.retry_after_until_ms = 0;
        }
        self.publish(t);
    }

    fn announce(&mut self, t: &Turn<'_>, from: State, reason: Reason, words: Words<'_>) {
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        let [calls, failures, slow, _] = self.window.sums;
        self.events.push_back(Event {
            generation: self.generation,
            from,
            to: self.state,
            reason,
            at_ms: t.now,
            until_ms: self.until_ms,
            consecutive_opens: self.consecutive_opens,
            calls,
            failures,
            slow,
            by: words.by.to_owned(),
            note: words.note.to_owned(),
            origin: words.origin.to_owned(),
            policy: words.policy.to_owned(),
        });
    }

    /// Stores a policy with the circuit, which is no transition: what was counted goes on counting.
    pub(super) fn store_policy(&mut self, t: &Turn<'_>, words: Words<'_>) {
        words.policy.clone_into(&mut self.policy);
        self.policy_version += 1;
        self.announce(t, self.state, Reason::Policy, words);
        self.publish(t);
    }

    fn publish(&mut self, t: &Turn<'_>) {
        let snapshot = self.current(t);
        self.published.push(snapshot);
    }

    pub(super) fn open(&mut self, t: &Turn<'_>, reason: Reason) {
        let calm = self.state == State::Closed
            && t.now >= self.ramp_until_ms
            && t.now.saturating_sub(self.since_ms) >= t.rules.backoff_reset_after_ms;
        self.consecutive_opens = if calm { 1 } else { self.consecutive_opens + 1 };
        let wait = t.rules.open_wait_ms(self.consecutive_opens, t.entropy);
        let asked = self
            .retry_after_until_ms
            .min(t.now + t.rules.longest_wait_ms());
        let until = (t.now + wait).max(asked);
        self.transition(t, State::Open, reason, until, Words::of(t.replica));
    }

    /// Remembers how long the protected service asked to be left alone.
    pub(super) fn heed(&mut self, t: &Turn<'_>, retry_after_ms: u64) {
        if retry_after_ms > 0 {
            let until = t.now + retry_after_ms.min(t.rules.longest_wait_ms());
            self.retry_after_until_ms = self.retry_after_until_ms.max(until);
        }
    }

    /// A token settles once, and only within its lease; only in its own generation does it move
    /// anything.
    pub(super) fn settle(
        &mut self,
        t: &Turn<'_>,
        given_under: u64,
        token: &str,
        kind: Kind,
        retry_after_ms: u64,
    ) {
        let Some(deadline) = self.probes.remove(token) else {
            return;
        };
        if deadline <= t.now || given_under != self.generation || self.state != State::HalfOpen {
            return;
        }
        match kind {
            Kind::Ignored => {}
            Kind::Abandoned if self.probe_successes > 0 => {}
            Kind::Success => {
                self.probe_successes += 1;
                if self.probe_successes >= t.rules.success_threshold {
                    self.transition(t, State::Closed, Reason::Recovered, 0, Words::of(t.replica));
                }
            }
            Kind::Failure | Kind::Trip | Kind::Abandoned => {
                self.probe_failures += 1;
                self.heed(t, retry_after_ms);
                if kind == Kind::Trip || self.probe_failures >= t.rules.half_open_failure_threshold
                {
                    self.open(t, Reason::ProbeFailed);
                }
            }
        }
    }

    /// What was counted in all: successes, failures, slow, ignored, not permitted, abandoned.
    pub(super) fn counted(&self) -> [u64; 6] {
        let of = &self.totals;
        [
            of.successes,
            of.failures,
            of.slow,
            of.ignored,
            of.not_permitted,
            of.abandoned,
        ]
    }

    pub(super) fn current(&self, t: &Turn<'_>) -> Snapshot {
        self.picture(t, self.window.sums)
    }

    pub(super) fn picture(&self, t: &Turn<'_>, sums: Sums) -> Snapshot {
        let [calls, failures, slow, undecided] = sums;
        let probes = match self.state {
            State::Open | State::HalfOpen => self.probes.values().filter(|d| **d > t.now).count(),
            _ => 0,
        };
        Snapshot {
            state: self.state,
            generation: self.generation,
            now_ms: t.now,
            since_ms: self.since_ms,
            until_ms: self.until_ms,
            reason: self.reason,
            consecutive_opens: self.consecutive_opens,
            calls,
            failures,
            slow,
            consecutive_failures: self.consecutive_failures,
            probes: probes as u64,
            probe_successes: self.probe_successes,
            probe_failures: self.probe_failures,
            ramp_until_ms: self.ramp_until_ms,
            override_author: self.override_author.clone(),
            override_reason: self.override_reason.clone(),
            policy: self.policy.clone(),
            policy_version: self.policy_version,
            successes_total: self.totals.successes,
            failures_total: self.totals.failures,
            slow_total: self.totals.slow,
            ignored_total: self.totals.ignored,
            not_permitted_total: self.totals.not_permitted,
            last_success_ms: self.totals.last_success_ms,
            last_failure_ms: self.totals.last_failure_ms,
            pace_ms: self.pace_ms,
            replicas: self.live_replicas,
            failing: self.failing_now(t),
            alone: self.alone_now(t),
            undecided,
            abandoned_total: self.totals.abandoned,
            policies_differ: self.differ.clone(),
            latency: None,
            code_policy: String::new(),
        }
    }
}
