//! `commontrip queue` as a shell sees it.

use std::process::{Command, Stdio};

use commontrip::{
    Policy,
    queue::{Enqueue, Failure, Queue},
};
use serde_json::{Value, json};

use super::{Service, ad, ms, until_stats, work};
use crate::{
    support::{redis_url, unique_prefix},
    wait::until,
};

/// Exit status, standard output, standard error.
async fn run(prefix: &str, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_commontrip"));
    command.arg("queue").args(arguments).stdin(Stdio::null());
    command.args([
        "--redis",
        redis_url(),
        "--prefix",
        prefix,
        "--timeout",
        "20000",
    ]);
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[tokio::test]
async fn queues_and_jobs_are_listed_shown_retried_and_dropped() {
    let prefix = unique_prefix("queue-cli");
    let service = Service::new(redis_url(), &prefix, Policy::default());
    let (status, out, _) = run(&prefix, &["list"]).await;
    assert_eq!((status, &*out), (0, "no queue was used yet\n"));

    let ads = service.ads();
    let worker = ads.worker(&service.api, |_| async { Err("no \u{1b}[2J title") });
    let working = work!(worker.classify(|_| Failure::Fatal));
    let dead = ads
        .enqueue_with(&ad(7), Enqueue::new().key("ad-7"))
        .await
        .unwrap();
    until_stats("it is dead", &ads, |stats| stats.dead == 1).await;
    working.stop().await;
    let waiting = ads
        .enqueue_with(&ad(8), Enqueue::new().delay(ms(3_600_000)))
        .await
        .unwrap();
    until("it is found", async || {
        commontrip::queue::queues(&service.store).await.unwrap() == ["ads"]
    })
    .await;

    let (status, out, _) = run(&prefix, &["list"]).await;
    assert_eq!(status, 0);
    let rows: Vec<Vec<_>> = out
        .lines()
        .map(|row| row.split_whitespace().collect())
        .collect();
    assert_eq!(rows[1][..5], ["ads", "0", "1", "0", "1"]);
    let (status, out, _) = run(&prefix, &["list", "ads", "--state", "dead"]).await;
    assert_eq!(status, 0);
    assert!(out.contains("no \\u{1b}[2J title"), "{out}");
    assert!(!out.contains(waiting.as_str()) && out.contains(dead.as_str()));
    let (status, out, _) = run(&prefix, &["list", "ads", "--json"]).await;
    let listed: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((status, listed["jobs"].as_array().unwrap().len()), (0, 2));

    let (status, out, _) = run(&prefix, &["show", "ads", dead.as_str()]).await;
    assert_eq!(status, 0);
    assert!(
        out.starts_with(&format!("{dead}  dead (failed)\n")),
        "{out}"
    );
    assert!(out.contains(r#"{"id":7,"title":"ad 7"}"#), "{out}");
    let (_, out, _) = run(&prefix, &["show", "ads", dead.as_str(), "--json"]).await;
    let shown: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(shown["body"], json!({ "id": 7, "title": "ad 7" }));
    assert_eq!(
        (&shown["key"], &shown["attempts"]),
        (&json!("ad-7"), &json!(1))
    );

    let (status, out, _) = run(&prefix, &["retry", "ads", "--all"]).await;
    assert_eq!(status, 0);
    assert!(out.starts_with("retried 1 job of ads\n"), "{out}");
    assert!(out.contains(&format!("prefix {prefix}")), "{out}");
    let (status, ..) = run(&prefix, &["retry", "ads", waiting.as_str()]).await;
    assert_eq!((status, ads.stats().await.unwrap().ready), (0, 2));
    let (status, out, _) = run(&prefix, &["drop", "ads", dead.as_str()]).await;
    assert_eq!(status, 0);
    assert!(
        out.starts_with(&format!("dropped  {dead} of ads\n")),
        "{out}"
    );
    let (status, _, said) = run(&prefix, &["show", "ads", dead.as_str()]).await;
    assert_eq!(status, 1);
    assert!(said.contains("there is no job"), "{said}");
    let (status, _, said) = run(&prefix, &["list", "adds"]).await;
    assert_eq!(status, 1);
    assert!(
        said.contains("no queue `adds`; did you mean `ads`?"),
        "{said}"
    );
    let (status, ..) = run(&prefix, &["retry", "ads"]).await;
    assert_eq!(status, 2);
}

#[tokio::test]
async fn what_is_no_json_is_shown_as_it_is() {
    let prefix = unique_prefix("queue-cli");
    let service = Service::new(redis_url(), &prefix, Policy::default());
    let odd: Queue<Bytes> = Queue::builder(&service.store, "odd").build().unwrap();
    let id = odd.enqueue(&Bytes).await.unwrap();
    until("it is found", async || {
        !commontrip::queue::queues(&service.store)
            .await
            .unwrap()
            .is_empty()
    })
    .await;
    let (status, out, said) = run(&prefix, &["show", "odd", id.as_str()]).await;
    assert_eq!(status, 0, "{said}");
    assert!(out.contains("c403"), "{out}");
}

/// A value of bytes, for which JSON has no type.
struct Bytes;

impl serde::Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&[1, 2, 3])
    }
}
