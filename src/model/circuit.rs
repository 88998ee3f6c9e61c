//! One circuit and its transitions: the one writer of state and generation.
//!
//! Owns what each transition sets, the events and the publications; [`operations`](super) decides
//! which transition happens when. Invariants: every transition increments the generation, appends
//! one event and publishes once; the generation never decreases while a caller remembers it.
//! Twin: `lua/lib/circuit.lua`.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::{
    Event, Head, Interval, Kind, Members, Memory, Reason, Rules, Slice, Snapshot, State, Times,
    history::History,
    in_use::Policies,
    kinds::Kinds,
    quorum::SeenReplica,
    request::LONGEST_MS,
    slices::Slices,
    snapshot::{MOST_GENERATIONS, Span, generation_after},
    totals::{Totals, is_down},
    turn::{Annotation, Turn},
    window::Sums,
    windows::Windows,
};

/// How many events are kept.
const EVENTS: usize = 256;
/// A larger time difference between a store and a caller is not the delay of an answer, ms.
const STEP_MS: u64 = 1000;

/// One circuit, as Redis stores it. The default is a circuit that no store knows.
#[derive(Clone, Debug, Default)]
pub struct Circuit {
    /// Whether the circuit was ever written.
    pub(super) exists: bool,
    pub(super) state: State,
    pub(super) generation: u64,
    pub(super) since_ms: u64,
    /// When it opened (failed probes do not change it); 0 if it is neither open nor half-open.
    pub(super) opened_ms: u64,
    /// Total duration of the outages before that, half-open periods included.
    pub(super) open_total_ms: u64,
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
    /// The policies in code of the replicas.
    pub(super) policies: Policies,
    /// The settings in which these policies differ.
    pub(super) differ: String,
    pub(super) pace_ms: u64,
    pub(super) live_replicas: u64,
    /// Token -> lease deadline.
    pub(super) probes: BTreeMap<String, u64>,
    pub(super) replicas: HashMap<String, SeenReplica>,
    /// Stable name of a replica -> when it last reported a failure.
    pub(super) failing: BTreeMap<String, u64>,
    /// Replica -> until when its local circuit is open.
    pub(super) alone: BTreeMap<String, u64>,
    /// How long calls took, in any state.
    pub(super) latencies: Slices,
    /// The kinds of failures, in any state.
    pub(super) kinds: Kinds,
    pub(super) history: History,
    pub(super) events: VecDeque<Event>,
    pub(super) published: Vec<Snapshot>,
}

