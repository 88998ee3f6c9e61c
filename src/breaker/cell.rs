//! One circuit in this process: the gate in front, the tally behind, and what is known of the
//! shared circuit between them.
//!
//! Owns the view (the newest snapshot taken over) and the outbox (what the next report will
//! carry). Invariants: a snapshot of an older generation is never taken over while the store is
//! there; outcomes are filed under the generation that permitted them.
//! Locks are taken in the order view, outbox, tally.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    Rejection,
    gate::{Decision, Gate, Source},
    outbox::Outbox,
    registry::Shared,
    tally::{Count, TAGS, Tally},
};
use crate::model::{
    Acquire, Circuit, Counts, Head, Kind, Memory, Name, OnStoreFailure, Outcome, Permission,
    Policy, Report, Settled, Snapshot, State,
};

/// How far beyond the reporter's pace a decision is good, where changes are pushed.
const GRACE_MS: u64 = 100;

pub(super) struct Cell {
    pub(super) name: Name,
    pub(super) shared: Arc<Shared>,
    pub(super) gate: Gate,
    pub(super) tally: Tally,
    /// The policy in force: the code's, with what is stored with the circuit.
    pub(super) policy: ArcSwap<Policy>,
    /// The reporter does not look after this circuit until it is woken.
    pub(super) parked: AtomicBool,
    /// Something must leave at once.
    pub(super) urgent: AtomicBool,
    /// The decision wants renewing.
    pub(super) stale: AtomicBool,
    /// One caller asks for a probe permit; the others do not.
    pub(super) asking: AtomicBool,
    /// Callers that wait for one answer take turns.
    pub(super) ask_turn: tokio::sync::Mutex<()>,
    /// Changes of this circuit are pushed to this process.
    pub(super) followed: AtomicBool,
    pub(super) view: Mutex<View>,
    pub(super) outbox: Mutex<Outbox>,
    /// The newest generation of the shared circuit, for those who wait for events.
    pub(super) generation: watch::Sender<u64>,
    /// A probe permit fetched for a caller that could not wait.
    pub(super) spare: Mutex<Option<super::permit::Held<Arc<Cell>>>>,
}

/// What this process knows of the circuit.
pub(super) struct View {
    /// The policy in code.
    pub(super) code: Policy,
    /// What the gate shows.
    pub(super) seen: Snapshot,
    /// The shared circuit as last heard of.
    pub(super) shared: Snapshot,
    /// When that was, coarse ms; `None` before the first answer.
    confirmed: Option<u64>,
    pub(super) source: Source,
    tag: u32,
}

/// Leave to make one call.
#[derive(Debug)]
pub(super) struct Ticket {
    tag: u32,
    started_ns: u64,
    probe: Option<Box<Probe>>,
}

#[derive(Debug)]
struct Probe {
    token: String,
    generation: u64,
    local: bool,
}

impl Ticket {
    pub(super) const fn is_probe(&self) -> bool {
        self.probe.is_some()
    }
}

impl Cell {
    pub(super) fn new(name: Name, policy: Policy, shared: Arc<Shared>) -> Self {
        Self {
            name,
            shared,
            gate: Gate::new(),
            tally: Tally::new(),
            policy: ArcSwap::from_pointee(policy.clone()),
            parked: AtomicBool::new(true),
            urgent: AtomicBool::new(false),
            stale: AtomicBool::new(false),
            asking: AtomicBool::new(false),
            ask_turn: tokio::sync::Mutex::default(),
            followed: AtomicBool::new(false),
            view: Mutex::new(View {
                code: policy,
                seen: Snapshot::default(),
                shared: Snapshot::default(),
                confirmed: None,
                source: Source::Shared,
                tag: 0,
            }),
            outbox: Mutex::default(),
            generation: watch::channel(0).0,
            spare: Mutex::default(),
        }
    }

    fn now(&self) -> u64 {
        self.shared.clock.coarse_ms()
    }

    // --- Admission ------------------------------------------------------------------------------

    /// Decides from the cache.
    #[inline]
    pub(super) fn admit(self: &Arc<Self>) -> Decision {
        let now = self.now();
        match self.gate.fast(now) {
            Some(tag) => Decision::Admit(tag),
            None => self.admit_slowly(now),
        }
    }

