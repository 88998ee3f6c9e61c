//! The example `llm_gateway`. This test includes the example's modules, so that it tests their
//! current code. Two replicas on the shared Redis, stubs of the providers on sockets, questions
//! over HTTP.

#[allow(dead_code, reason = "its `main` is not called")]
#[path = "../../../examples/llm_gateway/main.rs"]
mod example;

mod answers;
mod embeddings;
mod failing;
mod local;
mod providers;
mod streaming;

use std::time::Duration;

use commontrip::{CircuitBreaker, Snapshot, State};
use reqwest::StatusCode;
use serde_json::{Value, json};

use self::example::{
    lab::{Lab, Setup},
    provider::Provider,
    story,
    stubs::Mode,
};
use crate::support::{redis_url, unique_prefix};

const HOUR: Duration = Duration::from_secs(3600);

struct Fleet {
    lab: Lab,
    http: reqwest::Client,
}

fn setup() -> Setup {
    Setup {
        redis: Some((redis_url().to_owned(), unique_prefix("llm"))),
        open_for: HOUR,
        attempt_timeout: Duration::from_secs(20),
        // So rare that no scheduled check opens a circuit during a test.
        check_every: HOUR,
        token_timeout: Duration::from_secs(20),
        ..Setup::default()
    }
}

fn asking(words: &str) -> Value {
    json!({"messages": [{"role": "user", "content": words}]})
}

impl Fleet {
    async fn start(setup: Setup) -> Fleet {
        let lab = Lab::start(&setup).await.unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Fleet { lab, http }
    }

    fn breaker(&self, replica: usize, provider: Provider) -> CircuitBreaker {
        let gateway = &self.lab.replicas[replica].gateway;
        gateway.breaker(provider).clone()
    }

    async fn set(&self, provider: Provider, mode: Mode) {
        self.lab.stubs.of(provider).set(mode).await;
    }

    fn requests(&self) -> Vec<u64> {
        let stubs = &self.lab.stubs;
        Provider::ALL
            .map(|provider| stubs.of(provider).requests())
            .into()
    }

    async fn post(&self, replica: usize, question: &Value) -> reqwest::Response {
        let url = self.lab.replicas[replica].url("/v1/chat");
        self.http.post(url).json(question).send().await.unwrap()
    }

    async fn ask(&self, replica: usize, question: &Value) -> Value {
        let answer = self.post(replica, question).await;
        assert_eq!(answer.status(), 200, "{:?}", answer.text().await);
        answer.json().await.unwrap()
    }

    async fn get(&self, replica: usize, path: &str) -> (StatusCode, String) {
        let url = self.lab.replicas[replica].url(path);
        let answer = self.http.get(url).send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    /// A provider that said when to retry is not asked until then.
    async fn is_left_alone(&self, provider: Provider) {
        let stored = self.stored(provider).await;
        assert_eq!(stored.state, State::Open, "{provider:?}");
        let waits = stored.until_ms - stored.since_ms;
        assert!((8_000..12_000).contains(&waits), "{provider:?}: {waits} ms");
    }

    /// A circuit in the store, after the replicas have reported everything.
    async fn stored(&self, provider: Provider) -> Snapshot {
        for replica in &self.lab.replicas {
            replica.gateway.circuits.flush().await;
        }
        self.breaker(0, provider).snapshot().await.unwrap()
    }
}

async fn problem(answer: reqwest::Response) -> (u16, Option<u64>, String) {
    let status = answer.status().as_u16();
    let headers = answer.headers();
    assert_eq!(headers["content-type"], "application/problem+json");
    let wait = headers
        .get("retry-after")
        .map(|wait| wait.to_str().unwrap().parse().unwrap());
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["status"], status);
    (status, wait, body["detail"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_story_is_as_it_should_be() {
    let setup = Setup {
        redis: setup().redis,
        ..Setup::default()
    };
    story::play(&setup).await.unwrap();
}
