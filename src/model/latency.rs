//! How long calls took: a compact histogram, and its percentiles.
//!
//! Owns the buckets and their error: whole microseconds below 32, then 16 buckets per octave up to
//! 2^26 µs (67 s); longer calls go to the last one. So a percentile is at most 1/33 (3.1 %) away
//! from the true value in whole microseconds. Knows nothing of time or Redis. Invariant: buckets
//! ascend, no count is 0. Twin: `lua/lib/latency.lua`.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize, Serializer, ser::SerializeSeq};

use super::snapshot::LARGEST;

/// Resolution of an octave: 2^4 buckets.
const FINE: u32 = 4;
/// The first power of two, in µs, without a bucket of its own.
const OCTAVES: u32 = 26;
/// How many buckets there are.
pub(crate) const BUCKETS: usize = ((OCTAVES - FINE + 1) as usize) << FINE;

/// Returns the bucket of a latency.
#[inline]
pub(crate) fn bucket_of(micros: u64) -> usize {
    let micros = micros.min((1 << OCTAVES) - 1);
    // The first 32 values keep every bit.
    let cut = (micros | 1 << FINE).ilog2() - FINE;
    ((cut as usize) << FINE) + (micros >> cut) as usize
}

/// Returns the latency that a bucket stands for: its relative distance to the longest and to the
/// shortest latency of the bucket is the same.
pub(crate) fn middle_of(bucket: usize) -> Duration {
    let (part, cut) = (bucket & ((1 << FINE) - 1), bucket >> FINE);
    let (shortest, width) = match cut {
        0 => (part as u64, 1),
        _ => (((1 << FINE) + part as u64) << (cut - 1), 1 << (cut - 1)),
    };
    let longest = shortest + width - 1;
    let nanos = 2000 * shortest * longest / (shortest + longest).max(1);
    Duration::from_nanos(nanos)
}

/// A histogram of latencies.
///
/// Sent as an array: bucket, count, bucket, count, and so on.
///
/// ```
/// use std::time::Duration;
/// use commontrip::Latencies;
///
/// let mut latencies = Latencies::default();
/// latencies.record(Duration::from_millis(10), 99);
/// latencies.record(Duration::from_secs(1), 1);
/// assert_eq!(latencies.count(), 100);
/// assert!(latencies.percentile(50.0) < Some(Duration::from_millis(20)));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latencies(Vec<(u16, u64)>);

impl Latencies {
    /// Adds `n` calls of this latency.
    pub fn record(&mut self, latency: Duration, n: u64) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.add(bucket_of(micros), n);
    }

    /// Adds `n` calls to a bucket; a bucket that does not exist means the last one.
    pub(crate) fn add(&mut self, bucket: usize, n: u64) {
        let bucket = bucket.min(BUCKETS - 1) as u16;
        if n == 0 {
            return;
        }
        match self.0.binary_search_by_key(&bucket, |(b, _)| *b) {
            Ok(at) => self.0[at].1 = self.0[at].1.saturating_add(n).min(LARGEST),
            Err(at) => self.0.insert(at, (bucket, n.min(LARGEST))),
        }
    }

    /// Adds the calls of another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, n) in &other.0 {
            self.add(usize::from(*bucket), *n);
        }
    }

    /// Halves every count until at most `most` calls are left, so that newer calls weigh more.
    pub(crate) fn fade(&mut self, most: u64) {
        while self.count() > most {
            self.0.retain_mut(|(_, n)| {
                *n /= 2;
                *n > 0
            });
        }
    }

    /// Whether there are no calls.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the number of calls.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().map(|(_, n)| n).sum()
    }

    /// Returns the latencies, ascending, each with its count. Each is the middle of a bucket.
    pub fn iter(&self) -> impl Iterator<Item = (Duration, u64)> {
        let pairs = self.0.iter();
        pairs.map(|(bucket, n)| (middle_of(usize::from(*bucket)), *n))
    }

    /// Returns the shortest latency that at least `percent` of the calls did not exceed; `None`
    /// without calls.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Option<Duration> {
        let rank = (self.count() as f64 * percent / 100.0).ceil() as u64;
        let mut seen = 0;
        let reached = self.0.iter().find(|(_, n)| {
            seen += n;
            seen >= rank
        });
        let reached = reached.or(self.0.last());
        reached.map(|(bucket, _)| middle_of(usize::from(*bucket)))
    }

    /// Returns the average latency; `None` without calls.
    #[must_use]
    pub fn mean(&self) -> Option<Duration> {
        let sum = self.iter().fold(0_u128, |sum, (latency, n)| {
            sum.saturating_add(latency.as_nanos() * u128::from(n))
        });
        let mean = sum.checked_div(u128::from(self.count()))?;
        Some(Duration::from_nanos(
            u64::try_from(mean).unwrap_or(u64::MAX),
        ))
    }

    /// Returns the numbers that users see; `None` without calls.
    pub(crate) fn percentiles(&self) -> Option<Percentiles> {
        Some(Percentiles {
            count: self.count(),
            mean: self.mean()?,
            p50: self.percentile(50.0)?,
            p95: self.percentile(95.0)?,
            p99: self.percentile(99.0)?,
        })
    }

    /// Reads what [`Display`](fmt::Display) writes; `None` for any other text.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let number = |digits: &str| {
            let digits = Some(digits).filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
            digits?.parse::<u64>().ok()
        };
        let mut read = Self::default();
        for pair in text.split(' ') {
            let (bucket, n) = pair.split_once(':')?;
            let (bucket, n) = (number(bucket)?, number(n)?);
            let ascends = read.0.last().is_none_or(|(b, _)| u64::from(*b) < bucket);
            if !ascends || bucket >= BUCKETS as u64 || n == 0 || n > LARGEST {
                return None;
            }
            read.0.push((bucket as u16, n));
        }
        Some(read)
    }
}

