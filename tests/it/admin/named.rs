//! Circuits by a name in the query, and removed circuits.

use commontrip::Policy;
use reqwest::Method;
use serde_json::json;

use super::site::{Answer, Site};

async fn removed(site: &Site, path: &str) -> Answer {
    let sent = site.command(Method::DELETE, path).send().await;
    Answer::of(sent.unwrap()).await
}

#[tokio::test]
async fn names_that_clients_take_for_folders_are_commanded_by_query() {
    let site = Site::start().await;
    for (name, asked) in [(".", "."), ("..", "%2e%2E"), ("a/b", "a/b")] {
        site.circuit(name, Policy::default()).await;
        let seen = site.get(&format!("/circuit?name={asked}")).await.good();
        assert_eq!(seen["circuit"]["name"], name);
        let path = format!("/circuit/force-open?name={asked}");
        let body = json!({"for_ms": 60_000, "author": "ana"});
        let now = site.post(&path, body).await.good();
        assert_eq!(
            (&now["name"], &now["state"]),
            (&json!(name), &json!("forced_open"))
        );
        let path = format!("/circuit/policy?name={asked}");
        let stored = site
            .command(Method::PUT, &path)
            .json(&json!({"set": {"jitter": 3}}));
        let stored = Answer::of(stored.send().await.unwrap()).await.good();
        assert_eq!(stored["policy"], "jitter=3");
        let path = format!("/circuit/reset?name={asked}");
        assert_eq!(site.post(&path, json!({})).await.good()["state"], "closed");
        let gone = removed(&site, &format!("/circuit?name={asked}&force=true")).await;
        assert_eq!(gone.good()["name"], name);
    }
    site.get("/circuit").await.problem(404);
    site.get("/circuit/nonsense?name=.").await.problem(404);
    // Commands on these routes need a token as well.
    let sent = site
        .ask(Method::POST, "/circuit/reset?name=.")
        .json(&json!({}));
    Answer::of(sent.send().await.unwrap()).await.problem(401);
}

#[tokio::test]
async fn a_circuit_is_removed_when_nobody_uses_it_or_by_force() {
    let site = Site::start().await;
    let path = "/circuits/payments";
    removed(&site, path).await.problem(404);
    site.circuit("payments", Policy::default()).await;
    let words = removed(&site, path).await.problem(409);
    assert!(words.contains(site.circuits.replica()), "{words}");
    let sent = site.ask(Method::DELETE, path).send().await;
    Answer::of(sent.unwrap()).await.problem(401);
    removed(&site, "/circuits/payments?force=maybe")
        .await
        .problem(400);
    site.get(path).await.good();
    // Otherwise its replica would continue to use the circuit.
    site.circuits.shutdown().await;
    let gone = removed(&site, "/circuits/payments?force=true").await.good();
    assert_eq!(gone["name"], "payments");
    site.get(path).await.problem(404);
}
