//! Streamed answers: what callers receive, from which provider, and what circuits learn from each
//! end.

use std::time::Duration;

use commontrip::{Outcome, Override, State};
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::{
    Fleet, asking,
    example::{
        lab::Setup,
        provider::Provider::{self, Anthropic, Gemini, Ollama, OpenAi},
        stubs::Mode,
    },
    problem, setup,
};
use crate::wait::until;

/// Short limits, which only a hanging stream exceeds.
fn impatient() -> Setup {
    Setup {
        attempt_timeout: Duration::from_secs(3),
        token_timeout: Duration::from_secs(1),
        ..setup()
    }
}

fn streaming(words: &str) -> Value {
    let mut question = asking(words);
    question["stream"] = json!(true);
    question
}

fn of(provider: Provider, words: &str) -> Value {
    let mut question = streaming(words);
    question["model"] = json!(provider.model());
    question
}

type Events = Vec<(String, Value)>;

fn events(text: &str) -> Events {
    let read = |block: &str| {
        let (name, data) = block.split_once('\n').unwrap();
        let name = name.strip_prefix("event: ").unwrap().to_owned();
        let data = data.strip_prefix("data: ").unwrap();
        (name, serde_json::from_str(data).unwrap())
    };
    let whole = text.strip_suffix("\n\n").unwrap();
    whole.split("\n\n").map(read).collect()
}

/// The text of a stream, its number of tokens, and its last event.
fn told(mut events: Events) -> (String, usize, String, Value) {
    let (name, last) = events.pop().unwrap();
    assert!(events.iter().all(|(name, _)| name == "token"), "{events:?}");
    let texts = events
        .iter()
        .map(|(_, data)| data["text"].as_str().unwrap());
    (texts.collect(), events.len(), name, last)
}

impl Fleet {
    async fn stream(&self, question: &Value) -> Events {
        let answer = self.post(0, question).await;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let text = answer.text().await.unwrap();
        assert_eq!(status, 200, "{text}");
        assert_eq!(headers["content-type"], "text/event-stream");
        events(&text)
    }
}

#[tokio::test]
async fn each_provider_streams_what_it_answers() {
    let fleet = Fleet::start(setup()).await;
    for provider in Provider::ALL {
        let question = of(provider, "What is 1 and 1?");
        let (text, tokens, last, end) = told(fleet.stream(&question).await);
        let name = provider.name();
        let whole = format!("{} has read: What is 1 and 1?", provider.model());
        assert_eq!(
            (text.as_str(), last.as_str()),
            (whole.as_str(), "done"),
            "{name}"
        );
        assert!(tokens > 3, "{name}: {tokens}");
        assert!(end["elapsed_ms"].as_u64().is_some(), "{name}: {end}");
        let mut plain = asking("What is 1 and 1? Plainly.");
        plain["model"] = json!(provider.model());
        let plain = fleet.ask(0, &plain).await;
        for field in [
            "provider", "model", "attempt", "fallback", "cached", "replica",
        ] {
            assert_eq!(end[field], plain[field], "{name}: {field}");
        }
        let usage = &end["usage"];
        assert!(usage["prompt_tokens"].as_u64() > Some(0), "{name}: {usage}");
        assert!(
            usage["completion_tokens"].as_u64() > Some(0),
            "{name}: {usage}"
        );
        until("told", async || {
            let stored = fleet.stored(provider).await;
            (stored.successes_total, stored.failures_total) == (2, 0)
        })
        .await;
    }
    let (_, metrics) = fleet.get(0, "/metrics").await;
    let both = r#"llm_requests_total{provider="ollama",model="llama3.2",status="200"} 2"#;
    assert!(metrics.contains(both), "{metrics}");
}

