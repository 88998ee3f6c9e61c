//! What is heard of the circuit, and how the gate comes to show it.

use std::sync::{Arc, atomic::Ordering};

use parking_lot::MutexGuard;
use tokio::time::Instant;

use super::{Away, Cell, View};
use crate::{
    breaker::{
        gate::{Source, spread_ms},
        stats::Transition,
        tally::Drained,
    },
    model::{OnStoreFailure, Policy, Snapshot, State},
};

/// How far beyond the reporter's pace a decision is good, where changes are pushed.
const GRACE_MS: u64 = 100;

impl Cell {
    /// Takes over what the store answers to what was asked then, unless something newer is known.
    ///
    /// A request says what this process remembers. So an answer with an older generation is of
    /// before, or the store does not believe that memory: then the store's word counts.
    pub(in crate::breaker) fn take_shared(self: &Arc<Self>, snapshot: &Snapshot, asked: Instant) {
        let mut view = self.view.lock();
        let older = snapshot.generation < view.shared.generation;
        if self.is_away() || older && asked <= view.shared_since {
            return;
        }
        if view.shared.policy != snapshot.policy {
            let policy = view.code.with_stored(&snapshot.policy);
            self.warn_of(&policy);
            self.policy.store(Arc::new(policy));
        }
        if view.shared.policies_differ.is_empty() && !snapshot.policies_differ.is_empty() {
            let differ = snapshot.policies_differ.as_str();
            tracing::warn!(circuit = %self.name, differ, "replicas run this circuit under different policies; the number of replicas that have a value is in brackets");
        }
        let known = view.newest();
        let overtaken = self.judge_hint(&mut view, snapshot, asked);
        if snapshot.generation != view.shared.generation {
            view.shared_since = Instant::now();
        }
        view.shared = snapshot.clone();
        view.confirmed = Some(self.now());
        if !overtaken {
            self.take(view, known, snapshot);
        }
        self.generation.send_if_modified(|seen| {
            let newer = snapshot.generation > *seen;
            *seen = snapshot.generation.max(*seen);
            newer
        });
    }

    /// Goes by a snapshot; `known` is what was before it, unless it is the first.
    pub(super) fn take(
        self: &Arc<Self>,
        mut view: MutexGuard<'_, View>,
        known: Option<(u64, State)>,
        snapshot: &Snapshot,
    ) {
        let (generation, state) = known.unwrap_or_default();
        // As long as the fleet has not moved on and asks for a quorum, a lone bad replica stays so.
        let stays_alone = view.source == Source::Alone
            && snapshot.generation == generation
            && self.policy.load().rules.quorum > 1;
        // Until it made a transition of its own, this replica's circuit was the shared one.
        let same = view.seen.generation == snapshot.generation
            && generation == snapshot.generation
            && view.seen.state == snapshot.state;
        if snapshot.generation != generation && known.is_some() {
            self.tell_of_fleet(state, snapshot);
        } else if !stays_alone && view.source.is_own() && view.seen.state != snapshot.state {
            self.tell_of_own(view.seen.state, snapshot.state, snapshot, Source::Shared);
        }
        if !stays_alone {
            if view.source != Source::Shared || !same {
                self.forget_own();
                (view.own, view.own_run) = ([0; 4], 0);
            }
            self.show(&mut view, snapshot, Source::Shared, same);
        }
        let foreseen = view.foreseen.is_some();
        let report = foreseen && self.may_urge(&view, &mut self.outbox.lock());
        drop(view);
        if report {
            self.hurry();
        } else if foreseen {
            self.shared.attend(self);
        }
        if !same {
            // A probe's permit that was fetched ahead is of the past.
            let fetched = self.spare.lock().take();
            drop(fetched);
        }
    }

    /// Says once that the shared circuit has changed.
    fn tell_of_fleet(&self, from: State, now: &Snapshot) {
        tracing::info!(
            circuit = %self.name, replica = %self.shared.replica, generation = now.generation,
            %from, to = %now.state, reason = %now.reason,
            since_ms = now.since_ms, until_ms = now.until_ms, left_ms = now.left_ms(),
            opens = now.consecutive_opens, calls = now.calls, failures = now.failures,
            slow = now.slow, replicas = now.replicas, "circuit changed"
        );
        self.noted.lock().note_transition(Transition {
            from,
            to: now.state,
            reason: now.reason,
            local: false,
        });
    }

