//! Commands, and what is recorded of them.

use commontrip::Policy;
use reqwest::Method;
use serde_json::{Value, json};

use super::site::{Answer, Site, tripping};

pub(super) async fn last_event(site: &Site, name: &str) -> Value {
    let details = site.get(&format!("/circuits/{name}")).await.good();
    details["events"]
        .as_array()
        .unwrap()
        .last()
        .unwrap()
        .clone()
}

#[tokio::test]
async fn each_override_holds_and_says_who_and_why() {
    let site = Site::start().await;
    let breaker = site.circuit("payments", tripping()).await;
    for (command, state) in [
        ("force-open", "forced_open"),
        ("disable", "disabled"),
        ("metrics-only", "metrics_only"),
    ] {
        let body = json!({"for_ms": 300_000, "reason": "database upgrade", "author": "ana"});
        let now = site
            .post(&format!("/circuits/payments/{command}"), body)
            .await
            .good();
        assert_eq!(
            (&now["state"], &now["reason"]),
            (&json!(state), &json!("override"))
        );
        assert_eq!(now["override_author"], "ana");
        assert_eq!(now["override_reason"], "database upgrade");
        let left = now["left_ms"].as_u64().unwrap();
        assert!((290_000..=300_000).contains(&left), "{now}");
        assert!(now.get("history").is_none());
        let event = last_event(&site, "payments").await;
        assert_eq!((&event["to"], &event["by"]), (&json!(state), &json!("ana")));
        assert_eq!(event["note"], "database upgrade");
        assert_eq!(event["origin"], "http from 127.0.0.1");
    }
    let now = site
        .post(
            "/circuits/payments/reset",
            json!({"reason": "done", "author": "bo"}),
        )
        .await
        .good();
    assert_eq!(
        (&now["state"], &now["reason"]),
        (&json!("closed"), &json!("reset"))
    );
    assert_eq!(last_event(&site, "payments").await["by"], "bo");
    crate::wait::until("the replica has heard", async || {
        breaker.state() == commontrip::State::Closed
    })
    .await;
}

#[tokio::test]
async fn an_override_without_a_length_has_no_end_and_without_an_author_a_place() {
    let site = Site::start().await;
    site.circuit("payments", Policy::default()).await;
    let body = json!({"for_ms": 300_000.0});
    let now = site
        .post("/circuits/payments/force-open", body)
        .await
        .good();
    assert!(now["left_ms"].as_u64().unwrap() > 200_000, "{now}");
    for body in [json!({}), json!({"for_ms": null, "reason": ""})] {
        let now = site
            .post("/circuits/payments/force-open", body)
            .await
            .good();
        assert_eq!((&now["until_ms"], &now["left_ms"]), (&json!(0), &json!(0)));
        assert_eq!(now["override_author"], "http from 127.0.0.1");
    }
}

#[tokio::test]
async fn what_cannot_be_taken_is_said_and_not_done() {
    let site = Site::start().await;
    site.circuit("payments", Policy::default()).await;
    let path = "/circuits/payments/force-open";
    for (body, word) in [
        (json!({"for_ms": 0}), "from 1 to"),
        (json!({"for_ms": 31_536_000_001_u64}), "from 1 to"),
        (json!({"for_ms": -1}), "-1 is not a whole number"),
        (json!({"for_ms": 1.5}), "1.5 is not a whole number"),
        (json!({"for_ms": 1e300}), "not a whole number"),
        (json!({"for_ms": "300000"}), "for_ms"),
        (json!({"for": 300_000}), "for"),
        (json!({"reason": "x".repeat(1001)}), "1001 bytes"),
        (json!({"author": "ä".repeat(101)}), "202 bytes"),
        (json!([]), ""),
        (json!("x"), ""),
    ] {
        let words = site.post(path, body.clone()).await.problem(422);
        assert!(words.contains(word), "{body}: {words}");
    }
    let now = site.get("/circuits/payments").await.good();
    assert_eq!(now["circuit"]["generation"], 0);
    for path in [
        "/circuits/nobody/force-open",
        "/circuits/nobody/reset",
        "/circuits/a%7Bb/disable",
    ] {
        site.post(path, json!({})).await.problem(404);
    }
    site.put_policy("nobody", json!({"jitter": 1}))
        .await
        .problem(404);
}

