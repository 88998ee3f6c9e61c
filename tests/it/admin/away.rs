//! The store becomes unavailable and returns: what the API reports in the meantime.

use commontrip::Policy;
use reqwest::Method;
use serde_json::json;

use super::site::{Answer, Site, redis, with_token};
use crate::{support::OwnServer, wait::until};

#[tokio::test]
async fn a_store_that_is_away_is_said_everywhere_and_so_is_its_return() {
    let server = OwnServer::start();
    let site = Site::on(redis(&server.url()), with_token()).await;
    site.circuit("payments", Policy::default()).await;
    let mut stream = site.stream("/events").await;
    stream.first("tick").await;
    let before = site.get("/status").await.good();
    server.kill();

    let told = stream.until("store", |store| store["ok"] == false).await;
    assert!(!told["error"].as_str().unwrap().is_empty());
    assert_eq!(told["answered_in_us"], json!(null));
    let since = told["unavailable_since_ms"].as_u64().unwrap();
    assert!(
        since >= before["now_ms"].as_u64().unwrap(),
        "{told} {before}"
    );

    let health = site.get("/health").await;
    assert_eq!(health.status.as_u16(), 503);
    assert_eq!(health.kind(), "application/json");
    let health = health.json();
    assert_eq!(
        (&health["healthy"], &health["total"]),
        (&json!(false), &json!(0))
    );
    assert_eq!(health["store"]["ok"], false);
    assert_eq!(
        health["store"]["unavailable_since_ms"], since,
        "since then, and not since now"
    );
    let status = site.get("/status").await.good();
    assert_eq!(status["store"]["ok"], false);
    assert!(status["now_ms"].as_u64().unwrap() >= since);
    let metrics = site.get("/metrics").await;
    assert_eq!(metrics.status.as_u16(), 503);
    assert!(
        metrics
            .text
            .lines()
            .any(|line| line == "circuit_breaker_fleet_store_up 0")
    );
    assert!(!metrics.text.contains("payments"));
    let open_metrics = "application/openmetrics-text";
    let asked = site.ask(Method::GET, "/metrics");
    let asked = asked.header("accept", open_metrics).send();
    let metrics = Answer::of(asked.await.unwrap()).await;
    assert_eq!(metrics.status.as_u16(), 503);
    assert!(metrics.kind().starts_with(open_metrics), "{metrics:?}");
    for path in ["/circuits", "/circuits/payments"] {
        assert!(!site.get(path).await.problem(503).is_empty());
    }
    for path in ["/circuits/payments/force-open", "/circuits/payments/reset"] {
        site.post(path, json!({})).await.problem(503);
    }
    site.post("/reset-all", json!({"confirm": "reset-all"}))
        .await
        .problem(503);
    site.put_policy("payments", json!({"jitter": 1}))
        .await
        .problem(503);
    let sent = site
        .command(Method::DELETE, "/circuits/payments/policy")
        .send();
    Answer::of(sent.await.unwrap()).await.problem(503);
    // The page loads, so that it can show the outage.
    assert_eq!(site.get("/").await.status.as_u16(), 200);

    // A client that connects during the outage is told of it, and of the return.
    let mut late = site.stream("/events").await;
    let (kind, told) = late.next().await.unwrap();
    assert_eq!((kind.as_str(), &told["ok"]), ("store", &json!(false)));
    server.restart();
    stream.until("store", |store| store["ok"] == true).await;
    stream.first("tick").await;
    late.first("circuits").await;
    late.until("store", |store| store["ok"] == true).await;
    until("it is well again", async || {
        site.get("/health").await.status.as_u16() == 200
    })
    .await;
}

#[tokio::test]
async fn a_circuit_that_cannot_be_read_hides_no_other() {
    let server = OwnServer::start();
    let prefix = crate::support::unique_prefix("broken");
    let store = commontrip::RedisStore::builder().prefix(&prefix);
    let store = store
        .timeout(std::time::Duration::from_secs(4))
        .open(&server.url());
    let site = Site::on(store.unwrap(), with_token()).await;
    site.circuit("broken", Policy::default()).await;
    site.tripped("payments").await;
    let client = redis::Client::open(server.admin_url()).unwrap();
    let mut connection = client.get_connection().unwrap();
    redis::cmd("SET")
        .arg(format!("{prefix}:{{broken}}"))
        .arg("x")
        .exec(&mut connection)
        .unwrap();
    let all = site.get("/circuits?history=60").await.good();
    let names: Vec<_> = all["circuits"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].clone())
        .collect();
    assert_eq!(names, ["payments"]);
    assert_eq!(
        site.get("/health").await.good()["open"],
        json!(["payments"])
    );
    let words = site.get("/circuits/broken").await.problem(502);
    assert!(words.contains("WRONGTYPE"), "{words}");
    let mut stream = site.stream("/events").await;
    let begun = stream.first("circuits").await;
    assert_eq!(begun["circuits"].as_array().unwrap().len(), 1);
    stream.first("tick").await;
}
