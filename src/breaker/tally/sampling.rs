//! Which calls of a thread are timed.
//!
//! Owns the choice: a random call out of each block, whose length is the call's weight. Blocks have
//! one call at first and double with every [`EACH`] samples; they restart when latencies are taken.
//! Invariant: the choice depends on how many calls began, and never on when they began or how long
//! they took. So the weights are those of a random sample, in whatever order the calls come.

use std::sync::atomic::{AtomicI32, AtomicU32, Ordering::Relaxed};

/// Samples between two doublings. Up to 512 calls of a thread are all timed. With more calls, the
/// sample is at least as good as one of 1,365 calls, each picked with the same probability.
const EACH: u32 = 512;
/// The largest block, as a power of two: two of them fit into the countdown, and a weight into a
/// ticket.
const LARGEST: u32 = 20;
/// Asks the thread to restart its sample.
const RESTART: i32 = -1;

/// One thread's choice. Only its thread writes, except in [`restart`](Self::restart).
#[derive(Debug, Default)]
pub(super) struct Sampling {
    /// Calls before the next chosen one, or [`RESTART`].
    before: AtomicI32,
    /// Calls after that one in its block.
    behind: AtomicU32,
    /// Samples since the restart.
    samples: AtomicU32,
}

impl Sampling {
    /// How many calls, including itself, a call that begins now represents; 0 = it is not timed.
    #[inline]
    pub(super) fn choose(&self) -> u32 {
        let before = self.before.load(Relaxed);
        let left = before.wrapping_sub(1);
        if left < 0 {
            return self.chosen(before);
        }
        self.before.store(left, Relaxed);
        0
    }

    /// Weighs the chosen call and picks the next.
    #[inline(never)]
    fn chosen(&self, before: i32) -> u32 {
        let (samples, behind) = match before {
            RESTART => (0, 0),
            _ => (self.samples.load(Relaxed), self.behind.load(Relaxed)),
        };
        let next = block(samples + 1);
        let at = fastrand::u32(..next);
        self.samples.store(samples + 1, Relaxed);
        self.behind.store(next - 1 - at, Relaxed);
        self.before.store((behind + at).cast_signed(), Relaxed);
        block(samples)
    }

    /// Restarts the sample: every call is timed again, until there are many. A thread that begins a
    /// call at this very moment may not see it, and continues as before until the next time.
    pub(super) fn restart(&self) {
        self.before.store(RESTART, Relaxed);
    }
}

