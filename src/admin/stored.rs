//! Whether the store is available, as far as this server knows.

use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;

use crate::{Clock, StoreError, store::in_words};

/// The store's health, as responses show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct StoreHealth {
    pub(super) ok: bool,
    /// Why the store did not answer.
    pub(super) error: Option<String>,
    pub(super) answered_in_us: Option<u64>,
    /// Since when the store has been unavailable, Unix ms; 0 = it is available.
    pub(super) unavailable_since_ms: u64,
}

/// What this server last learned about the store.
#[derive(Debug, Default)]
pub(super) struct StoreWatch(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    unavailable_since_ms: u64,
    /// The store's time, and when it was read.
    clock: Option<(u64, Instant)>,
}

impl Seen {
    /// The store's time, or this machine's before the store has answered.
    fn now_ms(&self) -> u64 {
        match self.clock {
            Some((ms, at)) => ms + u64::try_from(at.elapsed().as_millis()).unwrap_or(0),
            None => Clock::system().unix_ms(),
        }
    }
}

impl StoreWatch {
    /// Notes the store's time.
    pub(super) fn said(&self, now_ms: u64) {
        self.0.lock().clock = Some((now_ms, Instant::now()));
    }

    /// The store's time, computed from the last one noted.
    pub(super) fn now_ms(&self) -> u64 {
        self.0.lock().now_ms()
    }

    /// Notes that the store answered.
    pub(super) fn answered(&self, took: Duration) -> StoreHealth {
        self.0.lock().unavailable_since_ms = 0;
        StoreHealth {
            ok: true,
            error: None,
            answered_in_us: u64::try_from(took.as_micros()).ok(),
            unavailable_since_ms: 0,
        }
    }

    /// Notes that the store did not answer, for this reason.
    pub(super) fn failed(&self, error: String) -> StoreHealth {
        let mut seen = self.0.lock();
        if seen.unavailable_since_ms == 0 {
            seen.unavailable_since_ms = seen.now_ms();
        }
        StoreHealth {
            ok: false,
            error: Some(error),
            answered_in_us: None,
            unavailable_since_ms: seen.unavailable_since_ms,
        }
    }

    /// Notes whether the store answered, and returns the answer.
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
