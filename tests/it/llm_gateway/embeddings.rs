//! Embeddings: the cache before the circuit, the requests to the provider, and the counts.

use std::time::Duration;

use commontrip::{CircuitBreaker, Override, State};
use serde_json::{Value, json};

use super::{
    Fleet,
    example::{
        embeddings::CIRCUIT,
        provider::Provider::{Gemini, Ollama, OpenAi},
        stubs::Mode,
    },
    problem, setup,
};
use crate::wait::until;

fn texts(input: &[&str]) -> Value {
    json!({ "input": input })
}

impl Fleet {
    async fn post_texts(&self, replica: usize, texts: &Value) -> reqwest::Response {
        let url = self.lab.replicas[replica].url("/v1/embeddings");
        self.http.post(url).json(texts).send().await.unwrap()
    }

    async fn embed(&self, replica: usize, input: &[&str]) -> Value {
        let answer = self.post_texts(replica, &texts(input)).await;
        assert_eq!(answer.status(), 200, "{:?}", answer.text().await);
        answer.json().await.unwrap()
    }

    fn embedder(&self, replica: usize) -> CircuitBreaker {
        let gateway = &self.lab.replicas[replica].gateway;
        gateway.embeddings.breaker().clone()
    }

    async fn embedding_stats(&self, replica: usize) -> Value {
        let (status, body) = self.get(replica, "/stats").await;
        assert_eq!(status, 200);
        let body: Value = serde_json::from_str(&body).unwrap();
        body["embeddings"].clone()
    }
}

fn cached(answer: &Value) -> Vec<bool> {
    let data = answer["data"].as_array().unwrap();
    data.iter()
        .map(|one| one["cached"].as_bool().unwrap())
        .collect()
}

#[tokio::test]
async fn each_text_gets_its_vector() {
    let fleet = Fleet::start(setup()).await;
    let answer = fleet.embed(0, &["one", "two"]).await;
    assert_eq!(answer["model"], "text-embedding-3-small");
    assert_eq!(answer["usage"]["prompt_tokens"], 2);
    let data = answer["data"].as_array().unwrap();
    assert_eq!(data.len(), 2);
    for (n, one) in data.iter().enumerate() {
        assert_eq!(one["index"], n);
        assert_eq!(one["embedding"].as_array().unwrap().len(), 1536);
    }
    assert_ne!(data[0]["embedding"], data[1]["embedding"]);
    assert_eq!(fleet.requests(), [1, 0, 0, 0, 0]);
}

#[tokio::test]
async fn a_hit_touches_no_circuit_and_no_provider() {
    let fleet = Fleet::start(setup()).await;
    let first = fleet.embed(0, &["one", "two"]).await;
    let seen = async || {
        fleet.lab.replicas[0].gateway.circuits.flush().await;
        let s = fleet.embedder(0).snapshot().await.unwrap();
        let others = (s.failures_total, s.ignored_total, s.rejected_total);
        (s.successes_total, others, s.calls)
    };
    let before = seen().await;
    assert_eq!(before.0, 1);
    for _ in 0..20 {
        let again = fleet.embed(0, &["two", "one"]).await;
        assert_eq!(cached(&again), [true, true]);
        assert_eq!(again["data"][1]["embedding"], first["data"][0]["embedding"]);
        assert_eq!(again["usage"]["total_tokens"], 0);
    }
    assert_eq!(seen().await, before);
    assert_eq!(fleet.requests()[0], 1);
}

#[tokio::test]
async fn a_batch_asks_only_for_what_is_missing_and_keeps_its_order() {
    let fleet = Fleet::start(setup()).await;
    // Each text has four bytes, which is one token.
    let known = fleet.embed(0, &["bbbb", "dddd"]).await;
    let answer = fleet
        .embed(0, &["eeee", "dddd", "aaaa", "bbbb", "eeee"])
        .await;
    assert_eq!(cached(&answer), [false, true, false, true, false]);
    // The missing texts need one call, and a repeated text is requested once.
    assert_eq!(answer["usage"]["prompt_tokens"], 2);
    assert_eq!(fleet.requests()[0], 2);
    let vector = |answer: &Value, n: usize| answer["data"][n]["embedding"].clone();
    assert_eq!(vector(&answer, 1), vector(&known, 1));
    assert_eq!(vector(&answer, 3), vector(&known, 0));
    assert_eq!(vector(&answer, 0), vector(&answer, 4));
    // Another replica has its own cache: it requests each text alone, and must get the same vector.
    for (n, text) in ["eeee", "dddd", "aaaa", "bbbb"].into_iter().enumerate() {
        let alone = fleet.embed(1, &[text]).await;
        assert_eq!(vector(&alone, 0), vector(&answer, n), "{text}");
    }
}

