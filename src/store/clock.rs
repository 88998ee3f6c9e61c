//! The one place that reads a clock.
//!
//! Owns four readings: a coarse monotonic one for time-to-live, the processor's ticks for the
//! latency of calls, nanoseconds for other durations, and Unix time for the embedded store. A
//! manual clock derives all of them from one number.

#![allow(clippy::disallowed_methods)]

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::model::FOREVER;

/// A clock: the system's, or a manual one that moves only when told to.
///
/// ```
/// use std::time::Duration;
/// use commontrip::Clock;
///
/// let clock = Clock::manual();
/// let before = clock.unix_ms();
/// clock.advance(Duration::from_secs(1));
/// assert_eq!(clock.unix_ms(), before + 1000);
/// ```
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System(quanta::Clock),
    /// Milliseconds.
    Manual(Arc<AtomicU64>),
}

/// Ticks per millisecond of a manual clock: its ticks are nanoseconds.
const MANUAL_TICKS: u64 = 1_000_000;
/// Where a manual clock starts, Unix ms: 2025-01-01.
const MANUAL_START_MS: u64 = 1_735_689_600_000;

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System(quanta::Clock::new()))
    }

    /// A clock that stands still until [`advance`](Self::advance); its clones move with it.
    #[must_use]
    pub fn manual() -> Self {
        Self(Source::Manual(Arc::new(AtomicU64::new(MANUAL_START_MS))))
    }

    /// Advances a manual clock by at most a hundred years. Does nothing to the system's clock.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(ms) = &self.0 {
            let by = by.min(FOREVER * 100);
            ms.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
        }
    }

    /// Milliseconds since an unspecified moment, with a resolution of a few ms.
    #[inline]
    #[must_use]
    pub fn coarse_ms(&self) -> u64 {
        match &self.0 {
            Source::System(_) => coarse(),
            Source::Manual(ms) => ms.load(Ordering::Relaxed),
        }
    }

    /// Like [`coarse_ms`](Self::coarse_ms), but in nanoseconds and never behind it: an age measured
    /// with it from a coarse start is never too short. Costs more.
    pub(crate) fn fine_ns(&self) -> u64 {
        match &self.0 {
            Source::System(_) => fine(),
            Source::Manual(ms) => ms.load(Ordering::Relaxed) * 1_000_000,
        }
    }

    /// Nanoseconds since an unspecified moment.
    #[inline]
    #[must_use]
    pub fn precise_ns(&self) -> u64 {
        match &self.0 {
            Source::System(_) => base().elapsed().as_nanos() as u64,
            Source::Manual(ms) => ms.load(Ordering::Relaxed) * 1_000_000,
        }
    }

    /// The processor's tick counter, if it has one; cheaper than [`precise_ns`](Self::precise_ns).
    #[inline]
    pub(crate) fn ticks(&self) -> u64 {
        match &self.0 {
            Source::System(counter) => counter.raw(),
            Source::Manual(ms) => ms.load(Ordering::Relaxed) * MANUAL_TICKS,
        }
    }

    /// Nanoseconds between two readings of [`ticks`](Self::ticks); 0 when they are out of order.
    #[inline]
    pub(crate) fn ns_between(&self, start: u64, end: u64) -> u64 {
        match &self.0 {
            Source::System(counter) => counter.delta_as_nanos(start, end),
            Source::Manual(_) => end.saturating_sub(start),
        }
    }

    /// The approximate value of [`ticks`](Self::ticks) at this time of
    /// [`coarse_ms`](Self::coarse_ms), or its current value if that time has passed.
    pub(crate) fn tick_at(&self, coarse_ms: u64) -> u64 {
        let left_ms = coarse_ms.saturating_sub(self.coarse_ms());
        let left = self.ticks_in(Duration::from_millis(left_ms));
        self.ticks().saturating_add(left)
    }

    /// The approximate value of [`ticks`](Self::ticks) this long ago.
    #[cfg(feature = "stream")]
    pub(crate) fn ticks_ago(&self, time: Duration) -> u64 {
        self.ticks().saturating_sub(self.ticks_in(time))
    }

    /// The approximate number of ticks in this time.
    fn ticks_in(&self, time: Duration) -> u64 {
        const MANY: u64 = 1 << 40;
        let ns = u128::from(self.ns_between(0, MANY).max(1));
        let ticks = time.as_nanos().saturating_mul(u128::from(MANY)) / ns;
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    /// Unix milliseconds; never goes back within a process.
    #[must_use]
    pub fn unix_ms(&self) -> u64 {
        static START: OnceLock<u64> = OnceLock::new();
        match &self.0 {
            Source::System(_) => {
                let since_base = base().elapsed().as_millis() as u64;
                let start = START.get_or_init(|| {
                    let unix = SystemTime::now().duration_since(UNIX_EPOCH);
                    (unix.unwrap_or_default().as_millis() as u64).saturating_sub(since_base)
                });
                start + since_base
            }
            Source::Manual(ms) => ms.load(Ordering::Relaxed),
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
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

#[cfg(target_os = "linux")]
fn fine() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

#[cfg(not(target_os = "linux"))]
fn coarse() -> u64 {
    base().elapsed().as_millis() as u64
}

#[cfg(not(target_os = "linux"))]
fn fine() -> u64 {
    base().elapsed().as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_and_time_are_told_from_each_other() {
        for clock in [Clock::system(), Clock::manual()] {
            let start = clock.ticks();
            let ns = clock.ns_between(start, clock.tick_at(clock.coarse_ms() + 1_000_000));
            // The second reading is a little later than the first.
            assert!(
                ns.abs_diff(1_000_000_000_000) < 10_000_000_000,
                "{clock:?}: {ns}"
            );
            assert_eq!(clock.ns_between(7, 6), 0);
            assert_eq!(clock.tick_at(u64::MAX), u64::MAX);
        }
        let clock = Clock::manual();
        let start = clock.ticks();
        clock.advance(Duration::from_millis(3));
        assert_eq!(clock.ns_between(start, clock.ticks()), 3_000_000);
    }
}
