//! The exporter, through `metrics-exporter-prometheus`: scraped values match the calls.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use commontrip::{
    CircuitBreaker, Commontrip, FallbackKind, LatencyRecording, Outcome, Override, Permit, Policy,
    PolicyBuilder, State,
    metrics::{BUCKETS, Exporter},
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::{
    support::{self, OwnServer},
    wait::until,
};

const NEEDED: &str = "this test asks promtool, which is in Debian's package prometheus: \
    apt-get install --no-install-recommends prometheus";

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// One replica and its scrape.
pub struct Replica {
    pub circuits: Commontrip,
    pub breaker: CircuitBreaker,
    pub scrape: PrometheusHandle,
    _exporter: Exporter,
}

impl Replica {
    pub fn start(url: &str, circuit: &str, policy: &PolicyBuilder) -> Replica {
        Replica::start_with(PrometheusBuilder::new(), url, circuit, policy)
    }

    fn start_with(
        builder: PrometheusBuilder,
        url: &str,
        circuit: &str,
        policy: &PolicyBuilder,
    ) -> Replica {
        let ours = Matcher::Prefix("circuit_breaker_".to_owned());
        let builder = builder.set_buckets_for_metric(ours, &BUCKETS).unwrap();
        let recorder = builder.build_recorder();
        let scrape = recorder.handle();
        let circuits = Commontrip::builder().redis(url);
        let circuits = circuits.store_timeout(ms(5000)).build().unwrap();
        let breaker = circuits
            .circuit(circuit, policy.clone().build().unwrap())
            .unwrap();
        Replica {
            _exporter: Exporter::start_on(recorder, &circuits, ms(10)),
            circuits,
            breaker,
            scrape,
        }
    }

    /// The value of the series with this name and these labels, given as they are written.
    fn value(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let text = self.scrape.render();
        let mut found = series(&text, name);
        found.retain(|(written, _)| labels.iter().all(|label| written.contains(label)));
        assert!(found.len() < 2, "{name} {labels:?}: {found:?}");
        found.pop().map(|(_, value)| value)
    }

    async fn shows(&self, name: &str, labels: &[&str], expected: f64) {
        until(&format!("{name} {labels:?} is {expected}"), async || {
            self.value(name, labels) == Some(expected)
        })
        .await;
    }
}

/// The labels, as they are written, and the value of each series with this name.
fn series<'a>(text: &'a str, name: &str) -> Vec<(&'a str, f64)> {
    let of_name = |line: &'a str| {
        let (written, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
        let whole = written.is_empty() || written.starts_with('{');
        whole.then(|| (written, value.parse().unwrap()))
    };
    text.lines().filter_map(of_name).collect()
}

/// # Panics
/// When promtool finds an error or is missing.
pub fn promtool(arguments: &[&str], input: &str) {
    let program = support::tool("promtool", "prometheus");
    let program = program.unwrap_or_else(|why| panic!("{NEEDED}\n{why}"));
    let mut promtool = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = promtool.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(
        output.status.success(),
        "promtool {arguments:?}: {said}\n{input}"
    );
}

/// Trips on demand; the wait is over at once.
pub fn told() -> PolicyBuilder {
    Policy::builder()
        .minimum_number_of_calls(1000)
        .wait_duration_in_open_state(ms(1))
        .success_threshold(1)
        .decision_ttl(ms(20))
        .report_interval(ms(10))
}

async fn record(breaker: &CircuitBreaker, outcome: Outcome, times: u64) {
    for _ in 0..times {
        breaker.acquire().await.unwrap().record(outcome.clone());
    }
}

async fn all_are(replicas: &[&Replica], state: State) {
    until("every replica knows", async || {
        replicas.iter().all(|r| r.breaker.state() == state)
    })
    .await;
}

