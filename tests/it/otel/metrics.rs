use std::{collections::BTreeMap, fs, path::Path};

use commontrip::{
    CircuitBreaker, Clock, Commontrip, FallbackKind, Outcome, Override, PolicyBuilder, State,
    metrics::BUCKETS,
    otel::{
        Exporter,
        opentelemetry::{KeyValue, metrics::MeterProvider},
    },
};
use opentelemetry_sdk::metrics::{
    InMemoryMetricExporter, SdkMeterProvider,
    data::{AggregatedMetrics, Metric, MetricData},
};

use super::{ms, told};
use crate::{
    support::{OwnServer, unique},
    wait::until,
};

/// The values of a metric's series, by their attributes: `name=value`, sorted by name.
type Series = BTreeMap<String, f64>;

struct Provider {
    sdk: SdkMeterProvider,
    memory: InMemoryMetricExporter,
}

/// A metric and its series.
#[derive(Debug, Default, PartialEq)]
struct Found {
    kind: &'static str,
    unit: String,
    described: bool,
    series: Series,
}

impl Provider {
    fn new() -> Provider {
        let memory = InMemoryMetricExporter::default();
        let sdk = SdkMeterProvider::builder()
            .with_periodic_exporter(memory.clone())
            .build();
        Provider { sdk, memory }
    }

    fn export(&self, circuits: &Commontrip) -> Exporter {
        Exporter::start_on(&self.sdk.meter("test"), circuits)
    }

    /// Everything at present.
    fn all(&self) -> BTreeMap<String, Found> {
        self.memory.reset();
        self.sdk.force_flush().unwrap();
        self.finished()
    }

    fn finished(&self) -> BTreeMap<String, Found> {
        let exported = self.memory.get_finished_metrics().unwrap();
        let scopes = exported.iter().flat_map(|all| all.scope_metrics());
        let metrics = scopes.flat_map(|scope| scope.metrics());
        metrics.map(|m| (m.name().to_owned(), found(m))).collect()
    }

    fn get(&self, name: &str) -> Found {
        self.all().remove(name).unwrap_or_default()
    }
}

fn found(metric: &Metric) -> Found {
    let (kind, series) = match metric.data() {
        AggregatedMetrics::U64(data) => points(data, |n| n as f64),
        AggregatedMetrics::I64(data) => points(data, |n| n as f64),
        AggregatedMetrics::F64(data) => points(data, |n| n),
    };
    Found {
        kind,
        unit: metric.unit().to_owned(),
        described: !metric.description().is_empty(),
        series,
    }
}

fn points<T: Copy>(data: &MetricData<T>, value: fn(T) -> f64) -> (&'static str, Series) {
    match data {
        MetricData::Gauge(gauge) => {
            let points = gauge.data_points();
            let points = points.map(|p| (attributes(p.attributes()), value(p.value())));
            ("gauge", points.collect())
        }
        MetricData::Sum(sum) => {
            let points = sum.data_points();
            let points = points.map(|p| (attributes(p.attributes()), value(p.value())));
            let kind = if sum.is_monotonic() {
                "counter"
            } else {
                "up-down counter"
            };
            (kind, points.collect())
        }
        MetricData::Histogram(histogram) => {
            let points = histogram.data_points().map(|p| {
                assert_eq!(p.bounds().collect::<Vec<_>>(), BUCKETS);
                (attributes(p.attributes()), p.count() as f64)
            });
            ("histogram", points.collect())
        }
        MetricData::ExponentialHistogram(_) => unreachable!("nobody asked for one"),
    }
}

fn attributes<'a>(attributes: impl Iterator<Item = &'a KeyValue>) -> String {
    let mut all: Vec<_> = attributes
        .map(|a| format!("{}={}", a.key, a.value))
        .collect();
    all.sort();
    all.join(" ")
}

fn embedded(policy: &PolicyBuilder) -> (Commontrip, CircuitBreaker) {
    let circuits = Commontrip::embedded().unwrap();
    let policy = policy.clone().build().unwrap();
    let breaker = circuits.circuit("payments", policy).unwrap();
    (circuits, breaker)
}

async fn record(breaker: &CircuitBreaker, outcome: Outcome, times: u64) {
    for _ in 0..times {
        breaker.acquire().await.unwrap().record(outcome.clone());
    }
}

