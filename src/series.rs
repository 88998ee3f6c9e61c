//! What the exporters `metrics` and `otel` share: which counts exist, and how the totals of a
//! circuit continue when it was removed and is used again.
//!
//! Owns what was already exported; knows no exporter. Invariant: a total never decreases, and each
//! latency is exported once.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use crate::{CircuitStats, FallbackKind, Latencies, ProbeStats, RegistryHealth, Transition};

/// Upper bounds of buckets that fit the two histograms, in seconds: 1, 2.5 and 5 of each power of
/// ten from 100 µs to 50 s.
///
/// For exporters that need explicit buckets, such as `metrics-exporter-prometheus`: without them it
/// makes summaries, which cannot be aggregated across replicas.
pub const BUCKETS: [f64; 18] = [
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 25.0, 50.0,
];

/// The totals of one circuit, by result where there are several.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) calls: [(&'static str, u64); 6],
    pub(crate) slow: u64,
    pub(crate) kinds: Vec<(String, u64)>,
    pub(crate) probes: [(&'static str, u64); 4],
    pub(crate) fallbacks: [(&'static str, u64); 4],
    pub(crate) transitions: Vec<(Transition, u64)>,
}

/// One count of a circuit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Call(&'static str),
    Slow,
    Kind(String),
    Probe(&'static str),
    Fallback(&'static str),
    Report(&'static str),
    Transition(Transition),
}

/// The totals by circuit, which continue although a circuit that was removed counts from 0 again.
#[derive(Debug, Default)]
pub(crate) struct Totals(HashMap<String, HashMap<Key, Counter>>);

/// What a circuit counted before it was removed, and since it is used again.
#[derive(Debug, Default)]
struct Counter {
    before: u64,
    now: u64,
}

impl Counter {
    fn total(&mut self, now: u64) -> u64 {
        if now < self.now {
            self.before += self.now;
        }
        self.now = now;
        self.before + now
    }
}

impl Totals {
    pub(crate) fn of(&mut self, stats: &CircuitStats) -> Counted {
        let counters = self.0.entry(stats.name.clone()).or_default();
        let mut total = |key, now| counters.entry(key).or_default().total(now);
        let CircuitStats {
            successes,
            ignored,
            rejected,
            timeouts,
            slow,
            probes,
            fallbacks,
            transitions,
            failure_kinds,
            // Included in the derived counts: failures without timeouts, undecided calls.
            failures: _,
            abandoned: _,
            abandoned_failures: _,
            // Not counts of calls: gauges, histograms, and `reports` below.
            name: _,
            cached: _,
            stale_for: _,
            latencies: _,
            reports: _,
            reports_failed: _,
            report_time: _,
            window: _,
            age: _,
        } = stats;
        let ProbeStats {
            successes: won,
            failures: lost,
            ignored: released,
            abandoned: dropped,
        } = *probes;
        Counted {
            calls: [
                ("success", *successes),
                ("failure", stats.failures_in_time()),
                ("ignored", *ignored),
                ("rejected", *rejected),
                ("timeout", *timeouts),
                ("abandoned", stats.undecided()),
            ]
            .map(|(result, n)| (result, total(Key::Call(result), n))),
            slow: total(Key::Slow, *slow),
            kinds: failure_kinds
                .iter()
                .map(|(kind, n)| (kind.clone(), total(Key::Kind(kind.clone()), *n)))
                .collect(),
            probes: [
                ("success", won),
                ("failure", lost),
                ("ignored", released),
                ("abandoned", dropped),
            ]
            .map(|(result, n)| (result, total(Key::Probe(result), n))),
            fallbacks: FallbackKind::ALL.map(|kind| {
                let n = fallbacks.of(kind);
                (kind.as_str(), total(Key::Fallback(kind.as_str()), n))
            }),
            transitions: transitions
                .iter()
                .map(|(transition, n)| (*transition, total(Key::Transition(*transition), *n)))
                .collect(),
        }
    }

    /// Reports of all circuits together, including removed ones.
    pub(crate) fn reports(&mut self, stats: &[CircuitStats]) -> [(&'static str, u64); 2] {
        for circuit in stats {
            let counters = self.0.entry(circuit.name.clone()).or_default();
            for (result, n) in [
                ("filed", circuit.reports),
                ("failed", circuit.reports_failed),
            ] {
                counters.entry(Key::Report(result)).or_default().total(n);
            }
        }
        ["filed", "failed"].map(|result| {
            let of_circuits = self.0.values();
            let counters = of_circuits.filter_map(|all| all.get(&Key::Report(result)));
            (result, counters.map(|c| c.before + c.now).sum())
        })
    }
}

/// The latencies that the histograms already have.
#[derive(Debug)]
pub(crate) struct Given {
    /// The maximum for one circuit at a time. Beyond it, each bucket gets its share.
    most: u64,
    calls: HashMap<String, Recorded>,
    round_trips: Recorded,
}

impl Given {
    /// Treats everything until now as exported.
    pub(crate) fn until_now(most: u64, health: &RegistryHealth, stats: &[CircuitStats]) -> Self {
        let mut given = Self {
            most,
            calls: HashMap::new(),
            round_trips: Recorded::default(),
        };
        stats.iter().for_each(|circuit| drop(given.calls(circuit)));
        drop(given.round_trips(health));
        given
    }

    /// Takes the latencies of a circuit's calls that were not exported yet.
    pub(crate) fn calls(&mut self, stats: &CircuitStats) -> Vec<(Duration, usize)> {
        let recorded = self.calls.entry(stats.name.clone()).or_default();
        recorded.fresh(&stats.latencies, self.most)
    }

    /// Takes the latencies of reports that were not exported yet.
    pub(crate) fn round_trips(&mut self, health: &RegistryHealth) -> Vec<(Duration, usize)> {
        self.round_trips.fresh(&health.round_trips, self.most)
    }
}

/// How often each latency was recorded.
#[derive(Debug, Default)]
struct Recorded(BTreeMap<Duration, u64>);

impl Recorded {
    /// The latencies to record now, so that `all` are recorded.
    fn fresh(&mut self, all: &Latencies, most: u64) -> Vec<(Duration, usize)> {
        let mut fresh = Vec::new();
        for (latency, n) in all.iter() {
            let before = self.0.insert(latency, n).unwrap_or(0);
            match n.checked_sub(before) {
                Some(0) => {}
                Some(more) => fresh.push((latency, more)),
                // The circuit was removed and is used again.
                None => fresh.push((latency, n)),
            }
        }
        let total: u64 = fresh.iter().map(|(_, n)| n).sum();
        let share = |n: u64| match total > most {
            false => n as usize,
            true => (u128::from(n) * u128::from(most)).div_ceil(u128::from(total)) as usize,
        };
        let shares = fresh.into_iter().map(|(latency, n)| (latency, share(n)));
        shares.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u64 = 10_000;

    fn latencies(counts: &[(u64, u64)]) -> Latencies {
        let mut latencies = Latencies::default();
        for (ms, n) in counts {
            latencies.record(Duration::from_millis(*ms), *n);
        }
        latencies
    }

    #[test]
    fn a_circuit_that_is_taken_again_goes_on_counting() {
        let mut counter = Counter::default();
        let totals = [3, 5, 5, 2, 4, 0].map(|now| counter.total(now));
        assert_eq!(totals, [3, 5, 5, 7, 9, 9]);
    }

    #[test]
    fn each_latency_is_recorded_once() {
        let mut recorded = Recorded::default();
        let mut counts = |all: &[(u64, u64)]| -> Vec<usize> {
            let fresh = recorded.fresh(&latencies(all), MOST);
            fresh.into_iter().map(|(_, n)| n).collect()
        };
        assert_eq!(counts(&[(1, 3), (9, 1)]), [3, 1]);
        assert_eq!(counts(&[(1, 3), (9, 1)]), [0_usize; 0]);
        assert_eq!(counts(&[(1, 5), (3, 1), (9, 1)]), [2, 1]);
    }

    #[test]
    fn of_very_many_latencies_each_bucket_gets_its_share() {
        let mut recorded = Recorded::default();
        let all = latencies(&[(1, 9_000_000_000), (9, 1_000_000_000), (50, 1)]);
        let fresh = recorded.fresh(&all, MOST);
        let counts: Vec<_> = fresh.into_iter().map(|(_, n)| n).collect();
        assert_eq!(counts, [9000, 1000, 1]);
        let again = recorded.fresh(&latencies(&[(1, 9_000_000_000)]), MOST);
        assert!(again.is_empty());
    }
}
