//! Interleaving: in each round everything runs one short batch, in a random order.

use std::{sync::Arc, time::Duration};

use crate::{subject::Subject, threads::Partner};

/// Odd, so that the median is one of the rounds.
const ROUNDS: usize = 201;
/// The approximate duration of a batch: long compared with a thread switch, short compared with
/// changes of the machine's speed.
const BATCH: Duration = Duration::from_millis(3);

/// Where a figure appears: the case is its table, the breaker its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    pub case: String,
    pub breaker: &'static str,
}

pub trait Measured {
    fn label(&self) -> &Label;

    /// Runs one batch; returns nanoseconds for each call.
    fn round(&mut self) -> f64;

    /// Panics if the breaker is not in the case's state.
    fn check(&self);
}

/// Batches of calls from one or two threads.
pub struct Batches {
    label: Label,
    subject: Subject,
    threads: usize,
    partner: Arc<Partner>,
    calls: u64,
}

impl Batches {
    pub fn new(subject: Subject, threads: usize, partner: &Arc<Partner>) -> Self {
        let label = Label {
            case: format!("{}/{}/{threads}t", subject.state, subject.manner),
            breaker: subject.breaker,
        };
        Self {
            label,
            subject,
            threads,
            partner: Arc::clone(partner),
            calls: 0,
        }
    }

    fn elapsed(&self, calls: u64) -> Duration {
        self.partner
            .elapsed(self.threads, &self.subject.work, calls)
    }

    /// The number of calls that fill a batch.
    fn calls_a_batch(&self) -> u64 {
        let mut calls = 64;
        loop {
            let elapsed = self.elapsed(calls);
            if elapsed * 4 > BATCH {
                let ratio = BATCH.as_secs_f64() / elapsed.as_secs_f64();
                return ((calls as f64 * ratio) as u64).max(1);
            }
            calls *= 2;
        }
    }
}

impl Measured for Batches {
    fn label(&self) -> &Label {
        &self.label
    }

    fn round(&mut self) -> f64 {
        if self.calls == 0 {
            self.calls = self.calls_a_batch();
        }
        self.elapsed(self.calls).as_secs_f64() * 1e9 / self.calls as f64
    }

    fn check(&self) {
        self.subject.check();
    }
}

/// Runs all rounds and returns the median of each entry, in the order of `all`.
pub fn medians(all: &mut [Box<dyn Measured + '_>]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..all.len()).collect();
    let mut times = vec![Vec::with_capacity(ROUNDS); all.len()];
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..ROUNDS {
        random.shuffle(&mut order);
        for &place in &order {
            times[place].push(all[place].round());
        }
    }
    times.iter_mut().map(|times| median(times)).collect()
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
