//! News of the circuit, and how it reaches the gate.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use parking_lot::MutexGuard;
use tokio::time::Instant;

use super::{CircuitInner, Unavailable, View};
use crate::{
    breaker::{
        gate::{Source, spread_ms},
        own_stats::Transition,
        tally::Drained,
    },
    model::{OnStoreFailure, Policy, Snapshot, State},
};

/// How much longer than the reporter's pace a decision is valid, if changes are pushed.
const GRACE_MS: u64 = 100;

/// Logs a transition: at WARN if calls are rejected from now on, otherwise at INFO. Omits fields
/// that do not apply.
macro_rules! log_transition {
    ($inner:expr, $from:expr, $to:expr, $seen:expr, $store:expr, $message:literal) => {{
        let (inner, seen, to): (&CircuitInner, &Snapshot, State) = ($inner, $seen, $to);
        let ends = seen.until_ms > 0;
        let is_override = to.is_override();
        macro_rules! log {
            ($level:ident) => {
                tracing::$level!(
                    target: "commontrip::circuit",
                    circuit = %inner.name, replica = %inner.shared.replica,
                    generation = seen.generation, from = %$from, to = %to, reason = %seen.reason,
                    since_ms = seen.since_ms,
                    until_ms = ends.then_some(seen.until_ms), left_ms = ends.then(|| seen.left_ms()),
                    override_author = is_override.then_some(seen.override_author.as_str()),
                    override_reason = is_override.then_some(seen.override_reason.as_str()),
                    opens = seen.consecutive_opens,
                    calls = seen.calls, failures = seen.failures,
                    slow = seen.slow, replicas = seen.replicas,
                    store = $store, $message
                )
            };
        }
        match to {
            State::Open | State::ForcedOpen => log!(warn),
            _ => log!(info),
        }
    }};
}