/// How many calls a block has after this many samples.
const fn block(samples: u32) -> u32 {
    let doublings = samples / EACH;
    1 << if doublings < LARGEST {
        doublings
    } else {
        LARGEST
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BinaryHeap;

    use super::super::{Count, Tally};
    use super::Sampling;
    use crate::model::{Latencies, bucket_of};

    /// A call on one thread, µs.
    #[derive(Clone, Copy)]
    struct Call {
        begins: u64,
        takes: u64,
    }

    /// Calls of one task: each begins `pause` after the previous one ended.
    fn task(takes: impl IntoIterator<Item = u64>, pause: u64) -> Vec<Call> {
        let mut now = 0;
        let calls = takes.into_iter().map(|takes| {
            let begins = now;
            now += takes + pause;
            Call { begins, takes }
        });
        calls.collect()
    }

    /// Runs one thread's calls as they begin and end; reports every 5 s.
    fn run(tally: &Tally, mut calls: Vec<Call>) -> Latencies {
        calls.sort_by_key(|call| call.begins);
        let mut taken = Latencies::default();
        let mut under_way = BinaryHeap::new();
        let end = |before: u64, under_way: &mut BinaryHeap<_>| {
            while let Some(std::cmp::Reverse((ends, takes, weight))) = under_way.pop() {
                if ends > before {
                    under_way.push(std::cmp::Reverse((ends, takes, weight)));
                    break;
                }
                tally.record(0, Count::Success);
                if weight > 0 {
                    tally.time_sampled(takes * 1000, weight);
                }
            }
        };
        let mut due = 0;
        for Call { begins, takes } in calls {
            end(begins, &mut under_way);
            if begins >= due {
                taken.merge(&tally.take_latencies());
                due = begins + 5_000_000;
            }
            let weight = tally.sample();
            under_way.push(std::cmp::Reverse((begins + takes, takes, weight)));
        }
        end(u64::MAX, &mut under_way);
        taken.merge(&tally.take_latencies());
        taken
    }

    /// Each percentile shown has a rank within `within` percent of it among the exact latencies.
    #[track_caller]
    fn assert_close(seen: &Latencies, mut exact: Vec<u64>, within: f64) {
        exact.sort_unstable();
        let buckets: Vec<_> = exact.iter().map(|micros| bucket_of(*micros)).collect();
        for percent in [50.0, 95.0, 99.0] {
            let shown = seen.percentile(percent).unwrap();
            let shown_in = bucket_of(shown.as_micros() as u64);
            let share = |calls: usize| 100.0 * calls as f64 / buckets.len() as f64;
            let below = share(buckets.partition_point(|bucket| *bucket < shown_in));
            let up_to = share(buckets.partition_point(|bucket| *bucket <= shown_in));
            assert!(
                below <= percent + within && up_to >= percent - within,
                "p{percent} is shown as {shown:?}, which is from p{below:.2} to p{up_to:.2}"
            );
        }
        let ratio = seen.count() as f64 / exact.len() as f64;
        assert!(
            (ratio - 1.0).abs() < 0.03,
            "stands for {ratio} of the calls"
        );
    }

    /// The sampled calls of one thread give the percentiles of all its calls.
    #[track_caller]
    fn assert_unbiased(calls: Vec<Call>, within: f64) {
        fastrand::seed(7);
        let exact = calls.iter().map(|call| call.takes).collect();
        assert_close(&run(&Tally::new(), calls), exact, within);
    }

    #[test]
    fn each_call_is_timed_as_seldom_as_its_weight_says() {
        const ROUNDS: u32 = 2000;
        fastrand::seed(7);
        let mut weights = vec![0; 4000];
        for _ in 0..ROUNDS {
            let sampling = Sampling::default();
            for (n, weight) in weights.iter_mut().enumerate() {
                // Usually in the middle of a block.
                if n == 3333 {
                    sampling.restart();
                }
                *weight += sampling.choose();
            }
        }
        let assert_one = |weights: Vec<u32>, of: &str| {
            let mean = f64::from(weights.iter().sum::<u32>()) / f64::from(ROUNDS);
            let mean = mean / weights.len() as f64;
            assert!((mean - 1.0).abs() < 0.02, "{mean} of {of}");
        };
        for (n, calls) in weights.chunks(100).enumerate() {
            assert_one(calls.to_vec(), &format!("hundred {n}"));
        }
        for period in [2, 8, 10, 64] {
            for at in 0..period {
                let calls = weights.iter().skip(at).step_by(period);
                assert_one(calls.copied().collect(), &format!("{at} in {period}"));
            }
        }
    }

    #[test]
    fn a_percentile_is_of_a_rank_as_near_as_promised() {
        const CALLS: u32 = 50_000;
        for (percent, within) in [(50.0, 2.8), (95.0, 1.2), (99.0, 0.6)] {
            fastrand::seed(7);
            let off = |_: &u32| {
                let (sampling, mut all, mut quicker) = (Sampling::default(), 0, 0);
                for _ in 0..CALLS {
                    let weight = sampling.choose();
                    let quick = 100.0 * fastrand::f64() < percent;
                    all += weight;
                    quicker += weight * u32::from(quick);
                }
                assert!(all.abs_diff(CALLS) <= 64, "stands for {all}");
                (100.0 * f64::from(quicker) / f64::from(all) - percent).abs() > within
            };
            let off = (0..100).filter(off).count();
            assert!(off <= 5, "p{percent}: {off} in 100");
        }
    }

    #[test]
    fn the_more_calls_the_smaller_the_share_that_is_timed() {
        let sampling = Sampling::default();
        let timed = |calls: u32| (0..calls).filter(|_| sampling.choose() > 0).count();
        assert_eq!(timed(512), 512);
        assert_eq!(timed(1024), 512);
        let few = timed(5_000_000);
        assert!((5000..=6000).contains(&few), "{few}");
        sampling.restart();
        assert_eq!(timed(512), 512);
    }

    #[test]
    fn a_slow_call_after_nine_quick_ones() {
        let takes = (0..2000).map(|n| if n % 10 == 9 { 5000 } else { 0 });
        assert_unbiased(task(takes, 1), 3.0);
    }

    #[test]
    fn slow_and_quick_calls_by_turns() {
        for (quick, slow) in [(0, 5000), (50, 3000), (3900, 4100), (2000, 90_000)] {
            let takes = (0..20_000).map(|n| [quick, slow][n % 2] + n as u64 % 40);
            assert_unbiased(task(takes, 1), 3.0);
        }
    }

    #[test]
    fn periods_of_every_length() {
        for period in [2, 3, 4, 7, 8, 16, 60, 64, 100] {
            let takes = (0..100_000).map(|n| 40 * (1 + n as u64 % period));
            assert_unbiased(task(takes, 1), 3.0);
        }
    }

    #[test]
    fn bursts_of_calls_that_begin_at_once() {
        for pause in [3000, 250_000] {
            let burst = |n: u64| {
                (0..100).map(move |i| Call {
                    begins: n * pause,
                    takes: 100 * (i + 1),
                })
            };
            assert_unbiased((0..300).flat_map(burst).collect(), 3.0);
        }
    }

    #[test]
    fn two_tasks_on_one_thread() {
        let quick = task((0..200_000).map(|n| 20 + n % 30), 5);
        let slow = task((0..1500).map(|_| 7000), 10);
        assert_unbiased([quick, slow].concat(), 1.0);
        let quick = task((0..3000).map(|n| 20 + n % 30), 3000);
        let slow = task((0..1500).map(|_| 7000), 10);
        assert_unbiased([quick, slow].concat(), 3.0);
    }

    #[test]
    fn two_threads_of_which_one_is_slow() {
        fastrand::seed(7);
        let tally = Tally::new();
        let quick = task((0..100_000).map(|n| 60 + n % 30), 1);
        let slow = task((0..2500).map(|n| 4000 + n % 100), 1);
        let exact = quick.iter().chain(&slow).map(|call| call.takes).collect();
        let mut seen = run(&tally, quick);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                fastrand::seed(8);
                run(&tally, slow)
            });
            seen.merge(&other.join().unwrap());
        });
        assert_close(&seen, exact, 1.0);
    }

    #[test]
    fn a_million_calls_of_which_two_in_a_hundred_take_long() {
        let mut random = fastrand::Rng::with_seed(3);
        let takes = (0..1_000_000).map(|_| match random.u32(..100) {
            0 | 1 => random.u64(800..1200),
            _ => 0,
        });
        assert_unbiased(task(takes, 1), 0.3);
    }

    #[test]
    fn traffic_that_grows_slow_and_dies_down() {
        let busy = task((0..500_000).map(|n| 10 + n % 20), 1);
        let after = busy.last().unwrap().begins;
        let slow = task((0..3000).map(|n| 20_000 + n), 1000);
        let slow = slow.into_iter().map(|call| Call {
            begins: call.begins + after,
            ..call
        });
        let calls = busy.into_iter().chain(slow).collect();
        assert_unbiased(calls, 0.5);
    }
}