#[tokio::test]
async fn while_the_circuit_is_open_kept_texts_are_served_and_others_are_503() {
    let fleet = Fleet::start(setup()).await;
    fleet.embed(0, &["one", "two"]).await;
    fleet.lab.replicas[0].gateway.circuits.flush().await;
    fleet.set(OpenAi, Mode::Fail).await;
    for i in 0..3 {
        let answer = fleet.post_texts(0, &texts(&[&i.to_string()])).await;
        assert_eq!(problem(answer).await.0, 503);
    }
    for replica in [0, 1] {
        let breaker = fleet.embedder(replica);
        until("open", async || breaker.state() == State::Open).await;
    }
    let asked = fleet.requests()[0];
    let answer = fleet.embed(0, &["two", "one"]).await;
    assert_eq!(cached(&answer), [true, true]);
    for input in [&["three"][..], &["one", "three"]] {
        let answer = fleet.post_texts(0, &texts(input)).await;
        let (status, wait, detail) = problem(answer).await;
        assert_eq!(status, 503);
        assert!((3000..=3600).contains(&wait.unwrap()), "{wait:?}");
        assert!(detail.contains("openai: call rejected"), "{detail}");
    }
    assert_eq!(fleet.requests()[0], asked);
    // The chat model of the same provider has its own circuit.
    assert_eq!(fleet.breaker(0, OpenAi).state(), State::Closed);
    // The failure was not cached.
    fleet.set(OpenAi, Mode::Ok).await;
    fleet.embedder(0).reset().await.unwrap();
    assert_eq!(cached(&fleet.embed(0, &["three"]).await), [false]);
}