/// Writes the form that Redis stores: `16:5 17:12`.
impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (bucket, n)) in self.0.iter().enumerate() {
            let space = if i > 0 { " " } else { "" };
            write!(f, "{space}{bucket}:{n}")?;
        }
        Ok(())
    }
}

impl Serialize for Latencies {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut flat = serializer.serialize_seq(Some(2 * self.0.len()))?;
        for (bucket, n) in &self.0 {
            flat.serialize_element(bucket)?;
            flat.serialize_element(n)?;
        }
        flat.end()
    }
}

/// How long the fleet's calls in the window took.
///
/// Includes successes and failures, but not calls that were ignored, rejected, or dropped without
/// an outcome. Each value is at most 1/33 away from the true one between 32 µs and 67 s. Below 32
/// µs, values are exact to the microsecond; calls longer than 67 s count as 67 s. If calls are
/// sampled, there is a sampling error as well:
/// [`LatencyRecording::Sampled`](crate::LatencyRecording::Sampled).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Percentiles {
    /// The number of calls; if they are sampled, the number that the samples represent.
    pub count: u64,
    /// Average latency; in JSON `mean_us`, whole microseconds.
    #[serde(rename = "mean_us", with = "micros")]
    pub mean: Duration,
    /// Half of the calls took no longer; in JSON `p50_us`.
    #[serde(rename = "p50_us", with = "micros")]
    pub p50: Duration,
    /// 95 of 100 calls took no longer; in JSON `p95_us`.
    #[serde(rename = "p95_us", with = "micros")]
    pub p95: Duration,
    /// 99 of 100 calls took no longer; in JSON `p99_us`.
    #[serde(rename = "p99_us", with = "micros")]
    pub p99: Duration,
}

