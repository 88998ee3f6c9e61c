//! The verdict on the measurements of one fault, and the line that reports it.

use std::{io::Write, time::Duration};

use crate::processes::{
    load::{ROUNDS, THREADS},
    wire::{LONG_NS, Measured, Times},
};

use super::Trial;

/// A call that took longer has waited for Redis.
const WAITED: Duration = Duration::from_millis(25);

impl Trial {
    pub(super) fn judge_answers(&self, wrong: &mut Vec<String>) {
        for (process, during) in self.during.iter().enumerate() {
            let [healthy, failing, tripped] = during.told[..] else {
                panic!("three circuits");
            };
            let mut all_are = |holds: bool, what: &str| {
                if !holds {
                    let told = &during.told;
                    wrong.push(format!("process {process}: {what}; told: {told:?}"));
                }
            };
            all_are(
                healthy.failed + healthy.rejected + healthy.other == 0 && healthy.ok > 1000,
                "calls of the healthy circuit are all made, and all well",
            );
            all_are(
                // Some calls began before the upstream failed, and were counted afterwards.
                failing.ok <= (ROUNDS * THREADS) as u64 && failing.other == 0 && failing.failed > 0,
                "calls of the failing circuit end with their own error or as a rejection",
            );
            all_are(failing.rejected > 0, "the failing circuit rejects");
            let open = tripped.ok + tripped.failed + tripped.other == 0 && tripped.rejected > 1000;
            all_are(
                open || !self.tripped && tripped.ok > 1000,
                "calls of the tripped circuit are all rejected",
            );
        }
    }

    pub(super) fn judge_times(&self, away: &[u64], wrong: &mut Vec<String>) {
        for (process, during) in self.during.iter().enumerate() {
            // One call of a process waits when the store goes away; if it goes repeatedly, one each
            // time.
            // Where calls ask, each thread can have asked before the first answer is late.
            let at_once = if self.asks { THREADS as u64 } else { 1 };
            let may_wait = away[process].max(1) * at_once;
            let waited = over(&during.breaker, WAITED);
            let hiccups = machine(during, WAITED);
            if waited > may_wait + hiccups {
                wrong.push(format!(
                    "process {process}: {waited} calls took longer than {WAITED:?}, {hiccups} by reason of the machine"
                ));
            }
            // 99.9 % of calls must be faster than this.
            let limit = self.limit(process);
            let slow = over(&during.breaker, limit);
            let allowed = during.breaker.calls / 1000 + machine(during, limit) + 5;
            if slow > allowed {
                let calls = during.breaker.calls;
                wrong.push(format!(
                    "process {process}: {slow} of {calls} calls took longer than {limit:?}, where {allowed} may"
                ));
            }
        }
    }

    /// Twice the undisturbed 99.9th percentile plus a floor: the duration of a page fault or an
    /// interrupt, far less than a round trip through a loaded Redis.
    fn limit(&self, process: usize) -> Duration {
        Duration::from_nanos(2 * self.undisturbed[process].breaker.p999_ns + LONG_NS)
    }

    pub(super) fn print(&self, away: &[u64], agreed: Duration) {
        let worst = |measured: &[Measured], of: fn(&Measured) -> u64| {
            let worst = measured.iter().map(of).max();
            worst.unwrap_or_default() as f64 / 1000.0
        };
        let p50 = |m: &Measured| m.breaker.p50_ns;
        let p999 = |m: &Measured| m.breaker.p999_ns;
        let (before, during) = (&self.undisturbed, &self.during);
        let sum = |of: fn(&Measured) -> u64| during.iter().map(of).sum::<u64>();
        let waited = |m: &Measured| over(&m.breaker, WAITED);
        let line = format!(
            "faults: {:<34} {:>6} calls; p50 {:.1} -> {:.1} us, p99.9 {:.1} -> {:.1} us (control {:.1}); \
             over {WAITED:?}: {} (control {}); {} rejected; protected after {} ms; away {away:?}; agreed after {} ms",
            self.fault,
            sum(|m| m.breaker.calls),
            worst(before, p50),
            worst(during, p50),
            worst(before, p999),
            worst(during, p999),
            worst(during, |m| m.control.p999_ns),
            sum(waited),
            sum(|m| over(&m.control, WAITED)),
            sum(|m| m.told.iter().map(|told| told.rejected).sum()),
            self.protected.unwrap_or_default().as_millis(),
            agreed.as_millis(),
        );
        // Bypasses the harness, which shows output of failed tests only.
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

fn over(times: &Times, limit: Duration) -> u64 {
    let limit = limit.as_nanos() as u64;
    times.long_ns.iter().filter(|ns| **ns > limit).count() as u64
}

/// How many calls the machine itself may have slowed down: the control made a third as many calls,
/// so three times its slow calls are expected; twice that, because the numbers are small.
fn machine(measured: &Measured, limit: Duration) -> u64 {
    let control = over(&measured.control, limit);
    2 * control * measured.breaker.calls / measured.control.calls.max(1)
}
