//! The instruments, and what each observes of a reading.

use std::sync::{Arc, Weak};

use opentelemetry::{
    KeyValue,
    metrics::{AsyncInstrument, Histogram, Meter},
};

use super::readings::{Reading, Source};
use crate::{State, series::BUCKETS};

const RESULT: &str = "circuit_breaker.result";

const STATES: [State; 6] = [
    State::Closed,
    State::Open,
    State::HalfOpen,
    State::ForcedOpen,
    State::Disabled,
    State::MetricsOnly,
];

pub(super) fn call_duration(meter: &Meter) -> Histogram<f64> {
    meter
        .f64_histogram("circuit_breaker.call.duration")
        .with_unit("s")
        .with_description("How long recorded calls of this process took")
        .with_boundaries(BUCKETS.into())
        .build()
}

pub(super) fn report_duration(meter: &Meter) -> Histogram<f64> {
    meter
        .f64_histogram("circuit_breaker.report.duration")
        .with_unit("s")
        .with_description("How long the store took to answer reports")
        .with_boundaries(BUCKETS.into())
        .build()
}

/// Registers the observable instruments. They live as long as the meter's provider, and observe
/// nothing once the source is gone.
pub(super) fn register(meter: &Meter, source: &Arc<Source>) {
    let mut instruments = Instruments {
        meter,
        source: Arc::downgrade(source),
        made: 0,
    };
    instruments.of_circuits();
    instruments.counters();
    instruments.of_the_store();
    #[cfg(feature = "health")]
    instruments.of_checks();
    #[cfg(feature = "queue")]
    instruments.of_queues();
}

struct Instruments<'a> {
    meter: &'a Meter,
    source: Weak<Source>,
    made: u32,
}

/// Observes a value with attributes.
type Says<'a, M> = &'a dyn AsyncInstrument<M>;

