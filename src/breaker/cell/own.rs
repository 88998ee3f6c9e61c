//! This replica's own circuit, which decides where the shared one cannot or should not.
//!
//! It goes on from the shared one while the store is away. Where a quorum is asked for it sees,
//! beside the fleet's, this replica's calls alone; when those meet a trip condition and the fleet
//! has not agreed, the replica is open for itself, and its own probes bring it back.
//! Invariant: what the fleet decides, ends what a replica decided alone.

use std::sync::{Arc, atomic::Ordering};

use super::{Cell, Ticket, View};
use crate::{
    breaker::{gate::Source, outbox::Outbox},
    model::{Circuit, Counts, Head, Kind, Memory, Release, Report, Rules, Runs, Snapshot, State},
};

impl Cell {
    /// Whether the own circuit is asked, and not the store. As soon as the store is back it is asked,
    /// though its news may not be there: two circuits must not give probes.
    pub(in crate::breaker) fn asks_own(&self) -> bool {
        self.is_away() || self.alone.load(Ordering::SeqCst)
    }

    /// One operation on this replica's own circuit; no I/O.
    fn own<T>(&self, operation: impl FnOnce(&mut Circuit, u64) -> T) -> T {
        let mut own = self.own.lock();
        let answer = operation(&mut own, self.shared.clock.unix_ms());
        // Nobody listens to it.
        own.take_published();
        answer
    }

    pub(super) fn forget_own(&self) {
        *self.own.lock() = Circuit::default();
    }

    /// Has the own circuit go on from a snapshot of the shared one.
    pub(super) fn resume_own(&self, seen: &Snapshot, rules: &Rules) {
        self.own(|circuit, now| *circuit = Circuit::resume(seen, rules, now));
    }

    /// Asks this replica's own circuit.
    pub(in crate::breaker) fn ask_locally(self: &Arc<Self>) -> Option<Ticket> {
        let mut request = self.request();
        request.head.policy = self.policy.load().rules;
        request.head.memory = Memory::default();
        let grant = self.own(|circuit, now| circuit.acquire(&request, now));
        self.take_own(&mut self.view.lock(), &grant.snapshot);
        self.granted(grant.permission, request.token, &grant.snapshot, true)
    }

    /// Takes over what this replica's own circuit says, where that decides.
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

    /// While the store is away: feeds this replica's own circuit, and keeps the sums for later.
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

    /// The store is away: lets this replica's own circuit see what it has not confirmed.
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

    /// Where a quorum is asked for: lets this replica's own circuit see what the store will be told,
    /// and says what it makes of it.
    pub(super) fn judge(
        &self,
        view: &View,
        outbox: &mut Outbox,
        counts: Counts,
        runs: Runs,
    ) -> Option<Snapshot> {
        let asked = self.policy.load().rules.quorum > 1 || view.source == Source::Alone;
        // What the fleet has decided goes for this replica too.
        let open_question = view
            .newest()
            .is_some_and(|(_, state)| state == State::Closed);
        let ours = matches!(view.source, Source::Shared | Source::Alone);
        (asked && open_question && ours).then(|| self.feed(outbox, counts, runs))
    }

    /// Shows what the own circuit has made of the last report, and says how long this replica is
    /// open for itself yet, ms.
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
            // Alone it is a quorum: that is capped by who reports.
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
        self.own(|circuit, now| {
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

/// How long a replica whose own circuit is this is open for itself yet, ms.
pub(super) fn alone_ms(own: &Snapshot) -> u64 {
    match own.state {
        State::Open | State::HalfOpen => own.left_ms().max(1),
        _ => 0,
    }
}