    fn admit_slowly(self: &Arc<Self>, now: u64) -> Decision {
        let decision = self.gate.decide(now);
        if self.gate.is_fresh(now) || self.shared.link.is_away() {
            return decision;
        }
        if self.policy.load().rules.decision_ttl_ms == 0 {
            return Decision::Ask;
        }
        if self.followed.load(Ordering::Relaxed) {
            // A change would have been pushed: go on, and renew in the background.
            self.renew();
            return decision;
        }
        match decision {
            Decision::Admit(_) => Decision::Ask,
            Decision::Reject(_) => Decision::AskAlone,
            asks => asks,
        }
    }

    #[inline]
    pub(super) fn ticket(&self, tag: u32) -> Ticket {
        let timed = self.gate.is_timed();
        let started_ns = if timed {
            self.shared.clock.precise_ns()
        } else {
            0
        };
        Ticket {
            tag,
            started_ns,
            probe: None,
        }
    }

    /// Counts a rejected call and says why it was rejected.
    #[inline]
    pub(super) fn reject(self: &Arc<Self>, rejection: Rejection) -> Rejection {
        self.tally.reject();
        self.wake_if_parked();
        rejection
    }

    /// What the gate would tell a rejected call now.
    pub(super) fn rejection(&self) -> Rejection {
        self.gate.rejection(self.now())
    }

    /// The request for a permit.
    pub(super) fn request(&self) -> Acquire {
        Acquire {
            head: self.head(),
            token: self.shared.next_token(),
        }
    }

    /// Turns the store's grant into a ticket.
    pub(super) fn granted(
        &self,
        permission: Permission,
        token: String,
        seen: &Snapshot,
        local: bool,
    ) -> Option<Ticket> {
        let probe = match permission {
            Permission::Rejected => return None,
            Permission::Permitted => None,
            Permission::Probe => Some(Box::new(Probe {
                token,
                generation: seen.generation,
                local,
            })),
        };
        let view = self.view.lock();
        let newer = if local {
            view.seen.generation
        } else {
            view.shared.generation
        };
        if seen.generation < newer {
            // The circuit has moved on since this was granted.
            if let (Some(probe), false) = (probe, local) {
                self.outbox.lock().releases.push(probe.token);
            }
            return None;
        }
        let tag = view.tag;
        let started_ns = self.shared.clock.precise_ns();
        Some(Ticket {
            tag,
            started_ns,
            probe,
        })
    }

    /// Asks this replica's own circuit; no I/O.
    pub(super) fn ask_locally(&self) -> Option<Ticket> {
        let request = self.request();
        let mirror = &self.shared.mirror;
        let grant = mirror.with(&self.name, 0, |circuit, now| circuit.acquire(&request, now));
        self.take_local(&grant.snapshot);
        self.granted(grant.permission, request.token, &grant.snapshot, true)
    }

    // --- Outcomes -------------------------------------------------------------------------------

    /// Files what became of a permitted call.
    #[inline]
    pub(super) fn settle(self: &Arc<Self>, ticket: Ticket, outcome: Outcome) {
        let slow = self.gate.is_timed() && self.is_slow(&ticket);
        if ticket.probe.is_some() {
            return self.settle_probe(ticket, outcome, slow);
        }
        let count = match (outcome, slow) {
            (Outcome::Success, false) => Count::Success,
            (Outcome::Success, true) => Count::SlowSuccess,
            (Outcome::Ignored, _) => Count::Ignored,
            (_, false) => Count::Failure,
            (_, true) => Count::SlowFailure,
        };
        if let Outcome::Failure {
            retry_after: Some(wait),
        } = outcome
        {
            self.record_words(&ticket, count, Some(wait), false);
        } else if let Outcome::Trip { retry_after } = outcome {
            self.record_words(&ticket, count, retry_after, true);
        } else if !self.tally.record(ticket.tag, count) {
            self.outbox.lock().late += one(count);
        }
        if count != Count::Success && self.would_trip() || self.gate.reports_at_once() {
            self.hurry();
        }
        self.wake_if_parked();
    }

