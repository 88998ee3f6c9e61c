//! The export of a registry's statistics, from its start to its end.

use std::{fmt, sync::Arc};

use opentelemetry::{InstrumentationScope, metrics::Meter};

use super::{
    instruments::{call_duration, register, report_duration},
    readings::Source,
};
use crate::Commontrip;

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
        not(any(feature = "health", feature = "queue")),
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
        let histograms = (call_duration(meter), report_duration(meter));
        let source = Arc::new(Source::new(circuits.watch(), histograms));
        register(meter, &source);
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
