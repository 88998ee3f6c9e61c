//! The one place that reads a clock.
//!
//! Owns three readings: a coarse monotonic one for time-to-live, a precise one for latency, and
//! Unix time for the embedded store. A manual clock answers all three from one number.

#![allow(clippy::disallowed_methods)]

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// A clock: the system's, or one that only moves when told to.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<AtomicU64>>);

/// Where a manual clock starts, Unix ms: 2025-01-01.
const MANUAL_START_MS: u64 = 1_735_689_600_000;

impl Clock {
    /// The system's clock.
    #[must_use]
    pub const fn system() -> Self {
        Self(None)
    }

    /// A clock that stands still until [`advance`](Self::advance); its clones move with it.
    #[must_use]
    pub fn manual() -> Self {
        Self(Some(Arc::new(AtomicU64::new(MANUAL_START_MS))))
    }

    /// Moves a manual clock; does nothing to the system's.
    pub fn advance(&self, by: Duration) {
        if let Some(ms) = &self.0 {
            ms.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
        }
    }

    /// Milliseconds since some moment before the process began; a few ms coarse.
    #[inline]
    #[must_use]
    pub fn coarse_ms(&self) -> u64 {
        match &self.0 {
            None => coarse(),
            Some(ms) => ms.load(Ordering::Relaxed),
        }
    }

    /// Nanoseconds since some moment before the process began.
    #[inline]
    #[must_use]
    pub fn precise_ns(&self) -> u64 {
        match &self.0 {
            None => base().elapsed().as_nanos() as u64,
            Some(ms) => ms.load(Ordering::Relaxed) * 1_000_000,
        }
    }

    /// Unix milliseconds; never goes back within a process.
    #[must_use]
    pub fn unix_ms(&self) -> u64 {
        static START: OnceLock<u64> = OnceLock::new();
        match &self.0 {
            None => {
                let since_base = base().elapsed().as_millis() as u64;
                let start = START.get_or_init(|| {
                    let unix = SystemTime::now().duration_since(UNIX_EPOCH);
                    (unix.unwrap_or_default().as_millis() as u64).saturating_sub(since_base)
                });
                start + since_base
            }
            Some(ms) => ms.load(Ordering::Relaxed),
        }
    }
}

fn base() -> Instant {
    static BASE: OnceLock<Instant> = OnceLock::new();
    *BASE.get_or_init(Instant::now)
}

#[cfg(target_os = "linux")]
#[inline]
fn coarse() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    t.tv_sec as u64 * 1000 + t.tv_nsec as u64 / 1_000_000
}

#[cfg(not(target_os = "linux"))]
fn coarse() -> u64 {
    base().elapsed().as_millis() as u64
}