impl Instruments<'_> {
    /// The callback of an instrument.
    fn asked<M: 'static>(
        &mut self,
        say: impl Fn(&Reading, Says<'_, M>) + Send + Sync + 'static,
    ) -> impl Fn(Says<'_, M>) + Send + Sync + 'static {
        let (source, instrument) = (self.source.clone(), self.made);
        self.made += 1;
        move |instruments| {
            if let Some(reading) = Source::reading(&source, instrument) {
                say(&reading, instruments);
            }
        }
    }

    fn of_circuits(&mut self) {
        let asked = self.asked(|reading, status: Says<'_, i64>| {
            for circuit in &reading.circuits {
                for state in STATES {
                    let is = i64::from(circuit.stats.cached.state == state);
                    let state = KeyValue::new("circuit_breaker.state", state.as_str());
                    status.observe(is, &[circuit.named(), state]);
                }
            }
        });
        self.meter
            .i64_observable_up_down_counter("circuit_breaker.status")
            .with_unit("1")
            .with_description("1 for the state that this replica decides by, 0 for the others")
            .with_callback(asked)
            .build();
        self.gauge(
            "circuit_breaker.generation",
            "{transition}",
            "Grows by one at each transition of the circuit",
            |reading, gauge| {
                for circuit in &reading.circuits {
                    gauge.observe(circuit.stats.cached.generation as f64, &[circuit.named()]);
                }
            },
        );
        self.gauge(
            "circuit_breaker.failure_rate",
            "1",
            "Failures among the recorded calls of the fleet's window, 0 to 1",
            |reading, gauge| {
                for circuit in &reading.circuits {
                    let rate = circuit.stats.failure_share().unwrap_or(0.0);
                    gauge.observe(rate, &[circuit.named()]);
                }
            },
        );
        self.gauge(
            "circuit_breaker.window.calls",
            "{call}",
            "Recorded calls in the fleet's window",
            |reading, gauge| {
                for circuit in &reading.circuits {
                    gauge.observe(circuit.stats.window_calls() as f64, &[circuit.named()]);
                }
            },
        );
        self.gauge(
            "circuit_breaker.open_for",
            "s",
            "Since the circuit opened, failed probes included; 0 where it is neither open nor half-open",
            |reading, gauge| {
                for circuit in &reading.circuits {
                    let time = circuit.stats.open_for().unwrap_or_default();
                    gauge.observe(time.as_secs_f64(), &[circuit.named()]);
                }
            },
        );
        let asked = self.asked(|reading, counter: Says<'_, f64>| {
            for circuit in &reading.circuits {
                let time = circuit.stats.open_total();
                counter.observe(time.as_secs_f64(), &[circuit.named()]);
            }
        });
        self.meter
            .f64_observable_counter("circuit_breaker.open_time")
            .with_unit("s")
            .with_description("How long the fleet's circuit was open in its life")
            .with_callback(asked)
            .build();
        self.gauge(
            "circuit_breaker.staleness",
            "s",
            "Since the store last confirmed the circuit",
            |reading, gauge| {
                for circuit in &reading.circuits {
                    if let Some(age) = circuit.stats.stale_for {
                        gauge.observe(age.as_secs_f64(), &[circuit.named()]);
                    }
                }
            },
        );
    }

    fn counters(&mut self) {
        self.counter(
            "circuit_breaker.calls",
            "{call}",
            "Calls of this process, by result",
            |reading, counter| {
                for circuit in &reading.circuits {
                    for (result, n) in circuit.counted.calls {
                        counter.observe(n.total, &[circuit.named(), KeyValue::new(RESULT, result)]);
                    }
                }
            },
        );
        self.counter(
            "circuit_breaker.slow_calls",
            "{call}",
            "Recorded calls of this process that were slow",
            |reading, counter| {
                for circuit in &reading.circuits {
                    counter.observe(circuit.counted.slow.total, &[circuit.named()]);
                }
            },
        );
        self.counter(
            "circuit_breaker.failures",
            "{failure}",
            "Failures of this process that have a kind, by kind",
            |reading, counter| {
                for circuit in &reading.circuits {
                    for (kind, n) in &circuit.counted.kinds {
                        let of_kind = KeyValue::new("error.type", kind.clone());
                        counter.observe(n.total, &[circuit.named(), of_kind]);
                    }
                }
            },
        );
        self.counter(
            "circuit_breaker.probes",
            "{probe}",
            "Probes of half-open circuits that this process made, by result",
            |reading, counter| {
                for circuit in &reading.circuits {
                    for (result, n) in circuit.counted.probes {
                        counter.observe(n.total, &[circuit.named(), KeyValue::new(RESULT, result)]);
                    }
                }
            },
        );
        self.counter(
            "circuit_breaker.fallbacks",
            "{call}",
            "Calls of this process that fallbacks have answered, by kind",
            |reading, counter| {
                for circuit in &reading.circuits {
                    for (kind, n) in circuit.counted.fallbacks {
                        let kind = KeyValue::new("circuit_breaker.fallback.kind", kind);
                        counter.observe(n.total, &[circuit.named(), kind]);
                    }
                }
            },
        );
        self.counter(
            "circuit_breaker.transitions",
            "{transition}",
            "Transitions as this process saw them",
            |reading, counter| {
                for circuit in &reading.circuits {
                    for (transition, n) in &circuit.counted.transitions {
                        let with = |what, word: &'static str| KeyValue::new(what, word);
                        let attributes = [
                            circuit.named(),
                            with("circuit_breaker.transition.from", transition.from.as_str()),
                            with("circuit_breaker.transition.to", transition.to.as_str()),
                            with(
                                "circuit_breaker.transition.reason",
                                transition.reason.as_str(),
                            ),
                            KeyValue::new("circuit_breaker.transition.local", transition.local),
                        ];
                        counter.observe(n.total, &attributes);
                    }
                }
            },
        );
        self.counter(
            "circuit_breaker.reports",
            "{report}",
            "Reports of this process to the store",
            |reading, counter| {
                for (result, n) in reading.reports {
                    let result = KeyValue::new("circuit_breaker.report.result", result);
                    counter.observe(n.total, &[result]);
                }
            },
        );
    }

    fn of_the_store(&mut self) {
        self.gauge(
            "circuit_breaker.store.up",
            "{store}",
            "Whether the store answers for every circuit of this process",
            |reading, gauge| gauge.observe(f64::from(reading.store_away_for.is_none()), &[]),
        );
        self.gauge(
            "circuit_breaker.store.unavailable_time",
            "s",
            "How long the store has been unavailable",
            |reading, gauge| {
                let time = reading.store_away_for.unwrap_or_default();
                gauge.observe(time.as_secs_f64(), &[]);
            },
        );
    }

    #[cfg(feature = "health")]
    fn of_checks(&mut self) {
        use crate::health::{CheckReport, CheckStatus};

        const STATUSES: [CheckStatus; 4] = [
            CheckStatus::Unknown,
            CheckStatus::Healthy,
            CheckStatus::Warning,
            CheckStatus::Critical,
        ];
        let named = |check: &CheckReport| KeyValue::new("health_check.name", check.name.clone());
        let asked = self.asked(move |reading, status: Says<'_, i64>| {
            for check in &reading.checks {
                for one in STATUSES {
                    let state = KeyValue::new("health_check.state", one.as_str());
                    status.observe(i64::from(check.status == one), &[named(check), state]);
                }
            }
        });
        self.meter
            .i64_observable_up_down_counter("health_check.status")
            .with_unit("1")
            .with_description("1 for the state of the check, 0 for the others")
            .with_callback(asked)
            .build();
        // Only checks that have run.
        let mut of_runs = |name, unit, says, value: fn(&CheckReport, u64, f64) -> f64| {
            self.gauge(name, unit, says, move |reading, gauge| {
                for check in &reading.checks {
                    if let (Some(latency_us), Some(uptime)) = (check.latency_us, check.uptime) {
                        gauge.observe(value(check, latency_us, uptime), &[named(check)]);
                    }
                }
            });
        };
        of_runs(
            "health_check.up",
            "{check}",
            "Whether the last run passed",
            |check, _, _| f64::from(check.consecutive_failures == 0),
        );
        of_runs(
            "health_check.duration",
            "s",
            "How long the last run took",
            |_, latency_us, _| latency_us as f64 / 1e6,
        );
        of_runs(
            "health_check.uptime",
            "1",
            "Runs among the remembered ones that passed, 0 to 1",
            |_, _, uptime| uptime / 100.0,
        );
    }

    #[cfg(feature = "queue")]
    fn of_queues(&mut self) {
        use crate::queue::JobState;

        let named = |name: &str| KeyValue::new("queue.name", name.to_owned());
        let asked = self.asked(move |reading, jobs: Says<'_, i64>| {
            for (name, stats) in &reading.queues {
                for one in JobState::ALL {
                    let state = KeyValue::new("queue.job.state", one.as_str());
                    let n = i64::try_from(stats.in_state(one)).unwrap_or(i64::MAX);
                    jobs.observe(n, &[named(name), state]);
                }
            }
        });
        self.meter
            .i64_observable_up_down_counter("queue.jobs")
            .with_unit("{job}")
            .with_description("Jobs of the fleet's queue, by state")
            .with_callback(asked)
            .build();
        self.gauge(
            "queue.oldest.duration",
            "s",
            "How long the oldest due job has waited for a worker",
            move |reading, gauge| {
                for (name, stats) in &reading.queues {
                    let waits = stats.oldest_waits().unwrap_or_default();
                    gauge.observe(waits.as_secs_f64(), &[named(name)]);
                }
            },
        );
    }

    fn gauge(
        &mut self,
        name: &'static str,
        unit: &'static str,
        says: &'static str,
        say: impl Fn(&Reading, Says<'_, f64>) + Send + Sync + 'static,
    ) {
        let asked = self.asked(say);
        self.meter
            .f64_observable_gauge(name)
            .with_unit(unit)
            .with_description(says)
            .with_callback(asked)
            .build();
    }

    fn counter(
        &mut self,
        name: &'static str,
        unit: &'static str,
        says: &'static str,
        say: impl Fn(&Reading, Says<'_, u64>) + Send + Sync + 'static,
    ) {
        let asked = self.asked(say);
        self.meter
            .u64_observable_counter(name)
            .with_unit(unit)
            .with_description(says)
            .with_callback(asked)
            .build();
    }
}
