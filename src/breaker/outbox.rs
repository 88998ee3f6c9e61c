//! The contents of a circuit's next report.
//!
//! Owns numbering, the unanswered report, and the sums that are kept while the store is
//! unavailable. Invariant: a report's number and outcomes stay together until it is answered.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::{kinds::Kinds, undecided::Undecided};
use crate::model::{Counts, Latencies, Report, Runs, Settled, millis};

/// The minimum time between reports with latencies; in a short window, how many there are at most.
const LATENCIES_EVERY_MS: u64 = 5000;
const LATENCIES_IN_A_WINDOW: u64 = 4;
/// Parts of a window in which sums are kept while the store is unavailable.
const PARTS: u64 = 10;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    number: u64,
    /// Sent, or about to be sent, and not answered.
    pub(super) pending: Option<Report>,
    /// When `pending` was made.
    pending_since: u64,
    /// Outcomes of earlier generations, and of probes, for the lifetime totals.
    pub(super) late: Counts,
    pub(super) settled: Vec<Settled>,
    pub(super) settled_locally: Vec<Settled>,
    /// Probe permits to give back.
    pub(super) releases: Vec<String>,
    pub(super) retry_after_ms: u64,
    pub(super) trips: u64,
    /// Sums gathered while the store is unavailable, oldest first, and their generation.
    unavailable: VecDeque<(u64, Counts)>,
    unavailable_generation: u64,
    /// Latencies that were not sent, when the first were gathered, and when they are due next.
    latencies: Latencies,
    latencies_since: u64,
    latencies_due: u64,
    /// When the last report was answered or failed.
    pub(super) last: Option<Instant>,
    /// When a report leaves, whatever the pace.
    pub(super) alarm: Option<Instant>,
    /// Whether to ask about a pushed change, and when that was last done.
    asks: bool,
    asked: Option<Instant>,
    /// When outcomes last left at once.
    urged: Option<Instant>,
    pub(super) pace_ms: u64,
    pub(super) undecided: Undecided,
    pub(super) kinds: Kinds,
    /// When kinds leave even though they alone make the report take the full path.
    kinds_due: u64,
}

impl Outbox {
    pub(super) fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// Whether there is something that the store was not sent, or has not confirmed.
    pub(super) fn is_pending(&self) -> bool {
        let untold =
            !self.unavailable.is_empty() || !self.late.is_empty() || !self.settled.is_empty();
        self.pending.is_some() || untold || !self.releases.is_empty()
    }

    /// Whether nothing is left to report, not even the kinds of failures.
    pub(super) fn is_done(&self) -> bool {
        !self.is_pending() && !self.kinds.are_untold()
    }

    /// Gives up the outcomes that the store was not sent, or has not confirmed, and returns them.
    pub(super) fn give_up(&mut self) -> Counts {
        let mut untold = std::mem::take(&mut self.late);
        for (_, sums) in self.unavailable.drain(..) {
            untold += sums;
        }
        if let Some(pending) = self.pending.take() {
            untold += pending.counts;
            untold += pending.late;
        }
        self.settled.clear();
        self.releases.clear();
        self.kinds.take();
        untold
    }

    /// Whether a report may leave at once now. If one has just done so without opening the circuit,
    /// sets an alarm instead, so that a failing fleet does not flood its store.
    pub(super) fn urge(&mut self, now: Instant, apart: Duration) -> bool {
        // The event of an opening circuit says why.
        self.kinds_due = 0;
        let again = self.urged.map(|last| last + apart).filter(|at| *at > now);
        match again {
            Some(at) => self.set_alarm(at),
            None => self.urged = Some(now),
        }
        again.is_none()
    }

    /// Makes a report leave at this time, unless one leaves earlier.
    pub(super) fn set_alarm(&mut self, at: Instant) {
        self.alarm = Some(self.alarm.map_or(at, |alarm| alarm.min(at)));
    }

    /// Makes a report leave at this time, or `apart` after the last such report if that is later,
    /// even if it is empty.
    pub(super) fn ask(&mut self, at: Instant, apart: Duration) {
        self.asks = true;
        self.set_alarm(self.asked.map_or(at, |asked| at.max(asked + apart)));
    }

