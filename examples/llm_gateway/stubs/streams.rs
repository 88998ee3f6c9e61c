//! Streamed answers of providers, each in its own shape, and the ways in which a stream fails.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{Inner, Mode, Open, Provider, answers::answer, errors::Said, requests::Asked};

/// The time between two tokens.
const WRITES: Duration = Duration::from_millis(5);

/// A stream, complete or as the mode says.
pub fn respond(inner: &Arc<Inner>, mode: Mode, asked: &Asked) -> Response {
    let provider = inner.provider;
    let Script {
        opening,
        tokens,
        ending,
    } = Script::of(provider, asked);
    let before = match mode {
        Mode::NoToken => 0,
        Mode::Stall | Mode::EndEarly | Mode::Cut | Mode::ErrorEvent => {
            inner.fails_after.load(Ordering::SeqCst)
        }
        _ => tokens.len(),
    };
    let mut frames = opening;
    frames.extend(tokens.into_iter().take(before));
    let mut last = None;
    match mode {
        Mode::NoToken | Mode::Stall | Mode::EndEarly => {}
        Mode::Cut => last = Some(Err(io::Error::other("cut"))),
        Mode::ErrorEvent => frames.push(failure(provider)),
        _ => frames.extend(ending),
    }
    let hangs = matches!(mode, Mode::NoToken | Mode::Stall);
    let open = Open::of(inner);
    let frames = stream::iter(frames.into_iter().map(|frame| Ok(Bytes::from(frame))))
        .chain(stream::iter(last))
        .then(async |frame| {
            sleep(WRITES).await;
            frame
        });
    let frames = if hangs {
        frames.chain(stream::pending()).left_stream()
    } else {
        frames.right_stream()
    };
    // Lives as long as the stream.
    let frames = frames.inspect(move |_| {
        let _ = &open;
    });
    let kind = match provider {
        Provider::Ollama => "application/x-ndjson",
        _ => "text/event-stream",
    };
    ([(CONTENT_TYPE, kind)], Body::from_stream(frames)).into_response()
}

/// A complete stream.
struct Script {
    opening: Vec<String>,
    tokens: Vec<String>,
    ending: Vec<String>,
}

impl Script {
    fn of(provider: Provider, asked: &Asked) -> Self {
        let whole = answer(provider, asked);
        let model = provider.model();
        let last = asked.texts.last().map_or("", String::as_str);
        let text = format!("{model} has read: {last}");
        let words = text.split_inclusive(' ');
        match provider {
            Provider::OpenAi | Provider::DeepSeek => {
                let chunk = |choices: Value, usage: &Value| {
                    data(&json!({
                        "id": whole["id"],
                        "object": "chat.completion.chunk",
                        "created": whole["created"],
                        "model": model,
                        "service_tier": "default",
                        "system_fingerprint": whole["system_fingerprint"],
                        "choices": choices,
                        "usage": usage,
                    }))
                };
                let delta = |delta: Value, reason: Option<&str>| {
                    let choice = json!([{
                        "index": 0, "delta": delta, "logprobs": null, "finish_reason": reason,
                    }]);
                    chunk(choice, &Value::Null)
                };
                let opening = json!({"role": "assistant", "content": "", "refusal": null});
                Self {
                    opening: vec![delta(opening, None)],
                    tokens: words
                        .map(|word| delta(json!({"content": word}), None))
                        .collect(),
                    ending: vec![
                        delta(json!({}), Some("stop")),
                        chunk(json!([]), &whole["usage"]),
                        "data: [DONE]\n\n".to_owned(),
                    ],
                }
            }
            Provider::Anthropic => {
                let mut message = whole.clone();
                message["content"] = json!([]);
                message["stop_reason"] = Value::Null;
                message["usage"]["output_tokens"] = json!(1);
                let delta = |word| {
                    event(&json!({
                        "type": "content_block_delta",
                        "index": 0,
                        "delta": {"type": "text_delta", "text": word},
                    }))
                };
                Self {
                    opening: vec![
                        event(&json!({"type": "message_start", "message": message})),
                        event(&json!({
                            "type": "content_block_start",
                            "index": 0,
                            "content_block": {"type": "text", "text": ""},
                        })),
                        event(&json!({"type": "ping"})),
                    ],
                    tokens: words.map(delta).collect(),
                    ending: vec![
                        event(&json!({"type": "content_block_stop", "index": 0})),
                        event(&json!({
                            "type": "message_delta",
                            "delta": {"stop_reason": "end_turn", "stop_sequence": null},
                            "usage": {"output_tokens": whole["usage"]["output_tokens"]},
                        })),
                        event(&json!({"type": "message_stop"})),
                    ],
                }
            }
            Provider::Gemini => {
                let chunk = |word: &str, reason: Option<&str>| {
                    let mut chunk = whole.clone();
                    let candidate = &mut chunk["candidates"][0];
                    candidate["content"]["parts"][0]["text"] = json!(word);
                    if reason.is_none() {
                        candidate
                            .as_object_mut()
                            .map(|all| all.remove("finishReason"));
                    }
                    // Google uses these line endings.
                    format!("data: {chunk}\r\n\r\n")
                };
                Self {
                    opening: Vec::new(),
                    tokens: words.map(|word| chunk(word, None)).collect(),
                    ending: vec![chunk("", Some("STOP"))],
                }
            }
            Provider::Ollama => {
                let line = |word: &str| {
                    let message = json!({"role": "assistant", "content": word});
                    let at = &whole["created_at"];
                    format!(
                        "{}\n",
                        json!({"model": model, "created_at": at, "message": message, "done": false})
                    )
                };
                let mut end = whole.clone();
                end["message"]["content"] = json!("");
                Self {
                    opening: Vec::new(),
                    tokens: words.map(line).collect(),
                    ending: vec![format!("{end}\n")],
                }
            }
        }
    }
}

/// An error in a stream whose status was 200.
fn failure(provider: Provider) -> String {
    let body = Said::overloaded(provider).into_body();
    match provider {
        Provider::OpenAi | Provider::DeepSeek | Provider::Gemini => data(&body),
        Provider::Anthropic => event(&body),
        Provider::Ollama => format!("{body}\n"),
    }
}

fn data(body: &Value) -> String {
    format!("data: {body}\n\n")
}

/// An event that is named after its type.
fn event(body: &Value) -> String {
    let name = body["type"].as_str().unwrap_or_default();
    format!("event: {name}\n{}", data(body))
}