    /// Records an outcome that says more than that it happened, in one piece with what it says.
    fn record_words(
        self: &Arc<Self>,
        ticket: &Ticket,
        count: Count,
        retry_after: Option<Duration>,
        trip: bool,
    ) {
        let _no_transition_between = self.view.lock();
        let counted = self.tally.record(ticket.tag, count);
        let mut outbox = self.outbox.lock();
        if counted {
            let wait = retry_after.map_or(0, |wait| wait.as_millis() as u64);
            outbox.retry_after_ms = outbox.retry_after_ms.max(wait);
            outbox.trips += u64::from(trip);
            if trip {
                self.urgent.store(true, Ordering::SeqCst);
                self.shared.wake.notify_one();
            }
        } else {
            outbox.late += one(count);
        }
    }

    fn is_slow(&self, ticket: &Ticket) -> bool {
        let threshold = self.policy.load().rules.slow_call_duration_threshold_ms;
        threshold > 0 && self.elapsed_ms(ticket) >= threshold
    }

    fn elapsed_ms(&self, ticket: &Ticket) -> u64 {
        let now = self.shared.clock.precise_ns();
        now.saturating_sub(ticket.started_ns) / 1_000_000
    }

    /// A probe settles by its token, in the circuit that gave it.
    fn settle_probe(self: &Arc<Self>, ticket: Ticket, outcome: Outcome, slow: bool) {
        let Some(probe) = ticket.probe else { return };
        let (kind, retry_after, count) = match outcome {
            Outcome::Success if slow => (Kind::Failure, None, Count::SlowSuccess),
            Outcome::Success => (Kind::Success, None, Count::Success),
            Outcome::Failure { retry_after } => (Kind::Failure, retry_after, Count::Failure),
            Outcome::Trip { retry_after } => (Kind::Trip, retry_after, Count::Failure),
            Outcome::Ignored => (Kind::Ignored, None, Count::Ignored),
        };
        let settled = Settled {
            token: probe.token,
            generation: probe.generation,
            kind,
        };
        let mut outbox = self.outbox.lock();
        outbox.late += one(count);
        match (kind, probe.local) {
            (Kind::Ignored, false) => outbox.releases.push(settled.token),
            (_, false) => outbox.settled.push(settled),
            (_, true) => outbox.settled_locally.push(settled),
        }
        let wait = retry_after.map_or(0, |wait| wait.as_millis() as u64);
        outbox.retry_after_ms = outbox.retry_after_ms.max(wait);
        drop(outbox);
        self.hurry();
    }

    /// Files a call that ended without an outcome: it was dropped, or panicked.
    pub(super) fn abandon(self: &Arc<Self>, ticket: Ticket) {
        let rules = self.policy.load().rules;
        let limits = [rules.call_timeout_ms, rules.slow_call_duration_threshold_ms];
        let limit = limits.into_iter().filter(|ms| *ms > 0).min();
        let overdue = limit.is_some_and(|ms| self.elapsed_ms(&ticket) >= ms);
        let failed = std::thread::panicking() || overdue && ticket.started_ns > 0;
        self.settle(
            ticket,
            if failed {
                Outcome::failure()
            } else {
                Outcome::Ignored
            },
        );
    }

    /// Whether what is known of the window, with what was not reported yet, meets a trip condition.
    fn would_trip(&self) -> bool {
        let view = self.view.lock();
        if view.seen.state != State::Closed {
            return false;
        }
        let seen = &view.seen;
        let fresh = self.tally.counts();
        let (run, broken) = self.tally.present_run();
        let run = if broken {
            run
        } else {
            run + seen.consecutive_failures
        };
        let sums = [
            seen.calls + fresh.calls(),
            seen.failures + fresh.failures,
            seen.slow + fresh.slow(),
        ];
        self.policy.load().rules.breach(sums, run).is_some()
    }

    // --- The reporter's attention ---------------------------------------------------------------

    #[inline]
    pub(super) fn wake_if_parked(self: &Arc<Self>) {
        if self.parked.load(Ordering::SeqCst) {
            self.shared.activate(self);
        }
    }

    /// Has the outbox sent at once.
    pub(super) fn hurry(self: &Arc<Self>) {
        if !self.urgent.swap(true, Ordering::SeqCst) {
            self.shared.activate(self);
            self.shared.wake.notify_one();
        }
    }

    /// Has the decision renewed in the background.
    pub(super) fn renew(self: &Arc<Self>) {
        if !self.stale.swap(true, Ordering::SeqCst) {
            self.shared.activate(self);
            self.shared.wake.notify_one();
        }
    }