/// A failure after two tokens: what the caller sees for each provider, and the consequences.
async fn breaks(mode: Mode, words: impl Fn(Provider) -> &'static str) {
    let fleet = Fleet::start(impatient()).await;
    for provider in Provider::ALL {
        let (name, stub) = (provider.name(), fleet.lab.stubs.of(provider));
        fleet.set(provider, mode).await;
        let question = of(provider, "Hi");
        let (text, tokens, last, error) = told(fleet.stream(&question).await);
        assert_eq!((tokens, last.as_str()), (2, "error"), "{name}: {error}");
        assert_eq!(text, format!("{} has ", provider.model()));
        let detail = format!("{name}: {}", words(provider));
        assert_eq!(error, json!({"provider": name, "detail": detail}));
        let stored = fleet.stored(provider).await;
        let ends = (stored.successes_total, stored.failures_total);
        assert_eq!(ends, (0, 1), "{name}");
        until("dropped", async || stub.streams() == 0).await;
        // The broken answer was not cached.
        fleet.set(provider, Mode::Ok).await;
        let (.., last, end) = told(fleet.stream(&question).await);
        assert_eq!((last.as_str(), &end["cached"]), ("done", &json!(false)));
    }
    // No other provider stood in.
    assert_eq!(fleet.requests(), [2; 5]);
}

#[tokio::test]
async fn a_stream_that_stalls_after_its_first_token_ends_with_an_error() {
    breaks(Mode::Stall, |_| "the stream stalled: no item within 1s").await;
}

#[tokio::test]
async fn a_stream_that_ends_without_its_mark_ends_with_an_error() {
    breaks(Mode::EndEarly, |_| "the stream ended before its last item").await;
}

#[tokio::test]
async fn a_connection_that_is_cut_ends_with_an_error() {
    breaks(Mode::Cut, |_| "its stream broke off").await;
}

#[tokio::test]
async fn an_error_event_ends_the_stream_with_it() {
    breaks(Mode::ErrorEvent, |provider| match provider {
        Anthropic => "Overloaded",
        // genai skips a line with an error, which is Ollama's last line.
        Ollama => "the stream ended before its last item",
        _ => "The model is overloaded. Please try again later.",
    })
    .await;
}