impl Circuit {
    /// Continues a circuit from a snapshot: its state, and the totals of its window.
    ///
    /// A replica starts its local circuit with this when the store is unavailable.
    #[must_use]
    pub fn resume(seen: &Snapshot, rules: &Rules, now: u64) -> Self {
        let seen = &seen.clone().bounded();
        let ends = |at: u64| match at {
            0 => 0,
            at => now + at.saturating_sub(seen.now_ms),
        };
        let began = |at: u64| now.saturating_sub(seen.now_ms.saturating_sub(at));
        let open_now_ms = seen.open_ms().unwrap_or(0);
        let mut circuit = Self {
            exists: true,
            state: seen.state,
            generation: seen.generation,
            since_ms: began(seen.since_ms),
            opened_ms: seen.open_ms().map_or(0, |_| began(seen.opened_ms)),
            open_total_ms: seen.open_total_ms.saturating_sub(open_now_ms),
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

    /// Takes the snapshots that transitions have published since the last call.
    pub fn take_published(&mut self) -> Vec<Snapshot> {
        std::mem::take(&mut self.published)
    }

    /// Returns the events after the transition to `generation`, oldest first. The newest 256 are
    /// kept.
    #[must_use]
    pub fn events_after(&self, generation: u64) -> Vec<Event> {
        let newer = self.events.iter().filter(|e| e.is_after(generation));
        newer.cloned().collect()
    }

    /// Returns the newest `most` intervals of the past hour, oldest first.
    #[must_use]
    pub fn history(&self, most: usize) -> Vec<Interval> {
        self.history.newest(most, self.counted())
    }

    /// Returns the whole history, oldest first.
    #[must_use]
    pub fn past(&self) -> Vec<Slice> {
        self.history.slices(self.counted())
    }

    /// Returns the replicas and probes of the circuit, as of `now`.
    #[must_use]
    pub fn members(&self, now: u64) -> Members {
        let seen = self.replicas.iter();
        let seen: Times = seen
            .map(|(name, noted)| (name.clone(), noted.seen))
            .collect();
        let (probes, alone) = (self.probes.clone(), self.alone.clone());
        Members::new(now, probes, &seen, &self.failing, alone)
    }

    /// Whether outcomes are recorded in the window.
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

    /// Begins an operation that writes: adopts the caller's memory, and ends an override that has
    /// expired.
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
                Annotation::of(t.replica),
            );
        }
        t
    }

    fn keep_in_time(&mut self, t: &Turn<'_>) {
        let times = Span {
            since: self.since_ms,
            opened: self.opened_ms,
            until: self.until_ms,
            ramp_until: self.ramp_until_ms,
            retry_after_until: self.retry_after_until_ms,
        };
        let times = times.as_of(t.now, self.state, &t.rules);
        self.since_ms = times.since;
        self.opened_ms = times.opened;
        self.until_ms = times.until;
        self.ramp_until_ms = times.ramp_until;
        self.retry_after_until_ms = times.retry_after_until;
    }

    /// Adopts the caller's memory of a circuit that was lost or is in an older state. For the same
    /// state, takes over the time left if the store's clock was set back.
    fn adopt(&mut self, t: &Turn<'_>, memory: &Memory) {
        let left = u64::try_from(memory.left_ms).map_or(0, |left| left.min(LONGEST_MS));
        if memory.generation == self.generation {
            let same = memory.state == self.state && self.state != State::HalfOpen;
            // The caller's monotonic clock says that less time is left.
            if same && memory.left_ms >= 0 && self.until_ms > t.now + left + STEP_MS {
                self.until_ms = t.now + left;
            }
            return;
        }
        // The largest generation would be adopted again and again, because the next one is 1.
        if memory.generation < self.generation || memory.generation >= MOST_GENERATIONS {
            return;
        }
        self.generation = memory.generation;
        let recent = memory.age_ms <= t.rules.longest_wait_ms() + t.rules.probe_lease_ms;
        let adopted = Annotation {
            why: Some(Reason::Adopted),
            ..Annotation::of(t.replica)
        };
        if matches!(memory.state, State::Open | State::HalfOpen) && recent {
            self.consecutive_opens = memory.opens;
            // While a probe may be in flight, or about to start, the wait is at least its lease.
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
                Annotation { note, ..adopted },
            );
        } else if memory.state != State::Closed || self.exists {
            self.generation = generation_after(self.generation);
            self.reason = Reason::Adopted;
            self.announce(t, self.state, self.reason, Annotation::of(t.replica));
            self.publish(t);
        }
    }

    pub(super) fn transition(
        &mut self,
        t: &Turn<'_>,
        to: State,
        reason: Reason,
        until_ms: u64,
        annotation: Annotation<'_>,
    ) {
        self.note_open(t.now, to);
        let from = std::mem::replace(&mut self.state, to);
        let ramp = if reason == Reason::Recovered && annotation.why.is_none() {
            t.rules.ramp_duration_ms
        } else {
            0
        };
        self.generation = generation_after(self.generation);
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
        self.announce(t, from, annotation.why.unwrap_or(reason), annotation);
        if matches!(to, State::Closed | State::MetricsOnly) {
            self.window.forget();
            self.failing.clear();
            self.consecutive_failures = 0;
            self.retry_after_until_ms = 0;
        }
        self.publish(t);
    }

    fn announce(&mut self, t: &Turn<'_>, from: State, reason: Reason, annotation: Annotation<'_>) {
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        let [calls, failures, slow, _] = self.window.sums;
        let leading_failure = match self.state {
            State::Open if reason != Reason::Policy => self.kinds.leading(t.now),
            _ => String::new(),
        };
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
            by: annotation.by.to_owned(),
            note: annotation.note.to_owned(),
            origin: annotation.origin.to_owned(),
            policy: annotation.policy.to_owned(),
            leading_failure,
        });
    }

    /// Stores a policy with the circuit. This is not a transition: the counts continue.
    pub(super) fn store_policy(&mut self, t: &Turn<'_>, annotation: Annotation<'_>) {
        annotation.policy.clone_into(&mut self.policy);
        self.policy_version += 1;
        self.announce(t, self.state, Reason::Policy, annotation);
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
        self.transition(t, State::Open, reason, until, Annotation::of(t.replica));
    }

    /// Remembers how long the upstream asked to be left alone.
    pub(super) fn honor(&mut self, t: &Turn<'_>, retry_after_ms: u64) {
        if retry_after_ms > 0 {
            let until = t.now + retry_after_ms.min(t.rules.longest_wait_ms());
            self.retry_after_until_ms = self.retry_after_until_ms.max(until);
        }
    }

    /// Settles a probe. A token settles once, and only within its lease. It affects the circuit
    /// only in its own generation.
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
                    self.transition(
                        t,
                        State::Closed,
                        Reason::Recovered,
                        0,
                        Annotation::of(t.replica),
                    );
                }
            }
            Kind::Failure | Kind::Trip | Kind::Abandoned => {
                self.probe_failures += 1;
                self.honor(t, retry_after_ms);
                if kind == Kind::Trip || self.probe_failures >= t.rules.half_open_failure_threshold
                {
                    self.open(t, Reason::ProbeFailed);
                }
            }
        }
    }

    pub(super) fn current(&self, t: &Turn<'_>) -> Snapshot {
        self.picture(t, self.window.sums)
    }

    pub(super) fn picture(&self, t: &Turn<'_>, sums: Sums) -> Snapshot {
        let [calls, failures, slow, undecided] = sums;
        let probes = match is_down(self.state) {
            true => self.probes.values().filter(|d| **d > t.now).count(),
            false => 0,
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
            rejected_total: self.totals.rejected,
            last_success_ms: self.totals.last_success_ms,
            last_failure_ms: self.totals.last_failure_ms,
            pace_ms: self.pace_ms,
            replicas: self.live_replicas,
            failing: self.failing_now(t),
            alone: self.alone_now(t),
            undecided,
            abandoned_total: self.totals.abandoned,
            opened_ms: self.opened_at(),
            open_total_ms: self.open_until_ms(t.now),
            policies_differ: self.differ.clone(),
            latency: None,
            code_policy: String::new(),
            failure_kinds: Vec::new(),
        }
    }
}