    /// The head of a request: who asks, and what is remembered.
    pub(super) fn head(&self) -> Head {
        self.head_of(&self.view.lock())
    }

    fn head_of(&self, view: &View) -> Head {
        let now = self.now();
        let age_ms = view.confirmed.map_or(0, |at| now.saturating_sub(at));
        let seen = &view.shared;
        let left_ms = match seen.until_ms {
            0 => -1,
            _ => i64::try_from(seen.left_ms().saturating_sub(age_ms)).unwrap_or(i64::MAX),
        };
        Head {
            now_ms: 0,
            entropy: fastrand::u64(..1000),
            replica: self.shared.replica.clone(),
            policy: view.code.rules,
            memory: Memory {
                generation: seen.generation,
                state: seen.state,
                // An open circuit always has an end; only overrides have none.
                left_ms: if seen.state.is_override() {
                    left_ms
                } else {
                    left_ms.max(0)
                },
                age_ms,
                opens: seen.consecutive_opens,
                author: seen.override_author.clone(),
                reason: seen.override_reason.clone(),
            },
        }
    }

    /// The next report to the store, or the one whose answer was lost; `None` when there is
    /// nothing to say.
    pub(super) fn report(&self) -> Option<Report> {
        let stale = self.stale.swap(false, Ordering::SeqCst);
        let view = self.view.lock();
        let mut outbox = self.outbox.lock();
        if outbox.pending.is_none() {
            let (counts, runs) = self.tally.drain(view.tag);
            let of_shared = view.seen.generation == view.shared.generation;
            let generation = of_shared.then_some(view.shared.generation);
            let window_ms = view.code.rules.window_ms;
            outbox.prepare(generation, counts, runs, self.now(), window_ms, stale);
        }
        let mut report = outbox.pending.clone()?;
        report.head = self.head_of(&view);
        Some(report)
    }

    /// While the store is away: feeds this replica's own circuit, and keeps the sums for later.
    pub(super) fn report_locally(&self) -> bool {
        let view = self.view.lock();
        let mut outbox = self.outbox.lock();
        let (counts, runs) = self.tally.drain(view.tag);
        let mut settled = std::mem::take(&mut outbox.settled_locally);
        if counts.is_empty() && settled.is_empty() && outbox.trips == 0 {
            return false;
        }
        settled.retain(|s| {
            s.kind != Kind::Ignored || {
                let request = crate::model::Release {
                    head: self.head_of(&view),
                    token: s.token.clone(),
                };
                self.shared
                    .mirror
                    .with(&self.name, 0, |circuit, now| circuit.release(&request, now));
                false
            }
        });
        outbox.keep(
            view.shared.generation,
            counts,
            self.now(),
            view.code.rules.window_ms,
        );
        let report = Report {
            head: Head {
                memory: Memory::default(),
                ..self.head_of(&view)
            },
            seq: outbox.next_number(),
            generation: view.seen.generation,
            counts,
            late: Counts::default(),
            runs,
            retry_after_ms: std::mem::take(&mut outbox.retry_after_ms),
            trips: std::mem::take(&mut outbox.trips),
            settled,
        };
        let local = view.source == Source::Local;
        drop((view, outbox));
        if local {
            let mirror = &self.shared.mirror;
            let seen = mirror.with(&self.name, 0, |circuit, now| circuit.report(&report, now));
            self.take_local(&seen);
        }
        true
    }

    // --- News -----------------------------------------------------------------------------------

    /// Takes over what the store says, unless something newer is known.
    pub(super) fn take_shared(self: &Arc<Self>, snapshot: &Snapshot) {
        let mut view = self.view.lock();
        let returns = view.source != Source::Shared;
        if returns && self.shared.link.is_away() {
            return;
        }
        if !returns && snapshot.generation < view.shared.generation {
            return;
        }
        // Until it made a transition of its own, this replica's circuit was the shared one.
        let same = view.seen.generation == snapshot.generation
            && view.shared.generation == snapshot.generation
            && view.seen.state == snapshot.state;
        if view.shared.policy != snapshot.policy {
            self.policy
                .store(Arc::new(view.code.with_stored(&snapshot.policy)));
        }
        if snapshot.generation > view.shared.generation && view.confirmed.is_some() {
            tracing::info!(
                circuit = %self.name, generation = snapshot.generation, from = %view.shared.state,
                to = %snapshot.state, reason = %snapshot.reason, "circuit changed"
            );
        }
        view.shared = snapshot.clone();
        view.confirmed = Some(self.now());
        self.show(&mut view, snapshot, Source::Shared, same);
        drop(view);
        self.generation.send_if_modified(|seen| {
            let newer = snapshot.generation > *seen;
            *seen = snapshot.generation.max(*seen);
            newer
        });
    }

