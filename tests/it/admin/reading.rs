//! Reading, on Redis and on a store in the process.

use std::time::Duration;

use commontrip::{MemoryStore, Policy};
use serde_json::{Value, json};

use super::site::{Site, tripping, with_token};

async fn shows_circuits_worst_first(site: &Site) {
    site.circuit("calm", Policy::default()).await;
    site.tripped("payments").await;
    let answer = site.get("/circuits").await;
    let all = answer.good();
    assert!(all["now_ms"].as_u64().unwrap() > 1_700_000_000_000);
    let circuits = all["circuits"].as_array().unwrap();
    let names: Vec<_> = circuits.iter().map(|c| &c["name"]).collect();
    assert_eq!(names, ["payments", "calm"]);
    let payments = &circuits[0];
    assert_eq!(payments["state"], "open");
    assert_eq!(payments["reason"], "failure_rate");
    let rate = payments["failure_rate"].as_f64().unwrap();
    assert!((50.0..=100.0).contains(&rate), "{payments}");
    let left = payments["left_ms"].as_u64().unwrap();
    assert!((1..=60_000).contains(&left), "{payments}");
    assert!(payments.get("history").is_none());
    assert_eq!(circuits[1]["failure_rate"], 0.0);
    assert_eq!(circuits[1]["left_ms"], 0);

    let all = site.get("/circuits?history=60").await.good();
    let slices = all["circuits"][0]["history"].as_array().unwrap();
    let failures = slices.iter().map(|s| s["failures"].as_u64().unwrap());
    assert_eq!(failures.sum::<u64>(), payments["failures_total"]);
    assert!(
        slices
            .iter()
            .all(|s| s["at_ms"].as_u64().unwrap() % 10_000 == 0)
    );

    for (query, expected) in [
        ("state=open", vec!["payments"]),
        ("state=half_open", vec![]),
        ("q=PAY", vec!["payments"]),
        ("q=a&state=closed", vec!["calm"]),
        ("q=%3Cscript", vec![]),
    ] {
        let found = site.get(&format!("/circuits?{query}")).await.good();
        let found: Vec<_> = found["circuits"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].clone())
            .collect();
        assert_eq!(found, expected, "{query}");
    }
}

async fn shows_everything_of_one(site: &Site) {
    let details = site.get("/circuits/payments").await.good();
    assert_eq!(details["circuit"]["name"], "payments");
    assert!(!details["circuit"]["history"].as_array().unwrap().is_empty());
    let policy = &details["policy"];
    assert_eq!(policy["code"].as_object().unwrap().len(), 31);
    assert_eq!(policy["in_force"]["minimum_number_of_calls"], 2);
    assert_eq!(policy["stored"], json!({}));
    assert_eq!(details["probes"], json!([]));
    let replica = &details["replicas"][0];
    assert_eq!(replica["name"], site.circuits.replica());
    assert!(replica["seen_ms"].as_u64().unwrap() > 0);
    let last = details["events"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&last["from"], &last["to"]),
        (&json!("closed"), &json!("open"))
    );
    assert_eq!(last["by"], site.circuits.replica());
}

async fn counts_what_there_is(site: &Site) {
    let health = site.get("/health").await.good();
    assert_eq!(health["healthy"], false, "one is open");
    assert_eq!(
        (&health["total"], &health["open"]),
        (&json!(2), &json!(["payments"]))
    );
    assert_eq!(
        (&health["half_open"], &health["forced_open"]),
        (&json!([]), &json!([]))
    );
    assert_eq!(health["store"]["ok"], true);
    assert!(health["store"]["answered_in_us"].is_u64());

    let status = site.get("/status").await.good();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["read_only"], false);
    assert_eq!(
        status["circuits"],
        json!({"total": 2, "closed": 1, "open": 1, "half_open": 0, "forced_open": 0, "disabled": 0, "metrics_only": 0})
    );
    assert_eq!(status["replicas"], 1);
    assert!(status["calls"].as_u64().unwrap() >= 3);
    assert_eq!(status["store"]["unavailable_since_ms"], 0);
}

#[tokio::test]
async fn circuits_on_redis() {
    let site = Site::start().await;
    shows_circuits_worst_first(&site).await;
    shows_everything_of_one(&site).await;
    counts_what_there_is(&site).await;
}

#[tokio::test]
async fn circuits_on_a_store_in_the_process() {
    let site = Site::on(MemoryStore::default(), with_token()).await;
    shows_circuits_worst_first(&site).await;
    shows_everything_of_one(&site).await;
    counts_what_there_is(&site).await;
}

