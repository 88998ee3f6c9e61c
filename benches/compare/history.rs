//! The cost of a call when the window already holds many calls.

use std::time::Instant;

use crate::{
    rounds::{Label, Measured},
    subject::Subject,
};

/// How many calls the windows hold.
pub const RECORDS: [u64; 4] = [0, 1_000, 10_000, 50_000];

/// Few calls in a batch, because each adds to the window of a breaker that keeps calls.
const WARM: u64 = 10;
const BATCH: u64 = 50;

pub struct History<'a> {
    label: Label,
    records: u64,
    with_history: Box<dyn Fn(u64) -> Subject + 'a>,
    present: Option<(Subject, u64)>,
}

impl<'a> History<'a> {
    pub fn new(
        breaker: &'static str,
        records: u64,
        with_history: impl Fn(u64) -> Subject + 'a,
    ) -> Self {
        let label = Label {
            case: format!("closed/async/1t/history/{records}"),
            breaker,
        };
        Self {
            label,
            records,
            with_history: Box::new(with_history),
            present: None,
        }
    }
}

impl Measured for History<'_> {
    fn label(&self) -> &Label {
        &self.label
    }

    fn round(&mut self) -> f64 {
        // Starts over when the measured calls have made the window more than 5 % longer than its
        // name says.
        let few = |added: &u64| *added <= self.records / 20;
        let (subject, added) = match self.present.take().filter(|(_, added)| few(added)) {
            Some(present) => present,
            None => ((self.with_history)(self.records), 0),
        };
        (subject.work)(WARM);
        let start = Instant::now();
        (subject.work)(BATCH);
        let elapsed = start.elapsed();
        self.present = Some((subject, added + WARM + BATCH));
        elapsed.as_secs_f64() * 1e9 / BATCH as f64
    }

    fn check(&self) {
        if let Some((subject, _)) = &self.present {
            subject.check();
        }
    }
}
