//! Pushed changes: hints that are shown until the store answers, and no more.
//!
//! Anybody with the right to publish can publish anything. So this process asks about each
//! publication at once, and remembers nothing of it: only what came from keys is restored in an
//! emptied store. After a publication that the keys contradict, no other is shown for a while.
//! Invariant: a hint is newer than the store's last answer.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{CircuitInner, View, evidence::spread_of};
use crate::model::{Snapshot, State, millis};

/// For how long no publication is shown after one that the keys contradict.
const DISTRUST: Duration = Duration::from_secs(10);
/// The minimum time between two questions about publications.
const APART: Duration = Duration::from_millis(10);

/// A pushed change that no answer has confirmed.
#[derive(Clone, Copy, Debug)]
pub(in crate::breaker) struct Hint {
    version: (u64, u64),
    state: State,
    heard: Instant,
    /// When the first hint was heard since the last answer that brought news.
    first: Instant,
}

impl Hint {
    pub(super) fn age_ms(&self) -> u64 {
        millis(self.heard.elapsed())
    }
}

impl View {
    /// The newest generation heard of, to which counts belong, and its state.
    pub(in crate::breaker) fn newest(&self) -> Option<(u64, State)> {
        self.confirmed?;
        let shared = (self.shared.generation, self.shared.state);
        Some(
            self.hint
                .map_or(shared, |hint| (hint.version.0, hint.state)),
        )
    }

    /// The newest generation heard of.
    pub(in crate::breaker) fn generation(&self) -> u64 {
        self.newest().unwrap_or_default().0
    }
}

impl CircuitInner {
    /// Asks about a pushed change, and shows it in the meantime if its generation is newer.
    pub(in crate::breaker) fn take_pushed(self: &Arc<Self>, snapshot: &Snapshot) {
        let mut view = self.view.lock();
        let Some(known) = view.newest() else {
            // The first answer is on the way.
            return;
        };
        if self.is_unavailable() || snapshot.version() <= (known.0, view.shared.policy_version) {
            return;
        }
        let now = Instant::now();
        let trusted = view.distrusts.is_none_or(|until| now >= until);
        self.ask_about_it(&view, now, trusted);
        if trusted {
            let newer = snapshot.generation > known.0;
            view.hint = Some(Hint {
                version: snapshot.version(),
                state: if newer { snapshot.state } else { known.1 },
                heard: now,
                first: view.hint.map_or(now, |hint| hint.first),
            });
            if newer {
                let seen = Snapshot {
                    policy: view.shared.policy.clone(),
                    ..snapshot.clone().in_time(&self.policy.load().rules)
                };
                self.take(view, Some(known), &seen);
            }
        }
        self.shared.attend(self);
    }

    /// Makes the next report leave at this replica's turn, even if there is nothing else to say.
    fn ask_about_it(&self, view: &View, now: Instant, trusted: bool) {
        let spread = spread_of(view).mul_f64(fastrand::f64());
        let apart = match trusted {
            true => APART,
            false => APART.max(Duration::from_millis(
                self.policy.load().rules.decision_ttl_ms,
            )),
        };
        self.outbox.lock().ask(now + spread, apart);
    }

    /// Compares an answer with the hint. Returns whether the hint is newer and stays shown.
    pub(super) fn judge_hint(&self, view: &mut View, answer: &Snapshot, asked: Instant) -> bool {
        let Some(hint) = view.hint.take() else {
            return false;
        };
        if answer.version() >= hint.version {
            return false;
        }
        let patience = self.shared.store_timeout.saturating_add(spread_of(view));
        if asked <= hint.heard && hint.first.elapsed() < patience {
            let moved = answer.version() > view.shared.version();
            let first = if moved { hint.heard } else { hint.first };
            view.hint = Some(Hint { first, ..hint });
            return answer.generation < hint.version.0;
        }
        tracing::warn!(
            target: "commontrip::circuit", circuit = %self.name, replica = %self.shared.replica, published = hint.version.0,
            stored = answer.generation, "a published change does not match the stored circuit"
        );
        self.shared.outage.note_contradiction();
        view.distrusts = Some(Instant::now() + DISTRUST);
        false
    }
}
