//! `openapi.json` describes every answer completely. `scripts/schemathesis` tests more.

use std::collections::BTreeSet;

use commontrip::Rules;
use reqwest::Method;
use serde_json::{Value, json};

use super::site::{Answer, Site};

fn keys(of: &Value) -> BTreeSet<&str> {
    of.as_object().unwrap().keys().map(String::as_str).collect()
}

/// Compares an answer with its schema: no key is missing, and none is extra.
fn follows(api: &Value, schema: &Value, answer: &Value, at: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.strip_prefix("#/components/schemas/").unwrap();
        return follows(api, &api["components"]["schemas"][name], answer, name);
    }
    match answer {
        Value::Object(answers) => {
            let described = keys(&schema["properties"]);
            let required = schema["required"].as_array();
            let required = required
                .into_iter()
                .flatten()
                .map(|key| key.as_str().unwrap());
            let required: BTreeSet<_> = required.collect();
            let answered = keys(answer);
            assert!(
                answered.is_subset(&described),
                "{at}: more than is described in {answer}"
            );
            assert!(
                required.is_subset(&answered),
                "{at}: less than is required in {answer}"
            );
            for (key, value) in answers {
                follows(
                    api,
                    &schema["properties"][key],
                    value,
                    &format!("{at}.{key}"),
                );
            }
        }
        Value::Array(items) => {
            for item in items {
                follows(api, &schema["items"], item, &format!("{at}[]"));
            }
        }
        Value::String(word) => {
            if let Some(words) = schema["enum"].as_array() {
                assert!(words.iter().any(|known| known == word), "{at}: {word}");
            }
        }
        _ => {}
    }
}

/// A failed check, which is listed.
#[cfg(feature = "health")]
async fn checked(site: &Site) -> commontrip::health::HealthMonitor {
    use commontrip::health::{Check, HealthMonitor};

    let check = Check::new("postgres", || async { Err::<(), _>("no route") });
    let monitor = HealthMonitor::builder(&site.circuits).check(check);
    let monitor = monitor.start().unwrap();
    crate::wait::until("it is listed", async || {
        let listed = site.get("/checks").await.good();
        listed["checks"][0]["history"][0].is_object()
    })
    .await;
    monitor
}

#[tokio::test]
async fn every_answer_is_as_described() {
    let site = Site::start().await;
    let api = site.get("/openapi.json").await.good();
    assert_eq!(api["openapi"], "3.1.0");
    assert_eq!(api["info"]["version"], env!("CARGO_PKG_VERSION"));
    let payments = site.tripped("payments").await;
    payments.reset().await.unwrap();
    payments.acquire().await.unwrap().failure_of("timeout");
    site.circuits.flush().await;
    site.post(
        "/circuits/payments/force-open",
        json!({"for_ms": 60_000, "author": "ana"}),
    )
    .await
    .good();
    site.put_policy("payments", json!({"jitter": 3, "quorum": 2}))
        .await
        .good();
    #[cfg(feature = "health")]
    let _monitor = checked(&site).await;
    let schema = |path: &str, method: &str, status: &str, kind: &str| {
        let answer = &api["paths"][path][method]["responses"][status];
        let answer = match answer["$ref"].as_str() {
            Some(name) => &api["components"]["responses"][name.rsplit('/').next().unwrap()],
            None => answer,
        };
        let schema = answer["content"][kind]["schema"].clone();
        assert!(
            schema.is_object(),
            "{method} {path} {status} is not described"
        );
        schema
    };
    for (path, template) in [
        ("/circuits?history=360", "/circuits"),
        ("/circuits/payments", "/circuits/{name}"),
        #[cfg(feature = "health")]
        ("/checks", "/checks"),
        #[cfg(feature = "health")]
        ("/checks/postgres", "/checks/{name}"),
        ("/health", "/health"),
        ("/status", "/status"),
    ] {
        let answer = site.get(path).await.good();
        if path == "/circuits/payments" {
            assert_eq!(answer["circuit"]["failure_kinds"][0]["kind"], "timeout");
        }
        follows(
            &api,
            &schema(template, "get", "200", "application/json"),
            &answer,
            path,
        );
    }
    let now = site
        .post("/circuits/payments/reset", json!({}))
        .await
        .good();
    let template = "/circuits/{name}/reset";
    follows(
        &api,
        &schema(template, "post", "200", "application/json"),
        &now,
        template,
    );
    let done = site
        .post("/reset-all", json!({"confirm": "reset-all"}))
        .await
        .good();
    follows(
        &api,
        &schema("/reset-all", "post", "200", "application/json"),
        &done,
        "/reset-all",
    );
    let sent = site
        .ask(Method::POST, "/circuits/payments/reset")
        .json(&json!({}))
        .send();
    let refused = Answer::of(sent.await.unwrap()).await;
    refused.problem(401);
    let problem = schema(template, "post", "401", "application/problem+json");
    follows(&api, &problem, &refused.json(), "401");
}

#[tokio::test]
async fn every_path_and_every_setting_is_described() {
    let site = Site::start().await;
    let api = site.get("/openapi.json").await.good();
    let settings = keys(&api["components"]["schemas"]["Settings"]["properties"]);
    assert_eq!(settings, Rules::KEYS.iter().copied().collect());
    for (key, schema) in api["components"]["schemas"]["Settings"]["properties"]
        .as_object()
        .unwrap()
    {
        let (least, most) = (
            schema["minimum"].as_u64().unwrap(),
            schema["maximum"].as_u64().unwrap(),
        );
        for beyond in [least.checked_sub(1), Some(most + 1)].into_iter().flatten() {
            let refused = commontrip::Policy::default().check_stored(&format!("{key}={beyond}"));
            let words = refused.unwrap_err().to_string();
            let range = format!("{key} is {beyond}, but must be from {least} to {most}");
            assert!(words.starts_with(&range), "{words}");
        }
    }
    let states = commontrip::State::ALL.map(|state| json!(state));
    assert_eq!(api["components"]["schemas"]["State"]["enum"], json!(states));
    site.circuit("payments", commontrip::Policy::default())
        .await;
    for (path, methods) in api["paths"].as_object().unwrap() {
        let at = path.replace("{name}", "payments");
        let sent = site.ask(Method::OPTIONS, &at).send().await.unwrap();
        let there: BTreeSet<_> = sent.headers()["allow"]
            .to_str()
            .unwrap()
            .split(',')
            .collect();
        let described = keys(methods).into_iter().filter(|key| *key != "parameters");
        let mut described: BTreeSet<_> = described.map(str::to_uppercase).collect();
        if described.contains("GET") {
            described.insert("HEAD".to_owned());
        }
        assert_eq!(
            there,
            described.iter().map(String::as_str).collect(),
            "{path}"
        );
        for (method, operation) in methods.as_object().unwrap() {
            let commands = !matches!(method.as_str(), "get" | "parameters");
            if commands {
                assert_eq!(
                    operation["security"],
                    json!([{"token": []}]),
                    "{method} {path}"
                );
            }
        }
    }
    // The routes match those in the source.
    let source = include_str!("../../../src/admin/mod.rs");
    let routes = source
        .split("Router::new()\n        .route(\"/\"")
        .nth(1)
        .unwrap();
    let routes = routes.split(".with_state").next().unwrap();
    let routes: BTreeSet<_> = routes
        .split('"')
        .filter(|text| text.starts_with('/'))
        .chain(["/"])
        .collect();
    assert_eq!(keys(&api["paths"]), routes);
}
