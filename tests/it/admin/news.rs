//! Streamed updates: complete, in order, each entry once.

use std::collections::BTreeMap;

use commontrip::{MemoryStore, Policy, operator::Operator};
use serde_json::{Value, json};

use super::site::{Site, tripping, with_token};

#[tokio::test]
async fn a_trip_arrives_and_each_entry_once() {
    let site = Site::start().await;
    site.circuit("calm", Policy::default()).await;
    let payments = site.circuit("payments", tripping()).await;
    let mut stream = site.stream("/events").await;
    let (kind, all) = stream.next().await.unwrap();
    assert_eq!(kind, "circuits");
    assert!(all["now_ms"].as_u64().unwrap() > 0);
    let all = all["circuits"].as_array().unwrap().clone();
    assert_eq!(all.len(), 2);
    assert!(
        all.iter()
            .all(|c| !c["history"].as_array().unwrap().is_empty())
    );
    stream.first("tick").await;
    site.trip(&payments).await;
    let mut entries = Vec::new();
    // Read before the next change: of states in quick succession only the last is guaranteed.
    let open = loop {
        let (kind, told) = stream.next().await.unwrap();
        match kind.as_str() {
            "entry" => entries.push(told),
            "circuit" if told["state"] == "open" => break told,
            _ => {}
        }
    };
    site.post(
        "/circuits/payments/force-open",
        json!({"reason": "drill", "author": "ana"}),
    )
    .await
    .good();
    site.put_policy("payments", json!({"jitter": 3}))
        .await
        .good();
    site.post("/circuits/payments/reset", json!({"author": "bo"}))
        .await
        .good();
    let mut ticks = 0;
    while ticks < 3 || entries.len() < 4 {
        let (kind, told) = stream.next().await.unwrap();
        match kind.as_str() {
            "entry" => entries.push(told),
            "tick" => ticks += 1,
            _ => {}
        }
    }
    assert_eq!(
        (&open["name"], &open["reason"]),
        (&json!("payments"), &json!("failure_rate"))
    );
    assert!(open.get("history").is_none());
    let reasons: Vec<_> = entries
        .iter()
        .map(|entry| entry["reason"].as_str().unwrap())
        .collect();
    assert_eq!(
        reasons,
        ["failure_rate", "override", "policy", "reset"],
        "{entries:#?}"
    );
    assert!(entries.iter().all(|entry| entry["name"] == "payments"));
    assert_eq!(
        (&entries[1]["by"], &entries[1]["note"]),
        (&json!("ana"), &json!("drill"))
    );
    assert_eq!(entries[2]["policy"], "jitter=3");
}

#[tokio::test]
async fn everybody_gets_the_same_and_one_circuit_alone_can_be_watched() {
    let site = Site::on(MemoryStore::default(), with_token()).await;
    site.circuit("calm", Policy::default()).await;
    site.circuit("payments", Policy::default()).await;
    let mut all = [site.stream("/events").await, site.stream("/events").await];
    let mut calm = site.stream("/events?name=calm").await;
    let begun = calm.first("circuits").await;
    assert_eq!(begun["circuits"].as_array().unwrap().len(), 1);
    for stream in &mut all {
        stream.first("tick").await;
    }
    calm.first("tick").await;
    site.post("/circuits/payments/force-open", json!({}))
        .await
        .good();
    site.post("/circuits/calm/force-open", json!({}))
        .await
        .good();
    let [one, other] = &mut all;
    for name in ["payments", "calm"] {
        let entry = one.until("entry", |entry| entry["name"] == name).await;
        assert_eq!(other.until("entry", |e| e["name"] == name).await, entry);
    }
    loop {
        let (kind, told) = calm.next().await.unwrap();
        assert_ne!(told["name"], "payments");
        if kind == "entry" {
            break;
        }
    }
}

#[tokio::test]
async fn a_new_circuit_appears_and_a_forgotten_one_is_gone() {
    let store = MemoryStore::default();
    let site = Site::on(store.clone(), with_token()).await;
    let mut stream = site.stream("/events").await;
    assert_eq!(stream.first("circuits").await["circuits"], json!([]));
    let told = stream.first("store").await;
    assert_eq!((&told["ok"], &told["error"]), (&json!(true), &Value::Null));
    stream.first("tick").await;
    site.circuit("payments", Policy::default()).await;
    stream.until("circuit", |c| c["name"] == "payments").await;
    store.clear();
    assert_eq!(stream.first("gone").await, json!({"name": "payments"}));
}

#[tokio::test]
async fn who_falls_behind_begins_anew() {
    let store = MemoryStore::default();
    let site = Site::on(store.clone(), with_token()).await;
    site.circuit("payments", Policy::default()).await;
    let operator = Operator::of(&site.circuits);
    let router = commontrip::admin::router(operator.clone(), with_token());
    // Read by hand, so that no client buffers the updates.
    let ask = || {
        let request = axum::http::Request::get("/events").header("host", "localhost");
        tower::ServiceExt::oneshot(
            router.clone(),
            request.body(axum::body::Body::empty()).unwrap(),
        )
    };
    let mut slow = ask().await.unwrap().into_body().into_data_stream();
    let mut quick = ask().await.unwrap().into_body().into_data_stream();
    let next = async |stream: &mut axum::body::BodyDataStream| -> String {
        let more = futures_util::StreamExt::next(stream)
            .await
            .unwrap()
            .unwrap();
        String::from_utf8(more.to_vec()).unwrap()
    };
    assert!(next(&mut slow).await.starts_with("event: circuits"));
    while !next(&mut quick).await.starts_with("event: tick") {}
    let mut seen: BTreeMap<u64, u32> = BTreeMap::new();
    for generation in 1..=2500 {
        operator
            .reset("payments", commontrip::Override::default())
            .await
            .unwrap();
        while !seen.contains_key(&generation) {
            let event = next(&mut quick).await;
            if let Some(entry) = event.strip_prefix("event: entry\ndata: ") {
                let entry: Value = serde_json::from_str(entry).unwrap();
                *seen
                    .entry(entry["generation"].as_u64().unwrap())
                    .or_default() += 1;
            }
        }
    }
    assert!(seen.values().all(|times| *times == 1), "each entry once");
    let mut told = String::new();
    while !told.starts_with("event: circuits") {
        told = next(&mut slow).await;
    }
    let told: Value = serde_json::from_str(told.split_once("data: ").unwrap().1).unwrap();
    assert_eq!(told["circuits"][0]["generation"], 2500);
}