    /// Says once that this replica goes by another state than before, and the fleet does not.
    pub(super) fn tell_of_own(&self, from: State, to: State, why: &Snapshot, source: Source) {
        tracing::info!(
            circuit = %self.name, replica = %self.shared.replica, generation = why.generation,
            %from, %to, reason = %why.reason,
            since_ms = why.since_ms, until_ms = why.until_ms, left_ms = why.left_ms(),
            opens = why.consecutive_opens, calls = why.calls, failures = why.failures,
            slow = why.slow, replicas = why.replicas,
            store = if source == Source::Local { "away" } else { "there" },
            "circuit of this replica alone changed"
        );
        self.noted.lock().note_transition(Transition {
            from,
            to,
            reason: why.reason,
            local: true,
        });
    }

    /// Puts a snapshot behind the gate; unless it is the `same` generation, what was counted
    /// belongs to the past.
    pub(super) fn show(&self, view: &mut View, snapshot: &Snapshot, source: Source, same: bool) {
        if !same {
            view.tag = view.tag.wrapping_add(1);
            let Drained { counts, late, .. } = self.tally.drain(view.tag);
            let mut outbox = self.outbox.lock();
            outbox.late += counts;
            outbox.late += late;
            let withheld = outbox.silence.end();
            outbox.late += withheld;
            // What was asked for in that generation is asked of no other.
            outbox.trips = 0;
            outbox.retry_after_ms = 0;
            view.foreseen = None;
        }
        view.seen = snapshot.clone();
        view.source = source;
        self.foresee_on(view);
        self.alone.store(source == Source::Alone, Ordering::SeqCst);
        self.set_gate(view);
    }

    /// Puts the view behind the gate; while the process' breakers are off, that every call passes.
    pub(super) fn set_gate(&self, view: &View) {
        let (now, policy, seen) = (self.now(), self.policy.load(), &view.seen);
        self.gate.note_window(seen.calls, seen.failures);
        if self.shared.is_off() {
            let admits = Snapshot {
                state: State::Disabled,
                ..Snapshot::default()
            };
            let source = Source::Fixed { admits: true };
            self.gate.set(&admits, &policy, source, view.tag, now);
        } else if let Some(open) = view.foreseen(now) {
            self.gate.set(&open, &policy, Source::Alone, view.tag, now);
        } else if view.source == Source::Shared && view.confirmed.is_none() {
            self.gate.forget();
        } else {
            self.gate.set(seen, &policy, view.source, view.tag, now);
        }
        let until = match view.source {
            Source::Shared => now + self.good_for(&policy, seen.replicas),
            Source::Local | Source::Alone | Source::Fixed { .. } => u64::MAX,
        };
        self.renew_gate(until);
    }

    /// The process' breakers were switched off, or on again.
    pub(in crate::breaker) fn switched(self: &Arc<Self>) {
        let mut view = self.view.lock();
        // Time has passed since the snapshot came; it has no less left than it has.
        let age_ms = match view.source {
            Source::Shared => view.confirmed.map_or(0, |at| self.now().saturating_sub(at)),
            _ => {
                let now = self.shared.clock.unix_ms();
                now.saturating_sub(view.seen.now_ms)
            }
        };
        let mut aged = view.seen.clone();
        aged.now_ms += age_ms;
        let seen = std::mem::replace(&mut view.seen, aged);
        self.set_gate(&view);
        view.seen = seen;
        drop(view);
        if !self.is_away() {
            self.renew();
        }
    }

    /// How long a decision is good. Where changes are pushed it lasts from report to report; where
    /// not, as long as the policy says, or as it takes so many replicas to ask one after another.
    fn good_for(&self, policy: &Policy, replicas: u64) -> u64 {
        match policy.rules.decision_ttl_ms {
            0 => 0,
            ttl if self.followed.load(Ordering::Relaxed) => {
                let pace_ms = self.outbox.lock().pace_ms;
                ttl.max(pace_ms.saturating_add(GRACE_MS))
            }
            ttl => ttl.max(spread_ms(replicas)),
        }
    }

