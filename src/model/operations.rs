//! What a circuit can be asked to do: acquire, report, release, control, snapshot.
//!
//! One function a script; each reads, decides, then writes. Twin: `lua/*.lua`.

use super::{
    Acquire, Circuit, Command, Control, Grant, Head, Permission, Reason, Release, Report, Rules,
    Snapshot, State,
    circuit::{Turn, Words},
    quorum::{REPLICA_LIVE_MS, REPLICA_SEEN_MS, no_later},
    request::LONGEST_MS,
};

/// How long an unheard replica's last number is kept.
pub(super) const REPLICA_MEMORY_MS: u64 = 3_600_000;
/// The budget that those share who are there.
const REPORTS_PER_SECOND: u64 = 200;

/// How long each of so many replicas should wait between reports, ms.
pub(crate) fn pace_ms(rules: &Rules, replicas: u64) -> u64 {
    rules
        .report_interval_ms
        .max(replicas * 1000 / REPORTS_PER_SECOND)
}
/// How many forgotten replicas one report clears away.
const CLEARED: usize = 100;

/// The moment of a time, as Redis keeps it for each replica.
pub(super) const fn moment(ms: u64) -> u64 {
    ms / REPLICA_SEEN_MS % 1000
}

impl Circuit {
    /// Asks for leave to make one call; makes the transitions whose time has come.
    pub fn acquire(&mut self, request: &Acquire, now: u64) -> Grant {
        let t = self.load(&request.head, now);
        if self.state == State::Open && now >= self.until_ms {
            let until = now + t.rules.max_wait_duration_in_half_open_state_ms;
            self.transition(
                &t,
                State::HalfOpen,
                Reason::WaitElapsed,
                until,
                Words::of(t.replica),
            );
        } else if self.state == State::HalfOpen && now >= self.until_ms {
            // Probes that are out, or were lost, say that the service hangs; without any it only
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
            // Asked twice, because the first answer was lost, and the circuit has moved on since.
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

    /// Files what a replica has seen since its last report, settles its probes, trips or closes.
    pub fn report(&mut self, report: &Report, now: u64) -> Snapshot {
        let t = self.load(&report.head, now);
        if self.is_news(&t, report, now) {
            self.history.begin(now, self.counted());
            self.count_totals(report, now);
            self.latencies.add(&t.rules, now, &report.latencies);
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

    /// Notes the report's number, and now and then who is here; false when it was seen before.
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

    /// Lets go of who has not been here for long, and says how many are; returns the id of the
    /// replica's policy.
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
        // Who reports so rarely only because it was told to is there too.
        let live_ms = REPLICA_LIVE_MS.max(3 * self.live_replicas * 1000 / REPORTS_PER_SECOND);
        let since = now.saturating_sub(live_ms);
        let live = self.replicas.values().filter(|noted| noted.seen >= since);
        self.live_replicas = live.count() as u64;
        self.note_policy(t, live_ms)
    }

    fn count_totals(&mut self, report: &Report, now: u64) {
        let mut all = report.counts;
        all += report.late;
        self.totals.successes += all.successes;
        self.totals.failures += all.failures;
        self.totals.slow += all.slow();
        self.totals.ignored += all.ignored;
        self.totals.not_permitted += all.not_permitted;
        self.totals.abandoned += all.abandoned;
        if all.successes > 0 {
            self.totals.last_success_ms = now;
        }
        if all.failures > 0 {
            self.totals.last_failure_ms = now;
        }
    }

    fn file(&mut self, t: &Turn<'_>, report: &Report) {
        let mut longest = self.join_runs(report);
        self.window.record(&t.rules, t.now, &report.counts);
        if t.rules.is_silent(self.window.sums) {
            // A run has no time limit: these go on counting when they have left the window.
            self.consecutive_failures += report.counts.undecided();
            longest = longest.max(self.consecutive_failures);
        }
        self.note_failing(t, &report.counts);
        self.heed(t, report.retry_after_ms);
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

    /// Joins the batch's runs of failures to the one that the circuit is in; returns the longest.
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
        let words = Words {
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
                    self.store_policy(&t, Words { policy, ..words });
                }
                return self.current(&t);
            }
        };
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
        self.transition(&t, to, reason, until, words);
        self.current(&t)
    }

    /// The circuit as it is, with what has left the window taken off; of one that is open, what opened it.
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
        snapshot
    }
}
