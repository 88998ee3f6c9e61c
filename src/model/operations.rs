//! The operations of a circuit: acquire, report, release, control, snapshot.
//!
//! Each function is one script, which reads, decides, then writes. Twin: `lua/*.lua`.

use super::{
    Acquire, Circuit, Command, Control, Counts, Grant, Head, Permission, Reason, Release, Report,
    Rules, Snapshot, State,
    quorum::{REPLICA_LIVE_MS, REPLICA_MEMORY_MS, REPLICA_SEEN_MS, no_later},
    request::LONGEST_MS,
    turn::{Annotation, Turn},
};

/// The live replicas share this budget.
const REPORTS_PER_SECOND: u64 = 200;

/// Returns how long each of `replicas` should wait between reports, ms.
pub(crate) fn pace_ms(rules: &Rules, replicas: u64) -> u64 {
    rules
        .report_interval_ms
        .max(replicas * 1000 / REPORTS_PER_SECOND)
}
/// How many silent replicas one report removes at most.
const CLEARED: usize = 100;

/// Returns a short form of a time, as Redis stores it for each replica.
pub(super) const fn moment(ms: u64) -> u64 {
    ms / REPLICA_SEEN_MS % 1000
}

impl Circuit {
    /// Permits or rejects one call, and makes the transitions that are due.
    pub fn acquire(&mut self, request: &Acquire, now: u64) -> Grant {
        let t = self.load(&request.head, now);
        if self.state == State::Open && now >= self.until_ms {
            let until = now + t.rules.max_wait_duration_in_half_open_state_ms;
            self.transition(
                &t,
                State::HalfOpen,
                Reason::WaitElapsed,
                until,
                Annotation::of(t.replica),
            );
        } else if self.state == State::HalfOpen && now >= self.until_ms {
            // Probes in flight or lost mean that the service hangs. Without any, the circuit only
            // lacked calls.
            if self.probes.is_empty() {
                self.until_ms = now + t.rules.max_wait_duration_in_half_open_state_ms;
            } else {
                self.open(&t, Reason::HalfOpenTimeout);
            }
        }
        let permission = match self.state {
            State::HalfOpen => self.probe(&t, &request.token),
            state if state.admits() => Permission::Permitted,
            _ => Permission::Rejected,
        };
        if permission != Permission::Probe {
            // The caller asked again because the first answer was lost, and the circuit has moved
            // on since.
            self.probes.remove(&request.token);
        }
        Grant {
            permission,
            snapshot: self.current(&t),
        }
    }

    fn probe(&mut self, t: &Turn<'_>, token: &str) -> Permission {
        let latest = t.now + t.rules.probe_lease_ms;
        self.probes.retain(|_, deadline| *deadline > t.now);
        no_later(self.probes.values_mut(), latest);
        if self.probes.contains_key(token) {
            return Permission::Probe;
        }
        if self.probes.len() as u64 >= self.permitted_probes(t) {
            return Permission::Rejected;
        }
        self.probes.insert(token.to_owned(), latest);
        Permission::Probe
    }

    /// Records what a replica has seen since its last report, settles its probes, trips or closes.
    pub fn report(&mut self, report: &Report, now: u64) -> Snapshot {
        let t = self.load(&report.head, now);
        if self.is_news(&t, report, now) {
            self.history.begin(&t.rules, now, self.counted());
            self.count_totals(report, now);
            self.latencies.add(&t.rules, now, &report.latencies);
            self.kinds.note(now, &report.kinds);
            self.note_alone(&t, report.alone_ms);
            for s in &report.settled {
                self.settle(&t, s.generation, &s.token, s.kind, s.retry_after_ms);
            }
            if report.generation == self.generation && self.records() {
                self.file(&t, report);
            }
        }
        self.pace_ms = pace_ms(&t.rules, self.live_replicas);
        self.current(&t)
    }

    /// Records the number of the report, and from time to time its replica. Returns `false` if the
    /// number was seen before.
    fn is_news(&mut self, t: &Turn<'_>, report: &Report, now: u64) -> bool {
        let replica = &report.head.replica;
        let known = self.replicas.get(replica).copied();
        if known.is_some_and(|known| report.seq <= known.number) {
            return false;
        }
        let mut noted = known.unwrap_or_default();
        if known.is_none_or(|known| known.moment != moment(now)) {
            (noted.seen, noted.moment) = (now, moment(now));
            self.replicas.insert(replica.clone(), noted);
            noted.policy = self.note_replicas(t, now);
        }
        noted.number = report.seq;
        self.replicas.insert(replica.clone(), noted);
        true
    }

    /// Removes replicas that have been silent for a long time, and counts the live ones. Returns
    /// the id of the replica's policy.
    fn note_replicas(&mut self, t: &Turn<'_>, now: u64) -> u64 {
        no_later(self.replicas.values_mut().map(|noted| &mut noted.seen), now);
        if let Some(forgotten) = now.checked_sub(REPLICA_MEMORY_MS) {
            let gone = self.replicas.iter();
            let gone = gone.filter(|(_, noted)| noted.seen <= forgotten);
            let mut gone: Vec<_> = gone.map(|(r, noted)| (noted.seen, r.clone())).collect();
            gone.sort();
            for (_, replica) in gone.into_iter().take(CLEARED) {
                self.replicas.remove(&replica);
            }
        }
        // A replica that reports rarely because its pace is slow is live too.
        let live_ms = REPLICA_LIVE_MS.max(3 * self.live_replicas * 1000 / REPORTS_PER_SECOND);
        let since = now.saturating_sub(live_ms);
        let live = self.replicas.values().filter(|noted| noted.seen >= since);
        self.live_replicas = live.count() as u64;
        self.note_policy(t, live_ms)
    }