#[tokio::test]
async fn a_store_without_circuits_has_a_time() {
    let site = Site::start().await;
    let all = site.get("/circuits").await.good();
    assert!(all["now_ms"].as_u64().unwrap() > 1_700_000_000_000);
    assert_eq!(all["circuits"], json!([]));
    assert_eq!(site.get("/health").await.good()["healthy"], true);
}

#[tokio::test]
async fn probes_say_who_holds_them() {
    let site = Site::start().await;
    let policy = Policy::builder()
        .minimum_number_of_calls(2)
        .wait_duration_in_open_state(Duration::from_millis(100))
        .report_interval(Duration::ZERO)
        .build()
        .unwrap();
    let breaker = site.circuit("payments", policy).await;
    site.trip(&breaker).await;
    let mut held = None;
    crate::wait::until("a probe is out", async || {
        if let Ok(permit) = breaker.acquire().await {
            held = Some(permit);
        }
        held.is_some()
    })
    .await;
    let details = site.get("/circuits/payments").await.good();
    assert_eq!(details["circuit"]["state"], "half_open");
    let probe = &details["probes"][0];
    assert_eq!(probe["replica"], site.circuits.replica());
    let token = probe["token"].as_str().unwrap();
    assert!(token.starts_with(site.circuits.replica()), "{probe}");
    held.unwrap().success();
}

/// A name that would do harm where text is taken as markup, or as another line.
const HOSTILE: &str = r#"<script>alert("1")</script> \ a/b?c#d%2e"#;

#[tokio::test]
async fn a_hostile_name_is_a_name() {
    let site = Site::start().await;
    site.circuit(HOSTILE, tripping()).await;
    let mut url = url::Url::parse(&site.base).unwrap();
    url.path_segments_mut()
        .unwrap()
        .extend(["circuits", HOSTILE]);
    let answer = site.get(url.path()).await;
    assert_eq!(answer.good()["circuit"]["name"], HOSTILE);
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    let metrics = site.get("/metrics").await;
    let expected =
        r#"circuit_breaker_fleet_state{name="<script>alert(\"1\")</script> \\ a/b?c#d%2e"} 0"#;
    assert!(
        metrics.text.lines().any(|line| line == expected),
        "{}",
        metrics.text
    );
    // A page that does not exist does not echo the request.
    let nowhere = site.get("/%3Cscript%3Ealert(1)%3C/script%3E").await;
    assert!(!nowhere.text.contains("script"), "{nowhere:?}");
    nowhere.problem(404);
}