#[tokio::test]
async fn a_dropped_call_is_counted_under_one_result() {
    let name = support::unique("dropped");
    let policy = told().slow_calls(ms(200), 100);
    let one = Replica::start(support::redis_url(), &name, &policy);
    record(&one.breaker, Outcome::Success, 5).await;
    for _ in 0..3 {
        drop(one.breaker.acquire().await.unwrap());
    }
    let hung = one.breaker.acquire().await.unwrap();
    tokio::time::sleep(ms(250)).await;
    drop(hung);
    let failed = ["result=\"failure\""];
    one.shows("circuit_breaker_requests_total", &failed, 1.0)
        .await;
    // An export has several steps; the values below are from a later one.
    tokio::time::sleep(ms(50)).await;
    let results = [
        ("success", 5.0),
        ("abandoned", 3.0),
        ("failure", 1.0),
        ("ignored", 0.0),
        ("rejected", 0.0),
        ("timeout", 0.0),
    ];
    for (result, expected) in results {
        let label = format!("result=\"{result}\"");
        one.shows("circuit_breaker_requests_total", &[&label], expected)
            .await;
    }
    let stats = &one.circuits.stats()[0];
    assert_eq!((stats.abandoned, stats.abandoned_failures), (4, 1));

    record(&one.breaker, Outcome::trip(), 1).await;
    let mut probe = None;
    until("a probe", async || {
        probe = one.breaker.acquire().await.ok();
        probe.is_some()
    })
    .await;
    // Longer than most calls, and still not long enough to be a failure.
    tokio::time::sleep(ms(50)).await;
    drop(probe);
    for (result, expected) in [
        ("success", 0.0),
        ("failure", 0.0),
        ("ignored", 0.0),
        ("abandoned", 1.0),
    ] {
        let label = format!("result=\"{result}\"");
        one.shows("circuit_breaker_probes_total", &[&label], expected)
            .await;
    }
}

