//! Outcomes that were not reported yet, counted without a lock.
//!
//! Owns the stripes and the runs of failures; knows nothing of stores. Invariant: an outcome is
//! counted under the tag that its permit was given under or not at all, whatever runs at the same
//! time: the tag stands in the same word as the count.

use std::{
    cell::Cell,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;

use crate::model::{Counts, Runs};

/// Bits of a word that hold the count; the rest is the tag.
const COUNT_BITS: u32 = 40;
const COUNT: u64 = (1 << COUNT_BITS) - 1;
/// Tags wrap here; a permit would have to be held over 16 million transitions to be mistaken.
pub(super) const TAGS: u32 = 1 << (64 - COUNT_BITS);

/// What is counted, by its place in a stripe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    Success,
    Failure,
    SlowSuccess,
    SlowFailure,
    Ignored,
}

const KINDS: usize = 5;

/// One thread's counters, alone on its cache lines (pairs of lines are fetched together).
#[derive(Debug)]
#[repr(align(128))]
struct Stripe {
    tagged: [AtomicU64; KINDS],
    not_permitted: AtomicU64,
}

/// The unreported outcomes of one circuit in this process.
#[derive(Debug)]
pub(super) struct Tally {
    stripes: Box<[Stripe]>,
    in_run: AtomicBool,
    runs: Mutex<Run>,
}

#[derive(Debug, Default)]
struct Run {
    current: u64,
    seen_success: bool,
    first: u64,
    longest: u64,
}

fn stripes() -> usize {
    static STRIPES: OnceLock<usize> = OnceLock::new();
    *STRIPES.get_or_init(|| {
        let threads = std::thread::available_parallelism().map_or(4, usize::from);
        (2 * threads).next_power_of_two().min(64)
    })
}

/// A small number that no other living thread has, so that threads share no stripe as long as
/// there are stripes enough.
#[inline]
fn thread_number() -> usize {
    thread_local!(static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) });
    NUMBER.with(|number| {
        if number.get() == usize::MAX {
            number.set(take_number());
        }
        number.get()
    })
}

/// Numbers of threads that have ended.
static FREE: Mutex<Vec<usize>> = Mutex::new(Vec::new());

/// Gives its number back when its thread ends.
struct Lent(usize);

impl Drop for Lent {
    fn drop(&mut self) {
        FREE.lock().push(self.0);
    }
}

#[cold]
fn take_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static LENT: Cell<Option<Lent>> = const { Cell::new(None) });
    let free = FREE.lock().pop();
    let number = free.unwrap_or_else(|| NEXT.fetch_add(1, Ordering::Relaxed));
    // A thread that is ending already keeps its number: nothing would give it back.
    let _ = LENT.try_with(|lent| lent.set(Some(Lent(number))));
    number
}

fn empty(tag: u32) -> u64 {
    u64::from(tag) << COUNT_BITS
}

fn tag_of(word: u64) -> u32 {
    (word >> COUNT_BITS) as u32
}

impl Tally {
    pub(super) fn new() -> Self {
        let stripe = |_| Stripe {
            tagged: Default::default(),
            not_permitted: AtomicU64::new(0),
        };
        Self {
            stripes: (0..stripes()).map(stripe).collect(),
            in_run: AtomicBool::new(false),
            runs: Mutex::default(),
        }
    }

    #[inline]
    fn stripe(&self) -> &Stripe {
        &self.stripes[thread_number() & (self.stripes.len() - 1)]
    }

    /// Counts one outcome; `false` when the tag is no longer the present one.
    #[inline]
    pub(super) fn record(&self, tag: u32, count: Count) -> bool {
        match count {
            Count::Failure | Count::SlowFailure => self.record_in_run(tag, count, Run::lengthen),
            Count::Success | Count::SlowSuccess if self.in_run.load(Ordering::Relaxed) => {
                self.record_in_run(tag, count, |run, _| run.end())
            }
            _ => self.count(tag, count),
        }
    }

