//! What is pushed: a hint, which is shown until the store answers, and no more.
//!
//! Anybody with the right to publish can say anything. So a publication is asked about at once,
//! nothing of it is remembered (what this process has others adopt came from the keys), and after
//! one that the keys contradict no other is shown for a while. Invariant: a hint is newer than what
//! the store has said.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Cell, View, evidence::spread_of};
use crate::model::{Snapshot, State, millis};

/// How long after a publication that the keys contradict no other is shown.
const DISTRUST: Duration = Duration::from_secs(10);
/// How far apart publications are asked about.
const APART: Duration = Duration::from_millis(10);

/// What was pushed, and no answer has confirmed.
#[derive(Clone, Copy, Debug)]
pub(in crate::breaker) struct Hint {
    version: (u64, u64),
    state: State,
    heard: Instant,
    /// When the first was heard of those that no answer has come between.
    first: Instant,
}

impl Hint {
    pub(super) fn age_ms(&self) -> u64 {
        millis(self.heard.elapsed())
    }
}

impl View {
    /// The newest generation that was heard of, to which belongs what is counted, and its state.
    pub(in crate::breaker) fn newest(&self) -> Option<(u64, State)> {
        self.confirmed?;
        let shared = (self.shared.generation, self.shared.state);
        Some(
            self.hint
                .map_or(shared, |hint| (hint.version.0, hint.state)),
        )
    }

    /// The newest generation that was heard of.
    pub(in crate::breaker) fn generation(&self) -> u64 {
        self.newest().unwrap_or_default().0
    }
}

impl Cell {
    /// Asks about what was pushed, and goes by it meanwhile if it is a newer generation's.
    pub(in crate::breaker) fn take_pushed(self: &Arc<Self>, snapshot: &Snapshot) {
        let mut view = self.view.lock();
        let Some(known) = view.newest() else {
            // The first answer is under way.
            return;
        };
        if self.is_away() || snapshot.version() <= (known.0, view.shared.policy_version) {
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

    /// Has the next report leave at this replica's turn, also when there is nothing else to say.
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

    /// What an answer says of the hint; whether that is newer, and stays what is shown.
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
            circuit = %self.name, replica = %self.shared.replica, published = hint.version.0,
            stored = answer.generation, "what was published is not what is stored"
        );
        self.shared.link.note_contradiction();
        view.distrusts = Some(Instant::now() + DISTRUST);
        false
    }
}
