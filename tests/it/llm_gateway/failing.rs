//! Which providers stand in, what circuits learn from that, and answers when no provider is left.

use std::time::Duration;

use commontrip::{Outcome, Override, State};
use serde_json::json;

use super::{
    Fleet, asking,
    example::{
        lab::Setup,
        provider::Provider::{self, Anthropic, DeepSeek, Gemini, Ollama, OpenAi},
        stubs::Mode,
    },
    problem, setup,
};
use crate::wait::until;

#[tokio::test]
async fn providers_stand_in_for_each_other_in_their_order() {
    let fleet = Fleet::start(setup()).await;
    let mut attempt = 0;
    for (provider, next) in [(OpenAi, Anthropic), (Anthropic, Gemini), (Gemini, Ollama)] {
        fleet.set(provider, Mode::Fail).await;
        attempt += 1;
        let answer = fleet.ask(0, &asking(next.name())).await;
        assert_eq!(answer["provider"], next.name());
        assert_eq!(answer["attempt"], attempt + 1);
        assert_eq!(answer["fallback"], true);
    }
    // A question for DeepSeek goes to DeepSeek first, then to the others in their order.
    let mut question = asking("deepseek");
    question["model"] = json!("deepseek-chat");
    assert_eq!(fleet.ask(0, &question).await["provider"], "deepseek");
    fleet.set(DeepSeek, Mode::Fail).await;
    fleet.set(OpenAi, Mode::Ok).await;
    // It has failed three times in the meantime.
    fleet.breaker(0, OpenAi).reset().await.unwrap();
    question["messages"][0]["content"] = json!("again");
    let answer = fleet.ask(0, &question).await;
    assert_eq!(answer["provider"], "openai");
    assert_eq!(
        (&answer["attempt"], &answer["fallback"]),
        (&json!(2), &json!(true))
    );
}

#[tokio::test]
async fn whatever_way_a_provider_fails_another_stands_in_and_its_circuit_knows() {
    let quick = Setup {
        attempt_timeout: Duration::from_secs(3),
        ..setup()
    };
    let fleet = Fleet::start(quick).await;
    let modes = [Mode::Fail, Mode::Overloaded, Mode::Refuse, Mode::Hang];
    for (n, mode) in modes.into_iter().enumerate() {
        fleet.breaker(0, OpenAi).reset().await.unwrap();
        fleet.set(OpenAi, mode).await;
        let answer = fleet.ask(0, &asking(&format!("{mode:?}"))).await;
        assert_eq!(answer["provider"], "anthropic", "{mode:?}");
        let stored = fleet.stored(OpenAi).await;
        assert_eq!(stored.failures_total, n as u64 + 1, "{mode:?}");
        fleet.set(OpenAi, Mode::Ok).await;
        let answer = fleet.ask(0, &asking(&format!("after {mode:?}"))).await;
        assert_eq!(answer["provider"], "openai", "after {mode:?}");
    }
    // An attempt without an answer counts as well: it was refused, or dropped.
    let (_, metrics) = fleet.get(0, "/metrics").await;
    let unanswered = r#"llm_requests_total{provider="openai",model="gpt-4o-mini",status="none"} 2"#;
    assert!(metrics.contains(unanswered), "{metrics}");
}

#[tokio::test]
async fn a_circuit_that_one_replica_opened_is_skipped_by_the_other() {
    let fleet = Fleet::start(setup()).await;
    fleet.set(OpenAi, Mode::Hang).await;
    let breaker = fleet.breaker(1, OpenAi);
    // The other replica learns of the circuit's state without a failure of its own.
    fleet
        .breaker(0, OpenAi)
        .acquire()
        .await
        .unwrap()
        .record(Outcome::trip());
    until("open", async || breaker.state() == State::Open).await;
    for i in 0..5 {
        let answer = fleet.ask(1, &asking(&i.to_string())).await;
        assert_eq!(
            (&answer["provider"], &answer["attempt"]),
            (&json!("anthropic"), &json!(1))
        );
    }
    assert_eq!(fleet.requests()[0], 0);
}

#[tokio::test]
async fn three_failures_open_the_circuit_for_the_fleet() {
    let fleet = Fleet::start(setup()).await;
    fleet.set(OpenAi, Mode::Fail).await;
    for i in 0..3 {
        assert_eq!(fleet.stored(OpenAi).await.state, State::Closed);
        fleet.ask(i % 2, &asking(&i.to_string())).await;
    }
    until("open", async || {
        fleet.stored(OpenAi).await.state == State::Open
    })
    .await;
}

