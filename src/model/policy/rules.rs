//! The numbers of a policy, in the form that the scripts take.

use serde::{Deserialize, Serialize};

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident = $default:expr,)+) => {
        /// The numbers of a policy: milliseconds, percent and counts. 0 switches off a setting that
        /// can be off.
        ///
        /// The names are the keys in files, in stored policies and in the scripts. Requests contain
        /// the numbers in this order.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[non_exhaustive]
        pub struct Rules {
            $($(#[$doc])* pub $name: u64,)+
        }

        impl Default for Rules {
            fn default() -> Self {
                Self { $($name: $default,)+ }
            }
        }

        impl Rules {
            /// The names, in the order of the fields.
            pub const KEYS: &'static [&'static str] = &[$(stringify!($name),)+];

            /// Returns the names and numbers, in the order of the fields.
            pub fn pairs(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)+].into_iter()
            }

            /// Sets one number by its name. Returns `false` for an unknown name.
            pub(crate) fn set(&mut self, key: &str, value: u64) -> bool {
                match key {
                    $(stringify!($name) => self.$name = value,)+
                    _ => return false,
                }
                true
            }
        }
    };
}

rules! {
    /// Length of a time window, ms. Default 10 s.
    window_ms = 10_000,
    /// Buckets of a time window. Default 10.
    window_buckets = 10,
    /// Length of a count window, calls; 0 = a time window. Default 0.
    window_calls = 0,
    /// Calls of the fleet in the window below which no rate opens the circuit. Default 20.
    minimum_number_of_calls = 20,
    /// Failures in percent of calls that open the circuit; 0 = off. Default 50.
    failure_rate_threshold = 50,
    /// Failures in the window that open the circuit; 0 = off. Default off.
    failure_count_threshold = 0,
    /// Failures in a row that open the circuit; 0 = off. Default 20.
    consecutive_failures_threshold = 20,
    /// Slow calls in percent of calls that open the circuit. Default 100.
    slow_call_rate_threshold = 100,
    /// Time in open before probes are permitted, ms. Default 30 s.
    wait_duration_in_open_state_ms = 30_000,
    /// Each consecutive wait in percent of the previous one. Default 100 (off).
    backoff_multiplier_percent = 100,
    /// The longest wait, before jitter, ms. Default 10 min.
    max_wait_duration_in_open_state_ms = 600_000,
    /// The largest random extension of a wait, percent. Default 0.
    jitter = 0,
    /// Time in closed after which the backoff starts again, ms. Default 60 s.
    backoff_reset_after_ms = 60_000,
    /// Probes that may be in flight at once, across the fleet. Default 3.
    permitted_number_of_calls_in_half_open_state = 3,
    /// Successful probes that close the circuit. Default 2.
    success_threshold = 2,
    /// Failed probes that open the circuit again. Default 1.
    half_open_failure_threshold = 1,
    /// How long half-open may last with probes in flight before the circuit opens again, ms.
    /// Default 60 s.
    max_wait_duration_in_half_open_state_ms = 60_000,
    /// How long a probe may be in flight before its permit goes to another call, ms. Default 30 s.
    probe_lease_ms = 30_000,
    /// How long the admitted share of calls grows after closing, ms; 0 = off. Default off.
    ramp_duration_ms = 0,
    /// The shortest time between two reports of a replica, ms; 0 = send at once. Default 100.
    report_interval_ms = 100,
    /// Duration from which a call is slow, ms; 0 = off. Default off.
    slow_call_duration_threshold_ms = 0,
    /// The share of calls admitted when the ramp begins, percent. Default 10.
    ramp_initial = 10,
    /// How long one call may take, ms; 0 = no limit. Default off.
    call_timeout_ms = 0,
    /// How long a cached decision is valid, ms; 0 = every call asks the store. Default 250.
    decision_ttl_ms = 250,
    /// Replicas that must have failed within the window before the circuit opens. Default 1.
    quorum = 1,
    /// Which calls' latencies are recorded: 0 none, 1 a sample, 2 every call's. Default 1.
    latency_recording = 1,
    /// Whether a dropped call can be a failure: 0 no, unless it has run past `call_timeout` or the
    /// slow-call threshold, 1 yes. Default 1.
    abandoned_calls = 1,
    /// How long a dropped call must have run to be a failure, ms; 0 = judged by the usual duration
    /// of calls. Default 0.
    abandoned_after_ms = 0,
    /// Whether the history of the circuit is kept: 0 no, 1 yes. Default 1.
    history = 1,
    /// What `minimum_number_of_calls` applies to: 0 rates, 1 also failures in the window and in a
    /// row. Default 0.
    minimum_applies_to = 0,
    /// Whether a call that took longer than `call_timeout` is a failure: 0 no, it is ignored, 1
    /// yes. Default 1.
    timed_out_calls = 1,
}