#[tokio::test]
async fn prometheus_gets_one_series_a_circuit_and_a_number() {
    let site = Site::start().await;
    let calm = site.circuit("calm", Policy::default()).await;
    for _ in 0..2 {
        drop(calm.acquire().await.unwrap());
    }
    let payments = site.tripped("payments").await;
    for _ in 0..3 {
        let rejected = payments.call(|| async { Ok::<_, ()>(()) }).await;
        assert!(rejected.is_err());
    }
    site.circuits.flush().await;
    let answer = site.get("/metrics").await;
    assert_eq!(answer.kind(), "text/plain; version=0.0.4");
    let value = |series: &str| -> f64 {
        let mut lines = answer.text.lines();
        let line = lines.find(|line| {
            line.strip_prefix(series)
                .is_some_and(|rest| rest.starts_with(' '))
        });
        let line = line.unwrap_or_else(|| panic!("no {series} in {}", answer.text));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(value("circuit_breaker_fleet_store_up"), 1.0);
    let abandoned = r#"circuit_breaker_fleet_abandoned_calls_total{name="calm"}"#;
    assert_eq!(value(abandoned), 2.0);
    let calm = site.get("/circuits/calm").await.good()["circuit"].clone();
    assert_eq!(
        (&calm["undecided"], &calm["abandoned_total"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(calm["history"][0]["abandoned"], 2);
    assert_eq!(
        value(r#"circuit_breaker_fleet_state{name="payments"}"#),
        1.0
    );
    assert_eq!(value(r#"circuit_breaker_fleet_state{name="calm"}"#), 0.0);
    let states = answer
        .text
        .lines()
        .filter(|line| line.starts_with("circuit_breaker_fleet_state{"));
    assert_eq!(states.count(), 2);
    let now: Value = site.get("/circuits/payments").await.good()["circuit"].clone();
    let number = |key: &str| now[key].as_f64().unwrap();
    assert_eq!(
        value(r#"circuit_breaker_fleet_failure_rate{name="payments"}"#),
        number("failure_rate") / 100.0
    );
    assert_eq!(
        value(r#"circuit_breaker_fleet_slow_rate{name="payments"}"#),
        0.0
    );
    assert_eq!(
        value(r#"circuit_breaker_fleet_window_calls{name="payments"}"#),
        number("calls")
    );
    assert_eq!(
        value(r#"circuit_breaker_fleet_replicas{name="payments"}"#),
        1.0
    );
    assert_eq!(
        value(r#"circuit_breaker_fleet_transitions_total{name="payments"}"#),
        number("generation")
    );
    let open = |metric: &str, of: &str| value(&format!(r#"{metric}{{name="{of}"}}"#));
    let open_for = open("circuit_breaker_fleet_open_for_seconds", "payments");
    let told = (number("now_ms") - number("opened_ms")) / 1000.0;
    assert!(open_for > 0.0 && open_for <= told, "{open_for} of {told}");
    let total = open("circuit_breaker_fleet_open_seconds_total", "payments");
    assert!(total >= open_for && total <= number("open_total_ms") / 1000.0);
    for metric in ["open_for_seconds", "open_seconds_total"] {
        let metric = format!("circuit_breaker_fleet_{metric}");
        assert_eq!(open(&metric, "calm"), 0.0);
    }
    let left = value(r#"circuit_breaker_fleet_open_seconds_left{name="payments"}"#);
    assert!((0.1..=60.0).contains(&left), "{left}");
    assert_eq!(
        value(r#"circuit_breaker_fleet_open_seconds_left{name="calm"}"#),
        0.0
    );
    for (result, key) in [
        ("success", "successes_total"),
        ("failure", "failures_total"),
        ("ignored", "ignored_total"),
        ("rejected", "rejected_total"),
    ] {
        let series =
            format!(r#"circuit_breaker_fleet_calls_total{{name="payments",result="{result}"}}"#);
        assert_eq!(value(&series), number(key), "{series}");
    }
    assert!(number("rejected_total") >= 3.0);
    if let Some(p95) = now["latency"]["p95_us"].as_f64() {
        let series = r#"circuit_breaker_fleet_latency_seconds{name="payments",percentile="95"}"#;
        assert!((value(series) - p95 / 1e6).abs() < 1e-6);
        let mean = open("circuit_breaker_fleet_latency_mean_seconds", "payments");
        let told = now["latency"]["mean_us"].as_f64().unwrap();
        assert!((mean - told / 1e6).abs() < 1e-6);
    }
}

#[tokio::test]
async fn the_page_runs_only_what_has_its_nonce() {
    let site = Site::start().await;
    let page = site.get("/").await;
    assert_eq!(page.kind(), "text/html; charset=utf-8");
    let policy = page.header("content-security-policy").to_owned();
    for rule in [
        "default-src 'none'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ] {
        assert!(policy.contains(rule), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    let nonce = policy
        .split("'nonce-")
        .nth(1)
        .unwrap()
        .split('\'')
        .next()
        .unwrap()
        .to_owned();
    assert_eq!(nonce.len(), 32);
    assert_eq!(page.text.matches(&format!("nonce=\"{nonce}\"")).count(), 2);
    assert!(!page.text.contains("{{"));
    let again = site.get("/").await;
    assert!(!again.text.contains(&nonce), "a nonce is used once");
    for (name, value) in [
        ("cache-control", "no-store"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
    ] {
        assert_eq!(page.header(name), value);
        assert_eq!(site.get("/circuits/nobody").await.header(name), value);
    }
}

#[tokio::test]
async fn head_is_get_without_a_body_and_options_names_the_methods() {
    let site = Site::start().await;
    for path in ["/", "/circuits", "/health", "/metrics", "/openapi.json"] {
        let sent = site.ask(reqwest::Method::HEAD, path).send().await.unwrap();
        let head = super::site::Answer::of(sent).await;
        assert_eq!(
            (head.status.as_u16(), head.text.as_str()),
            (200, ""),
            "{path}"
        );
        let sent = site
            .ask(reqwest::Method::OPTIONS, path)
            .send()
            .await
            .unwrap();
        let options = super::site::Answer::of(sent).await;
        assert_eq!(options.status.as_u16(), 204, "{path}");
        assert_eq!(options.header("allow"), "GET,HEAD", "{path}");
        assert_eq!(options.header("access-control-allow-origin"), "", "{path}");
    }
}
