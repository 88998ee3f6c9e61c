//! The status of a check, from its last runs.
//!
//! Owns the thresholds and their comparison; pure, knows nothing of the store or a clock.

use std::time::Duration;

use crate::operator::{CheckReport, CheckRun, CheckStatus};

/// Runs that the history must have before the error rate counts.
const LEAST_RUNS: usize = 5;

/// Limits beyond which a check is not healthy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Thresholds {
    /// Failed runs in a row at which the check is critical.
    pub(super) failures: u32,
    /// p95 of passed runs: warning, critical.
    pub(super) latency: Option<(Duration, Duration)>,
    /// Percent of the history that failed: warning, critical.
    pub(super) error_rate: Option<(u8, u8)>,
}

impl Thresholds {
    /// Whether a run counts against a bound circuit: it failed, or took critically long.
    pub(super) fn is_bad(&self, run: &CheckRun) -> bool {
        let too_slow = |(_, critical): (Duration, Duration)| run.took_us >= micros(critical);
        !run.passed || self.latency.is_some_and(too_slow)
    }

    /// Computes the status and rates from the history and the failures in a row.
    pub(super) fn judge(&self, report: &mut CheckReport) {
        let runs = report.history.len();
        let failed = report.history.iter().filter(|run| !run.passed).count();
        report.p95_us = p95(&report.history);
        report.uptime = (runs > 0).then(|| 100.0 * (runs - failed) as f64 / runs as f64);
        let found = [
            self.by_failures(report),
            self.by_error_rate(runs, failed),
            self.by_latency(report.p95_us),
        ];
        // Of equally bad reasons, the first is the most informative.
        let worst = found.into_iter().flatten().rev().max_by_key(|(s, _)| *s);
        (report.status, report.why) = worst.unwrap_or((CheckStatus::Healthy, String::new()));
    }

    fn by_failures(&self, report: &CheckReport) -> Option<(CheckStatus, String)> {
        let in_a_row = report.consecutive_failures;
        let error = report.last_error.as_deref().unwrap_or("no reason given");
        let words = match in_a_row {
            0 => return None,
            1 => format!("the last run failed: {error}"),
            n => format!("the last {n} runs failed: {error}"),
        };
        let status = level(in_a_row >= u64::from(self.failures));
        Some((status, words))
    }

    fn by_error_rate(&self, runs: usize, failed: usize) -> Option<(CheckStatus, String)> {
        let (warning, critical) = self.error_rate?;
        let reaches = |percent: u8| failed * 100 >= usize::from(percent) * runs;
        (runs >= LEAST_RUNS && reaches(warning)).then(|| {
            let words = format!("{failed} of the last {runs} runs failed");
            (level(reaches(critical)), words)
        })
    }

    fn by_latency(&self, p95_us: Option<u64>) -> Option<(CheckStatus, String)> {
        let ((warning, critical), p95_us) = (self.latency?, p95_us?);
        (p95_us >= micros(warning)).then(|| {
            let took = Duration::from_micros(p95_us);
            let words = format!("1 of 20 runs takes {took:?} or longer");
            (level(p95_us >= micros(critical)), words)
        })
    }
}

const fn level(is_critical: bool) -> CheckStatus {
    match is_critical {
        true => CheckStatus::Critical,
        false => CheckStatus::Warning,
    }
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// By nearest rank, over passed runs.
fn p95(history: &[CheckRun]) -> Option<u64> {
    let passed = history.iter().filter(|run| run.passed);
    let mut took: Vec<_> = passed.map(|run| run.took_us).collect();
    took.sort_unstable();
    let rank = (took.len() * 95).div_ceil(100);
    took.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs as words: `.` passed, `x` failed, a number passed in that many ms.
    fn report(runs: &str) -> CheckReport {
        let mut report = CheckReport::default();
        for word in runs.split(' ').filter(|word| !word.is_empty()) {
            let mut run = CheckRun {
                passed: word != "x",
                ..CheckRun::default()
            };
            run.took_us = word.parse::<u64>().unwrap_or(1) * 1000;
            report.consecutive_failures = match run.passed {
                true => 0,
                false => report.consecutive_failures + 1,
            };
            report.history.push(run);
        }
        report
    }

    #[test]
    fn thresholds() {
        use CheckStatus::{Critical, Healthy, Warning};
        let ms = Duration::from_millis;
        let plain = Thresholds {
            failures: 3,
            latency: None,
            error_rate: None,
        };
        let rate = Thresholds {
            error_rate: Some((20, 40)),
            ..plain
        };
        let slow = Thresholds {
            latency: Some((ms(100), ms(200))),
            ..plain
        };
        let twenty = ". ".repeat(18);
        for (thresholds, runs, status, why) in [
            (plain, ".", Healthy, ""),
            (plain, "x x x .", Healthy, ""),
            (plain, ". x", Warning, "the last run failed"),
            (plain, "x x", Warning, "the last 2 runs failed"),
            (plain, "x x x", Critical, "the last 3 runs failed"),
            (rate, "x . . .", Healthy, ""),
            (rate, "x . . . .", Warning, "1 of the last 5 runs failed"),
            (rate, "x . . . . .", Healthy, ""),
            (rate, "x x . . .", Critical, "2 of the last 5 runs failed"),
            (rate, "x . x . x", Critical, "3 of the last 5 runs failed"),
            (rate, ". . . . x", Warning, "the last run failed"),
            (slow, "99", Healthy, ""),
            (slow, "100", Warning, "takes 100ms or longer"),
            (slow, "200", Critical, "takes 200ms or longer"),
            (slow, "x", Warning, "the last run failed"),
            // 1 of 20 may be slow, 2 may not.
            (slow, &format!("{twenty}. 500"), Healthy, ""),
            (slow, &format!("{twenty}500 500"), Critical, "500ms"),
        ] {
            let mut report = report(runs);
            thresholds.judge(&mut report);
            assert_eq!(report.status, status, "{runs}: {}", report.why);
            assert!(report.why.contains(why), "{runs}: {}", report.why);
            assert_eq!(report.why.is_empty(), why.is_empty(), "{runs}");
        }
    }

    #[test]
    fn uptime_and_p95_are_of_the_history() {
        let mut seen = report("1 2 3 x");
        let plain = Thresholds {
            failures: 3,
            latency: None,
            error_rate: None,
        };
        plain.judge(&mut seen);
        assert_eq!((seen.uptime, seen.p95_us), (Some(75.0), Some(3000)));
        let mut none = report("");
        plain.judge(&mut none);
        assert_eq!((none.uptime, none.p95_us), (None, None));
    }

    #[test]
    fn a_run_is_bad_that_failed_or_took_critically_long() {
        let slow = Thresholds {
            failures: 3,
            latency: Some((Duration::from_millis(1), Duration::from_millis(50))),
            error_rate: None,
        };
        for (run, bad) in [("x", true), ("49", false), ("50", true)] {
            assert_eq!(slow.is_bad(&report(run).history[0]), bad, "{run}");
        }
    }
}
