//! Whether the store is there, as far as this server has seen.

use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;

use crate::{Clock, StoreError, store::in_words};

/// The store as an answer shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct StoreHealth {
    pub(super) ok: bool,
    /// Why it did not answer.
    pub(super) error: Option<String>,
    pub(super) answered_in_us: Option<u64>,
    /// Since when it has not answered, Unix ms; 0 = it did.
    pub(super) away_since_ms: u64,
}

/// What was last heard of the store.
#[derive(Debug, Default)]
pub(super) struct StoreWatch(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    away_since_ms: u64,
    /// What its clock said, and when.
    clock: Option<(u64, Instant)>,
}

impl Seen {
    /// The store's time, or this machine's before the store was heard.
    fn now_ms(&self) -> u64 {
        match self.clock {
            Some((ms, at)) => ms + u64::try_from(at.elapsed().as_millis()).unwrap_or(0),
            None => Clock::system().unix_ms(),
        }
    }
}

impl StoreWatch {
    /// Its clock said this.
    pub(super) fn said(&self, now_ms: u64) {
        self.0.lock().clock = Some((now_ms, Instant::now()));
    }

    /// Its time, as far as can be told without it.
    pub(super) fn now_ms(&self) -> u64 {
        self.0.lock().now_ms()
    }

    /// It answered.
    pub(super) fn answered(&self, took: Duration) -> StoreHealth {
        self.0.lock().away_since_ms = 0;
        StoreHealth {
            ok: true,
            error: None,
            answered_in_us: u64::try_from(took.as_micros()).ok(),
            away_since_ms: 0,
        }
    }

    /// It did not, for this reason.
    pub(super) fn failed(&self, error: String) -> StoreHealth {
        let mut seen = self.0.lock();
        if seen.away_since_ms == 0 {
            seen.away_since_ms = seen.now_ms();
        }
        StoreHealth {
            ok: false,
            error: Some(error),
            answered_in_us: None,
            away_since_ms: seen.away_since_ms,
        }
    }

    /// Either, and what it answered.
    pub(super) fn take<T>(
        &self,
        asked: Instant,
        answer: Result<T, StoreError>,
    ) -> (StoreHealth, Option<T>) {
        match answer {
            Ok(answer) => (self.answered(asked.elapsed()), Some(answer)),
            Err(error) => (self.failed(in_words(&error)), None),
        }
    }
}