impl CircuitInner {
    /// Takes over the store's answer to a request made at `asked`, unless something newer is known.
    ///
    /// A request says what this process remembers. So an answer with an older generation is either
    /// outdated, or the store does not believe that memory: then the store's word counts.
    pub(in crate::breaker) fn take_shared(self: &Arc<Self>, snapshot: &Snapshot, asked: Instant) {
        let mut view = self.view.lock();
        let older = snapshot.generation < view.shared.generation;
        if self.is_unavailable() || older && asked <= view.shared_since {
            return;
        }
        if view.shared.policy != snapshot.policy {
            let policy = view.code.with_stored(&snapshot.policy);
            self.warn_of(&policy);
            self.policy.store(Arc::new(policy));
        }
        if view.shared.policies_differ.is_empty() && !snapshot.policies_differ.is_empty() {
            let differ = snapshot.policies_differ.as_str();
            tracing::warn!(target: "commontrip::circuit", circuit = %self.name, differ, "replicas run this circuit with different policies; the number of replicas with each value is in brackets");
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

    /// Takes over a snapshot; `known` is the generation and state before it, unless it is the
    /// first.
    pub(super) fn take(
        self: &Arc<Self>,
        mut view: MutexGuard<'_, View>,
        known: Option<(u64, State)>,
        snapshot: &Snapshot,
    ) {
        let (generation, state) = known.unwrap_or_default();
        // While the fleet has not changed and requires a quorum, a lone bad replica stays open.
        let stays_alone = view.source == Source::Alone
            && snapshot.generation == generation
            && self.policy.load().rules.quorum > 1;
        // Until its first transition of its own, this replica's circuit was the shared one.
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
            // A probe permit that was fetched ahead is outdated.
            let fetched = self.spare.lock().take();
            drop(fetched);
        }
    }

    /// Logs and counts a change of the shared circuit.
    fn tell_of_fleet(&self, from: State, now: &Snapshot) {
        log_transition!(self, from, now.state, now, None::<&str>, "circuit changed");
        self.noted.lock().note_transition(Transition {
            from,
            to: now.state,
            reason: now.reason,
            local: false,
        });
    }

    /// Logs and counts that this replica, but not the fleet, has changed to another state.
    pub(super) fn tell_of_own(&self, from: State, to: State, why: &Snapshot, source: Source) {
        let store = match source {
            Source::Local => "unavailable",
            _ => "available",
        };
        log_transition!(self, from, to, why, Some(store), "local circuit changed");
        self.noted.lock().note_transition(Transition {
            from,
            to,
            reason: why.reason,
            local: true,
        });
    }

    /// Puts a snapshot behind the gate. Unless it has the `same` generation, counts so far belong
    /// to the past.
    pub(super) fn show(&self, view: &mut View, snapshot: &Snapshot, source: Source, same: bool) {
        if !same {
            view.tag = view.tag.wrapping_add(1);
            let Drained { counts, late, .. } = self.tally.drain(view.tag);
            let mut outbox = self.outbox.lock();
            outbox.late += counts;
            outbox.late += late;
            let withheld = outbox.undecided.end();
            outbox.late += withheld;
            // Trips and waits requested in that generation do not apply to another.
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

    /// Puts the view behind the gate, or admits every call while the circuit is switched off here.
    pub(super) fn set_gate(&self, view: &View) {
        let (now, policy, seen) = (self.now(), self.policy.load(), &view.seen);
        self.gate.note_window(seen.calls, seen.failures);
        if self.is_off() {
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

    /// What the gate shows, how old that is, and how long ago the store last confirmed what is
    /// known.
    pub(in crate::breaker) fn seen_and_ages(&self) -> (Snapshot, Duration, Option<Duration>) {
        let view = self.view.lock();
        let age = Duration::from_millis(self.age_ms(&view));
        let stale_ms = view.confirmed.map(|at| self.now().saturating_sub(at));
        (view.seen.clone(), age, stale_ms.map(Duration::from_millis))
    }

    /// The age of the state that the gate shows.
    pub(super) fn age_ms(&self, view: &View) -> u64 {
        match view.source {
            Source::Shared => view.confirmed.map_or(0, |at| self.now().saturating_sub(at)),
            _ => {
                let now = self.shared.clock.unix_ms();
                now.saturating_sub(view.seen.now_ms)
            }
        }
    }

    /// Called when the circuit was switched off in this process, or on again.
    pub(in crate::breaker) fn switched(self: &Arc<Self>) {
        let mut view = self.view.lock();
        // The snapshot has aged since it came: without this, the time that it has left would start
        // over.
        let age_ms = self.age_ms(&view);
        let mut aged = view.seen.clone();
        aged.now_ms += age_ms;
        let seen = std::mem::replace(&mut view.seen, aged);
        self.set_gate(&view);
        view.seen = seen;
        drop(view);
        if !self.is_unavailable() {
            self.renew();
        }
    }

    /// How long a decision is valid. If changes are pushed, from report to report. Otherwise as
    /// long as the policy says, or as long as this many replicas need to ask one after another.
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

    /// The store is unavailable: continues as the policy says. Returns `false` if it already did.
    pub(in crate::breaker) fn leave_store(&self, unavailable: Unavailable) -> bool {
        let mut view = self.view.lock();
        if self.unavailable() == Unavailable::Ended {
            return false;
        }
        let was = self.unavailable.swap(unavailable as u8, Ordering::SeqCst);
        if matches!(view.source, Source::Local | Source::Fixed { .. }) {
            return was == Unavailable::No as u8;
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
            // The local circuit continues as it is.
            OnStoreFailure::Local if alone => {
                view.source = Source::Local;
                self.alone.store(false, Ordering::SeqCst);
                return was == Unavailable::No as u8;
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
        was == Unavailable::No as u8
    }

    /// The store answers again: asks for news, and continues as before until it arrives.
    pub(in crate::breaker) fn return_to_store(self: &Arc<Self>) {
        let view = self.view.lock();
        if self.unavailable() == Unavailable::Ended {
            return;
        }
        self.unavailable
            .store(Unavailable::No as u8, Ordering::SeqCst);
        drop(view);
        self.renew();
    }

    /// Sets whether changes of the circuit are pushed to this process.
    pub(in crate::breaker) fn follow(self: &Arc<Self>, followed: bool) {
        let was = self.followed.swap(followed, Ordering::SeqCst);
        if followed && !was {
            // Changes pushed before this were missed.
            self.renew();
        } else if was && !followed {
            // A decision that was valid until the next report no longer is.
            let view = self.view.lock();
            if view.source == Source::Shared {
                let good_for = self.good_for(&self.policy.load(), view.shared.replicas);
                self.renew_gate(self.now() + good_for);
            }
        }
    }

    fn renew_gate(&self, until: u64) {
        let until = if self.is_off() { u64::MAX } else { until };
        self.gate.renew(until, |at| self.shared.clock.tick_at(at));
    }

    /// Logs a policy's warnings.
    pub(in crate::breaker) fn warn_of(&self, policy: &Policy) {
        for warning in policy.warnings() {
            tracing::warn!(target: "commontrip::circuit", circuit = %self.name, warning, "the circuit's policy is unwise");
        }
    }

    /// Logs, once, that the circuit was taken with another policy than before.
    pub(in crate::breaker) fn warn_of_another(&self, policy: &Policy) {
        let differ = self.view.lock().code.rules.differences(&policy.rules);
        if !differ.is_empty() && !self.told_of_another.swap(true, Ordering::Relaxed) {
            tracing::warn!(target: "commontrip::circuit", circuit = %self.name, %differ, "the circuit was taken with a different policy than before; the latest one is in force");
        }
    }

    /// Takes over another policy from code.
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
