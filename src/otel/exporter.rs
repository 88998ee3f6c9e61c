//! When statistics are read, and how long a reading is valid.
//!
//! Owns the readings. Invariant: an instrument never gets the same reading twice, so each
//! collection has a new one, which its instruments share.

#[cfg(feature = "health")]
use std::sync::OnceLock;
use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use opentelemetry::{
    InstrumentationScope, KeyValue,
    metrics::{Histogram, Meter},
};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::instruments;
use crate::{
    CircuitStats, Commontrip,
    breaker::Watch,
    series::{Count, Counted, Exported},
};

/// The maximum number of latencies of one circuit recorded in one collection, because the API takes
/// them one by one. Beyond it, each bucket gets its share.
const MOST_AT_ONCE: u64 = 100_000;

/// How long a reading may be given to further instruments. If readers collect at the same time,
/// some instruments do not get the last reading, and must not get it in the next collection.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// Exports the statistics of a registry to OpenTelemetry's meters.
///
/// Ends when it is dropped. It does not keep the registry alive: after
/// [`shutdown`](Commontrip::shutdown) the last values remain while a handle of the registry or of a
/// circuit exists, so shut the meter provider down after the registry and before the last handle is
/// dropped. One registry needs one exporter; circuits of the same name in two registries of a
/// process would be the same series.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use commontrip::{Commontrip, Policy, otel::{Exporter, opentelemetry}};
/// use opentelemetry_sdk::metrics::{InMemoryMetricExporter, SdkMeterProvider};
///
/// let memory = InMemoryMetricExporter::default(); // or one of opentelemetry-otlp
/// let provider = SdkMeterProvider::builder().with_periodic_exporter(memory.clone()).build();
/// opentelemetry::global::set_meter_provider(provider.clone());
///
/// let circuits = Commontrip::embedded()?;
/// let _exporter = Exporter::start(&circuits);
/// let payments = circuits.circuit("payments", Policy::default())?;
/// payments.call(|| async { Ok::<_, std::io::Error>(()) }).await?;
///
/// circuits.shutdown().await;
/// provider.shutdown()?;
/// let exported = memory.get_finished_metrics()?;
/// let mut metrics = exported[0].scope_metrics().flat_map(|scope| scope.metrics());
/// assert!(metrics.any(|metric| metric.name() == "circuit_breaker.calls"));
/// # Ok(()) }
/// ```
#[must_use = "dropping it ends the export"]
pub struct Exporter {
    /// The instruments have weak references to it.
    #[cfg_attr(
        not(any(feature = "health", feature = "queue", test)),
        expect(dead_code, reason = "held, not read")
    )]
    source: Arc<Source>,
}

impl Exporter {
    /// Exports through the global meter provider, which must already be set.
    ///
    /// Latencies recorded before are left out; counters include everything.
    pub fn start(circuits: &Commontrip) -> Self {
        let scope = InstrumentationScope::builder(env!("CARGO_PKG_NAME"))
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        Self::start_on(&opentelemetry::global::meter_with_scope(scope), circuits)
    }

    /// Exports through this meter; otherwise as [`start`](Self::start).
    pub fn start_on(meter: &Meter, circuits: &Commontrip) -> Self {
        let watch = circuits.watch();
        let exported = Exported::until_now(MOST_AT_ONCE, &watch.health(), &watch.stats());
        let source = Arc::new(Source {
            watch,
            kept: Mutex::new(Readings {
                exported,
                last: None,
                given_to: 0,
            }),
            call_duration: instruments::call_duration(meter),
            report_duration: instruments::report_duration(meter),
            #[cfg(feature = "health")]
            checks: OnceLock::new(),
            #[cfg(feature = "queue")]
            queues: Mutex::default(),
        });
        instruments::register(meter, &source);
        Self { source }
    }

    /// Also exports the checks of a monitor, as this replica sees them; only of the first one
    /// given.
    #[cfg(feature = "health")]
    pub fn with_checks(self, monitor: &crate::health::HealthMonitor) -> Self {
        let _ = self.source.checks.set(monitor.board());
        self
    }

    /// Also exports how many jobs a queue has, and how long they wait; call it once for each queue.
    /// Redis is asked every 5 s.
    #[cfg(feature = "queue")]
    pub fn with_queue<T: Send + Sync + 'static>(self, queue: &crate::queue::Queue<T>) -> Self {
        self.source.queues.lock().push(queue.depth());
        self
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exporter")
    }
}

