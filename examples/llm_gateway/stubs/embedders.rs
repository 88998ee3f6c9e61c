//! Gemini's `:batchEmbedContents` and Ollama's `POST /api/embed`: checks requests as strictly and
//! answers in the same shapes. [`embeddings`](super::embeddings) has OpenAI's.

use std::sync::{Arc, atomic::Ordering};

use axum::{Json, body::Bytes, extract::State, http::HeaderMap};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Inner, Provider, THINKS, embeddings::vector, errors::Said};

pub const GEMINI_PATH: &str = "/v1beta/models/gemini-embedding-001:batchEmbedContents";
pub const OLLAMA_PATH: &str = "/api/embed";

const GEMINI: &str = "models/gemini-embedding-001";
const OLLAMA: &str = "nomic-embed-text";

/// The length of each provider's vectors.
const GEMINI_DIMENSIONS: u32 = 3072;
const OLLAMA_DIMENSIONS: u32 = 768;

/// The maximum number of texts in one batch of Gemini's.
const GEMINI_MOST: usize = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch {
    requests: Vec<Request>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Request {
    model: String,
    content: Content,
    #[serde(rename = "taskType")]
    _task_type: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    parts: Vec<Part>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    text: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    model: String,
    input: Vec<String>,
}

pub async fn gemini(
    State(inner): State<Arc<Inner>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, Said> {
    inner.requests.fetch_add(1, Ordering::SeqCst);
    let key = headers.get("x-goog-api-key");
    if key.and_then(|key| key.to_str().ok()) != Some(Provider::Gemini.key()) {
        return Err(Said::wrong_key(Provider::Gemini));
    }
    let wrong = |words: &str| Said::new(Provider::Gemini, 400, words);
    let batch: Batch = serde_json::from_slice(&body)
        .map_err(|error| wrong(&format!("Invalid JSON payload received. {error}")))?;
    if batch.requests.is_empty() || batch.requests.len() > GEMINI_MOST {
        let words = format!("at most {GEMINI_MOST} requests can be in one batch");
        return Err(wrong(&words));
    }
    let mut embeddings = Vec::new();
    for request in batch.requests {
        if request.model != GEMINI {
            return Err(wrong("the model does not match the one in the URL"));
        }
        let texts: Vec<_> = request.content.parts.into_iter().map(|p| p.text).collect();
        let text = texts.join("\n");
        if text.is_empty() {
            return Err(wrong("content is empty"));
        }
        embeddings.push(json!({"values": vector(&text, GEMINI_DIMENSIONS)}));
    }
    inner.ready().await?;
    tokio::time::sleep(THINKS).await;
    Ok(Json(json!({ "embeddings": embeddings })))
}

pub async fn ollama(State(inner): State<Arc<Inner>>, body: Bytes) -> Result<Json<Value>, Said> {
    inner.requests.fetch_add(1, Ordering::SeqCst);
    let said = |status, words: &str| Said::new(Provider::Ollama, status, words);
    let asked: Asked =
        serde_json::from_slice(&body).map_err(|error| said(400, &error.to_string()))?;
    if asked.model != OLLAMA {
        let words = format!("model {:?} not found, try pulling it first", asked.model);
        return Err(said(404, &words));
    }
    inner.ready().await?;
    tokio::time::sleep(THINKS).await;
    let tokens: usize = asked.input.iter().map(|text| text.len().div_ceil(4)).sum();
    let vectors: Vec<_> = asked
        .input
        .iter()
        .map(|text| vector(text, OLLAMA_DIMENSIONS))
        .collect();
    Ok(Json(json!({
        "model": OLLAMA,
        "embeddings": vectors,
        "total_duration": 14_143_917,
        "load_duration": 1_019_500,
        "prompt_eval_count": tokens,
    })))
}