#[tokio::test]
async fn a_stored_policy_replaces_what_is_stored_if_it_is_still_that() {
    let site = Site::start().await;
    let breaker = site.circuit("payments", tripping()).await;
    let now = site
        .put_policy(
            "payments",
            json!({"failure_rate_threshold": 80, "jitter": 10}),
        )
        .await
        .good();
    assert_eq!(
        (&now["policy_version"], &now["calls"]),
        (&json!(1), &json!(1))
    );
    let details = site.get("/circuits/payments").await.good();
    assert_eq!(
        details["policy"]["stored"],
        json!({"failure_rate_threshold": 80, "jitter": 10})
    );
    assert_eq!(details["policy"]["in_force"]["failure_rate_threshold"], 80);
    assert_eq!(details["policy"]["code"]["failure_rate_threshold"], 50);
    let event = details["events"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&event["reason"], &event["by"]),
        (&json!("policy"), &json!("ana"))
    );

    let put = |version: &'static str, set: Value| {
        let sent = site.command(Method::PUT, "/circuits/payments/policy");
        sent.header("if-match", version)
            .json(&json!({ "set": set }))
            .send()
    };
    let behind = Answer::of(put("\"0\"", json!({"jitter": 5})).await.unwrap()).await;
    assert!(behind.problem(412).contains("version 1"));
    // Versions that no policy can have.
    for ahead in [
        "4503599627370495",
        "4503599627370496",
        "18446744073709551615",
    ] {
        let ahead = Answer::of(put(ahead, json!({"jitter": 5})).await.unwrap()).await;
        assert!(ahead.problem(412).contains("version 1"));
    }
    let in_time = Answer::of(put("\"1\"", json!({"jitter": 5})).await.unwrap()).await;
    assert_eq!(in_time.good()["policy"], "jitter=5");
    let any = Answer::of(put("*", json!({"jitter": 6})).await.unwrap()).await;
    assert_eq!(any.good()["policy_version"], 3);
    for odd in ["", "W/\"3\"", "\"x\"", "\"-1\"", "\"3"] {
        Answer::of(put(odd, json!({"jitter": 7})).await.unwrap())
            .await
            .problem(400);
    }

    let delete = |version: &'static str| {
        let sent = site.command(Method::DELETE, "/circuits/payments/policy");
        sent.header("if-match", version).send()
    };
    let behind = Answer::of(delete("\"2\"").await.unwrap()).await;
    assert!(behind.problem(412).contains("version 3"));
    let sent = delete("\"3\"");
    let now = Answer::of(sent.await.unwrap()).await.good();
    assert_eq!(
        (&now["policy"], &now["policy_version"]),
        (&json!(""), &json!(4))
    );
    let sent = site.command(Method::DELETE, "/circuits/payments/policy");
    let sent = sent
        .json(&json!({"reason": "back to the code", "author": "bo"}))
        .send();
    Answer::of(sent.await.unwrap()).await.good();
    assert_eq!(last_event(&site, "payments").await["by"], "bo");
    drop(breaker);
}

#[tokio::test]
async fn a_policy_that_is_not_valid_is_refused_in_words() {
    let site = Site::start().await;
    site.circuit("payments", Policy::default()).await;
    for (set, word) in [
        (json!({"failure_rate_threshold": 101}), "from 0 to 100"),
        (json!({"failure_rate": 50}), "failure_rate"),
        (json!({"jitter=5 quorum": 1}), "not a setting"),
        (json!({"jitter 5": 1}), "not a setting"),
        (json!({"": 1}), ""),
        (
            json!({"failure_rate_threshold": 0, "consecutive_failures_threshold": 0}),
            "no trip condition",
        ),
        (
            json!({"call_timeout_ms": 45_000}),
            "probe_lease_ms is 30000, but call_timeout_ms is 45000",
        ),
        (json!({"jitter": -1}), "whole number"),
        (
            json!({"jitter": 1.5}),
            "set.jitter: 1.5 is not a whole number",
        ),
    ] {
        let words = site.put_policy("payments", set.clone()).await.problem(422);
        assert!(words.contains(word), "{set}: {words}");
    }
    assert_eq!(
        site.get("/circuits/payments").await.good()["circuit"]["policy_version"],
        0
    );
}

#[tokio::test]
async fn everything_is_reset_only_with_the_word() {
    let site = Site::start().await;
    site.tripped("payments").await;
    site.circuit("search", Policy::default()).await;
    site.post("/circuits/search/force-open", json!({}))
        .await
        .good();
    for body in [
        json!({"confirm": "yes"}),
        json!({}),
        json!({"confirm": true}),
    ] {
        site.post("/reset-all", body).await.problem(422);
    }
    let long = json!({"confirm": "reset-all", "author": "x".repeat(201)});
    site.post("/reset-all", long).await.problem(422);
    let health = site.get("/health").await.good();
    assert_eq!(
        (&health["open"], &health["forced_open"]),
        (&json!(["payments"]), &json!(["search"]))
    );
    let done = site
        .post(
            "/reset-all",
            json!({"confirm": "reset-all", "reason": "drill over", "author": "ana"}),
        )
        .await
        .good();
    let all = json!({"reset": ["payments", "search"], "failed": [], "incomplete": null});
    assert_eq!(done, all);
    assert_eq!(site.get("/health").await.good()["healthy"], true);
    assert_eq!(last_event(&site, "search").await["note"], "drill over");
}

#[tokio::test]
async fn an_override_replaces_only_the_one_that_was_seen() {
    let site = Site::start().await;
    site.circuit("payments", Policy::default()).await;
    let post = async |action: &str, replaces: u64, author: &str| {
        let body = json!({"reason": "drill", "author": author, "replaces": replaces});
        site.post(&format!("/circuits/payments/{action}"), body)
            .await
    };
    let first = post("force-open", 0, "ana").await.good();
    let words = post("disable", 0, "bob").await.problem(409);
    for part in ["nothing was changed", "forced_open", "ana", "drill"] {
        assert!(words.contains(part), "{words}");
    }
    let seen = first["generation"].as_u64().unwrap();
    let second = post("disable", seen, "bob").await.good();
    assert_eq!(
        (&second["state"], &second["override_author"]),
        (&json!("disabled"), &json!("bob"))
    );
    let words = post("metrics-only", seen, "eve").await.problem(409);
    assert!(words.contains("bob"), "{words}");
    site.post("/circuits/payments/reset", json!({}))
        .await
        .good();
    let words = post("disable", seen + 1, "eve").await.problem(409);
    assert!(words.contains("has ended"), "{words}");
    // Of many concurrent overrides one takes effect.
    let authors = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let all = futures_util::future::join_all(authors.map(|author| post("force-open", 0, author)));
    let set = all
        .await
        .iter()
        .filter(|answer| answer.status == 200)
        .count();
    assert_eq!(set, 1);
}
