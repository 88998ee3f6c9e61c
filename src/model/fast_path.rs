//! Requests in brief form, for the fast path of the scripts.
//!
//! Owns which requests are plain enough, and the bytes of their briefs: texts, and numbers of fixed
//! width, which cost Redis far less than MessagePack. A brief contains nothing that its request
//! does not contain. Twin: `lua/fast_path`.

use serde::Serialize;

use super::{
    Acquire, Control, Counts, Head, Release, Report, Rules, State,
    quorum::REPLICA_SEEN_MS,
    window::{Shape, grid},
};

const DAY_MS: u64 = 86_400_000;
/// A share of calls that no window reaches: it stands for a threshold that is off.
const NEVER_PERCENT: u64 = 101;
/// A count that no window reaches, for the same purpose.
const NEVER: u64 = u32::MAX as u64;

/// A request to a script.
pub trait Request: Serialize {
    /// Returns the arguments for the fast path's script; `None` if it cannot answer the request.
    fn brief(&self) -> Option<Vec<Vec<u8>>> {
        None
    }

    /// The common part.
    fn head(&self) -> &Head;
}

impl Request for Head {
    fn head(&self) -> &Head {
        self
    }
}

impl Request for Release {
    fn head(&self) -> &Head {
        &self.head
    }
}

impl Request for Control {
    fn head(&self) -> &Head {
        &self.head
    }
}

impl Head {
    /// Whether the replica last saw a closed circuit of this generation, without anything that only
    /// the full path handles.
    fn is_plain(&self, generation: u64) -> bool {
        let Self { seen, memory, .. } = self;
        seen.now_ms > 0
            && seen.state == State::Closed
            && seen.generation == generation
            && memory.generation <= generation
            && seen.policy.is_empty()
            && seen.ramp_until_ms <= seen.now_ms + self.policy.ramp_duration_ms
            && self.policy.quorum <= 1
    }
}

impl Request for Acquire {
    fn brief(&self) -> Option<Vec<Vec<u8>>> {
        let Head {
            now_ms,
            policy,
            seen,
            ..
        } = &self.head;
        let mut numbers = Numbers::default();
        numbers.wide([*now_ms, seen.generation, seen.since_ms, keeps_ms(policy)])?;
        let plain = self.head.is_plain(seen.generation);
        plain.then(|| vec![numbers.0])
    }

    fn head(&self) -> &Head {
        &self.head
    }
}

impl Request for Report {
    fn brief(&self) -> Option<Vec<Vec<u8>>> {
        let Self {
            head,
            seq,
            generation,
            counts,
            late,
            runs,
            retry_after_ms,
            trips,
            settled,
            alone_ms: _, // only matters to a quorum, which is not plain
            latencies,
            kinds,
        } = self;
        let Counts {
            successes,
            failures,
            slow_successes,
            slow_failures,
            ignored,
            rejected,
            abandoned,
            abandoned_failures: _, // among the failures
        } = *counts;
        let plain = successes > 0
            && slow_successes <= successes
            && slow_failures <= failures
            && *late == Counts::default()
            && settled.is_empty()
            && *trips == 0
            && *retry_after_ms == 0
            && latencies.is_empty()
            && kinds.is_empty()
            && head.is_plain(*generation)
            && head.policy.window_calls == 0
            && !self.is_noted()
            && !self.opens();
        if !plain {
            return None;
        }
        let mut numbers = Numbers::default();
        let since_ms = head.seen.since_ms;
        numbers.wide([head.now_ms, *seq, *generation, since_ms])?;
        numbers.narrow([
            successes,
            failures,
            counts.slow(),
            ignored,
            rejected,
            abandoned,
            counts.undecided(),
            runs.first,
            runs.longest,
            runs.last,
        ])?;
        numbers.narrow(thresholds(&head.policy))?;
        let rules = &head.policy;
        let replica = head.replica.clone();
        Some(vec![
            numbers.0,
            Shape::of(rules).to_string().into_bytes(),
            replica.into_bytes(),
        ])
    }

    fn head(&self) -> &Head {
        &self.head
    }
}

