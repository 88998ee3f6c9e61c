//! Counters that one thread writes and one reader takes from.
//!
//! Owns the slots of all threads and what was taken from each. A slot's counts only grow, and only
//! its thread writes them, with a plain load and store; new counts are found by subtraction.
//! Invariant: a slot's tag changes, and its counts are taken, only under the tally's lock, so
//! everything taken at once belongs to one tag.

use std::sync::{
    OnceLock,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use super::{Count, KINDS, histogram::Histogram, sampling::Sampling, thread};
use crate::model::{Counts, Latencies};

/// One thread's counters, alone on its cache lines (pairs of lines are fetched together).
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Slot {
    /// The tag that the outcomes belong to.
    tag: AtomicU32,
    /// Which calls are timed, if they are sampled.
    pub(super) sampling: Sampling,
    /// Calls that have begun, and calls that have ended, estimated from samples.
    begun: AtomicU64,
    ended: AtomicU64,
    outcomes: [AtomicU64; KINDS],
    rejected: AtomicU64,
    /// How much of `outcomes`, and of `rejected`, was taken.
    taken: [AtomicU64; KINDS + 1],
    /// How long each call took, if that is recorded.
    latencies: OnceLock<Box<Histogram>>,
}

/// Adds to a count; only for its only writer.
#[inline]
fn grow(count: &AtomicU64, by: u64) {
    count.store(count.load(Relaxed) + by, Relaxed);
}

impl Slot {
    #[inline]
    pub(super) fn tag(&self) -> u32 {
        self.tag.load(Relaxed)
    }

    /// Continues under another tag, after all counts under the current one were taken.
    pub(super) fn turn_to(&self, tag: u32) {
        self.tag.store(tag, Relaxed);
    }

    #[inline]
    pub(super) fn count(&self, count: Count) {
        grow(&self.outcomes[count as usize], 1);
    }

    /// How many calls, including itself, a call that begins now represents; 0 = none.
    #[inline]
    pub(super) fn sample(&self) -> u32 {
        let weight = self.sampling.choose();
        if weight > 0 {
            grow(&self.begun, u64::from(weight));
        }
        weight
    }

    /// Called when a call that represents `weight` calls has ended, whichever thread it began on.
    #[inline]
    pub(super) fn end(&self, weight: u32) {
        grow(&self.ended, u64::from(weight));
    }

    /// Calls that began here, and calls that ended here.
    pub(super) fn begun_and_ended(&self) -> [u64; 2] {
        // In this order: every call that has ended had begun.
        let ended = self.ended.load(Relaxed);
        [self.begun.load(Relaxed), ended]
    }

    #[inline]
    pub(super) fn reject(&self) {
        grow(&self.rejected, 1);
    }

    #[inline]
    pub(super) fn time(&self, took_ns: u64) {
        self.latencies
            .get_or_init(Histogram::new)
            .add_alone(took_ns);
    }

    pub(super) fn take_latencies(&self, into: &mut Latencies) {
        if let Some(latencies) = self.latencies.get() {
            latencies.take(into);
        }
    }

    pub(super) fn add_fresh_latencies(&self, into: &mut Latencies) {
        if let Some(latencies) = self.latencies.get() {
            latencies.add_fresh(into);
        }
    }

    /// The counts since the beginning.
    pub(super) fn totals(&self) -> Counts {
        self.counts(|count, _taken| count.load(Relaxed))
    }

    /// The counts that were not taken yet.
    pub(super) fn fresh(&self) -> Counts {
        self.counts(|count, taken| count.load(Relaxed) - taken.load(Relaxed))
    }

    pub(super) fn take(&self) -> Counts {
        self.counts(|count, taken| {
            let counted = count.load(Relaxed);
            let fresh = counted - taken.load(Relaxed);
            taken.store(counted, Relaxed);
            fresh
        })
    }

    fn counts(&self, fresh: impl Fn(&AtomicU64, &AtomicU64) -> u64) -> Counts {
        let of = |count: Count| fresh(&self.outcomes[count as usize], &self.taken[count as usize]);
        let hung = [Count::AbandonedFailure, Count::AbandonedSlowFailure].map(of);
        let slow_successes = of(Count::SlowSuccess);
        let slow_failures = of(Count::SlowFailure) + hung[1];
        let abandoned_failures = hung[0] + hung[1];
        Counts {
            successes: of(Count::Success) + slow_successes,
            failures: of(Count::Failure) + hung[0] + slow_failures,
            slow_successes,
            slow_failures,
            ignored: of(Count::Ignored),
            rejected: fresh(&self.rejected, &self.taken[KINDS]),
            abandoned: of(Count::Abandoned) + abandoned_failures,
            abandoned_failures,
        }
    }
}

/// A slot for each thread: at first for as many threads as the machine runs at once, then for twice
/// as many, and so on.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Box<[Slot]>,
    further: OnceLock<Box<Slots>>,
}

impl Slots {
    pub(super) fn new() -> Self {
        static THREADS: OnceLock<usize> = OnceLock::new();
        let threads = || std::thread::available_parallelism().map_or(4, usize::from);
        Self::of(*THREADS.get_or_init(threads))
    }

    fn of(threads: usize) -> Self {
        Self {
            slots: (0..threads).map(|_| Slot::default()).collect(),
            further: OnceLock::new(),
        }
    }

    /// The current thread's slot.
    #[inline]
    pub(super) fn mine(&self) -> &Slot {
        self.get(thread::number())
    }

    #[inline]
    fn get(&self, number: usize) -> &Slot {
        match self.slots.get(number) {
            Some(slot) => slot,
            None => self.get_further(number - self.slots.len()),
        }
    }

    #[inline(never)]
    fn get_further(&self, number: usize) -> &Slot {
        let twice = || Box::new(Self::of(2 * self.slots.len()));
        self.further.get_or_init(twice).get(number)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot> {
        let parts = std::iter::successors(Some(self), |slots| slots.further.get().map(Box::as_ref));
        parts.flat_map(|slots| &slots.slots)
    }
}
