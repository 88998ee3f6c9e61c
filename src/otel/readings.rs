//! When statistics are read, and how long a reading is valid.
//!
//! Owns the readings. Invariant: an instrument never gets the same reading twice, so each
//! collection has a new one, which its instruments share.

#[cfg(feature = "health")]
use std::sync::OnceLock;
use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use opentelemetry::{KeyValue, metrics::Histogram};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    CircuitStats,
    breaker::Watch,
    series::{Count, Counted, Exported},
};

/// The maximum number of latencies of one circuit recorded in one collection, because the API takes
/// them one by one. Beyond it, each bucket gets its share.
const MOST_AT_ONCE: u64 = 100_000;

/// How long a reading may be given to further instruments. If readers collect at the same time,
/// some instruments do not get the last reading, and must not get it in the next collection.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// The source of the instruments' readings.
pub(super) struct Source {
    watch: Watch,
    kept: Mutex<Readings>,
    call_duration: Histogram<f64>,
    report_duration: Histogram<f64>,
    #[cfg(feature = "health")]
    pub(super) checks: OnceLock<Arc<crate::health::Board>>,
    #[cfg(feature = "queue")]
    pub(super) queues: Mutex<Vec<crate::queue::Depth>>,
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
    /// The histograms are for the latencies of calls and of reports, from now on.
    pub(super) fn new(
        watch: Watch,
        (call_duration, report_duration): (Histogram<f64>, Histogram<f64>),
    ) -> Self {
        let exported = Exported::until_now(MOST_AT_ONCE, &watch.health(), &watch.stats());
        Self {
            watch,
            kept: Mutex::new(Readings {
                exported,
                last: None,
                given_to: 0,
            }),
            call_duration,
            report_duration,
            #[cfg(feature = "health")]
            checks: OnceLock::new(),
            #[cfg(feature = "queue")]
            queues: Mutex::default(),
        }
    }

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
    use crate::Commontrip;

    #[tokio::test(start_paused = true)]
    async fn no_instrument_is_given_a_reading_twice_or_an_old_one() {
        let circuits = Commontrip::embedded().unwrap();
        let meter = opentelemetry::global::meter("readings");
        let histogram = |name| meter.f64_histogram(name).build();
        let histograms = (histogram("calls"), histogram("reports"));
        let source = Arc::new(Source::new(circuits.watch(), histograms));
        let weak = Arc::downgrade(&source);
        let read = |instrument| Source::reading(&weak, instrument).unwrap();
        let first = read(0);
        assert!(Arc::ptr_eq(&first, &read(1)));
        // Another reader collects at the same time.
        let second = read(1);
        assert!(!Arc::ptr_eq(&first, &second));
        tokio::time::advance(GOOD_FOR).await;
        assert!(!Arc::ptr_eq(&second, &read(0)));
    }
}
