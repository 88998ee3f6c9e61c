//! Outcomes that are not reported yet, counted without a lock.
//!
//! Owns the counts of all threads and the runs of failures; knows nothing of stores. Invariant: an
//! outcome is counted once, either under the tag of its permit or as a late one, whatever runs at
//! the same time.

mod histogram;
mod sampling;
mod slots;
mod thread;

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;

use self::{histogram::Histogram, slots::Slots};
use crate::model::{Counts, Latencies, Runs};

/// What is counted; each value is a place in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    Success,
    Failure,
    SlowSuccess,
    SlowFailure,
    Ignored,
    /// Dropped before it ended.
    Abandoned,
    /// Dropped, and so old that it has failed.
    AbandonedFailure,
    /// Dropped, so old that it has failed, and slow.
    AbandonedSlowFailure,
}

const KINDS: usize = 8;
/// How many recent successes determine how long calls usually take.
const USUAL: u64 = 10_000;

impl Count {
    /// The effect on a run of failures: lengthens it, ends it, or none.
    #[inline]
    const fn in_run(self) -> Option<bool> {
        match self {
            Self::Success | Self::SlowSuccess => Some(false),
            Self::Ignored | Self::Abandoned => None,
            _ => Some(true),
        }
    }
}

/// The unreported outcomes of one circuit in this process.
#[derive(Debug)]
pub(super) struct Tally {
    slots: Slots,
    /// Whether `ledger.run` is in progress.
    in_run: AtomicBool,
    ledger: Mutex<Ledger>,
    /// Latencies of sampled successful calls, of all threads: there are few.
    sampled: OnceLock<Box<Histogram>>,
    /// Latencies of failed calls, which say nothing about how long calls usually take.
    failed: OnceLock<Box<Histogram>>,
    /// Whether there may be latencies to take.
    has_latencies: AtomicBool,
}

/// State that belongs to no thread.
#[derive(Debug, Default)]
struct Ledger {
    tag: u32,
    run: Run,
    /// Counts found in slots under earlier tags.
    late: Counts,
    /// All latencies taken since the beginning.
    taken: Latencies,
    /// Of these, the latencies of recent successes.
    usual: Latencies,
}

#[derive(Debug, Default)]
struct Run {
    current: u64,
    seen_success: bool,
    first: u64,
    longest: u64,
}