    /// The store is away: goes on as the policy says. False when it did so already.
    pub(in crate::breaker) fn leave_store(&self, away: Away) -> bool {
        let mut view = self.view.lock();
        if self.away() == Away::Ended {
            return false;
        }
        let was = self.away.swap(away as u8, Ordering::SeqCst);
        if matches!(view.source, Source::Local | Source::Fixed { .. }) {
            return was == Away::No as u8;
        }
        let alone = view.source == Source::Alone;
        let hint = view.hint.take();
        let mut seen = hint.map_or(&view.shared, |_| &view.seen).clone();
        seen.now_ms += match hint {
            Some(hint) => hint.age_ms(),
            None => view.confirmed.map_or(0, |at| self.now().saturating_sub(at)),
        };
        view.foreseen = None;
        let policy = self.policy.load();
        let source = match policy.on_store_failure {
            OnStoreFailure::Allow => Source::Fixed { admits: true },
            OnStoreFailure::Reject => Source::Fixed { admits: false },
            // Its own circuit goes on as it is.
            OnStoreFailure::Local if alone => {
                view.source = Source::Local;
                self.alone.store(false, Ordering::SeqCst);
                return was == Away::No as u8;
            }
            OnStoreFailure::Local => {
                self.resume_own(&seen, &policy.rules);
                Source::Local
            }
        };
        self.show(&mut view, &seen, source, true);
        if source == Source::Local {
            self.feed_unanswered(&mut view);
        }
        was == Away::No as u8
    }

    /// The store answers again: asks for news, and goes on as before until they are there.
    pub(in crate::breaker) fn return_to_store(self: &Arc<Self>) {
        let view = self.view.lock();
        if self.away() == Away::Ended {
            return;
        }
        self.away.store(Away::No as u8, Ordering::SeqCst);
        drop(view);
        self.renew();
    }

    /// Whether this process counts the circuit among those whose changes it hears.
    pub(in crate::breaker) fn follow(self: &Arc<Self>, followed: bool) {
        let was = self.followed.swap(followed, Ordering::SeqCst);
        if followed && !was {
            // What was pushed before is missed.
            self.renew();
        } else if was && !followed {
            // What was good until the next report is so no longer.
            let view = self.view.lock();
            if view.source == Source::Shared {
                let good_for = self.good_for(&self.policy.load(), view.shared.replicas);
                self.renew_gate(self.now() + good_for);
            }
        }
    }

    fn renew_gate(&self, until: u64) {
        let until = if self.shared.is_off() {
            u64::MAX
        } else {
            until
        };
        self.gate.renew(until, |at| self.shared.clock.tick_at(at));
    }

    /// Logs what is unwise in a policy that is taken, or contradicts this replica's code.
    pub(in crate::breaker) fn warn_of(&self, policy: &Policy) {
        for warning in policy.warnings() {
            tracing::warn!(circuit = %self.name, warning, "the circuit's policy is unwise");
        }
    }

    /// Logs, once, that the circuit is taken with another policy than before.
    pub(in crate::breaker) fn warn_of_another(&self, policy: &Policy) {
        let differ = self.view.lock().code.rules.differences(&policy.rules);
        if !differ.is_empty() && !self.told_of_another.swap(true, Ordering::Relaxed) {
            tracing::warn!(circuit = %self.name, %differ, "the circuit is taken with another policy than before; the last one is in force");
        }
    }

    /// Takes another policy in code.
    pub(in crate::breaker) fn set_policy(&self, policy: Policy) {
        let mut view = self.view.lock();
        if view.code == policy {
            return;
        }
        let in_force = policy.with_stored(&view.shared.policy);
        self.warn_of(&in_force);
        self.policy.store(Arc::new(in_force));
        view.code = policy;
        let (seen, source) = (view.seen.clone(), view.source);
        if view.confirmed.is_some() {
            self.show(&mut view, &seen, source, true);
        }
    }
}