/// The source of the instruments' readings.
pub(super) struct Source {
    watch: Watch,
    kept: Mutex<Readings>,
    call_duration: Histogram<f64>,
    report_duration: Histogram<f64>,
    #[cfg(feature = "health")]
    checks: OnceLock<Arc<crate::health::Board>>,
    #[cfg(feature = "queue")]
    queues: Mutex<Vec<crate::queue::Depth>>,
}

struct Readings {
    exported: Exported,
    last: Option<(Instant, Arc<Reading>)>,
    /// A bit for each instrument that has the last reading.
    given_to: u32,
}

/// The statistics at one moment.
pub(super) struct Reading {
    pub(super) circuits: Vec<Circuit>,
    pub(super) reports: [(&'static str, Count); 2],
    pub(super) store_away_for: Option<Duration>,
    #[cfg(feature = "health")]
    pub(super) checks: Vec<crate::health::CheckReport>,
    #[cfg(feature = "queue")]
    pub(super) queues: Vec<(String, crate::queue::QueueStats)>,
}

/// One circuit of a reading.
pub(super) struct Circuit {
    pub(super) name: Arc<str>,
    pub(super) stats: CircuitStats,
    pub(super) counted: Counted,
}

impl Circuit {
    /// The attribute that all series of the circuit share.
    pub(super) fn named(&self) -> KeyValue {
        KeyValue::new("circuit_breaker.name", Arc::clone(&self.name))
    }
}

impl Source {
    /// Returns a reading that this instrument has not had: the last one if another instrument of
    /// the same collection has just had it, otherwise a new one.
    pub(super) fn reading(source: &Weak<Self>, instrument: u32) -> Option<Arc<Reading>> {
        let source = source.upgrade()?;
        let mut kept = source.kept.lock();
        let bit = 1 << instrument;
        let good = |(at, _): &&(Instant, Arc<Reading>)| at.elapsed() < GOOD_FOR;
        if kept.given_to & bit == 0
            && let Some((_, reading)) = kept.last.as_ref().filter(good)
        {
            let reading = Arc::clone(reading);
            kept.given_to |= bit;
            return Some(reading);
        }
        let (reading, round_trips) = source.read(&mut kept);
        let reading = Arc::new(reading);
        kept.last = Some((Instant::now(), Arc::clone(&reading)));
        kept.given_to = bit;
        drop(kept);
        source.record(&reading, round_trips);
        Some(reading)
    }

    /// Returns a new reading, and the latencies of reports that no histogram has yet.
    fn read(&self, kept: &mut Readings) -> (Reading, Vec<(Duration, usize)>) {
        let (health, stats) = (self.watch.health(), self.watch.stats());
        let round_trips = kept.exported.round_trips(&health);
        let reports = kept.exported.reports(&stats);
        let circuit = |stats: CircuitStats| Circuit {
            name: stats.name.as_str().into(),
            counted: kept.exported.circuit(&stats),
            stats,
        };
        let reading = Reading {
            circuits: stats.into_iter().map(circuit).collect(),
            reports,
            store_away_for: health.unavailable_for,
            #[cfg(feature = "health")]
            checks: self
                .checks
                .get()
                .map(|board| board.reports())
                .unwrap_or_default(),
            #[cfg(feature = "queue")]
            queues: {
                let queues = self.queues.lock();
                let read = queues.iter().map(|q| Some((q.name.clone(), q.stats()?)));
                read.flatten().collect()
            },
        };
        (reading, round_trips)
    }

    /// Histograms have no callbacks, so this records their values during the callbacks of a
    /// collection. They are part of it, because an SDK runs all callbacks before it collects any
    /// instrument.
    fn record(&self, reading: &Reading, round_trips: Vec<(Duration, usize)>) {
        for circuit in &reading.circuits {
            let attributes = [circuit.named()];
            for (latency, n) in &circuit.counted.latencies {
                for _ in 0..*n {
                    self.call_duration
                        .record(latency.as_secs_f64(), &attributes);
                }
            }
        }
        for (latency, n) in round_trips {
            for _ in 0..n {
                self.report_duration.record(latency.as_secs_f64(), &[]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_instrument_is_given_a_reading_twice_or_an_old_one() {
        let circuits = Commontrip::embedded().unwrap();
        let exporter = Exporter::start(&circuits);
        let source = Arc::downgrade(&exporter.source);
        let read = |instrument| Source::reading(&source, instrument).unwrap();
        let first = read(0);
        assert!(Arc::ptr_eq(&first, &read(1)));
        // Another reader collects at the same time.
        let second = read(1);
        assert!(!Arc::ptr_eq(&first, &second));
        tokio::time::advance(GOOD_FOR).await;
        assert!(!Arc::ptr_eq(&second, &read(0)));
    }
}