    fn count_totals(&mut self, report: &Report, now: u64) {
        let mut all = report.counts;
        all += report.late;
        let Counts {
            successes,
            failures,
            slow_successes,
            slow_failures,
            ignored,
            rejected,
            abandoned,
            abandoned_failures: _, // among the failures
        } = all;
        self.totals.successes += successes;
        self.totals.failures += failures;
        self.totals.slow += slow_successes + slow_failures;
        self.totals.ignored += ignored;
        self.totals.rejected += rejected;
        self.totals.abandoned += abandoned;
        if successes > 0 {
            self.totals.last_success_ms = now;
        }
        if failures > 0 {
            self.totals.last_failure_ms = now;
        }
    }

    fn file(&mut self, t: &Turn<'_>, report: &Report) {
        let mut longest = self.join_runs(report);
        self.window.record(&t.rules, t.now, &report.counts);
        if t.rules.is_silent(self.window.sums) {
            // A run has no time limit: undecided calls stay in it after they have left the window.
            self.consecutive_failures += report.counts.undecided();
            longest = longest.max(self.consecutive_failures);
        }
        self.note_failing(t, &report.counts);
        self.honor(t, report.retry_after_ms);
        if self.state != State::Closed {
            return;
        }
        let some = report.counts.calls() + report.counts.undecided() > 0;
        let by_all = match report.trips {
            0 if some => t.rules.breach(self.window.sums, longest),
            0 => None,
            _ => Some(Reason::Tripped),
        };
        let by_half = by_all.is_none() && some && self.window.breaches_in_half(&t.rules);
        let reason = by_all.or(by_half.then_some(Reason::FailureRate));
        if let Some(reason) = reason
            && self.agreed(t)
        {
            self.window.decide(&t.rules, by_half);
            self.open(t, reason);
        }
    }

    /// Joins the batch's runs of failures to the circuit's current run. Returns the longest one.
    fn join_runs(&mut self, report: &Report) -> u64 {
        let joined = self.consecutive_failures;
        let (first, last) = match report.counts.successes {
            0 => (report.counts.failures, joined + report.counts.failures),
            _ => (report.runs.first, report.runs.last),
        };
        self.consecutive_failures = last;
        let first = if first > 0 { joined + first } else { 0 };
        first.max(report.runs.longest)
    }

    /// Gives back one half-open permit whose call produced no outcome.
    pub fn release(&mut self, request: &Release, now: u64) -> Snapshot {
        let t = self.load(&request.head, now);
        self.probes.remove(&request.token);
        self.current(&t)
    }

    /// Carries out an operator's command.
    pub fn control(&mut self, request: &Control, now: u64) -> Snapshot {
        let t = self.load(&request.head, now);
        let annotation = Annotation {
            by: &request.author,
            note: &request.reason,
            origin: t.replica,
            policy: "",
            why: None,
        };
        let to = match request.command {
            Command::Reset => State::Closed,
            Command::ForceOpen => State::ForcedOpen,
            Command::Disable => State::Disabled,
            Command::MetricsOnly => State::MetricsOnly,
            Command::Policy => {
                if request.expects == 0 || request.expects == self.policy_version + 1 {
                    let policy = &request.policy;
                    self.store_policy(
                        &t,
                        Annotation {
                            policy,
                            ..annotation
                        },
                    );
                }
                return self.current(&t);
            }
        };
        let in_force = match self.state.is_override() {
            true => self.generation,
            false => 0,
        };
        if request.expects > 0 && request.expects != in_force.saturating_add(1) {
            return self.current(&t);
        }
        let (reason, until) = match to {
            State::Closed => (Reason::Reset, 0),
            _ if request.for_ms > 0 => (Reason::Override, now + request.for_ms.min(LONGEST_MS)),
            _ => (Reason::Override, 0),
        };
        self.consecutive_opens = 0;
        if to.is_override() {
            self.override_author.clone_from(&request.author);
            self.override_reason.clone_from(&request.reason);
        }
        self.transition(&t, to, reason, until, annotation);
        self.current(&t)
    }

    /// Returns the circuit, without calls that have left the window. An open or half-open circuit
    /// keeps the counts that opened it.
    #[must_use]
    pub fn snapshot(&self, head: &Head, now: u64) -> Snapshot {
        let t = self.turn(head, now);
        let counts = match self.state {
            State::Open | State::HalfOpen => self.window.sums,
            _ => self.window.totals(&t.rules, now),
        };
        let mut snapshot = self.picture(&t, counts);
        snapshot = snapshot.in_time(&t.rules);
        snapshot.pace_ms = 0;
        snapshot.latency = self.latencies.seen(&t.rules, now).percentiles();
        snapshot.code_policy = self.code();
        snapshot.failure_kinds = self.kinds.seen(now);
        snapshot
    }
}