    /// Takes over what this replica's own circuit says.
    fn take_local(&self, snapshot: &Snapshot) {
        let mut view = self.view.lock();
        if view.source == Source::Local && snapshot.generation >= view.seen.generation {
            let same = view.seen.generation == snapshot.generation;
            if !same {
                tracing::info!(
                    circuit = %self.name, from = %view.seen.state, to = %snapshot.state,
                    reason = %snapshot.reason, "circuit of this replica alone changed"
                );
            }
            self.show(&mut view, snapshot, Source::Local, same);
        }
    }

    /// Puts a snapshot behind the gate; unless it is the `same` generation, what was counted
    /// belongs to the past.
    fn show(&self, view: &mut View, snapshot: &Snapshot, source: Source, same: bool) {
        let now = self.now();
        if !same {
            view.tag = (view.tag + 1) % TAGS;
            let (counts, _) = self.tally.drain(view.tag);
            let mut outbox = self.outbox.lock();
            outbox.late += counts;
            outbox.trips = 0;
        }
        view.seen = snapshot.clone();
        view.source = source;
        let policy = self.policy.load();
        self.gate.set(snapshot, &policy, source, view.tag, now);
        self.gate.renew(match source {
            Source::Shared => now + self.good_for(&policy, snapshot.pace_ms),
            Source::Local | Source::Fixed { .. } => u64::MAX,
        });
    }

    /// How long a decision is good. Where changes are pushed it lasts from report to report.
    fn good_for(&self, policy: &Policy, pace_ms: u64) -> u64 {
        match policy.rules.decision_ttl_ms {
            0 => 0,
            ttl if self.followed.load(Ordering::Relaxed) => ttl.max(pace_ms + GRACE_MS),
            ttl => ttl,
        }
    }

    /// The store is away: goes on as the policy says.
    pub(super) fn leave_store(&self) {
        let mut view = self.view.lock();
        if view.source != Source::Shared {
            return;
        }
        let age = view.confirmed.map_or(0, |at| self.now().saturating_sub(at));
        let mut seen = view.seen.clone();
        seen.now_ms += age;
        let policy = self.policy.load();
        let source = match policy.on_store_failure {
            OnStoreFailure::Allow => Source::Fixed { admits: true },
            OnStoreFailure::Reject => Source::Fixed { admits: false },
            OnStoreFailure::Local => {
                let now = self.shared.mirror.clock().unix_ms();
                self.shared
                    .mirror
                    .put(&self.name, Circuit::resume(&seen, &policy.rules, now));
                Source::Local
            }
        };
        self.show(&mut view, &seen, source, true);
    }

    /// Whether this process counts the circuit among those whose changes it hears.
    pub(super) fn follow(self: &Arc<Self>, followed: bool) {
        let news = !self.followed.swap(followed, Ordering::SeqCst) && followed;
        if news {
            // What was pushed before is missed.
            self.renew();
        }
    }

    /// Takes another policy in code.
    pub(super) fn set_policy(&self, policy: Policy) {
        let mut view = self.view.lock();
        if view.code == policy {
            return;
        }
        self.policy
            .store(Arc::new(policy.with_stored(&view.shared.policy)));
        view.code = policy;
        let (seen, source) = (view.seen.clone(), view.source);
        if view.confirmed.is_some() {
            self.show(&mut view, &seen, source, true);
        }
    }
}

fn one(count: Count) -> Counts {
    let mut counts = Counts::default();
    match count {
        Count::Success => counts.successes = 1,
        Count::Failure => counts.failures = 1,
        Count::SlowSuccess => (counts.successes, counts.slow_successes) = (1, 1),
        Count::SlowFailure => (counts.failures, counts.slow_failures) = (1, 1),
        Count::Ignored => counts.ignored = 1,
    }
    counts
}