    /// Whether the next report leaves even if it is empty; notes that it is about to.
    pub(super) fn asks(&mut self) -> bool {
        if self.asks {
            self.asked = Some(Instant::now());
        }
        std::mem::take(&mut self.asks)
    }

    /// Remembers for how long the service asked to be left alone.
    pub(super) fn honor(&mut self, retry_after: Option<Duration>) {
        self.retry_after_ms = self.retry_after_ms.max(retry_after.map_or(0, millis));
    }

    /// Makes the next report. `generation` is the newest one that the store is known to have. What
    /// was counted while the store was unavailable counts in the window too, unless the generation
    /// has changed. So a replica that opened on its own gives the fleet its evidence, and not its
    /// verdict.
    pub(super) fn prepare(
        &mut self,
        generation: u64,
        mut counts: Counts,
        runs: Runs,
        now: u64,
        window_ms: u64,
        even_if_empty: bool,
    ) {
        self.forget_old(now, window_ms);
        let mut kept = Counts::default();
        for (_, sums) in self.unavailable.drain(..) {
            kept += sums;
        }
        match generation == self.unavailable_generation {
            true => counts += kept,
            false => self.late += kept,
        }
        let outcomes = !counts.is_empty() || !self.late.is_empty() || !self.settled.is_empty();
        let silent = !outcomes && self.trips == 0 && self.latencies.is_empty();
        if silent && !even_if_empty {
            return;
        }
        self.pending_since = now;
        self.pending = Some(Report {
            seq: self.next_number(),
            generation,
            counts,
            late: std::mem::take(&mut self.late),
            runs,
            retry_after_ms: std::mem::take(&mut self.retry_after_ms),
            trips: std::mem::take(&mut self.trips),
            settled: std::mem::take(&mut self.settled),
            latencies: std::mem::take(&mut self.latencies),
            ..Report::default()
        });
    }

    /// Adds the kinds of failures to the report just made: with `at_once`, if it takes the full
    /// path anyway, or if they have waited long enough.
    pub(super) fn add_kinds(&mut self, now: u64, at_once: bool) {
        let Some(report) = &mut self.pending else {
            return;
        };
        let anyway = report.counts.successes == 0 || !report.latencies.is_empty();
        if at_once || anyway || now >= self.kinds_due {
            report.kinds = self.kinds.take();
            self.kinds_due = now + LATENCIES_EVERY_MS;
        }
    }

    /// Moves the counts of a report whose answer was awaited for longer than the window to the
    /// lifetime totals: either the report was filed, and its number shows that, or it is too late
    /// to affect the window.
    pub(super) fn let_age(&mut self, now: u64, window_ms: u64) {
        let old = now.saturating_sub(self.pending_since) > window_ms;
        if let Some(pending) = self.pending.as_mut().filter(|_| old) {
            pending.late += std::mem::take(&mut pending.counts);
            pending.runs = Runs::default();
            pending.latencies = Latencies::default();
            pending.trips = 0;
            pending.retry_after_ms = 0;
        }
    }

    /// Whether to gather latencies. Merging them costs a store more than the rest of a report, so
    /// they go with one report in many, and with the last one before a pause.
    pub(super) const fn wants_latencies(&self, now: u64) -> bool {
        now >= self.latencies_due
    }

    /// Gathers latencies; drops those older than the window.
    pub(super) fn gather(&mut self, latencies: &Latencies, now: u64, window_ms: u64) {
        if self.latencies.is_empty() || now.saturating_sub(self.latencies_since) > window_ms {
            self.latencies = Latencies::default();
            self.latencies_since = now;
        }
        self.latencies.merge(latencies);
        let often = LATENCIES_EVERY_MS.min(window_ms / LATENCIES_IN_A_WINDOW);
        self.latencies_due = now + often.max(2 * self.pace_ms);
    }