#[tokio::test]
async fn who_says_when_to_come_back_is_left_alone_until_then() {
    // Shorter than the providers' 8 s.
    let open_for = Duration::from_secs(1);
    let fleet = Fleet::start(Setup {
        open_for,
        ..setup()
    })
    .await;
    for provider in [OpenAi, Anthropic, Gemini, DeepSeek] {
        fleet.set(provider, Mode::RateLimit).await;
        let mut question = asking("Hi");
        question["model"] = json!(provider.model());
        assert_eq!(fleet.ask(0, &question).await["fallback"], true);
        // One answer is enough.
        fleet.is_left_alone(provider).await;
    }
}

#[tokio::test]
async fn a_wrong_question_is_400_and_nobodys_failure() {
    let fleet = Fleet::start(setup()).await;
    let mut too_much = asking("Hi");
    too_much["max_tokens"] = json!(1_000_000);
    let (status, _, detail) = problem(fleet.post(0, &too_much).await).await;
    assert_eq!(status, 400);
    assert!(
        detail.contains("openai says 400: max_tokens is too large"),
        "{detail}"
    );
    // Only OpenAI was asked, and this is not its failure.
    assert_eq!(fleet.requests(), [1, 0, 0, 0, 0]);
    let stored = fleet.stored(OpenAi).await;
    assert_eq!((stored.ignored_total, stored.failures_total), (1, 0));
    for wrong in [
        json!({}),
        json!({"messages": []}),
        json!({"messages": [{"role": "user", "content": ""}]}),
        json!({"messages": [{"role": "assistant", "content": "Hi"}]}),
        json!({"messages": [{"role": "user", "content": "Hi"}], "colour": "blue"}),
        json!({"messages": [{"role": "user", "content": "Hi"}], "model": "gpt-0"}),
        json!({"messages": [{"role": "user", "content": "Hi"}], "temperature": 7}),
        json!("Hi"),
    ] {
        assert_eq!(problem(fleet.post(0, &wrong).await).await.0, 400, "{wrong}");
    }
    assert_eq!(fleet.requests(), [1, 0, 0, 0, 0]);
}

#[tokio::test]
async fn when_nobody_answers_it_is_503_until_the_first_circuit_lets_go() {
    let fleet = Fleet::start(setup()).await;
    for (provider, seconds) in [
        (OpenAi, 4000),
        (Anthropic, 2000),
        (Gemini, 1000),
        (Ollama, 3000),
    ] {
        let for_so_long = Override::because("test").lasting(Duration::from_secs(seconds));
        fleet
            .breaker(0, provider)
            .force_open(for_so_long)
            .await
            .unwrap();
    }
    let (status, wait, detail) = problem(fleet.post(0, &asking("Hi")).await).await;
    assert_eq!(status, 503);
    assert!((900..=1000).contains(&wait.unwrap()), "{wait:?}");
    for provider in Provider::BY_DEFAULT {
        assert!(
            detail.contains(&format!("{}: call rejected", provider.name())),
            "{detail}"
        );
    }
    assert_eq!(fleet.requests(), [0; 5]);
    // A failing provider with a closed circuit may be asked again at once.
    fleet.breaker(0, Ollama).reset().await.unwrap();
    fleet.set(Ollama, Mode::Refuse).await;
    let (status, wait, detail) = problem(fleet.post(0, &asking("Hi")).await).await;
    assert_eq!((status, wait), (503, Some(1)));
    assert!(detail.contains("ollama: it cannot be reached"), "{detail}");
    // If all circuits are closed and all providers fail, nobody has said when to retry.
    for provider in Provider::BY_DEFAULT {
        fleet.breaker(0, provider).reset().await.unwrap();
        fleet.set(provider, Mode::Fail).await;
    }
    let (status, wait, _) = problem(fleet.post(0, &asking("Hi")).await).await;
    assert_eq!((status, wait), (503, None));
    // Overrides without an end: the time is unknown.
    for provider in Provider::BY_DEFAULT {
        let without_end = Override::because("test");
        fleet
            .breaker(0, provider)
            .force_open(without_end)
            .await
            .unwrap();
    }
    let (status, wait, _) = problem(fleet.post(0, &asking("Hi")).await).await;
    assert_eq!((status, wait), (503, None));
}
