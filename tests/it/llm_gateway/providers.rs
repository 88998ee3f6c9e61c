//! Each provider's own shapes, and what its answers say about it.

use std::time::Duration;

use commontrip::{FailureKind, Outcome};
use genai::{adapter::AdapterKind, webc};
use reqwest::{
    StatusCode,
    header::{HeaderMap, HeaderValue},
};
use serde_json::{Value, json};

use super::{
    Fleet,
    example::{
        provider::Provider::{self, Anthropic, DeepSeek, Gemini, Ollama, OpenAi},
        verdict::verdict,
    },
    setup,
};

#[tokio::test]
async fn each_provider_is_asked_in_its_own_shape_and_its_answer_understood() {
    let fleet = Fleet::start(setup()).await;
    for provider in Provider::ALL {
        let question = json!({
            "model": provider.model(),
            "system": "Be brief.",
            "messages": [
                {"role": "user", "content": "What is 1 and 1?"},
                {"role": "assistant", "content": "2"},
                {"role": "user", "content": "And 1?"},
            ],
            "max_tokens": 100,
            "temperature": 0.5,
        });
        let answer = fleet.ask(0, &question).await;
        assert_eq!(answer["provider"], provider.name());
        assert_eq!(answer["model"], provider.model());
        assert_eq!(
            answer["text"],
            format!("{} has read: And 1?", provider.model())
        );
        // The stub counts all four texts and its answer, in the provider's own fields.
        let text = answer["text"].as_str().unwrap().len().div_ceil(4);
        let usage =
            json!({"prompt_tokens": 10, "completion_tokens": text, "total_tokens": 10 + text});
        assert_eq!(answer["usage"], usage, "{provider:?}");
        assert_eq!(answer["fallback"], false);
    }
    assert_eq!(fleet.requests(), [1; 5]);
}

#[tokio::test]
async fn a_stub_refuses_what_its_provider_would() {
    let fleet = Fleet::start(setup()).await;
    let good = |provider: Provider| match provider {
        Gemini => json!({"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}),
        _ => {
            let messages = [json!({"role": "user", "content": "Hi"})];
            let mut body =
                json!({"model": provider.model(), "stream": false, "messages": messages});
            if provider == Anthropic {
                body["max_tokens"] = json!(100);
            }
            body
        }
    };
    for provider in Provider::ALL {
        let (path, key) = match provider {
            OpenAi | DeepSeek => ("/v1/chat/completions", "authorization"),
            Anthropic => ("/v1/messages", "x-api-key"),
            Gemini => (
                "/v1beta/models/gemini-2.5-flash:generateContent",
                "x-goog-api-key",
            ),
            Ollama => ("/api/chat", "x-none"),
        };
        let send = async |path: &str, key: (&str, &str), body: Value| {
            let url = format!("http://{}{path}", fleet.lab.stubs.of(provider).addr);
            let request = fleet.http.post(url).header(key.0, key.1).json(&body);
            let request = request.header("anthropic-version", "2023-06-01");
            request.send().await.unwrap().status().as_u16()
        };
        let right = (key, provider.key());
        assert_eq!(send(path, right, good(provider)).await, 200, "{provider:?}");
        assert_eq!(
            send("/v2/chat", right, good(provider)).await,
            404,
            "{provider:?}"
        );
        let mut strange = good(provider);
        strange["colour"] = json!("blue");
        assert_eq!(send(path, right, strange).await, 400, "{provider:?}");
        let mut empty = good(provider);
        empty[if provider == Gemini {
            "contents"
        } else {
            "messages"
        }] = json!([]);
        assert_eq!(send(path, right, empty).await, 400, "{provider:?}");
        let wrong = send(path, (key, "guessed"), good(provider)).await;
        let expected = match provider {
            Ollama => 200,
            Gemini => 400,
            _ => 401,
        };
        assert_eq!(wrong, expected, "{provider:?}");
    }
}

/// A genai error for a provider's answer.
fn error(status: u16, header: Option<&str>, body: Value) -> genai::Error {
    let mut headers = HeaderMap::new();
    if let Some(header) = header {
        headers.insert("retry-after", HeaderValue::from_str(header).unwrap());
    }
    genai::Error::WebModelCall {
        model_iden: genai::ModelIden::from_static(AdapterKind::OpenAI, "m"),
        webc_error: webc::Error::ResponseFailedStatus {
            status: StatusCode::from_u16(status).unwrap(),
            body: body.to_string(),
            headers: Box::new(headers),
        },
    }
}

#[test]
fn what_each_status_says_of_a_provider() {
    let after = |seconds| Some(Duration::from_secs(seconds));
    let google = |detail: Value| json!({"error": {"details": [detail]}});
    let retry_info = google(json!({"retryDelay": "17s"}));
    let wrong_key = google(json!({"reason": "API_KEY_INVALID"}));
    for (status, header, body, outcome) in [
        (400, None, json!({}), Outcome::Ignored),
        (413, None, json!({}), Outcome::Ignored),
        (422, None, json!({}), Outcome::Ignored),
        (400, None, wrong_key, Outcome::trip()),
        (401, None, json!({}), Outcome::trip()),
        (403, None, json!({}), Outcome::trip()),
        (404, None, json!({}), Outcome::trip()),
        (429, None, json!({}), Outcome::failure()),
        (
            429,
            Some("7"),
            json!({}),
            Outcome::trip().with_retry_after(after(7)),
        ),
        (
            429,
            None,
            retry_info,
            Outcome::trip().with_retry_after(after(17)),
        ),
        (429, Some("soon"), json!({}), Outcome::failure()),
        (500, None, json!("<html>"), Outcome::failure()),
        (
            503,
            Some("7"),
            json!({}),
            Outcome::failure().with_retry_after(after(7)),
        ),
        (529, None, json!({}), Outcome::failure()),
    ] {
        let words = format!("{status} {header:?} {body}");
        let (kind, wait) = (FailureKind::status(status), outcome.retry_after());
        let outcome = match outcome {
            Outcome::Failure { .. } => Outcome::failure_of(kind).with_retry_after(wait),
            Outcome::Trip { .. } => Outcome::trip_of(kind).with_retry_after(wait),
            other => other,
        };
        assert_eq!(
            verdict::<()>(&Err(error(status, header, body))),
            outcome,
            "{words}"
        );
    }
}