    /// Keeps sums until the store returns; those that leave the window count only in the lifetime
    /// totals.
    pub(super) fn keep(&mut self, generation: u64, counts: Counts, now: u64, window_ms: u64) {
        self.unavailable_generation = generation;
        match self.unavailable.back_mut() {
            Some((since, sums)) if now.saturating_sub(*since) < window_ms / PARTS => {
                *sums += counts
            }
            _ => self.unavailable.push_back((now, counts)),
        }
        self.forget_old(now, window_ms);
    }

    fn forget_old(&mut self, now: u64, window_ms: u64) {
        while let Some((since, sums)) = self.unavailable.front().copied()
            && now.saturating_sub(since) > window_ms
        {
            self.late += sums;
            self.unavailable.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::FailureKind;

    const WINDOW_MS: u64 = 1000;

    fn failures(failures: u64) -> Counts {
        Counts {
            failures,
            ..Counts::default()
        }
    }

    fn prepared(outbox: &mut Outbox, generation: u64, now: u64) -> Report {
        let nothing = (Counts::default(), Runs::default());
        outbox.prepare(generation, nothing.0, nothing.1, now, WINDOW_MS, true);
        outbox.pending.clone().unwrap()
    }

    #[test]
    fn what_was_kept_counts_in_the_generation_that_was_remembered_and_in_no_other() {
        for (generation, counts, late) in [(7, 3, 0), (8, 0, 3)] {
            let mut outbox = Outbox::default();
            outbox.keep(7, failures(3), 0, WINDOW_MS);
            let report = prepared(&mut outbox, generation, 500);
            let filed = (report.counts.failures, report.late.failures);
            assert_eq!(filed, (counts, late), "generation {generation}");
        }
    }

    #[test]
    fn what_was_kept_and_has_left_the_window_is_only_counted() {
        let mut outbox = Outbox::default();
        outbox.keep(7, failures(2), 0, WINDOW_MS);
        outbox.keep(7, failures(3), 900, WINDOW_MS);
        let report = prepared(&mut outbox, 7, 1500);
        assert_eq!((report.counts.failures, report.late.failures), (3, 2));
    }

    #[test]
    fn however_long_the_store_is_away_little_is_kept() {
        let mut outbox = Outbox::default();
        for now in 0..100_000 {
            outbox.keep(7, failures(1), now, WINDOW_MS);
        }
        assert!(outbox.unavailable.len() as u64 <= PARTS + 1);
        assert_eq!(outbox.late.failures, 99_000);
    }

    #[test]
    fn kinds_go_with_reports_that_take_the_full_path_anyway_and_else_now_and_then() {
        let mut outbox = Outbox::default();
        let mut sent = |successes: u64, now: u64, at_once: bool| {
            outbox.kinds.note(&FailureKind::of("timeout"));
            let counts = Counts {
                successes,
                ..failures(1)
            };
            outbox.prepare(7, counts, Runs::default(), now, WINDOW_MS, false);
            outbox.add_kinds(now, at_once);
            let kinds = outbox.pending.take().unwrap().kinds;
            kinds.iter().map(|note| note.count).sum::<u64>()
        };
        assert_eq!(sent(9, 0, false), 1, "the first");
        assert_eq!(sent(9, 100, false), 0);
        assert_eq!(sent(9, 200, true), 2, "it may open the circuit");
        assert_eq!(sent(9, 300, false), 0);
        assert_eq!(sent(0, 400, false), 2, "without a success");
        assert_eq!(sent(9, 5399, false), 0);
        assert_eq!(sent(9, 5400, false), 2, "now and then");
    }

    #[test]
    fn what_waits_for_its_answer_too_long_is_only_counted_under_the_same_number() {
        let mut outbox = Outbox::default();
        outbox.prepare(7, failures(3), Runs::default(), 0, WINDOW_MS, false);
        let number = outbox.pending.as_ref().unwrap().seq;
        outbox.let_age(1000, WINDOW_MS);
        assert_eq!(outbox.pending.as_ref().unwrap().counts.failures, 3);
        outbox.let_age(1001, WINDOW_MS);
        let old = outbox.pending.as_ref().unwrap();
        assert_eq!((old.counts.failures, old.late.failures), (0, 3));
        assert_eq!(old.seq, number);
    }
}
