//! Whether the store answers.
//!
//! Owns the one bit that calls look at, and the task that asks until the store is back: nobody
//! else asks a store that is away.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{cell::Cell, registry::Shared};
use crate::{model::Release, store::StoreError};

/// Waits between two questions to a store that is away; each is lengthened at random by up to a
/// half, so that a fleet does not ask in step.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub(super) struct Link {
    away: AtomicBool,
    trouble: Mutex<Trouble>,
}

#[derive(Debug, Default)]
struct Trouble {
    since: Option<Instant>,
    last_error: Option<String>,
    times: u64,
}

/// How a registry and its store get on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Health {
    /// How long the store has been away; `None` while it answers.
    pub away_for: Option<Duration>,
    /// How often it went away.
    pub times_away: u64,
    /// The last error, in words.
    pub last_error: Option<String>,
    /// Whether changes of every circuit are pushed to this process.
    pub push: bool,
    /// Circuits with outcomes that the store has not confirmed.
    pub reports_pending: usize,
}

impl Link {
    #[inline]
    pub(super) fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    pub(super) fn health(&self, push: bool, reports_pending: usize) -> Health {
        let trouble = self.trouble.lock();
        Health {
            away_for: trouble.since.map(|since| since.elapsed()),
            times_away: trouble.times,
            last_error: trouble.last_error.clone(),
            push,
            reports_pending,
        }
    }
}

/// The error with its causes, in one line.
fn in_words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

impl Shared {
    /// The store failed: from now on nobody asks it but one task.
    pub(super) fn store_failed(self: &Arc<Self>, error: &StoreError) {
        let words = in_words(error);
        let mut trouble = self.link.trouble.lock();
        trouble.last_error = Some(words);
        if self.link.away.swap(true, Ordering::SeqCst) {
            return;
        }
        trouble.since = Some(Instant::now());
        trouble.times += 1;
        let words = trouble.last_error.clone().unwrap_or_default();
        drop(trouble);
        tracing::warn!(error = %words, replica = %self.replica, "the store is away");
        for cell in self.cells() {
            cell.leave_store();
        }
        self.spawn(ask_until_back(Arc::clone(self)));
    }

    /// Asks a store that is away once more, before the registry ends.
    pub(super) async fn last_try(self: &Arc<Self>) {
        if self.link.is_away() && ask(self, self.cells().first()).await.is_ok() {
            self.store_returned();
        }
    }

    fn store_returned(self: &Arc<Self>) {
        let since = self.link.trouble.lock().since.take();
        let away_for = since.map_or(Duration::ZERO, |since| since.elapsed());
        self.link.away.store(false, Ordering::SeqCst);
        tracing::info!(?away_for, replica = %self.replica, "the store is back");
        for cell in self.cells() {
            cell.renew();
        }
    }
}

async fn ask_until_back(shared: Arc<Shared>) {
    let mut wait = FIRST_WAIT;
    loop {
        let jitter = fastrand::f64().mul_add(0.5, 1.0);
        tokio::time::sleep(wait.mul_f64(jitter)).await;
        wait = (wait * 2).min(LONGEST_WAIT);
        let answer = ask(&shared, fastrand::choice(shared.cells()).as_ref()).await;
        match answer {
            Ok(()) => return shared.store_returned(),
            Err(error) => {
                let words = in_words(&error);
                tracing::debug!(error = %words, "the store is still away");
                shared.link.trouble.lock().last_error = Some(words);
            }
        }
    }
}

/// A write that changes nothing but what was lost: it shows that the store takes reports again,
/// and brings back what this process remembers.
async fn ask(shared: &Shared, cell: Option<&Arc<Cell>>) -> Result<(), StoreError> {
    let Some(cell) = cell else {
        return shared.in_time(shared.store.ping()).await;
    };
    let request = Release {
        head: cell.head(),
        token: "-".to_owned(),
    };
    let answer = shared.store.release(&cell.name, &request);
    shared.in_time(answer).await.map(drop)
}