    #[inline]
    fn count(&self, tag: u32, count: Count) -> bool {
        let counter = &self.stripe().tagged[count as usize];
        let mut word = counter.load(Ordering::Relaxed);
        while tag_of(word) == tag {
            // SeqCst: whoever parks the circuit afterwards sees this count.
            match counter.compare_exchange_weak(word, word + 1, Ordering::SeqCst, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
        false
    }

    /// Counts one outcome that changes the present run, which a drain must not come between.
    fn record_in_run(&self, tag: u32, count: Count, change: impl Fn(&mut Run, bool)) -> bool {
        let mut run = self.runs.lock();
        let fresh = run.current == 0 && !run.seen_success;
        let after_success = fresh && self.counts().successes > 0;
        let counted = self.count(tag, count);
        if counted {
            change(&mut run, after_success);
            self.in_run.store(run.current > 0, Ordering::Relaxed);
        }
        counted
    }

    #[inline]
    pub(super) fn reject(&self) {
        self.stripe().not_permitted.fetch_add(1, Ordering::SeqCst);
    }

    /// Failures since the last success of this batch.
    pub(super) fn present_run(&self) -> (u64, bool) {
        let run = self.runs.lock();
        (run.current, run.seen_success)
    }

    /// What is counted now, without taking it.
    pub(super) fn counts(&self) -> Counts {
        self.sum(
            |counter| counter.load(Ordering::SeqCst),
            |n| n.load(Ordering::SeqCst),
        )
    }

    /// Takes what is counted and goes on under `tag`.
    pub(super) fn drain(&self, tag: u32) -> (Counts, Runs) {
        let mut run = self.runs.lock();
        let counts = self.sum(
            |counter| counter.swap(empty(tag), Ordering::SeqCst),
            |n| n.swap(0, Ordering::SeqCst),
        );
        let taken = std::mem::take(&mut *run);
        self.in_run.store(false, Ordering::Relaxed);
        let runs = Runs {
            first: if taken.seen_success {
                taken.first
            } else {
                taken.current
            },
            longest: taken.longest,
            last: taken.current,
        };
        (counts, runs)
    }

    fn sum(&self, tagged: impl Fn(&AtomicU64) -> u64, plain: impl Fn(&AtomicU64) -> u64) -> Counts {
        let mut counts = Counts::default();
        for stripe in &self.stripes {
            let [success, failure, slow_success, slow_failure, ignored] = stripe
                .tagged
                .each_ref()
                .map(|counter| tagged(counter) & COUNT);
            counts += Counts {
                successes: success + slow_success,
                failures: failure + slow_failure,
                slow_successes: slow_success,
                slow_failures: slow_failure,
                ignored,
                not_permitted: plain(&stripe.not_permitted),
            };
        }
        counts
    }
}

impl Run {
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
    use super::*;

    #[test]
    fn runs_of_a_batch_are_told_apart() {
        let tally = Tally::new();
        for outcome in "ffsfffsf".chars() {
            let count = if outcome == 'f' {
                Count::Failure
            } else {
                Count::Success
            };
            assert!(tally.record(0, count));
        }
        let (counts, runs) = tally.drain(0);
        assert_eq!((counts.successes, counts.failures), (2, 6));
        assert_eq!(
            runs,
            Runs {
                first: 2,
                longest: 3,
                last: 1
            }
        );

        tally.record(0, Count::Success);
        tally.record(0, Count::Failure);
        assert_eq!(
            tally.drain(0).1,
            Runs {
                first: 0,
                longest: 1,
                last: 1
            }
        );
    }

    #[test]
    fn an_outcome_of_another_tag_is_refused() {
        let tally = Tally::new();
        assert!(tally.record(0, Count::Success));
        assert_eq!(tally.drain(1).0.successes, 1);
        assert!(!tally.record(0, Count::Failure));
        assert!(tally.record(1, Count::Failure));
        assert_eq!(tally.drain(2).0.calls(), 1);
    }

    #[test]
    fn a_number_is_lent_again_when_its_thread_has_ended() {
        let number = || std::thread::spawn(thread_number).join().unwrap();
        let mine = thread_number();
        let seen: std::collections::BTreeSet<_> = (0..100).map(|_| number()).collect();
        assert!(!seen.contains(&mine));
        assert!(seen.len() < 50, "{seen:?}");
    }

    #[test]
    fn nothing_is_lost_or_misfiled_while_threads_record_and_one_drains() {
        let tally = Tally::new();
        let tag = std::sync::atomic::AtomicU32::new(0);
        let (mut filed, refused) = (Counts::default(), AtomicU64::new(0));
        const EACH: u64 = 200_000;
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        for _ in 0..EACH {
                            if !tally.record(tag.load(Ordering::SeqCst), Count::Success) {
                                refused.fetch_add(1, Ordering::SeqCst);
                            }
                        }
                    })
                })
                .collect();
            while workers.iter().any(|w| !w.is_finished()) {
                let next = tag.load(Ordering::SeqCst) + 1;
                filed += tally.drain(next).0;
                tag.store(next, Ordering::SeqCst);
            }
        });
        filed += tally.drain(0).0;
        assert_eq!(filed.successes + refused.into_inner(), 3 * EACH);
    }
}
