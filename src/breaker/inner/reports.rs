//! What a circuit reports to the store, and when it needs the reporter's attention.

use std::sync::{
    Arc,
    atomic::{Ordering, compiler_fence},
};

use super::{CircuitInner, View, local};
use crate::{
    breaker::{outbox::Outbox, tally::Drained},
    model::{Counts, Head, Memory, Report, Runs, State},
};

/// The slowest pace that a store may ask for: an hour.
const LONGEST_PACE_MS: u64 = 3_600_000;

impl CircuitInner {
    #[inline]
    pub(in crate::breaker) fn wake_if_parked(self: &Arc<Self>) {
        // The reporter may see the preceding count a little late; it looks again at a circuit that
        // it has parked.
        compiler_fence(Ordering::SeqCst);
        if self.parked.load(Ordering::Relaxed) {
            self.shared.activate(self);
        }
    }

    /// Whether reports are decided within the call: the store is in this process, or unavailable.
    pub(in crate::breaker) fn decides_at_once(&self) -> bool {
        self.shared.store.is_immediate() || self.is_unavailable()
    }

    /// Sends the outbox at once; if there is no remote store to wait for, it is filed when this
    /// returns.
    pub(in crate::breaker) fn hurry(self: &Arc<Self>) {
        if self.is_unavailable() {
            self.report_locally();
        } else if self.shared.store.is_immediate() {
            return self.file_here();
        }
        self.report_soon();
    }

    /// Makes the reporter send the outbox at once.
    pub(in crate::breaker) fn report_soon(self: &Arc<Self>) {
        if !self.urgent.load(Ordering::Relaxed) && !self.urgent.swap(true, Ordering::SeqCst) {
            self.shared.attend(self);
        }
    }

    /// Makes the reporter give back a probe permit.
    pub(in crate::breaker) fn give_back(self: &Arc<Self>, token: String) {
        self.outbox.lock().releases.push(token);
        self.shared.attend(self);
    }

    /// Makes the reporter renew the decision in the background.
    pub(in crate::breaker) fn renew(self: &Arc<Self>) {
        if !self.stale.swap(true, Ordering::SeqCst) {
            self.shared.attend(self);
        }
    }

    /// The head of a request: who asks, and what this process remembers.
    pub(in crate::breaker) fn head(&self) -> Head {
        self.head_of(&self.view.lock())
    }

    fn head_of(&self, view: &View) -> Head {
        let now = self.now();
        let age_ms = view.confirmed.map_or(0, |at| now.saturating_sub(at));
        let seen = &view.shared;
        let left_ms = match seen.until_ms {
            0 => -1,
            // The rest of a half-open period is not a wait: once its probes have ended, new ones
            // may start.
            _ if seen.state == State::HalfOpen => 0,
            _ => i64::try_from(seen.left_ms().saturating_sub(age_ms)).unwrap_or(i64::MAX),
        };
        Head {
            now_ms: 0,
            entropy: fastrand::u64(..1000),
            replica: self.shared.replica.clone(),
            policy: view.code.rules,
            is_operator: false,
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
                why: seen.reason,
                probes: seen.probes,
            },
            seen: seen.clone(),
        }
    }

    /// The next report to the store, or the one whose answer was lost; `None` if there is nothing
    /// to report. With `everything`, keeps nothing for later reports.
    pub(in crate::breaker) fn report(&self, everything: bool) -> Option<Report> {
        let stale = self.stale.swap(false, Ordering::SeqCst);
        let mut view = self.view.lock();
        let mut outbox = self.outbox.lock();
        // A report that leaves early may open the circuit, and its event says why.
        let at_once = everything || outbox.alarm.is_some() || view.foreseen.is_some();
        let at_once = at_once || self.decides_at_once();
        let stale = outbox.asks() || stale || outbox.kinds.are_untold();
        if outbox.pending.is_none() {
            let (counts, runs) = self.drain(&view, &mut outbox, everything);
            let generation = view.generation();
            let window_ms = self.policy.load().rules.window_ms;
            let own = self.judge(&view, &mut outbox, counts, runs);
            outbox.prepare(generation, counts, runs, self.now(), window_ms, stale);
            outbox.add_kinds(self.now(), at_once);
            if let (Some(own), Some(report)) = (&own, &mut outbox.pending) {
                report.alone_ms = local::alone_ms(own);
            }
            if own.is_none() {
                // The circuit that granted those probes is gone. If they were kept, they would keep
                // this circuit from ever being parked.
                outbox.settled_locally.clear();
            }
            drop(outbox);
            if let Some(own) = own {
                self.take_judgement(&mut view, &own);
            }
        } else {
            drop(outbox);
        }
        self.pending_of(&view)
    }

    /// Takes the counts of the current generation. Counts of earlier ones go to the outbox, as do
    /// latencies if they are due or there is nothing else.
    pub(super) fn drain(
        &self,
        view: &View,
        outbox: &mut Outbox,
        everything: bool,
    ) -> (Counts, Runs) {
        let Drained {
            mut counts,
            late,
            runs,
        } = self.tally.drain(view.tag);
        outbox.late += late;
        outbox.undecided.sift(&mut counts, self.tally.in_flight());
        if everything && self.shared.is_ending() {
            // A process that is shutting down drops its calls itself.
            let withheld = outbox.undecided.end();
            outbox.late += withheld;
            let dropped = counts.undecided();
            counts.abandoned -= dropped;
            outbox.late.abandoned += dropped;
        }
        outbox.alarm = None;
        let now = self.now();
        if everything || counts.is_empty() || outbox.wants_latencies(now) {
            let window_ms = self.policy.load().rules.window_ms;
            outbox.gather(&self.tally.take_latencies(), now, window_ms);
        }
        (counts, runs)
    }

    /// The unanswered report, or an empty one.
    pub(in crate::breaker) fn pending_or_empty(&self) -> Report {
        let view = self.view.lock();
        let pending = self.pending_of(&view);
        pending.unwrap_or_else(|| Report {
            head: self.head_of(&view),
            seq: self.outbox.lock().next_number(),
            generation: view.generation(),
            ..Report::default()
        })
    }

    fn pending_of(&self, view: &View) -> Option<Report> {
        let mut outbox = self.outbox.lock();
        outbox.let_age(self.now(), self.policy.load().rules.window_ms);
        let mut report = outbox.pending.clone()?;
        report.head = self.head_of(view);
        Some(report)
    }

    /// Drops a report that the store does not accept: it never would, and the report would keep all
    /// later ones from being sent.
    pub(in crate::breaker) fn lose_report(&self, number: u64, why: &str) {
        let mut view = self.view.lock();
        let report = self
            .outbox
            .lock()
            .pending
            .take_if(|report| report.seq == number);
        self.foresee_on(&mut view);
        self.set_gate(&view);
        drop(view);
        if let Some(report) = report {
            tracing::error!(target: "commontrip::circuit", circuit = %self.name, why, ?report, "a report is lost: the store does not accept it");
        }
    }

    /// The store has filed the report with this number, and asks for this pace.
    pub(in crate::breaker) fn delivered(&self, number: u64, pace_ms: u64) {
        let mut outbox = self.outbox.lock();
        outbox.pending.take_if(|report| report.seq == number);
        let least = self.shared.least_pace_ms.load(Ordering::Relaxed);
        outbox.pace_ms = pace_ms.min(LONGEST_PACE_MS).max(least);
    }
}