/// Durations as whole microseconds.
mod micros {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_micros)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn micros() -> impl Strategy<Value = u64> {
        let edges =
            (0_u32..27, -1_i64..2).prop_map(|(p, by)| (1_u64 << p).saturating_add_signed(by));
        prop_oneof![
            0_u64..5000,
            edges,
            (0_u32..26).prop_flat_map(|p| 0..2_u64 << p)
        ]
    }

    proptest! {
        #[test]
        fn a_bucket_stands_for_its_latencies_within_a_thirty_third(micros in micros()) {
            prop_assume!(micros < 1 << 26);
            let middle = middle_of(bucket_of(micros)).as_nanos().abs_diff(u128::from(micros) * 1000);
            // The rounding of the middle is below one nanosecond.
            prop_assert!(33 * middle <= u128::from(micros) * 1000 + 33, "{micros}");
            prop_assert!(micros >= 32 || middle == 0, "{micros}");
        }

        #[test]
        fn longer_is_never_a_lower_bucket(a in any::<u64>(), b in micros()) {
            for (a, b) in [(a, b), (b, b + 1), (b, 2 * b)] {
                let (a, b) = (a.min(b), a.max(b));
                prop_assert!(bucket_of(a) <= bucket_of(b) && bucket_of(b) < BUCKETS);
                prop_assert!(bucket_of(a) == bucket_of(b) || middle_of(bucket_of(a)) < middle_of(bucket_of(b)));
            }
        }

        #[test]
        fn what_is_written_is_read_and_nothing_else_is(adds in prop::collection::vec((0_usize..500, 0_u64..9), 0..40), text in "[0-9: -]{0,12}") {
            let mut latencies = Latencies::default();
            for (bucket, n) in &adds {
                latencies.add(*bucket, *n);
            }
            prop_assert_eq!(latencies.count(), adds.iter().map(|(_, n)| n).sum::<u64>());
            let read = Latencies::read(&latencies.to_string());
            prop_assert_eq!(read, Some(latencies).filter(|l| !l.is_empty()));
            if let Some(read) = Latencies::read(&text) {
                prop_assert_eq!(Latencies::read(&read.to_string()), Some(read));
            }
        }
    }

    #[test]
    fn every_bucket_is_the_bucket_of_what_it_stands_for() {
        for bucket in 0..BUCKETS {
            let micros = middle_of(bucket).as_micros();
            assert_eq!(bucket_of(u64::try_from(micros).unwrap()), bucket);
        }
        assert_eq!(
            (BUCKETS, bucket_of(0), bucket_of(31), bucket_of(32)),
            (368, 0, 31, 32)
        );
        assert_eq!(
            (bucket_of(33), bucket_of(34), bucket_of(63), bucket_of(64)),
            (32, 33, 47, 48)
        );
        assert_eq!((bucket_of((1 << 26) - 1), bucket_of(u64::MAX)), (367, 367));
    }

    #[test]
    fn a_percentile_is_what_that_many_calls_did_not_exceed() {
        let mut latencies = Latencies::default();
        assert_eq!(
            (latencies.percentile(50.0), latencies.percentiles()),
            (None, None)
        );
        for (bucket, n) in [(1, 50), (2, 45), (3, 4), (4, 1)] {
            latencies.add(bucket, n);
        }
        let at = |percent| latencies.percentile(percent).unwrap().as_micros();
        let seen = [0.0, 50.0, 50.1, 95.0, 95.1, 99.0, 99.1, 100.0, 200.0].map(at);
        assert_eq!(seen, [1, 1, 2, 2, 3, 3, 4, 4, 4]);
        // (50 * 1 + 45 * 2 + 4 * 3 + 1 * 4) / 100
        assert_eq!(latencies.mean(), Some(Duration::from_nanos(1560)));
        assert_eq!(Latencies::default().mean(), None);
    }

    #[test]
    fn on_the_wire_it_is_one_flat_array() {
        let mut latencies = Latencies::default();
        latencies.add(17, 300);
        latencies.add(3, 1);
        assert_eq!(
            rmp_serde::to_vec(&latencies).unwrap(),
            [0x94, 3, 1, 17, 0xcd, 1, 44]
        );
    }

    #[test]
    fn counts_that_are_too_large_stay_the_largest() {
        let mut latencies = Latencies::default();
        for bucket in 0..BUCKETS {
            latencies.add(bucket, u64::MAX);
            latencies.add(bucket, 1);
        }
        assert_eq!(latencies.count(), BUCKETS as u64 * LARGEST);
        assert!(latencies.percentiles().is_some());
    }

    #[test]
    fn what_somebody_wrote_by_hand_is_read_only_if_we_could_have() {
        for text in [
            "",
            " ",
            "5",
            "5:",
            ":5",
            "5:6 ",
            " 5:6",
            "5:6  7:8",
            "5:6:7",
            "5:0",
            "+5:6",
            "7:1 5:1",
            "5:1 5:1",
            "368:1",
            "5:4503599627370496",
            "5:99999999999999999999",
            "-1:5",
            "5:6,7:8",
        ] {
            assert_eq!(Latencies::read(text), None, "{text}");
        }
        let read = Latencies::read("5:6 367:4503599627370495").unwrap();
        assert_eq!(read.count(), 6 + LARGEST);
    }
}