impl Report {
    /// Whether the report is due to record its replica as live, as far as the replica can know:
    /// once in every [`REPLICA_SEEN_MS`].
    const fn is_noted(&self) -> bool {
        let Head { seen, memory, .. } = &self.head;
        let now_ms = seen.now_ms.saturating_add(memory.age_ms);
        seen.now_ms / REPLICA_SEEN_MS != now_ms / REPLICA_SEEN_MS
    }

    /// Whether the report opens the circuit, as far as the replica can know.
    fn opens(&self) -> bool {
        let (seen, counts) = (&self.head.seen, &self.counts);
        let sums = [
            seen.calls + counts.calls(),
            seen.failures + counts.failures,
            seen.slow + counts.slow(),
            seen.undecided + counts.undecided(),
        ];
        let joined = seen.consecutive_failures + self.runs.first;
        let run = joined.max(self.runs.longest);
        self.head.policy.breach(sums, run).is_some()
    }
}

/// The numbers of a policy that a plain report needs: the width of a bucket, and the thresholds. A
/// new setting must be one of these, or make a report not plain, or not concern reports.
fn thresholds(rules: &Rules) -> [u64; 6] {
    let Rules {
        minimum_number_of_calls,
        failure_rate_threshold,
        failure_count_threshold,
        consecutive_failures_threshold,
        slow_call_rate_threshold,
        slow_call_duration_threshold_ms,
        // Part of the bucket width and the window's shape.
        window_ms: _,
        window_buckets: _,
        // Not plain if they are on.
        window_calls: _,
        quorum: _,
        ramp_duration_ms: _,
        // Used only after a trip.
        wait_duration_in_open_state_ms: _,
        backoff_multiplier_percent: _,
        max_wait_duration_in_open_state_ms: _,
        jitter: _,
        backoff_reset_after_ms: _,
        permitted_number_of_calls_in_half_open_state: _,
        success_threshold: _,
        half_open_failure_threshold: _,
        max_wait_duration_in_half_open_state_ms: _,
        probe_lease_ms: _,
        ramp_initial: _,
        // Used only in the replica.
        report_interval_ms: _,
        call_timeout_ms: _,
        timed_out_calls: _,
        decision_ttl_ms: _,
        latency_recording: _,
        abandoned_after_ms: _,
        // Evidence only without a success, but a plain report has one.
        abandoned_calls: _,
        // Slices begin on the full path, like buckets.
        history: _,
        // It only prevents trips: a report that meets a condition is left to `report`.
        minimum_applies_to: _,
    } = *rules;
    let off = |threshold: u64, never: u64| match threshold {
        0 => never,
        on => on,
    };
    let slow_rate = match slow_call_duration_threshold_ms {
        0 => NEVER_PERCENT,
        _ => off(slow_call_rate_threshold, NEVER_PERCENT),
    };
    [
        grid(rules).0,
        minimum_number_of_calls,
        off(failure_rate_threshold, NEVER_PERCENT),
        off(failure_count_threshold, NEVER),
        off(consecutive_failures_threshold, NEVER),
        slow_rate,
    ]
}

/// How long a closed circuit's keys must still live; below that, their TTLs are renewed.
/// Twin: `lifetime` and `save` in `lua/lib/hash.lua`.
const fn keeps_ms(rules: &Rules) -> u64 {
    DAY_MS - DAY_MS / 8
        + rules.window_ms
        + rules.max_wait_duration_in_half_open_state_ms
        + rules.probe_lease_ms
        + rules.backoff_reset_after_ms
}

/// Concatenated big-endian numbers. If one does not fit, the whole is `None`.
#[derive(Default)]
struct Numbers(Vec<u8>);

impl Numbers {
    /// Appends each number in six bytes.
    fn wide<const N: usize>(&mut self, numbers: [u64; N]) -> Option<()> {
        self.add::<6>(&numbers)
    }

    /// Appends each number in four bytes.
    fn narrow<const N: usize>(&mut self, numbers: [u64; N]) -> Option<()> {
        self.add::<4>(&numbers)
    }

    fn add<const WIDTH: usize>(&mut self, numbers: &[u64]) -> Option<()> {
        for number in numbers {
            let bytes = number.to_be_bytes();
            let (above, kept) = bytes.split_at(8 - WIDTH);
            if above.iter().any(|byte| *byte > 0) {
                return None;
            }
            self.0.extend_from_slice(kept);
        }
        Some(())
    }
}