#[tokio::test]
async fn before_the_first_token_another_provider_stands_in() {
    let fleet = Fleet::start(impatient()).await;
    let modes = [
        Mode::NoToken,
        Mode::Hang,
        Mode::Fail,
        Mode::Overloaded,
        Mode::Refuse,
    ];
    for (n, mode) in modes.into_iter().enumerate() {
        fleet.breaker(0, OpenAi).reset().await.unwrap();
        fleet.set(OpenAi, mode).await;
        let (text, _, last, end) = told(fleet.stream(&streaming(&format!("{mode:?}"))).await);
        assert_eq!(text, format!("claude-haiku-4-5 has read: {mode:?}"));
        assert_eq!(
            (last.as_str(), &end["provider"]),
            ("done", &json!("anthropic"))
        );
        assert_eq!(
            (&end["attempt"], &end["fallback"]),
            (&json!(2), &json!(true))
        );
        let stored = fleet.stored(OpenAi).await;
        assert_eq!(stored.failures_total, n as u64 + 1, "{mode:?}");
        fleet.set(OpenAi, Mode::Ok).await;
    }
    let (_, metrics) = fleet.get(0, "/metrics").await;
    let unanswered = r#"llm_requests_total{provider="openai",model="gpt-4o-mini",status="none"} 3"#;
    let failed = r#"llm_requests_total{provider="openai",model="gpt-4o-mini",status="500"} 1"#;
    assert!(
        metrics.contains(unanswered) && metrics.contains(failed),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_stream_that_fails_before_its_first_token_is_not_shown() {
    let fleet = Fleet::start(impatient()).await;
    for provider in Provider::ALL {
        let stand_in = if provider == OpenAi {
            Anthropic
        } else {
            OpenAi
        };
        fleet.lab.stubs.of(provider).fail_after(0);
        let modes = [Mode::EndEarly, Mode::Cut, Mode::ErrorEvent];
        for (n, mode) in modes.into_iter().enumerate() {
            fleet.set(provider, mode).await;
            let question = of(provider, &format!("{mode:?} of {}", provider.name()));
            let (text, _, last, end) = told(fleet.stream(&question).await);
            assert!(text.starts_with(stand_in.model()), "{mode:?}: {text}");
            let how = (&end["provider"], &end["attempt"]);
            assert_eq!(how, (&json!(stand_in.name()), &json!(2)), "{mode:?}");
            assert_eq!(last, "done");
            let failed = fleet.stored(provider).await.failures_total;
            assert_eq!(failed, n as u64 + 1, "{mode:?} of {provider:?}");
            fleet.breaker(0, provider).reset().await.unwrap();
        }
        fleet.set(provider, Mode::Ok).await;
    }
}

#[tokio::test]
async fn an_http_error_before_a_stream_means_what_it_means_before_a_plain_answer() {
    // Shorter than the providers' 8 s.
    let open_for = Duration::from_secs(1);
    let fleet = Fleet::start(Setup {
        open_for,
        ..setup()
    })
    .await;
    // A provider that said when to retry is not asked until then.
    for provider in [OpenAi, Anthropic, Gemini] {
        fleet.set(provider, Mode::RateLimit).await;
    }
    let (.., end) = told(fleet.stream(&streaming("Hi")).await);
    assert_eq!(
        (&end["provider"], &end["attempt"]),
        (&json!("ollama"), &json!(4))
    );
    for provider in [OpenAi, Anthropic, Gemini] {
        fleet.is_left_alone(provider).await;
    }
    let (.., end) = told(fleet.stream(&streaming("Skipped?")).await);
    assert_eq!(
        (&end["provider"], &end["attempt"]),
        (&json!("ollama"), &json!(1))
    );
    // The caller's own mistake is no provider's failure, and no other provider is asked.
    fleet.breaker(0, OpenAi).reset().await.unwrap();
    fleet.set(OpenAi, Mode::Ok).await;
    let before = fleet.requests();
    let mut too_much = streaming("Hi again");
    too_much["max_tokens"] = json!(1_000_000);
    let (status, _, detail) = problem(fleet.post(0, &too_much).await).await;
    assert_eq!(status, 400);
    assert!(
        detail.contains("openai says 400: max_tokens is too large"),
        "{detail}"
    );
    let requests = fleet.requests();
    assert_eq!((requests[0], &requests[1..]), (before[0] + 1, &before[1..]));
    assert_eq!(fleet.stored(OpenAi).await.ignored_total, 1);
}

#[tokio::test]
async fn when_nobody_streams_it_is_503_as_for_plain_answers() {
    let fleet = Fleet::start(impatient()).await;
    let modes = [
        (OpenAi, Mode::Fail),
        (Anthropic, Mode::NoToken),
        (Gemini, Mode::RateLimit),
        (Ollama, Mode::Refuse),
    ];
    for (provider, mode) in modes {
        fleet.set(provider, mode).await;
    }
    let (status, wait, detail) = problem(fleet.post(0, &streaming("Hi")).await).await;
    assert_eq!((status, wait), (503, Some(1)));
    assert_eq!(
        detail,
        "nobody answers; openai: 500: The server had an error while processing your request; \
         anthropic: the stream delivered no first item within 3s; \
         gemini: 429: Rate limit reached for requests; ollama: it cannot be reached"
    );
    for provider in Provider::BY_DEFAULT {
        let for_long = Override::because("test").lasting(Duration::from_secs(100));
        fleet
            .breaker(0, provider)
            .force_open(for_long)
            .await
            .unwrap();
    }
    let (status, wait, detail) = problem(fleet.post(0, &streaming("Hi")).await).await;
    assert_eq!(status, 503);
    assert!(wait.is_some_and(|wait| wait > 1), "{wait:?}");
    assert!(detail.contains("openai: call rejected"), "{detail}");
}

#[tokio::test]
async fn a_caller_who_leaves_takes_the_providers_stream_along_and_blames_nobody() {
    let fleet = Fleet::start(setup()).await;
    told(fleet.stream(&streaming("A success before")).await);
    let stub = fleet.lab.stubs.of(OpenAi);
    until("over", async || stub.streams() == 0).await;
    // A minute of tokens.
    let long = streaming(&"word ".repeat(10_000));
    let mut body = fleet.post(0, &long).await.bytes_stream();
    let first = body.next().await.unwrap().unwrap();
    assert!(first.starts_with(b"event: token\n"), "{first:?}");
    assert_eq!(stub.streams(), 1);
    drop(body);
    until("dropped", async || stub.streams() == 0).await;
    until("told", async || {
        fleet.stored(OpenAi).await.abandoned_total == 1
    })
    .await;
    let stored = fleet.stored(OpenAi).await;
    let ends = (stored.successes_total, stored.failures_total);
    assert_eq!((ends, stored.state), ((1, 0), State::Closed));
    assert_eq!(fleet.requests()[1..], [0; 4]);
}

#[tokio::test]
async fn a_caller_who_leaves_before_the_first_token_ends_the_whole_chain() {
    let fleet = Fleet::start(setup()).await;
    told(fleet.stream(&streaming("A success before")).await);
    fleet.set(OpenAi, Mode::NoToken).await;
    let stub = fleet.lab.stubs.of(OpenAi);
    until("over", async || stub.streams() == 0).await;
    let question = streaming("Hi");
    let waits = fleet.post(0, &question);
    let begun = until("begun", async || stub.streams() == 1);
    tokio::select! {
        answer = waits => panic!("{}", answer.status()),
        () = begun => {}
    }
    until("dropped", async || stub.streams() == 0).await;
    until("told", async || {
        fleet.stored(OpenAi).await.abandoned_total == 1
    })
    .await;
    assert_eq!(fleet.requests()[1..], [0; 4]);
}

#[tokio::test]
async fn a_probe_that_streams_closes_the_circuit_at_its_first_token() {
    let open_for = Duration::from_secs(1);
    let fleet = Fleet::start(Setup {
        open_for,
        ..setup()
    })
    .await;
    let breaker = fleet.breaker(0, OpenAi);
    breaker.acquire().await.unwrap().record(Outcome::trip());
    until("open", async || breaker.state() == State::Open).await;
    fleet.set(OpenAi, Mode::Stall).await;
    tokio::time::sleep(open_for).await;
    // The probe's stream falls silent after two tokens, and stays open.
    let mut streams = Vec::new();
    until("asked", async || {
        let question = streaming(&streams.len().to_string());
        streams.push(fleet.post(0, &question).await);
        fleet.lab.stubs.of(OpenAi).streams() == 1
    })
    .await;
    until("closed", async || breaker.state() == State::Closed).await;
    assert_eq!(fleet.lab.stubs.of(OpenAi).streams(), 1, "it goes on");
    fleet.set(OpenAi, Mode::Ok).await;
    let (.., end) = told(fleet.stream(&streaming("And now?")).await);
    assert_eq!(end["provider"], "openai");
}

#[tokio::test]
async fn streams_and_plain_answers_share_the_cache() {
    let fleet = Fleet::start(setup()).await;
    let (text, .., end) = told(fleet.stream(&streaming("Hi")).await);
    let before = (fleet.requests(), fleet.stored(OpenAi).await.successes_total);
    let plain = fleet.ask(0, &asking("Hi")).await;
    assert_eq!(
        (&plain["text"], &plain["cached"]),
        (&json!(text), &json!(true))
    );
    assert_eq!(plain["usage"], end["usage"]);
    // As a stream it is one token.
    let (again, tokens, last, end) = told(fleet.stream(&streaming("Hi")).await);
    assert_eq!((again, tokens, last.as_str()), (text, 1, "done"));
    assert_eq!((&end["cached"], &end["attempt"]), (&json!(true), &json!(0)));
    // And the reverse.
    let plain = fleet.ask(0, &asking("Ho")).await;
    let (text, tokens, ..) = told(fleet.stream(&streaming("Ho")).await);
    assert_eq!((&plain["text"], tokens), (&json!(text), 1));
    assert_eq!(before.1, 1);
    assert_eq!(fleet.requests()[0], before.0[0] + 1);
}
