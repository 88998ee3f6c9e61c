//! What the exporters `metrics` and `otel` share: which counts exist, and which of them are new.
//!
//! Owns what was already exported of the circuits that exist; knows no exporter. Invariant: each
//! call and each latency is exported once, and a total of a circuit that exists never decreases.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
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

/// A count of a circuit or a registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) total: u64,
    /// How many of these are new since the last look.
    pub(crate) fresh: u64,
}

/// The counts of one circuit, by result where there are several.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) calls: [(&'static str, Count); 6],
    pub(crate) slow: Count,
    pub(crate) kinds: Vec<(String, Count)>,
    pub(crate) probes: [(&'static str, Count); 4],
    pub(crate) fallbacks: [(&'static str, Count); 4],
    pub(crate) transitions: Vec<(Transition, Count)>,
    /// Latencies that the histogram does not have yet.
    pub(crate) latencies: Vec<(Duration, usize)>,
}

/// What an exporter has already exported of a registry: all counts, which continue although a
/// circuit that was removed counts from 0 again, and the latencies.
#[derive(Debug)]
pub(crate) struct Exported {
    /// The maximum number of latencies for one circuit at a time. Beyond it, each bucket gets its
    /// share.
    most: u64,
    circuits: HashMap<String, Circuit>,
    reports: [u64; 2],
    round_trips: Recorded,
}

#[derive(Debug, Default)]
struct Circuit {
    counters: HashMap<Key, Counter>,
    latencies: Recorded,
}

/// A count of a circuit as it is recorded. Calls are exported without overlaps: failures without
/// timeouts, abandoned calls without those that were failures.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Call(&'static str),
    Failures,
    Abandoned,
    AbandonedFailures,
    Slow,
    Kind(String),
    Probe(&'static str),
    Fallback(&'static str),
    Report(&'static str),
    Transition(Transition),
}

#[derive(Debug, Default)]
struct Counter {
    total: u64,
    /// What the circuit itself counted at the last look.
    seen: u64,
}

impl Counter {
    /// Continues with what the circuit counts now: from 0, if it was removed and is used again.
    fn follow(&mut self, now: u64) -> Count {
        let fresh = now.checked_sub(self.seen).unwrap_or(now);
        self.seen = now;
        self.add(fresh)
    }

    /// Continues with a difference of totals, which may dip: they are not read at one moment.
    fn rise(&mut self, to: u64) -> Count {
        self.add(to.saturating_sub(self.total))
    }

    fn add(&mut self, fresh: u64) -> Count {
        self.total += fresh;
        let total = self.total;
        Count { total, fresh }
    }
}

impl Circuit {
    fn follow(&mut self, key: Key, now: u64) -> Count {
        self.counters.entry(key).or_default().follow(now)
    }

    /// Counts what is in `all` but not in `part`.
    fn without(&mut self, result: &'static str, all: Count, part: Count) -> Count {
        let counter = self.counters.entry(Key::Call(result)).or_default();
        counter.rise(all.total.saturating_sub(part.total))
    }

    fn counted(&mut self, stats: &CircuitStats, most: u64) -> Counted {
        let CircuitStats {
            successes,
            failures,
            ignored,
            rejected,
            timeouts,
            abandoned,
            abandoned_failures,
            slow,
            probes,
            fallbacks,
            transitions,
            failure_kinds,
            latencies,
            // Not counts of calls: gauges, and `reports` below.
            name: _,
            cached: _,
            stale_for: _,
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
        let [success, ignored, rejected, timeout] = [
            ("success", *successes),
            ("ignored", *ignored),
            ("rejected", *rejected),
            ("timeout", *timeouts),
        ]
        .map(|(result, n)| (result, self.follow(Key::Call(result), n)));
        let failures = self.follow(Key::Failures, *failures);
        let abandoned = self.follow(Key::Abandoned, *abandoned);
        let abandoned_failures = self.follow(Key::AbandonedFailures, *abandoned_failures);
        let failure = self.without("failure", failures, timeout.1);
        let undecided = self.without("abandoned", abandoned, abandoned_failures);
        Counted {
            calls: [
                success,
                ("failure", failure),
                ignored,
                rejected,
                timeout,
                ("abandoned", undecided),
            ],
            slow: self.follow(Key::Slow, *slow),
            kinds: failure_kinds
                .iter()
                .map(|(kind, n)| (kind.clone(), self.follow(Key::Kind(kind.clone()), *n)))
                .collect(),
            probes: [
                ("success", won),
                ("failure", lost),
                ("ignored", released),
                ("abandoned", dropped),
            ]
            .map(|(result, n)| (result, self.follow(Key::Probe(result), n))),
            fallbacks: FallbackKind::ALL.map(|kind| {
                let n = fallbacks.of(kind);
                (kind.as_str(), self.follow(Key::Fallback(kind.as_str()), n))
            }),
            transitions: transitions
                .iter()
                .map(|(transition, n)| (*transition, self.follow(Key::Transition(*transition), *n)))
                .collect(),
            latencies: self.latencies.fresh(latencies, most),
        }
    }
}

impl Exported {
    /// Treats the latencies until now as exported, and no counts.
    pub(crate) fn until_now(most: u64, health: &RegistryHealth, stats: &[CircuitStats]) -> Self {
        let mut exported = Self {
            most,
            circuits: HashMap::new(),
            reports: [0; 2],
            round_trips: Recorded::default(),
        };
        for stats in stats {
            let mut circuit = Circuit::default();
            circuit.latencies.fresh(&stats.latencies, most);
            exported.circuits.insert(stats.name.clone(), circuit);
        }
        exported.round_trips(health);
        exported
    }

    pub(crate) fn circuit(&mut self, stats: &CircuitStats) -> Counted {
        let circuit = self.circuits.entry(stats.name.clone()).or_default();
        circuit.counted(stats, self.most)
    }

    /// Reports of all circuits together, including removed ones. Forgets the circuits that are not
    /// among these.
    pub(crate) fn reports(&mut self, stats: &[CircuitStats]) -> [(&'static str, Count); 2] {
        let mut fresh = [0; 2];
        for stats in stats {
            let circuit = self.circuits.entry(stats.name.clone()).or_default();
            let filed = circuit.follow(Key::Report("filed"), stats.reports);
            let failed = circuit.follow(Key::Report("failed"), stats.reports_failed);
            fresh[0] += filed.fresh;
            fresh[1] += failed.fresh;
        }
        if self.circuits.len() > stats.len() {
            let there: HashSet<_> = stats.iter().map(|stats| stats.name.as_str()).collect();
            self.circuits
                .retain(|name, _| there.contains(name.as_str()));
        }
        for (total, fresh) in self.reports.iter_mut().zip(fresh) {
            *total += fresh;
        }
        [0, 1].map(|i| {
            let (total, fresh) = (self.reports[i], fresh[i]);
            (["filed", "failed"][i], Count { total, fresh })
        })
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
    use crate::{Commontrip, Policy};

    const MOST: u64 = 10_000;

    fn latencies(counts: &[(u64, u64)]) -> Latencies {
        let mut latencies = Latencies::default();
        for (ms, n) in counts {
            latencies.record(Duration::from_millis(*ms), *n);
        }
        latencies
    }

    /// An exporter that has seen nothing, and the statistics of a circuit without calls.
    async fn unused() -> (Exported, CircuitStats) {
        let circuits = Commontrip::embedded().unwrap();
        let exported = Exported::until_now(MOST, &circuits.health(), &[]);
        let _payments = circuits.circuit("payments", Policy::default()).unwrap();
        (exported, circuits.stats().remove(0))
    }

    #[test]
    fn a_circuit_that_is_taken_again_goes_on_counting() {
        let mut counter = Counter::default();
        let counts = [3, 5, 5, 2, 4, 0].map(|now| counter.follow(now));
        assert_eq!(counts.map(|n| n.total), [3, 5, 5, 7, 9, 9]);
        assert_eq!(counts.map(|n| n.fresh), [3, 2, 0, 2, 2, 0]);
    }

    #[tokio::test]
    async fn what_is_read_at_several_moments_is_counted_once() {
        let (mut exported, mut stats) = unused().await;
        // A timeout that is not yet among the failures.
        let read = [(10, 2), (10, 3), (11, 3), (1, 1), (2, 1)];
        let counts = read.map(|(failures, timeouts)| {
            (stats.failures, stats.timeouts) = (failures, timeouts);
            let counted = exported.circuit(&stats);
            assert_eq!(
                (counted.calls[1].0, counted.calls[4].0),
                ("failure", "timeout")
            );
            [counted.calls[1].1, counted.calls[4].1].map(|n| n.total)
        });
        assert_eq!(counts, [[8, 2], [8, 3], [8, 3], [8, 4], [9, 4]]);
    }

    #[tokio::test]
    async fn of_removed_circuits_only_reports_are_remembered() {
        let (mut exported, mut stats) = unused().await;
        for i in 0..1000 {
            (stats.name, stats.failures, stats.reports) = (format!("c{i}"), 3, 3);
            assert_eq!(exported.circuit(&stats).calls[1].1.fresh, 3);
            let expected = Count {
                total: 3 * (i + 1),
                fresh: 3,
            };
            let reports = exported.reports(std::slice::from_ref(&stats));
            assert_eq!(reports[0], ("filed", expected));
        }
        assert_eq!(exported.circuits.len(), 1);
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