#[tokio::test]
async fn each_call_is_counted_under_its_result() {
    let provider = Provider::new();
    let (circuits, breaker) = embedded(&told().call_timeout(ms(20)));
    let _exporter = provider.export(&circuits);
    record(&breaker, Outcome::Success, 4).await;
    record(&breaker, Outcome::failure(), 3).await;
    record(&breaker, Outcome::Ignored, 2).await;
    drop(breaker.acquire().await.unwrap());
    let hangs = breaker.call(std::future::pending::<Result<(), ()>>).await;
    assert!(hangs.is_err());
    breaker.force_open(Override::because("test")).await.unwrap();
    for _ in 0..5 {
        assert!(breaker.acquire().await.is_err());
    }

    let calls = provider.get("circuit_breaker.calls");
    assert_eq!((calls.kind, calls.unit.as_str()), ("counter", "{call}"));
    let expected = [
        ("abandoned", 1.0),
        ("failure", 3.0),
        ("ignored", 2.0),
        ("rejected", 5.0),
        ("success", 4.0),
        ("timeout", 1.0),
    ];
    let named = |(result, n): (&str, f64)| {
        let attributes = format!("circuit_breaker.name=payments circuit_breaker.result={result}");
        (attributes, n)
    };
    assert_eq!(calls.series, expected.map(named).into());
}

#[tokio::test]
async fn the_status_is_1_for_one_state_and_transitions_say_from_where() {
    let provider = Provider::new();
    let (circuits, breaker) = embedded(&told());
    let _exporter = provider.export(&circuits);
    let now = |all: &BTreeMap<String, Found>| {
        let series = &all["circuit_breaker.status"].series;
        assert_eq!(series.len(), 6, "{series:?}");
        assert!(series.values().all(|is| [0.0, 1.0].contains(is)));
        let mut is = series.iter().filter(|(_, is)| **is == 1.0);
        let (attributes, _) = is.next().unwrap();
        assert!(is.next().is_none(), "{series:?}");
        attributes.clone()
    };
    let state = |state| format!("circuit_breaker.name=payments circuit_breaker.state={state}");
    assert_eq!(now(&provider.all()), state("closed"));
    breaker.force_open(Override::because("test")).await.unwrap();
    let all = provider.all();
    assert_eq!(now(&all), state("forced_open"));
    assert_eq!(all["circuit_breaker.status"].kind, "up-down counter");
    assert_eq!(all["circuit_breaker.generation"].kind, "gauge");
    let name = "circuit_breaker.name=payments";
    let generation = breaker.cached().generation as f64;
    assert_eq!(all["circuit_breaker.generation"].series[name], generation);
    let transitions = Series::from([(
        "circuit_breaker.name=payments circuit_breaker.transition.from=closed \
         circuit_breaker.transition.local=false circuit_breaker.transition.reason=override \
         circuit_breaker.transition.to=forced_open"
            .to_owned(),
        1.0,
    )]);
    assert_eq!(all["circuit_breaker.transitions"].series, transitions);
}

#[tokio::test]
async fn probes_and_the_window_are_the_circuits_own() {
    let provider = Provider::new();
    let clock = Clock::manual();
    let circuits = Commontrip::builder().clock(clock.clone()).build().unwrap();
    let breaker = circuits.circuit("payments", told().build().unwrap());
    let breaker = breaker.unwrap();
    let _exporter = provider.export(&circuits);
    record(&breaker, Outcome::Success, 3).await;
    record(&breaker, Outcome::failure(), 1).await;
    circuits.flush().await;
    let all = provider.all();
    let name = "circuit_breaker.name=payments";
    assert_eq!(all["circuit_breaker.window.calls"].series[name], 4.0);
    assert_eq!(all["circuit_breaker.failure_rate"].series[name], 0.25);
    assert_eq!(all["circuit_breaker.failure_rate"].unit, "1");

    record(&breaker, Outcome::trip(), 1).await;
    circuits.flush().await;
    clock.advance(ms(31_000));
    assert_eq!(provider.get("circuit_breaker.open_for").series[name], 31.0);
    let probe = breaker.acquire().await.unwrap();
    assert!(probe.is_probe());
    probe.success();
    circuits.flush().await;
    assert_eq!(breaker.state(), State::Closed);
    let probes = provider.get("circuit_breaker.probes").series;
    assert_eq!(
        probes[&format!("{name} circuit_breaker.result=success")],
        1.0
    );
    assert_eq!(
        probes[&format!("{name} circuit_breaker.result=failure")],
        0.0
    );
    let all = provider.all();
    assert_eq!(all["circuit_breaker.open_for"].series[name], 0.0);
    let time = &all["circuit_breaker.open_time"];
    assert_eq!((time.kind, time.series[name]), ("counter", 31.0));
    breaker.count_fallback(FallbackKind::LastGood);
    let fallbacks = provider.get("circuit_breaker.fallbacks").series;
    let of = |kind| fallbacks[&format!("circuit_breaker.fallback.kind={kind} {name}")];
    assert_eq!((of("last_good"), of("stage")), (1.0, 0.0));
}

