//! The local server: its check and its circuit, and the chain of a client that uses it after the
//! cloud.

use std::{sync::Arc, time::Duration};

use commontrip::{Commontrip, Policy, State};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    Fleet, asking,
    example::{
        lab::Setup,
        local,
        provider::Provider::{Ollama, OpenAi},
        stubs::Mode,
    },
    problem, setup,
};
use crate::wait::until;

fn checking() -> Setup {
    Setup {
        open_for: Duration::from_millis(300),
        check_every: Duration::from_millis(100),
        ..setup()
    }
}

#[tokio::test]
async fn the_check_alone_opens_and_closes_the_local_circuit() {
    for mode in [Mode::Refuse, Mode::Fail] {
        let fleet = Fleet::start(checking()).await;
        let both = async |state: State| {
            (0..2).all(|replica| fleet.breaker(replica, Ollama).state() == state)
        };
        let status = async |expected: &str| {
            let (_, stats) = fleet.get(1, "/stats").await;
            let stats: Value = serde_json::from_str(&stats).unwrap();
            stats["checks"][0]["name"] == "ollama" && stats["checks"][0]["status"] == expected
        };
        until("healthy", async || status("healthy").await).await;
        assert!(both(State::Closed).await);
        fleet.set(Ollama, mode).await;
        until("open", async || both(State::Open).await).await;
        until("critical", async || status("critical").await).await;
        until("exported", async || {
            let (_, metrics) = fleet.get(1, "/metrics").await;
            metrics.contains(r#"health_check_status{check="ollama"} 3"#)
        })
        .await;
        fleet.set(Ollama, Mode::Ok).await;
        until("closed", async || both(State::Closed).await).await;
        // No question was asked.
        assert_eq!(fleet.requests(), [0; 5]);
    }
}

#[tokio::test]
async fn the_local_server_is_not_asked_while_its_check_says_it_is_down() {
    let fleet = Fleet::start(Setup {
        check_every: Duration::from_millis(100),
        ..setup()
    })
    .await;
    fleet.set(Ollama, Mode::Refuse).await;
    let breaker = fleet.breaker(0, Ollama);
    until("open", async || breaker.state() == State::Open).await;
    let mut question = asking("Hi");
    question["model"] = json!("llama3.2");
    let answer = fleet.ask(0, &question).await;
    let how = (&answer["provider"], &answer["attempt"]);
    assert_eq!(how, (&json!("openai"), &json!(1)));
}

/// When each attempt of a chain begins, and when the chain ends, if nobody answers.
async fn times(scale: f64) -> (Vec<(String, Duration)>, Duration) {
    let circuits = Commontrip::embedded().unwrap();
    let cloud = circuits.circuit("cloud", Policy::default()).unwrap();
    let local = circuits.circuit("local", Policy::default()).unwrap();
    let chain = local::chain(&cloud, &local, scale).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let begun = Instant::now();
    let failed = chain
        .call(|attempt| {
            let name = attempt.name.to_string();
            seen.lock().push((name, begun.elapsed()));
            std::future::pending::<Result<(), std::io::Error>>()
        })
        .await
        .unwrap_err();
    assert_eq!(failed.attempts.len(), 3);
    let seen = seen.lock().clone();
    (seen, begun.elapsed())
}

#[tokio::test(start_paused = true)]
async fn the_chain_is_10_s_wait_2_s_20_s_wait_5_s_30_s() {
    for scale in [1.0, 0.01] {
        let (seen, end) = times(scale).await;
        let expected = [("cloud", 0), ("cloud-patient", 12), ("local", 37)];
        for ((name, begun), (expected, seconds)) in seen.iter().zip(expected) {
            assert_eq!(name, expected);
            let at = Duration::from_secs(seconds).mul_f64(scale);
            let late = begun.checked_sub(at).unwrap();
            assert!(late < Duration::from_millis(10), "{name}: {begun:?}");
        }
        let late = end.checked_sub(Duration::from_secs(67).mul_f64(scale));
        assert!(late.unwrap() < Duration::from_millis(10), "{end:?}");
    }
}

impl Fleet {
    async fn post_patiently(&self, words: &str) -> reqwest::Response {
        let url = self.lab.replicas[0].url("/v1/chat/patient");
        let request = self.http.post(url).json(&asking(words));
        request.send().await.unwrap()
    }

    async fn ask_patiently(&self, words: &str) -> Value {
        let answer = self.post_patiently(words).await;
        assert_eq!(answer.status(), 200, "{:?}", answer.text().await);
        answer.json().await.unwrap()
    }
}

#[tokio::test]
async fn an_answer_tells_its_stage_and_why_the_ones_before_gave_none() {
    // 300 ms, 60 ms, 600 ms, 150 ms, 900 ms.
    let fleet = Fleet::start(Setup {
        patient_scale: 0.03,
        ..setup()
    })
    .await;
    let answer = fleet.ask_patiently("Hi").await;
    assert_eq!(answer["model"], "gpt-4o-mini");
    assert_eq!(answer["stage"], "cloud");
    assert_eq!(answer["fallback"], false);
    assert_eq!(answer["failed"], json!([]));

    fleet.set(OpenAi, Mode::Fail).await;
    let answer = fleet.ask_patiently("Hi").await;
    let why = "500: The server had an error while processing your request";
    assert_eq!(answer["model"], "llama3.2");
    assert_eq!(
        (&answer["stage"], &answer["attempt"], &answer["fallback"]),
        (&json!("local"), &json!(3), &json!(true))
    );
    assert!(answer["elapsed_ms"].as_u64().unwrap() >= 210, "{answer}");
    let expected = json!([
        {"stage": "cloud", "attempt": 1, "why": why},
        {"stage": "cloud-patient", "attempt": 2, "why": why},
    ]);
    assert_eq!(answer["failed"], expected);

    fleet.breaker(0, OpenAi).reset().await.unwrap();
    fleet.set(OpenAi, Mode::Hang).await;
    let answer = fleet.ask_patiently("Hi").await;
    assert!(answer["elapsed_ms"].as_u64().unwrap() >= 1110, "{answer}");
    assert_eq!(answer["failed"][1]["why"], "it took too long");

    // A skipped stage has no pause.
    let cloud = fleet.breaker(0, OpenAi);
    let override_ = commontrip::Override::because("test");
    cloud.force_open(override_).await.unwrap();
    let answer = fleet.ask_patiently("Hi").await;
    assert_eq!(
        (&answer["stage"], &answer["attempt"]),
        (&json!("local"), &json!(1))
    );
    let skipped =
        json!({"stage": "cloud", "attempt": null, "why": "its circuit rejected the call"});
    assert_eq!(answer["failed"][0], skipped);

    fleet.set(Ollama, Mode::Refuse).await;
    let (status, _, detail) = problem(fleet.post_patiently("Hi").await).await;
    assert_eq!(status, 503);
    assert!(detail.contains("local: it cannot be reached"), "{detail}");
}

#[tokio::test]
async fn the_patient_chain_does_not_stream() {
    let fleet = Fleet::start(setup()).await;
    let mut question = asking("Hi");
    question["stream"] = json!(true);
    let url = fleet.lab.replicas[0].url("/v1/chat/patient");
    let answer = fleet.http.post(url).json(&question).send().await.unwrap();
    let (status, _, detail) = problem(answer).await;
    assert_eq!(status, 400);
    assert!(detail.starts_with("stream: "), "{detail}");
    assert_eq!(fleet.requests(), [0; 5]);
}