/// The counts since the last drain.
#[derive(Debug, Default)]
pub(super) struct Drained {
    /// Under the current tag.
    pub(super) counts: Counts,
    /// Under earlier ones.
    pub(super) late: Counts,
    /// Runs of failures in `counts`.
    pub(super) runs: Runs,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            slots: Slots::new(),
            in_run: AtomicBool::new(false),
            ledger: Mutex::default(),
            sampled: OnceLock::new(),
            failed: OnceLock::new(),
            has_latencies: AtomicBool::new(false),
        }
    }

    /// Counts one outcome; `false` if the tag is no longer the current one.
    #[inline]
    pub(super) fn record(&self, tag: u32, count: Count) -> bool {
        let in_order = match count.in_run() {
            Some(true) => true,
            Some(false) => self.in_run.load(Ordering::Relaxed),
            None => false,
        };
        let slot = self.slots.mine();
        if !in_order && slot.tag() == tag {
            slot.count(count);
            return true;
        }
        self.record_in_order(tag, count)
    }

    /// Counts one outcome that changes the current run, or is the first of its thread under its
    /// tag. Neither may happen during a drain.
    #[inline(never)]
    fn record_in_order(&self, tag: u32, count: Count) -> bool {
        let ledger = &mut *self.ledger.lock();
        if tag != ledger.tag {
            return false;
        }
        let slot = self.slots.mine();
        if slot.tag() != tag {
            ledger.late += slot.take();
            slot.turn_to(tag);
        }
        match count.in_run() {
            Some(true) => {
                let unbroken = ledger.run.current == 0 && !ledger.run.seen_success;
                let after_success = unbroken && self.fresh_under(tag).successes > 0;
                ledger.run.lengthen(after_success);
            }
            Some(false) if ledger.run.current > 0 => ledger.run.end(),
            _ => {}
        }
        self.in_run.store(ledger.run.current > 0, Ordering::Relaxed);
        slot.count(count);
        true
    }

    #[inline]
    pub(super) fn reject(&self) {
        self.slots.mine().reject();
    }

    /// How many calls a call that begins now represents, in sampled latencies and among the calls
    /// in flight; 0 = none.
    #[inline]
    pub(super) fn sample(&self) -> u32 {
        self.slots.mine().sample()
    }

    /// Called when a call that represents `weight` calls has ended.
    #[inline]
    pub(super) fn end(&self, weight: u32) {
        if weight > 0 {
            self.slots.mine().end(weight);
        }
    }

    /// How many calls are in flight, estimated from samples; exact for a quiet circuit.
    pub(super) fn in_flight(&self) -> u64 {
        let each = self.slots.iter().map(slots::Slot::begun_and_ended);
        let [begun, ended] = each.fold([0; 2], |[a, b], [x, y]| [a + x, b + y]);
        begun.saturating_sub(ended)
    }

    /// Records the latency of a successful call, if every call is timed.
    #[inline]
    pub(super) fn time(&self, took_ns: u64) {
        self.slots.mine().time(took_ns);
        self.note_latencies();
    }

    /// Records the latency of a failed call, for as many calls as it represents.
    pub(super) fn time_failed(&self, took_ns: u64, calls: u32) {
        if calls == 0 {
            return;
        }
        self.failed.get_or_init(Histogram::new).add(took_ns, calls);
        self.note_latencies();
    }

    /// Records the latency of a sampled successful call, for as many calls as it represents.
    #[inline(never)]
    pub(super) fn time_sampled(&self, took_ns: u64, calls: u32) {
        self.slots.mine().end(calls);
        self.sampled.get_or_init(Histogram::new).add(took_ns, calls);
        self.note_latencies();
    }

    #[inline]
    fn note_latencies(&self) {
        if !self.has_latencies.load(Ordering::Relaxed) {
            self.has_latencies.store(true, Ordering::Relaxed);
        }
    }

    /// Takes the latencies and restarts the sample, which begins with every call.
    pub(super) fn take_latencies(&self) -> Latencies {
        let mut taken = Latencies::default();
        let ledger = &mut *self.ledger.lock();
        for slot in self.slots.iter() {
            slot.sampling.restart();
        }
        if self.has_latencies.swap(false, Ordering::Relaxed) {
            for slot in self.slots.iter() {
                slot.take_latencies(&mut taken);
            }
            if let Some(sampled) = self.sampled.get() {
                sampled.take(&mut taken);
            }
            ledger.usual.merge(&taken);
            ledger.usual.fade(USUAL);
            if let Some(failed) = self.failed.get() {
                failed.take(&mut taken);
            }
            ledger.taken.merge(&taken);
        }
        taken
    }

    /// All counts since the beginning.
    pub(super) fn totals(&self) -> Counts {
        // A thread that counts a failure holds this lock too, so its earlier writes are visible
        // together with the failure.
        let _ledger = self.ledger.lock();
        let mut totals = Counts::default();
        for slot in self.slots.iter() {
            totals += slot.totals();
        }
        totals
    }

    /// Latencies since the beginning.
    pub(super) fn latencies(&self) -> Latencies {
        let ledger = self.ledger.lock();
        let mut all = ledger.taken.clone();
        self.add_fresh_successes(&mut all);
        if let Some(failed) = self.failed.get() {
            failed.add_fresh(&mut all);
        }
        all
    }

    /// Latencies of recent successful calls; older ones weigh less.
    pub(super) fn usual(&self) -> Latencies {
        let ledger = self.ledger.lock();
        let mut usual = ledger.usual.clone();
        self.add_fresh_successes(&mut usual);
        usual
    }

    fn add_fresh_successes(&self, all: &mut Latencies) {
        for slot in self.slots.iter() {
            slot.add_fresh_latencies(all);
        }
        if let Some(sampled) = self.sampled.get() {
            sampled.add_fresh(all);
        }
    }

    /// Whether nothing was counted since the last drain.
    pub(super) fn is_empty(&self) -> bool {
        self.untaken().is_empty()
    }

    /// The counts since the last drain, under any tag, without taking them.
    pub(super) fn untaken(&self) -> Counts {
        let ledger = self.ledger.lock();
        let mut untaken = ledger.late;
        for slot in self.slots.iter() {
            untaken += slot.fresh();
        }
        untaken
    }

    /// The counts under the current tag, without taking them.
    pub(super) fn fresh(&self) -> (Counts, Runs) {
        let ledger = self.ledger.lock();
        (self.fresh_under(ledger.tag), ledger.run.runs())
    }

    fn fresh_under(&self, tag: u32) -> Counts {
        let mut counts = Counts::default();
        for slot in self.slots.iter().filter(|slot| slot.tag() == tag) {
            counts += slot.fresh();
        }
        counts
    }

    /// Takes the counts and continues under `tag`.
    pub(super) fn drain(&self, tag: u32) -> Drained {
        let ledger = &mut *self.ledger.lock();
        let mut drained = Drained {
            late: std::mem::take(&mut ledger.late),
            ..Drained::default()
        };
        for slot in self.slots.iter() {
            match slot.tag() == ledger.tag {
                true => drained.counts += slot.take(),
                false => drained.late += slot.take(),
            }
        }
        ledger.tag = tag;
        let run = std::mem::take(&mut ledger.run);
        self.in_run.store(false, Ordering::Relaxed);
        drained.runs = run.runs();
        drained
    }
}

impl Run {
    const fn runs(&self) -> Runs {
        Runs {
            first: match self.seen_success {
                true => self.first,
                false => self.current,
            },
            longest: self.longest,
            last: self.current,
        }
    }

    fn lengthen(&mut self, after_success: bool) {
        self.seen_success |= after_success;
        self.current += 1;
        self.longest = self.longest.max(self.current);
    }