#[tokio::test]
async fn each_latency_is_in_the_histogram_once() {
    let provider = Provider::new();
    let (circuits, breaker) = embedded(&told().slow_calls(ms(10), 100));
    record(&breaker, Outcome::Success, 50).await;
    // Calls from before are left out.
    let _exporter = provider.export(&circuits);
    record(&breaker, Outcome::Success, 30).await;
    let permit = breaker.acquire().await.unwrap();
    tokio::time::sleep(ms(15)).await;
    permit.success();
    let name = "circuit_breaker.name=payments";
    for calls in [31.0, 31.0] {
        let all = provider.all();
        let duration = &all["circuit_breaker.call.duration"];
        assert_eq!((duration.kind, duration.unit.as_str()), ("histogram", "s"));
        assert_eq!(duration.series[name], calls);
        assert!(all["circuit_breaker.slow_calls"].series[name] >= 1.0);
    }
}

#[tokio::test]
async fn every_reader_has_what_is_true_when_it_collects() {
    let memories = [(); 2].map(|()| InMemoryMetricExporter::default());
    let mut builder = SdkMeterProvider::builder();
    for memory in &memories {
        builder = builder.with_periodic_exporter(memory.clone());
    }
    let sdk = builder.build();
    let (circuits, breaker) = embedded(&told());
    let _exporter = Exporter::start_on(&sdk.meter("test"), &circuits);
    for n in 1..=3 {
        record(&breaker, Outcome::Success, 1).await;
        sdk.force_flush().unwrap();
        for memory in &memories {
            let (sdk, memory) = (sdk.clone(), memory.clone());
            let provider = Provider { sdk, memory };
            let mut all = provider.finished();
            let calls = all.remove("circuit_breaker.calls").unwrap().series;
            let success = "circuit_breaker.name=payments circuit_breaker.result=success";
            assert_eq!(calls[success], f64::from(n));
            let duration = all.remove("circuit_breaker.call.duration").unwrap();
            assert!(duration.series.values().all(|calls| *calls <= f64::from(n)));
            provider.memory.reset();
        }
    }
}

#[tokio::test]
async fn the_last_counts_are_there_after_the_shutdown_and_nothing_once_it_is_dropped() {
    let provider = Provider::new();
    let (circuits, breaker) = embedded(&told());
    let exporter = provider.export(&circuits);
    record(&breaker, Outcome::Success, 7).await;
    circuits.shutdown().await;
    let success = "circuit_breaker.name=payments circuit_breaker.result=success";
    assert_eq!(provider.get("circuit_breaker.calls").series[success], 7.0);
    drop(exporter);
    let all = provider.all();
    let asked = all.values().filter(|found| found.kind != "histogram");
    assert!(asked.clone().all(|f| f.series.is_empty()), "{all:?}");
}

#[tokio::test]
async fn an_exporter_does_not_keep_the_registry_alive() {
    let provider = Provider::new();
    let (circuits, breaker) = embedded(&told());
    let _exporter = provider.export(&circuits);
    let (seen, mut looks) = tokio::sync::mpsc::unbounded_channel();
    let observer = circuits.observe(ms(1), move |_, _| {
        let _ = seen.send(());
    });
    drop((circuits, breaker));
    // The observer's task ends with the registry.
    let ended = async { while looks.recv().await.is_some() {} };
    tokio::time::timeout(ms(30_000), ended).await.unwrap();
    drop(observer);
}