#[tokio::test]
async fn what_is_scraped_of_a_fleet_that_trips_is_what_was_called() {
    let name = support::unique("scraped");
    let policy = told().call_timeout(ms(1000)).slow_calls(ms(500), 100);
    let replica = || Replica::start(support::redis_url(), &name, &policy);
    let (one, two) = (replica(), replica());
    record(&one.breaker, Outcome::Success, 30).await;
    record(&one.breaker, Outcome::Ignored, 4).await;
    record(&two.breaker, Outcome::Success, 10).await;
    record(&two.breaker, Outcome::failure(), 9).await;
    let hangs = two.breaker.call(std::future::pending::<Result<(), ()>>);
    assert!(hangs.await.is_err());
    one.circuits.flush().await;
    two.circuits.flush().await;
    // One of them learns the totals: 50 calls, 10 failures.
    one.breaker.acquire().await.unwrap().success();
    one.circuits.flush().await;
    one.shows("circuit_breaker_window_calls", &[], 51.0).await;
    one.shows("circuit_breaker_failure_rate", &[], 10.0 / 51.0)
        .await;

    record(&two.breaker, Outcome::trip(), 1).await;
    all_are(&[&one, &two], State::Open).await;
    let mut probe = None;
    until("a probe", async || {
        probe = two.breaker.acquire().await.ok();
        probe.is_some()
    })
    .await;
    all_are(&[&one, &two], State::HalfOpen).await;
    probe.unwrap().success();
    all_are(&[&one, &two], State::Closed).await;
    let policy = policy.wait_duration_in_open_state(Duration::from_secs(3600));
    for replica in [&one, &two] {
        let policy = policy.clone().build().unwrap();
        replica.circuits.circuit(&name, policy).unwrap();
    }
    for replica in [&one, &two] {
        replica
            .shows("circuit_breaker_open_for_seconds", &[], 0.0)
            .await;
    }
    record(&one.breaker, Outcome::trip(), 1).await;
    all_are(&[&one, &two], State::Open).await;
    one.breaker.count_fallback(FallbackKind::Computed);
    let fallbacks = "circuit_breaker_fallbacks_total";
    one.shows(fallbacks, &["kind=\"computed\""], 1.0).await;
    one.shows(fallbacks, &["kind=\"stage\""], 0.0).await;
    until("both know since when it is open", async || {
        let open = |of: &Replica| of.value("circuit_breaker_open_for_seconds", &[]) > Some(0.1);
        open(&one) && open(&two)
    })
    .await;
    until("both have the time open in its life", async || {
        let _ = two.breaker.acquire().await;
        let open = |of: &Replica| of.value("circuit_breaker_open_seconds_total", &[]) >= Some(1.0);
        open(&one) && open(&two)
    })
    .await;
    for _ in 0..6 {
        one.breaker.acquire().await.unwrap_err();
    }
    for replica in [&one, &two] {
        replica.circuits.flush().await;
    }

    // The calls in `until` caused the rejected ones.
    let rejected = two.circuits.stats()[0].rejected as f64;
    for (replica, counts) in [
        (&one, [31.0, 1.0, 4.0, 6.0, 0.0, 0.0]),
        (&two, [11.0, 10.0, 0.0, rejected, 1.0, 0.0]),
    ] {
        let results = [
            "success",
            "failure",
            "ignored",
            "rejected",
            "timeout",
            "abandoned",
        ];
        for (result, expected) in results.into_iter().zip(counts) {
            let label = format!("result=\"{result}\"");
            let requests = "circuit_breaker_requests_total";
            replica.shows(requests, &[&label], expected).await;
        }
        let outcomes = counts[0] + counts[1] + counts[4];
        let latencies = "circuit_breaker_latency_seconds_count";
        replica.shows(latencies, &[], outcomes).await;
        for (from, to, reason, times) in [
            ("closed", "open", "tripped", 2.0),
            ("open", "half_open", "wait_elapsed", 1.0),
            ("half_open", "closed", "recovered", 1.0),
        ] {
            let labels = [
                format!("from=\"{from}\""),
                format!("to=\"{to}\""),
                format!("reason=\"{reason}\""),
            ];
            let labels: Vec<_> = labels.iter().map(String::as_str).collect();
            let transitions = "circuit_breaker_transitions_total";
            replica.shows(transitions, &labels, times).await;
        }
        replica.shows("circuit_breaker_state", &[], 1.0).await;
        replica.shows("circuit_breaker_generation", &[], 4.0).await;
        replica.shows("circuit_breaker_store_up", &[], 1.0).await;
        let text = replica.scrape.render();
        let asked = series(&text, "circuit_breaker_report_seconds_count");
        assert!(asked[0].1 > 0.0);
        let few = text.lines().filter(|l| l.contains("name=")).count();
        assert!(few < 50, "{few} series of one circuit:\n{text}");
        promtool(&["check", "metrics"], &text);
    }
    assert_eq!(
        one.value("circuit_breaker_slow_calls_total", &[]),
        Some(0.0)
    );
    two.shows("circuit_breaker_slow_calls_total", &[], 1.0)
        .await;
    let probes = "circuit_breaker_probes_total";
    two.shows(probes, &["result=\"success\""], 1.0).await;
    one.shows(probes, &["result=\"success\""], 0.0).await;
    // A slow machine may have sent a report again; nothing is counted twice.
    let filed = one.value("circuit_breaker_reports_total", &["filed"]);
    assert!(filed.unwrap() > 0.0);
    for replica in [one, two] {
        replica.circuits.shutdown().await;
    }
}

#[tokio::test]
async fn a_circuit_is_in_one_state_at_a_time() {
    let name = support::unique("states");
    let replica = Replica::start(support::redis_url(), &name, &told());
    let breaker = &replica.breaker;
    breaker.acquire().await.unwrap().success();
    let state = "circuit_breaker_state";
    replica.shows(state, &[], 0.0).await;
    breaker.acquire().await.unwrap().record(Outcome::trip());
    replica.shows(state, &[], 1.0).await;
    let mut probe = None;
    until("a probe", async || {
        probe = breaker.acquire().await.ok();
        probe.is_some()
    })
    .await;
    replica.shows(state, &[], 2.0).await;
    drop(probe);
    let because = || Override::because("test");
    breaker.force_open(because()).await.unwrap();
    replica.shows(state, &[], 3.0).await;
    breaker.disable(because()).await.unwrap();
    replica.shows(state, &[], 4.0).await;
    breaker.metrics_only(because()).await.unwrap();
    replica.shows(state, &[], 5.0).await;
    breaker.reset().await.unwrap();
    replica.shows(state, &[], 0.0).await;
    assert_eq!(series(&replica.scrape.render(), state).len(), 1);
    replica.circuits.shutdown().await;
}

