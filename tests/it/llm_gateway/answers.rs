//! The gateway's answers: from the cache, in headers, metrics, health, on the dashboard.

use std::time::Duration;

use commontrip::{Override, Snapshot, State};
use serde_json::{Value, json};

use super::{
    Fleet, asking,
    example::{
        lab::Setup,
        provider::Provider::{self, OpenAi},
        stubs::Mode,
    },
    setup,
};
use crate::wait::until;

#[tokio::test]
async fn what_the_cache_has_touches_no_circuit_and_no_provider() {
    let fleet = Fleet::start(setup()).await;
    let question = asking("What is 1 and 1?");
    let first = fleet.ask(0, &question).await;
    assert_eq!(first["cached"], false);
    let before = (fleet.stored(OpenAi).await, fleet.requests());
    for _ in 0..50 {
        let answer = fleet.ask(0, &question).await;
        assert_eq!(
            (&answer["cached"], &answer["attempt"]),
            (&json!(true), &json!(0))
        );
        assert_eq!(
            (&answer["text"], &answer["usage"]),
            (&first["text"], &first["usage"])
        );
    }
    let after = (fleet.stored(OpenAi).await, fleet.requests());
    let counts = |s: &Snapshot| {
        let ends = (s.successes_total, s.failures_total, s.ignored_total);
        (ends, s.rejected_total, s.calls)
    };
    assert_eq!(counts(&after.0), counts(&before.0));
    assert_eq!(after.0.successes_total, 1);
    assert_eq!(after.1, before.1);
    // A cached answer does not ask an open circuit either.
    let opened = fleet.breaker(0, OpenAi);
    opened.force_open(Override::because("test")).await.unwrap();
    assert_eq!(fleet.ask(0, &question).await["cached"], true);
    assert_eq!(fleet.stored(OpenAi).await.rejected_total, 0);
    // Any difference makes it another question.
    let mut other = question.clone();
    other["temperature"] = json!(0.5);
    let answer = fleet.ask(0, &other).await;
    assert_eq!(
        (&answer["cached"], &answer["provider"]),
        (&json!(false), &json!("anthropic"))
    );
    assert_eq!(fleet.stored(OpenAi).await.rejected_total, 1);
}

#[tokio::test]
async fn an_answer_is_kept_for_a_time() {
    let keep_for = Duration::from_millis(500);
    let fleet = Fleet::start(Setup {
        keep_for,
        ..setup()
    })
    .await;
    let question = asking("Hi");
    fleet.ask(0, &question).await;
    until("forgotten", async || {
        fleet.ask(0, &question).await["cached"] == false
    })
    .await;
    assert_eq!(fleet.requests()[0], 2);
}

#[tokio::test]
async fn an_answer_tells_how_it_was_come_by_in_its_headers_too() {
    let fleet = Fleet::start(setup()).await;
    fleet.set(OpenAi, Mode::Fail).await;
    for cached in [false, true] {
        let answer = fleet.post(0, &asking("Hi")).await;
        let headers = answer.headers().clone();
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["cached"], cached);
        assert_eq!(body["replica"], "gateway-1");
        for (header, field) in [
            ("x-llm-provider", "provider"),
            ("x-llm-model", "model"),
            ("x-llm-attempt", "attempt"),
            ("x-llm-elapsed-ms", "elapsed_ms"),
            ("x-llm-fallback", "fallback"),
            ("x-llm-cached", "cached"),
        ] {
            let value = body[field].to_string();
            assert_eq!(
                headers[header].to_str().unwrap(),
                value.trim_matches('"'),
                "{header}"
            );
        }
    }
}

#[tokio::test]
async fn metrics_have_tokens_latencies_and_circuits_of_this_replica() {
    let fleet = Fleet::start(setup()).await;
    let mut sums = (0, 0);
    for i in 0..3 {
        let usage = &fleet.ask(0, &asking(&format!("question {i}"))).await["usage"];
        sums.0 += usage["prompt_tokens"].as_u64().unwrap();
        sums.1 += usage["completion_tokens"].as_u64().unwrap();
    }
    fleet.ask(0, &asking("question 0")).await;
    fleet.set(OpenAi, Mode::Fail).await;
    fleet.ask(0, &asking("another")).await;
    let of = r#"provider="openai",model="gpt-4o-mini""#;
    let requests =
        r#"circuit_breaker_requests_total{name="llm:openai:gpt-4o-mini",result="success"} 3"#;
    until("exported", async || {
        fleet.get(0, "/metrics").await.1.contains(requests)
    })
    .await;
    let (_, metrics) = fleet.get(0, "/metrics").await;
    for line in [
        format!(r#"llm_tokens_total{{{of},kind="prompt"}} {}"#, sums.0),
        format!(r#"llm_tokens_total{{{of},kind="completion"}} {}"#, sums.1),
        format!(r#"llm_requests_total{{{of},status="200"}} 3"#),
        format!(r#"llm_requests_total{{{of},status="500"}} 1"#),
        format!(r#"llm_request_seconds_count{{{of}}} 4"#),
        r#"llm_cache_total{result="hit"} 1"#.to_owned(),
        r#"llm_cache_total{result="miss"} 4"#.to_owned(),
        "circuit_breaker_store_up 1".to_owned(),
        r#"circuit_breaker_failover_total{stage="openai",fallback="false",result="served"} 3"#
            .to_owned(),
        r#"circuit_breaker_failover_total{stage="anthropic",fallback="true",result="served"} 1"#
            .to_owned(),
    ] {
        assert!(
            metrics.lines().any(|l| l == line),
            "{line} is not in\n{metrics}"
        );
    }
    // The other replica does not export it.
    let (_, others) = fleet.get(1, "/metrics").await;
    assert!(!others.contains("llm_tokens_total"), "{others}");
}

#[tokio::test]
async fn health_tells_circuits_and_is_503_only_when_all_are_open() {
    let fleet = Fleet::start(setup()).await;
    let (status, body) = fleet.get(1, "/health").await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status.as_u16(), &body["status"], &body["store"]),
        (200, &json!("ok"), &json!("ok"))
    );
    for (n, provider) in Provider::ALL.into_iter().enumerate() {
        assert_eq!(body["providers"][n]["circuit"], provider.circuit());
        assert_eq!(fleet.get(1, "/health").await.0, 200);
        fleet
            .breaker(0, provider)
            .force_open(Override::because("test"))
            .await
            .unwrap();
        let seen = fleet.breaker(1, provider);
        until("seen", async || seen.state() == State::ForcedOpen).await;
    }
    let (status, body) = fleet.get(1, "/health").await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status.as_u16(), &body["status"]), (503, &json!("down")));
    assert_eq!(body["providers"][0]["state"], "forced_open");
}

#[tokio::test]
async fn the_dashboard_is_mounted_and_a_stub_can_be_broken_from_outside() {
    let fleet = Fleet::start(setup()).await;
    let url = fleet.lab.replicas[0].url("/stubs/openai/fail");
    let answer = fleet.http.post(url).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "openai is in mode Fail\n");
    for i in 0..3 {
        fleet.ask(0, &asking(&i.to_string())).await;
    }
    let (status, page) = fleet.get(1, "/admin").await;
    assert_eq!(status, 200);
    assert!(page.contains("<html"), "{page}");
    until("on the dashboard", async || {
        let (_, circuit) = fleet.get(1, "/admin/circuits/llm:openai:gpt-4o-mini").await;
        circuit.contains(r#""state":"open""#)
    })
    .await;
}
