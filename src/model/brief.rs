//! What a request says in brief, for the scripts' steady way.
//!
//! Owns which requests are plain enough and the bytes of their briefs: numbers of fixed width, which
//! cost Redis far less than MessagePack, and texts. A brief says nothing that its request does not
//! say. Twin: `lua/steady`.

use serde::Serialize;

use super::{
    Acquire, Control, Counts, Head, Release, Report, Rules, State,
    quorum::REPLICA_SEEN_MS,
    window::{Shape, grid},
};

const DAY_MS: u64 = 86_400_000;
/// A share of calls that no window reaches: the threshold is off.
const NEVER_PERCENT: u64 = 101;
/// A count that no window reaches, for the same.
const NEVER: u64 = u32::MAX as u64;

/// What a script can be asked.
pub trait Request: Serialize {
    /// What may be said in brief: the script's arguments after the request; `None` for a request
    /// that the steady way cannot answer.
    fn brief(&self) -> Option<Vec<Vec<u8>>> {
        None
    }

    /// Its common part.
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
    /// Whether the replica has last seen a closed circuit of this generation, with nothing that only
    /// the general way heeds.
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
        let (counts, rules) = (&self.counts, &self.head.policy);
        let plain = counts.successes > 0
            && counts.slow_successes <= counts.successes
            && counts.slow_failures <= counts.failures
            && self.late == Counts::default()
            && self.settled.is_empty()
            && self.trips == 0
            && self.retry_after_ms == 0
            && self.latencies.is_empty()
            && self.head.is_plain(self.generation)
            && rules.window_calls == 0
            && !self.is_noted()
            && !self.opens();
        if !plain {
            return None;
        }
        let off = |threshold: u64, never: u64| match threshold {
            0 => never,
            on => on,
        };
        let slow_rate = match rules.slow_call_duration_threshold_ms {
            0 => NEVER_PERCENT,
            _ => off(rules.slow_call_rate_threshold, NEVER_PERCENT),
        };
        let mut numbers = Numbers::default();
        let since_ms = self.head.seen.since_ms;
        numbers.wide([self.head.now_ms, self.seq, self.generation, since_ms])?;
        numbers.narrow([
            counts.successes,
            counts.failures,
            counts.slow(),
            counts.ignored,
            counts.not_permitted,
            counts.abandoned,
            counts.undecided(),
            self.runs.first,
            self.runs.longest,
            self.runs.last,
            grid(rules).0,
            rules.minimum_number_of_calls,
            off(rules.failure_rate_threshold, NEVER_PERCENT),
            off(rules.failure_count_threshold, NEVER),
            off(rules.consecutive_failures_threshold, NEVER),
            slow_rate,
        ])?;
        let replica = self.head.replica.clone();
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
    /// Whether its replica is to be noted as being there, as far as it can know: once in every
    /// [`REPLICA_SEEN_MS`].
    const fn is_noted(&self) -> bool {
        let Head { seen, memory, .. } = &self.head;
        let now_ms = seen.now_ms.saturating_add(memory.age_ms);
        seen.now_ms / REPLICA_SEEN_MS != now_ms / REPLICA_SEEN_MS
    }

    /// Whether it opens the circuit, as far as its replica can know.
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

/// How long a closed circuit's keys must have yet, lest their TTLs are renewed. Twin: `lifetime` and
/// `save` in `lua/lib/hash.lua`.
const fn keeps_ms(rules: &Rules) -> u64 {
    DAY_MS - DAY_MS / 8
        + rules.window_ms
        + rules.max_wait_duration_in_half_open_state_ms
        + rules.probe_lease_ms
        + rules.backoff_reset_after_ms
}

/// Numbers one after the other, big-endian; one that does not fit makes the whole `None`.
#[derive(Default)]
struct Numbers(Vec<u8>);

impl Numbers {
    /// Each in six bytes.
    fn wide<const N: usize>(&mut self, numbers: [u64; N]) -> Option<()> {
        self.add::<6>(&numbers)
    }

    /// Each in four bytes.
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
