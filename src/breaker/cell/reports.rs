//! What a circuit tells the store, and when it wants the reporter's attention.

use std::sync::{Arc, atomic::Ordering};

use super::{Cell, View};
use crate::{
    breaker::gate::Source,
    model::{Counts, Head, Kind, Memory, Release, Report},
};

impl Cell {
    #[inline]
    pub(in crate::breaker) fn wake_if_parked(self: &Arc<Self>) {
        if self.parked.load(Ordering::SeqCst) {
            self.shared.activate(self);
        }
    }

    /// Has the outbox sent at once.
    pub(in crate::breaker) fn hurry(self: &Arc<Self>) {
        if !self.urgent.swap(true, Ordering::SeqCst) {
            self.shared.activate(self);
            self.shared.wake.notify_one();
        }
    }

    /// Has the decision renewed in the background.
    pub(in crate::breaker) fn renew(self: &Arc<Self>) {
        if !self.stale.swap(true, Ordering::SeqCst) {
            self.shared.activate(self);
            self.shared.wake.notify_one();
        }
    }

    /// The head of a request: who asks, and what is remembered.
    pub(in crate::breaker) fn head(&self) -> Head {
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
    pub(in crate::breaker) fn report(&self) -> Option<Report> {
        let stale = self.stale.swap(false, Ordering::SeqCst);
        let view = self.view.lock();
        let mut outbox = self.outbox.lock();
        // The circuit that gave those is no more; kept, they would never let this one be parked.
        outbox.settled_locally.clear();
        if outbox.pending.is_none() {
            let (counts, runs) = self.tally.drain(view.tag);
            let of_shared = view.seen.generation == view.shared.generation;
            let generation = of_shared.then_some(view.shared.generation);
            let window_ms = self.policy.load().rules.window_ms;
            outbox.prepare(generation, counts, runs, self.now(), window_ms, stale);
        }
        let mut report = outbox.pending.clone()?;
        report.head = self.head_of(&view);
        Some(report)
    }

    /// While the store is away: feeds this replica's own circuit, and keeps the sums for later.
    pub(in crate::breaker) fn report_locally(&self) -> bool {
        let view = self.view.lock();
        let mut outbox = self.outbox.lock();
        let (counts, runs) = self.tally.drain(view.tag);
        let mut settled = std::mem::take(&mut outbox.settled_locally);
        if counts.is_empty() && settled.is_empty() && outbox.trips == 0 {
            return false;
        }
        settled.retain(|s| {
            s.kind != Kind::Ignored || {
                let request = Release {
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
            self.policy.load().rules.window_ms,
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
}