#[tokio::test]
async fn a_store_that_is_away_shows() {
    let server = OwnServer::start();
    let replica = Replica::start(&server.url(), "unavailable", &told());
    let breaker = &replica.breaker;
    breaker.acquire().await.unwrap().success();
    replica.circuits.flush().await;
    replica.shows("circuit_breaker_store_up", &[], 1.0).await;
    replica
        .shows("circuit_breaker_store_unavailable_seconds", &[], 0.0)
        .await;
    server.kill();
    until("it shows", async || {
        let _ = breaker.acquire().await.map(Permit::success);
        let away = replica.value("circuit_breaker_store_unavailable_seconds", &[]);
        replica.value("circuit_breaker_store_up", &[]) == Some(0.0) && away > Some(0.0)
    })
    .await;
    until("failed reports and age show", async || {
        let failed = replica.value("circuit_breaker_reports_total", &["result=\"failed\""]);
        let stale = replica.value("circuit_breaker_staleness_seconds", &[]);
        failed > Some(0.0) && stale > Some(0.0)
    })
    .await;
    server.restart();
    replica.shows("circuit_breaker_store_up", &[], 1.0).await;
    replica
        .shows("circuit_breaker_store_unavailable_seconds", &[], 0.0)
        .await;
}

#[tokio::test]
async fn hostile_names_are_labels_and_nothing_else() {
    for hostile in ["a\" 1", "a\",b=\"", "back\\slash\\", "été ☃", "%s$1"] {
        let name = support::unique(hostile);
        let replica = Replica::start(support::redis_url(), &name, &told());
        replica.breaker.acquire().await.unwrap().success();
        replica.shows("circuit_breaker_state", &[], 0.0).await;
        promtool(&["check", "metrics"], &replica.scrape.render());
    }
}

/// Names already end with their units, so an exporter that adds missing units adds none.
#[tokio::test]
async fn an_exporter_that_adds_units_to_names_changes_none() {
    let names = async |builder| {
        let name = support::unique("units");
        let replica = Replica::start_with(builder, support::redis_url(), &name, &told());
        replica.breaker.acquire().await.unwrap().success();
        replica
            .breaker
            .force_open(Override::default())
            .await
            .unwrap();
        replica.shows("circuit_breaker_state", &[], 3.0).await;
        let text = replica.scrape.render();
        promtool(&["check", "metrics"], &text);
        let lines = text.lines().filter(|line| line.starts_with("# TYPE"));
        let mut names: Vec<_> = lines.map(str::to_owned).collect();
        names.sort();
        names
    };
    let plain = names(PrometheusBuilder::new()).await;
    let with_units = names(PrometheusBuilder::new().with_recommended_naming(true)).await;
    assert_eq!(plain, with_units);
    assert_eq!(plain.len(), 17, "{plain:?}");
}

#[tokio::test]
async fn an_exporter_that_was_dropped_exports_no_more() {
    let circuits = Commontrip::embedded().unwrap();
    let policy = told().latency_recording(LatencyRecording::EveryCall);
    let breaker = circuits.circuit("c", policy.build().unwrap()).unwrap();
    let recorder = PrometheusBuilder::new().build_recorder();
    let scrape = recorder.handle();
    // Recorded before the exporter started: counters include it, the histogram does not.
    record(&breaker, Outcome::Success, 2).await;
    let exporter = Exporter::start_on(recorder, &circuits, ms(5));
    let counted = || {
        let text = scrape.render();
        let found = series(&text, "circuit_breaker_requests_total");
        let found = found
            .iter()
            .find(|(written, _)| written.contains("success"));
        found.map(|(_, value)| *value)
    };
    until("it exports", async || counted() == Some(2.0)).await;
    let timed = |text: &str| series(text, "circuit_breaker_latency_seconds_count")[0].1;
    assert_eq!(timed(&scrape.render()), 0.0);
    record(&breaker, Outcome::Success, 3).await;
    until("it exports", async || counted() == Some(5.0)).await;
    drop(exporter);
    tokio::task::yield_now().await;
    record(&breaker, Outcome::Success, 3).await;
    tokio::time::sleep(ms(100)).await;
    assert_eq!(counted(), Some(5.0));
    // A second exporter continues where the first one ended.
    let recorder = PrometheusBuilder::new().build_recorder();
    let scrape = recorder.handle();
    let _again = Exporter::start_on(recorder, &circuits, ms(5));
    record(&breaker, Outcome::Success, 4).await;
    until("only the new ones are timed", async || {
        let text = scrape.render();
        text.contains("latency_seconds_count") && timed(&text) == 4.0
    })
    .await;
}