impl Rules {
    /// Returns these numbers with a text of `key=integer` pairs applied. Pairs that are unknown, or
    /// above the largest value of a setting, are ignored.
    #[must_use]
    pub fn with(mut self, pairs: &str) -> Self {
        self.apply(pairs);
        self
    }

    /// Returns the settings that are not at their default, as `key=integer` pairs.
    pub(crate) fn text(&self) -> String {
        let defaults = Self::default();
        let pairs = self.pairs().zip(defaults.pairs());
        let changed = pairs.filter(|(is, default)| is != default);
        let words: Vec<_> = changed.map(|((key, n), _)| format!("{key}={n}")).collect();
        words.join(" ")
    }

    /// Returns the settings in which another policy differs: `window_ms=60000, not 5000; quorum=1,
    /// not 2`.
    pub(crate) fn differences(&self, other: &Self) -> String {
        let pairs = self.pairs().zip(other.pairs());
        let differ = pairs.filter(|(before, now)| before != now);
        let words = differ.map(|((key, before), (_, now))| format!("{key}={now}, not {before}"));
        words.collect::<Vec<_>>().join("; ")
    }

    /// Applies `key=integer` pairs. Pairs that are unknown, or above the largest value of a
    /// setting, are ignored.
    pub(crate) fn apply(&mut self, pairs: &str) {
        for pair in pairs.split_whitespace() {
            let Some((key, value)) = pair.split_once('=') else {
                continue;
            };
            let most = match key {
                "window_buckets" | "quorum" => 1000,
                "window_calls" => 10_000,
                "jitter" => 100,
                "latency_recording" => 2,
                "abandoned_calls" | "history" | "minimum_applies_to" | "timed_out_calls" => 1,
                _ => 365 * 86_400_000,
            };
            if value.bytes().all(|b| b.is_ascii_digit())
                && let Ok(number) = value.parse()
                && number <= most
            {
                self.set(key, number);
            }
        }
    }

    /// Returns the longest wait in open, jitter included, ms.
    pub(crate) fn longest_wait_ms(&self) -> u64 {
        let wait = self.top_wait_ms();
        wait + wait * self.jitter / 100
    }

    fn top_wait_ms(&self) -> u64 {
        self.wait_duration_in_open_state_ms
            .max(self.max_wait_duration_in_open_state_ms)
    }

    /// Returns the wait of the n-th consecutive open, ms.
    pub(crate) fn open_wait_ms(&self, opens: u64, entropy: u64) -> u64 {
        let (mut wait, top) = (self.wait_duration_in_open_state_ms, self.top_wait_ms());
        if self.backoff_multiplier_percent > 100 {
            for _ in 2..=opens.min(1000) {
                wait = wait.saturating_mul(self.backoff_multiplier_percent) / 100;
                if wait >= top {
                    break;
                }
            }
        }
        wait = wait.min(top);
        wait + wait * self.jitter * (entropy % 1000) / 100_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_know_the_same_numbers_in_the_same_order() {
        let lua = include_str!("../../../lua/lib/prelude.lua");
        let list = lua.split("function policy_keys()").nth(1).unwrap();
        let keys: Vec<_> = list.split('}').next().unwrap().split('\'').collect();
        let keys: Vec<_> = keys.into_iter().skip(1).step_by(2).collect();
        assert_eq!(keys, Rules::KEYS);
        let list = lua.split("function policy_defaults()").nth(1).unwrap();
        let digits = list.split('}').next().unwrap();
        let digits = digits.split(|c: char| !c.is_ascii_digit());
        let defaults: Vec<u64> = digits.filter_map(|word| word.parse().ok()).collect();
        let ours = Rules::default();
        assert_eq!(defaults, ours.pairs().map(|(_, n)| n).collect::<Vec<_>>());
    }

    #[test]
    fn waits_grow_to_the_top_and_jitter_only_lengthens() {
        let mut rules = Rules {
            wait_duration_in_open_state_ms: 1000,
            backoff_multiplier_percent: 200,
            max_wait_duration_in_open_state_ms: 5000,
            ..Rules::default()
        };
        let waits: Vec<_> = (1..=5).map(|n| rules.open_wait_ms(n, 0)).collect();
        assert_eq!(waits, [1000, 2000, 4000, 5000, 5000]);
        rules.jitter = 50;
        assert_eq!(rules.open_wait_ms(1, 0), 1000);
        assert_eq!(rules.open_wait_ms(1, 999), 1499);
    }
}
