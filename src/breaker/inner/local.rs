//! This replica's local circuit, which decides when the shared one cannot or should not.
//!
//! While the store is unavailable, it continues from the shared circuit. If a quorum is required,
//! it also runs beside the fleet's circuit and sees only this replica's calls. When those meet a
//! trip condition and the fleet has not agreed, the replica opens alone, and its own probes close
//! it again. Invariant: a decision of the fleet ends what a replica decided alone.

use std::sync::{Arc, atomic::Ordering};

use super::{CircuitInner, Ticket, View};
use crate::{
    breaker::{gate::Source, outbox::Outbox},
    model::{Circuit, Counts, Head, Kind, Memory, Release, Report, Rules, Runs, Snapshot, State},
};

impl CircuitInner {
    /// Whether to ask the local circuit and not the store. The store is asked as soon as it is
    /// back, even if its news has not arrived: two circuits must not grant probes.
    pub(in crate::breaker) fn asks_own(&self) -> bool {
        self.is_unavailable() || self.alone.load(Ordering::SeqCst)
    }

    /// Runs one operation on the local circuit; no I/O.
    fn with_local<T>(&self, operation: impl FnOnce(&mut Circuit, u64) -> T) -> T {
        let mut own = self.own.lock();
        let answer = operation(&mut own, self.shared.clock.unix_ms());
        // Nothing listens to it.
        own.take_published();
        answer
    }

    pub(super) fn forget_own(&self) {
        *self.own.lock() = Circuit::default();
    }

    /// Makes the local circuit continue from a snapshot of the shared one.
    pub(super) fn resume_own(&self, seen: &Snapshot, rules: &Rules) {
        self.with_local(|circuit, now| *circuit = Circuit::resume(seen, rules, now));
    }

    /// Asks the local circuit for a permit.
    pub(in crate::breaker) fn ask_locally(self: &Arc<Self>) -> Option<Ticket> {
        let mut request = self.request();
        request.head.policy = self.policy.load().rules;
        request.head.memory = Memory::default();
        let grant = self.with_local(|circuit, now| circuit.acquire(&request, now));
        self.take_own(&mut self.view.lock(), &grant.snapshot);
        self.granted(grant.permission, request.token, &grant.snapshot, true)
    }

    /// Takes over the local circuit's snapshot, if that circuit decides.
    fn take_own(&self, view: &mut View, own: &Snapshot) {
        let (seen, source) = match view.source {
            Source::Local if own.generation >= view.seen.generation => (own.clone(), Source::Local),
            Source::Alone if own.state == State::Closed => (view.shared.clone(), Source::Shared),
            Source::Alone => (own.clone(), Source::Alone),
            _ => return,
        };
        self.show_own(view, own, &seen, source);
    }

    fn show_own(&self, view: &mut View, own: &Snapshot, seen: &Snapshot, source: Source) {
        let same = view.seen.generation == own.generation;
        let goes_on = same && view.source == source;
        if !goes_on {
            self.tell_of_own(view.seen.state, seen.state, own, source);
        }
        self.show(view, seen, source, goes_on);
    }

    /// While the store is unavailable: files outcomes in the local circuit, and keeps the sums for
    /// later. Returns whether there were any.
    pub(in crate::breaker) fn report_locally(self: &Arc<Self>) -> bool {
        let mut view = self.view.lock();
        let mut outbox = self.outbox.lock();
        let (counts, runs) = self.drain(&view, &mut outbox, false);
        if counts.is_empty() && outbox.settled_locally.is_empty() && outbox.trips == 0 {
            return false;
        }
        let generation = view.shared.generation;
        let window_ms = self.policy.load().rules.window_ms;
        outbox.keep(generation, counts, self.now(), window_ms);
        let seen = self.feed(&mut outbox, counts, runs);
        outbox.retry_after_ms = 0;
        outbox.trips = 0;
        drop(outbox);
        if view.source == Source::Local {
            self.take_own(&mut view, &seen);
        }
        true
    }

    /// The store is unavailable: files the unanswered report in the local circuit.
    pub(super) fn feed_unanswered(&self, view: &mut View) {
        let mut outbox = self.outbox.lock();
        let pending = outbox.pending.as_ref();
        let pending = pending.filter(|report| report.generation == view.shared.generation);
        let Some((counts, runs)) = pending.map(|report| (report.counts, report.runs)) else {
            return;
        };
        let seen = self.feed(&mut outbox, counts, runs);
        drop(outbox);
        self.take_own(view, &seen);
    }

    /// If a quorum is required: files the outcomes for the store in the local circuit too, and
    /// returns the result.
    pub(super) fn judge(
        &self,
        view: &View,
        outbox: &mut Outbox,
        counts: Counts,
        runs: Runs,
    ) -> Option<Snapshot> {
        let asked = self.policy.load().rules.quorum > 1 || view.source == Source::Alone;
        // The fleet's decisions apply to this replica too.
        let open_question = view
            .newest()
            .is_some_and(|(_, state)| state == State::Closed);
        let ours = matches!(view.source, Source::Shared | Source::Alone);
        (asked && open_question && ours).then(|| self.feed(outbox, counts, runs))
    }

    /// Shows what the local circuit made of the last report.
    pub(super) fn take_judgement(&self, view: &mut View, own: &Snapshot) {
        view.own = own.sums();
        view.own_run = own.consecutive_failures;
        match view.source {
            Source::Shared if own.state != State::Closed => {
                self.show_own(view, own, own, Source::Alone);
            }
            _ => self.take_own(view, own),
        }
    }

    /// Files outcomes in the own circuit.
    fn feed(&self, outbox: &mut Outbox, counts: Counts, runs: Runs) -> Snapshot {
        let head = Head {
            entropy: fastrand::u64(..1000),
            replica: self.shared.replica.clone(),
            // Alone, this replica is a quorum: the number of replicas that report caps it.
            policy: self.policy.load().rules,
            ..Head::default()
        };
        let mut settled = std::mem::take(&mut outbox.settled_locally);
        let unused: Vec<_> = settled
            .extract_if(.., |probe| probe.kind == Kind::Ignored)
            .collect();
        let mut report = Report {
            head: head.clone(),
            seq: outbox.next_number(),
            counts,
            runs,
            retry_after_ms: outbox.retry_after_ms,
            trips: outbox.trips,
            settled,
            ..Report::default()
        };
        self.with_local(|circuit, now| {
            for probe in unused {
                let head = head.clone();
                let token = probe.token;
                circuit.release(&Release { head, token }, now);
            }
            report.generation = circuit.snapshot(&head, now).generation;
            circuit.report(&report, now)
        })
    }
}

/// How much longer a replica with this local circuit stays open alone, ms.
pub(super) fn alone_ms(own: &Snapshot) -> u64 {
    match own.state {
        State::Open | State::HalfOpen => own.left_ms().max(1),
        _ => 0,
    }
}