#[tokio::test]
async fn an_outage_of_the_store_is_seen() {
    let redis = OwnServer::start();
    let provider = Provider::new();
    let circuits = Commontrip::builder().redis(&redis.url());
    let circuits = circuits.store_timeout(ms(5000)).build().unwrap();
    let policy = told().report_interval(ms(10)).decision_ttl(ms(20)).build();
    let breaker = circuits.circuit(&unique("otel"), policy.unwrap()).unwrap();
    let _exporter = provider.export(&circuits);
    record(&breaker, Outcome::Success, 1).await;
    circuits.flush().await;
    let all = provider.all();
    assert_eq!(all["circuit_breaker.store.up"].series[""], 1.0);
    assert_eq!(
        all["circuit_breaker.store.unavailable_time"].series[""],
        0.0
    );
    let reports = &all["circuit_breaker.reports"];
    assert!(reports.series["circuit_breaker.report.result=filed"] >= 1.0);
    assert!(all["circuit_breaker.report.duration"].series[""] >= 1.0);
    let name = format!("circuit_breaker.name={}", breaker.name());
    assert!(all["circuit_breaker.staleness"].series[&name] >= 0.0);
    redis.kill();
    until("the store is down", async || {
        record(&breaker, Outcome::Success, 1).await;
        provider.get("circuit_breaker.store.up").series[""] == 0.0
    })
    .await;
    let time = provider.get("circuit_breaker.store.unavailable_time");
    assert!(time.series[""] > 0.0, "{time:?}");
}

#[cfg(feature = "health")]
#[tokio::test]
async fn checks_are_exported_once_a_monitor_is_given() {
    use commontrip::health::{Check, HealthMonitor};

    let provider = Provider::new();
    let (circuits, _breaker) = embedded(&told());
    let check = Check::new("disk", async || Ok::<_, std::io::Error>(())).interval(ms(20));
    let monitor = HealthMonitor::builder(&circuits).check(check).start();
    let monitor = monitor.unwrap();
    let _exporter = provider.export(&circuits).with_checks(&monitor);
    let healthy = "health_check.name=disk health_check.state=healthy";
    until("it is healthy", async || {
        provider.get("health_check.status").series[healthy] == 1.0
    })
    .await;
    let all = provider.all();
    let name = "health_check.name=disk";
    let critical = "health_check.name=disk health_check.state=critical";
    assert_eq!(all["health_check.status"].series[critical], 0.0);
    assert_eq!(all["health_check.up"].series[name], 1.0);
    assert_eq!(all["health_check.uptime"].series[name], 1.0);
    assert!(all["health_check.duration"].series[name] < 30.0);
}

/// Names follow the conventions: namespaces in lower case with dots, and no `total`.
#[tokio::test]
async fn every_metric_is_named_by_the_conventions_and_documented() {
    let provider = Provider::new();
    let (circuits, breaker) = embedded(&told());
    let exporter = provider.export(&circuits);
    #[cfg(feature = "health")]
    let monitor = {
        use commontrip::health::{Check, HealthMonitor};
        let check = Check::new("disk", async || Ok::<_, std::io::Error>(())).interval(ms(20));
        HealthMonitor::builder(&circuits)
            .check(check)
            .start()
            .unwrap()
    };
    #[cfg(feature = "health")]
    let exporter = exporter.with_checks(&monitor);
    record(&breaker, Outcome::Success, 1).await;
    breaker.force_open(Override::because("test")).await.unwrap();
    circuits.flush().await;
    let expected = if cfg!(feature = "health") { 21 } else { 17 };
    until("every metric is there", async || {
        provider.all().len() == expected
    })
    .await;
    drop(exporter);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |file: &str| fs::read_to_string(root.join(file)).unwrap();
    let pages = [read("src/otel/mod.rs"), read("docs/otel.md")];
    for (name, metric) in provider.finished() {
        assert!(metric.described, "{name}");
        assert!(!name.contains("total"), "{name}");
        let plain = |c: char| c.is_ascii_lowercase() || "._".contains(c);
        assert!(name.chars().all(plain) && name.contains('.'), "{name}");
        let row = format!("| `{name}` | {} | `{}` |", metric.kind, metric.unit);
        for page in &pages {
            assert!(page.contains(&row), "no row {row}");
        }
    }
}
