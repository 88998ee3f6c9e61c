//! Latencies that are not reported yet.
//!
//! Owns a dense array, while the model's [`Latencies`] are sparse: adding must not search. As with
//! the counts, numbers only grow (and wrap), and new ones are found by subtraction.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::model::{BUCKETS, Latencies, bucket_of};

#[derive(Debug)]
pub(super) struct Histogram {
    counts: [AtomicU32; BUCKETS],
    taken: [AtomicU32; BUCKETS],
}

impl Histogram {
    pub(super) fn new() -> Box<Self> {
        let zeros = || [const { AtomicU32::new(0) }; BUCKETS];
        Box::new(Self {
            counts: zeros(),
            taken: zeros(),
        })
    }

    /// Adds a call; only for a histogram to which a single thread adds.
    #[inline]
    pub(super) fn add_alone(&self, took_ns: u64) {
        let count = &self.counts[bucket_of(took_ns / 1000)];
        count.store(count.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// Adds `n` calls; several threads may add at once.
    pub(super) fn add(&self, took_ns: u64, n: u32) {
        self.counts[bucket_of(took_ns / 1000)].fetch_add(n, Relaxed);
    }

    /// Moves what is new; one caller at a time.
    pub(super) fn take(&self, into: &mut Latencies) {
        self.each_fresh(|bucket, fresh, counted| {
            self.taken[bucket].store(counted, Relaxed);
            into.add(bucket, u64::from(fresh));
        });
    }

    /// Adds what is new without taking it.
    pub(super) fn add_fresh(&self, into: &mut Latencies) {
        self.each_fresh(|bucket, fresh, _counted| into.add(bucket, u64::from(fresh)));
    }

    /// Visits each bucket with something new: how much is new, and its current count.
    fn each_fresh(&self, mut see: impl FnMut(usize, u32, u32)) {
        for (bucket, (count, taken)) in self.counts.iter().zip(&self.taken).enumerate() {
            let counted = count.load(Relaxed);
            let fresh = counted.wrapping_sub(taken.load(Relaxed));
            if fresh > 0 {
                see(bucket, fresh, counted);
            }
        }
    }
}