#[tokio::test]
async fn what_came_of_texts_is_counted() {
    let fleet = Fleet::start(setup()).await;
    fleet.embed(0, &["one", "two"]).await;
    fleet.embed(0, &["one", "three"]).await;
    let opened = fleet.embedder(0);
    let an_hour = Override::because("test").lasting(Duration::from_secs(3600));
    opened.force_open(an_hour).await.unwrap();
    fleet.post_texts(0, &texts(&["one", "four"])).await;
    let expected = json!({"hits": 2, "misses": 4, "calls": 2, "rejected": 1, "kept": 3});
    assert_eq!(fleet.embedding_stats(0).await, expected);
    let none = json!({"hits": 0, "misses": 0, "calls": 0, "rejected": 0, "kept": 0});
    assert_eq!(fleet.embedding_stats(1).await, none);
    let (_, metrics) = fleet.get(0, "/metrics").await;
    for (event, n) in [("hits", 2), ("misses", 4), ("calls", 2), ("rejected", 1)] {
        let line = format!(r#"llm_embeddings_total{{event="{event}"}} {n}"#);
        assert!(
            metrics.lines().any(|l| l == line),
            "{line} is not in\n{metrics}"
        );
    }
    let (_, stats) = fleet.get(0, "/stats").await;
    assert!(stats.contains(&format!(r#""name":"{CIRCUIT}","state":"forced_open""#)));
}

#[tokio::test]
async fn what_no_provider_would_embed_is_400_and_asks_nobody() {
    let fleet = Fleet::start(setup()).await;
    for wrong in [
        json!({}),
        json!({"input": []}),
        json!({"input": "one"}),
        json!({"input": ["one", ""]}),
        json!({"input": vec!["one"; 2049]}),
        json!({"input": ["one"], "model": "gpt-4o-mini"}),
        json!({"input": ["one"], "colour": "blue"}),
    ] {
        let answer = fleet.post_texts(0, &wrong).await;
        assert_eq!(problem(answer).await.0, 400, "{wrong}");
    }
    let named = json!({"input": ["one"], "model": "text-embedding-3-small"});
    assert_eq!(fleet.requests()[0], 0);
    assert_eq!(fleet.post_texts(0, &named).await.status(), 200);
}

#[tokio::test]
async fn the_stub_takes_what_openai_takes() {
    let fleet = Fleet::start(setup()).await;
    let url = format!("http://{}/v1/embeddings", fleet.lab.stubs.of(OpenAi).addr);
    let send = async |key: &str, body: Value| {
        let request = fleet.http.post(&url).bearer_auth(key).json(&body);
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json::<Value>().await.unwrap())
    };
    let good = json!({"model": "text-embedding-3-small", "input": "one"});
    let (status, answer) = send(OpenAi.key(), good.clone()).await;
    assert_eq!((status, &answer["object"]), (200, &json!("list")));
    assert_eq!(answer["data"][0]["object"], "embedding");
    assert_eq!(send("guessed", good.clone()).await.0, 401);
    for (field, value, expected) in [
        ("colour", json!("blue"), 400),
        ("input", json!([]), 400),
        ("input", json!([""]), 400),
        ("encoding_format", json!("words"), 400),
        ("model", json!("gpt-0"), 404),
    ] {
        let mut strange = good.clone();
        strange[field] = value;
        let (status, answer) = send(OpenAi.key(), strange).await;
        assert_eq!(status, expected, "{field}");
        assert!(answer["error"]["message"].is_string(), "{answer}");
    }
}

#[tokio::test]
async fn each_model_has_its_provider_its_cache_and_its_circuit() {
    let fleet = Fleet::start(setup()).await;
    let embed = async |model: &str, input: &[&str]| {
        let texts = json!({"input": input, "model": model});
        fleet.post_texts(0, &texts).await
    };
    for (model, numbers, asked) in [
        ("text-embedding-3-small", 1536, [1, 0, 0, 0, 0]),
        ("gemini-embedding-001", 3072, [1, 0, 1, 0, 0]),
        ("nomic-embed-text", 768, [1, 0, 1, 0, 1]),
    ] {
        let answer = embed(model, &["one", "two"]).await;
        assert_eq!(answer.status(), 200, "{:?}", answer.text().await);
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(answer["model"], model);
        assert_eq!(cached(&answer), [false, false], "{model}");
        for one in answer["data"].as_array().unwrap() {
            assert_eq!(one["embedding"].as_array().unwrap().len(), numbers);
        }
        assert_ne!(
            answer["data"][0]["embedding"],
            answer["data"][1]["embedding"]
        );
        let again: Value = embed(model, &["two"]).await.json().await.unwrap();
        assert_eq!(cached(&again), [true]);
        assert_eq!(
            again["data"][0]["embedding"],
            answer["data"][1]["embedding"]
        );
        assert_eq!(fleet.requests(), asked);
    }
    let many = vec!["x"; 101];
    assert_eq!(
        problem(embed("gemini-embedding-001", &many).await).await.0,
        400
    );
    // Gemini fails alone, and its cached vectors are still served.
    fleet.set(Gemini, Mode::Fail).await;
    for n in 0..3 {
        let answer = embed("gemini-embedding-001", &[&format!("new {n}")]).await;
        assert_eq!(problem(answer).await.0, 503);
    }
    let answer = embed("gemini-embedding-001", &["new"]).await;
    let (status, _, words) = problem(answer).await;
    assert_eq!(status, 503);
    assert!(words.contains("gemini: call rejected"), "{words}");
    assert_eq!(embed("gemini-embedding-001", &["one"]).await.status(), 200);
    assert_eq!(embed("nomic-embed-text", &["three"]).await.status(), 200);
    assert_eq!(
        embed("text-embedding-3-small", &["three"]).await.status(),
        200
    );
}

#[tokio::test]
async fn the_other_stubs_take_what_their_providers_take() {
    let fleet = Fleet::start(setup()).await;
    let place = |provider, path: &str| {
        let addr = fleet.lab.stubs.of(provider).addr;
        format!("http://{addr}{path}")
    };
    let url = place(
        Gemini,
        "/v1beta/models/gemini-embedding-001:batchEmbedContents",
    );
    let one = |model: &str, text: &str| json!({"requests": [{"model": model, "content": {"parts": [{"text": text}]}}]});
    let good = "models/gemini-embedding-001";
    for (key, body, expected) in [
        (Gemini.key(), one(good, "one"), 200),
        ("guessed", one(good, "one"), 400),
        (Gemini.key(), one("models/other", "one"), 400),
        (Gemini.key(), one(good, ""), 400),
        (Gemini.key(), json!({"requests": []}), 400),
        (Gemini.key(), json!({"texts": ["one"]}), 400),
    ] {
        let request = fleet.http.post(&url).header("x-goog-api-key", key);
        let answer = request.json(&body).send().await.unwrap();
        assert_eq!(answer.status(), expected, "{body}");
    }
    let url = place(Ollama, "/api/embed");
    for (body, expected) in [
        (json!({"model": "nomic-embed-text", "input": ["one"]}), 200),
        (json!({"model": "other", "input": ["one"]}), 404),
        (json!({"model": "nomic-embed-text", "inputs": ["one"]}), 400),
    ] {
        let answer = fleet.http.post(&url).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), expected, "{body}");
    }
}