/// The values of a gauge by labels, over some time.
async fn watched(scrape: &PrometheusHandle, name: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut seen = BTreeMap::<String, BTreeSet<String>>::new();
    for _ in 0..50 {
        let text = scrape.render();
        for (labels, value) in series(&text, name) {
            let values = seen.entry(labels.to_owned()).or_default();
            values.insert(value.to_string());
        }
        tokio::time::sleep(ms(10)).await;
    }
    seen
}

/// A closed circuit with this name in one registry, and an open one in another.
async fn two_registries(circuit: &str) -> [(Commontrip, CircuitBreaker); 2] {
    let both = [false, true].map(|open| {
        let circuits = Commontrip::embedded().unwrap();
        let breaker = circuits.circuit(circuit, Policy::default()).unwrap();
        (circuits, breaker, open)
    });
    for (_, breaker, open) in &both {
        if *open {
            breaker
                .force_open(Override::because("drill"))
                .await
                .unwrap();
        }
    }
    both.map(|(circuits, breaker, _)| (circuits, breaker))
}

#[tokio::test]
async fn two_registries_on_the_global_recorder_do_not_overwrite_each_other() {
    let scrape = PrometheusBuilder::new().install_recorder().unwrap();
    let circuit = support::unique("twice");
    let [one, two] = two_registries(&circuit).await;
    let first = Exporter::start(&one.0, ms(5));
    let second = Exporter::start(&two.0, ms(5));
    let all = [
        format!("{{name=\"{circuit}\"}}"),
        format!("{{name=\"{circuit}\",registry=\"2\"}}"),
    ];
    until("both are there", async || {
        let text = scrape.render();
        all.iter()
            .all(|labels| text.contains(&format!("circuit_breaker_state{labels}")))
    })
    .await;
    let seen = watched(&scrape, "circuit_breaker_state").await;
    for (labels, value) in all.iter().zip(["0", "3"]) {
        assert_eq!(seen[labels], BTreeSet::from([value.to_owned()]), "{seen:?}");
    }
    let stores = watched(&scrape, "circuit_breaker_store_up").await;
    assert_eq!(stores.len(), 2, "{stores:?}");
    // The next registry reuses the number of a dropped one.
    drop(second);
    let _named = Exporter::named("eu").start(&two.0, ms(5));
    let _third = Exporter::start(&two.0, ms(5));
    until("the named one", async || {
        scrape.render().contains("registry=\"eu\"")
    })
    .await;
    assert!(!scrape.render().contains("registry=\"3\""));
    drop(first);
}

#[tokio::test]
async fn named_registries_share_a_recorder_of_their_own() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let (scrape, recorder) = (recorder.handle(), Arc::new(recorder));
    let circuit = support::unique("twice");
    let all = two_registries(&circuit).await;
    let names = ["eu", "us"];
    let _exporters: Vec<_> = all
        .iter()
        .zip(names)
        .map(|((circuits, _), name)| {
            Exporter::named(name).start_on(Arc::clone(&recorder), circuits, ms(5))
        })
        .collect();
    let label = |name: &str| format!("{{name=\"{circuit}\",registry=\"{name}\"}}");
    until("both are there", async || {
        let text = scrape.render();
        names
            .iter()
            .all(|name| text.contains(&format!("circuit_breaker_state{}", label(name))))
    })
    .await;
    let seen = watched(&scrape, "circuit_breaker_state").await;
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert_eq!(seen[&label("eu")], BTreeSet::from(["0".to_owned()]));
    assert_eq!(seen[&label("us")], BTreeSet::from(["3".to_owned()]));
}