    fn end(&mut self) {
        if !self.seen_success {
            self.first = self.current;
            self.seen_success = true;
        }
        self.current = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, AtomicU64};

    use super::*;

    fn drained(tally: &Tally, tag: u32) -> (u64, u64, u64) {
        let drained = tally.drain(tag);
        let Counts {
            successes,
            failures,
            ..
        } = drained.counts;
        (successes, failures, drained.late.calls())
    }

    #[test]
    fn runs_of_a_batch_are_told_apart() {
        let runs = |first, longest, last| Runs {
            first,
            longest,
            last,
        };
        let tally = Tally::new();
        for (outcomes, expected) in [("ffsfffsf", runs(2, 3, 1)), ("sf", runs(0, 1, 1))] {
            for outcome in outcomes.chars() {
                let failed = outcome == 'f';
                assert!(tally.record(
                    0,
                    if failed {
                        Count::Failure
                    } else {
                        Count::Success
                    }
                ));
            }
            let drained = tally.drain(0);
            assert_eq!(drained.counts.calls(), outcomes.len() as u64);
            assert_eq!(drained.runs, expected, "{outcomes}");
        }
    }

    #[test]
    fn an_outcome_of_another_tag_is_a_late_one() {
        let tally = Tally::new();
        assert!(tally.record(0, Count::Success));
        assert_eq!(drained(&tally, 1), (1, 0, 0));
        // An outcome that a thread was about to count when the tag changed.
        assert!(tally.record(0, Count::Success));
        assert!(!tally.record(0, Count::Failure));
        assert_eq!(tally.fresh().0.calls(), 0);
        assert!(!tally.is_empty());
        assert!(tally.record(1, Count::Failure));
        assert!(tally.record(1, Count::Success));
        assert_eq!(drained(&tally, 2), (1, 1, 1));
        assert!(tally.is_empty());
    }

    #[test]
    fn more_threads_than_the_machine_runs_at_once_have_slots_of_their_own() {
        // Long enough for threads that shared a slot to interleave their loads and stores.
        const EACH: u64 = 50_000;
        let tally = Tally::new();
        let threads = 20 * std::thread::available_parallelism().unwrap().get();
        let together = std::sync::Barrier::new(threads);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    together.wait();
                    for _ in 0..EACH {
                        tally.record(0, Count::Success);
                        tally.reject();
                    }
                });
            }
        });
        let counts = tally.drain(0).counts;
        let all = EACH * threads as u64;
        assert_eq!((counts.successes, counts.rejected), (all, all));
    }

    #[test]
    fn no_latency_is_lost_while_threads_record_and_one_takes() {
        const EACH: u64 = 100_000;
        let tally = Tally::new();
        let mut taken = Latencies::default();
        std::thread::scope(|scope| {
            let work = || {
                for n in 0..EACH {
                    match n % 2 {
                        0 => tally.time(n * 1000),
                        _ => tally.time_sampled(n * 1000, 3),
                    }
                }
            };
            let workers: Vec<_> = (0..3).map(|_| scope.spawn(work)).collect();
            while workers.iter().any(|worker| !worker.is_finished()) {
                taken.merge(&tally.take_latencies());
            }
        });
        // The last thread to record may have found the flag set, just before it was cleared.
        tally.note_latencies();
        taken.merge(&tally.take_latencies());
        assert_eq!(taken.count(), 3 * (EACH / 2 + 3 * EACH / 2));
    }

    #[test]
    fn nothing_is_lost_or_misfiled_while_threads_record_and_one_drains() {
        const EACH: u64 = 200_000;
        const TAGS: usize = 1 << 16;
        let tally = Tally::new();
        let tag = AtomicU32::new(0);
        let numbers = || (0..TAGS).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        let (permitted, refused) = (numbers(), AtomicU64::new(0));
        let (mut filed, mut late) = (0, 0);
        std::thread::scope(|scope| {
            let work = || {
                for n in 0..EACH {
                    let tag = tag.load(Ordering::SeqCst);
                    permitted[tag as usize].fetch_add(1, Ordering::SeqCst);
                    let failed = n % 64 == 0;
                    let count = if failed {
                        Count::Failure
                    } else {
                        Count::Success
                    };
                    if !tally.record(tag, count) {
                        refused.fetch_add(1, Ordering::SeqCst);
                    }
                }
            };
            let workers: Vec<_> = (0..3).map(|_| scope.spawn(work)).collect();
            let mut present = 0;
            while workers.iter().any(|worker| !worker.is_finished()) {
                let next = (present + 1).min(TAGS as u32 - 1);
                let drained = tally.drain(next);
                let most = permitted[present as usize].load(Ordering::SeqCst);
                assert!(present == next || drained.counts.calls() <= most);
                filed += drained.counts.calls();
                late += drained.late.calls();
                tag.store(next, Ordering::SeqCst);
                present = next;
            }
        });
        let rest = tally.drain(0);
        let all = filed + late + rest.counts.calls() + rest.late.calls() + refused.into_inner();
        assert_eq!(all, 3 * EACH);
        assert!(filed + rest.counts.calls() > 0);
    }
}
