//! How long a job waits between two attempts.
//!
//! Owns the arithmetic; pure, knows nothing of clocks or queues.

use std::time::Duration;

use crate::model::FOREVER;

/// The range of the factor.
const FACTORS: (f64, f64) = (1.0, 100.0);

/// How long a job waits for its next attempt; for [`Worker::backoff_with`](super::Worker).
///
/// ```
/// use std::time::Duration;
/// use commontrip::queue::Backoff;
///
/// let second = Duration::from_secs(1);
/// // 1 s, 3 s, 9 s, ..., at most a minute.
/// let growing = Backoff::exponential(second, 3.0, 60 * second).jitter(false);
/// // 5 s each time.
/// let fixed = Backoff::fixed(5 * second);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use]
pub struct Backoff {
    first: Duration,
    factor: f64,
    longest: Duration,
    jitter: bool,
}

impl Default for Backoff {
    /// A random time of up to 1 s, 2 s, 4 s, ..., at most 10 min.
    fn default() -> Self {
        Self::exponential(Duration::from_secs(1), 2.0, Duration::from_secs(600))
    }
}

impl Backoff {
    /// The same exact delay after each attempt. At most a year.
    pub fn fixed(delay: Duration) -> Self {
        Self::exponential(delay, 1.0, delay).jitter(false)
    }

    /// `first` after the first attempt, multiplied by `factor` after each further one, at most
    /// `longest`. With jitter (the default), a random time of up to that delay.
    ///
    /// `factor` is clamped to `1.0..=100.0`; NaN counts as 1. `longest` is at most a year.
    pub fn exponential(first: Duration, factor: f64, longest: Duration) -> Self {
        let factor = match factor.is_nan() {
            true => FACTORS.0,
            false => factor.clamp(FACTORS.0, FACTORS.1),
        };
        Self {
            first,
            factor,
            longest: longest.min(FOREVER),
            jitter: true,
        }
    }

    /// Sets whether the delay is random, from 0 to the full delay, so that jobs which failed
    /// together are not retried together. On by default, except for [`fixed`](Self::fixed).
    pub const fn jitter(mut self, on: bool) -> Self {
        self.jitter = on;
        self
    }

    /// The delay after an attempt (1 = the first); `random` is from 0 to 1.
    pub(super) fn after(self, attempt: u32, random: f64) -> Duration {
        let further = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        // A delay beyond the range of a `Duration` becomes `longest`, too.
        let grown = self.first.as_secs_f64() * self.factor.powi(further).min(f64::MAX);
        let delay =
            Duration::try_from_secs_f64(grown).map_or(self.longest, |d| d.min(self.longest));
        match self.jitter {
            true => delay.mul_f64(random.clamp(0.0, 1.0)),
            false => delay,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn waits(backoff: Backoff, random: f64) -> [u128; 5] {
        let attempts = [1, 2, 3, 4, u32::MAX];
        attempts.map(|attempt| backoff.after(attempt, random).as_millis())
    }

    #[test]
    fn delays_grow_by_the_factor_to_the_longest() {
        let plain = Backoff::exponential(ms(100), 3.0, ms(2000)).jitter(false);
        assert_eq!(waits(plain, 0.5), [100, 300, 900, 2000, 2000]);
        let small = Backoff::exponential(ms(1000), 1.5, ms(600_000)).jitter(false);
        assert_eq!(waits(small, 0.5), [1000, 1500, 2250, 3375, 600_000]);
        let none = Backoff::exponential(Duration::ZERO, 2.0, ms(500)).jitter(false);
        assert_eq!(waits(none, 0.5), [0; 5]);
        // The first delay is capped, too.
        let long = Backoff::exponential(ms(9000), 2.0, ms(2000)).jitter(false);
        assert_eq!(waits(long, 0.5), [2000; 5]);
    }

    #[test]
    fn jitter_takes_a_random_part_and_fixed_delays_have_none() {
        let with = Backoff::exponential(ms(100), 2.0, ms(500));
        assert_eq!(waits(with, 0.5), [50, 100, 200, 250, 250]);
        assert_eq!(waits(with, 0.0), [0; 5]);
        assert_eq!(waits(Backoff::fixed(ms(70)), 0.5), [70; 5]);
        assert_eq!(waits(Backoff::fixed(ms(70)).jitter(true), 0.5), [35; 5]);
    }

    #[test]
    fn what_is_out_of_range_counts_as_the_nearest() {
        for (factor, second) in [(0.1, 10), (f64::NAN, 10), (1e9, 1000), (-1.0, 10)] {
            let of = Backoff::exponential(ms(10), factor, Duration::MAX).jitter(false);
            assert_eq!(of.after(2, 0.0), ms(second), "{factor}");
            assert!(of.after(u32::MAX, 0.0) <= FOREVER, "{factor}");
        }
    }
}
