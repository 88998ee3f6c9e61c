//! OpenAI's `POST /v1/embeddings`: checks requests as strictly and answers in the same shape.

use std::sync::{Arc, atomic::Ordering};

use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::{HeaderMap, header::AUTHORIZATION},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Inner, Provider::OpenAi, THINKS, errors::Said};

pub const PATH: &str = "/v1/embeddings";

const MODEL: &str = "text-embedding-3-small";

/// The length of the model's vectors.
const DIMENSIONS: u32 = 1536;

/// The maximum number of texts in one request.
const MOST: usize = 2048;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    model: String,
    input: Input,
    encoding_format: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    One(String),
    Several(Vec<String>),
}

pub async fn embed(
    State(inner): State<Arc<Inner>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, Said> {
    inner.requests.fetch_add(1, Ordering::SeqCst);
    let key = headers.get(AUTHORIZATION).and_then(|key| key.to_str().ok());
    if key.and_then(|key| key.strip_prefix("Bearer ")) != Some(OpenAi.key()) {
        return Err(Said::wrong_key(OpenAi));
    }
    let texts = read(&body)?;
    inner.ready().await?;
    tokio::time::sleep(THINKS).await;
    Ok(Json(answer(&texts)))
}

/// The texts of a request.
fn read(body: &[u8]) -> Result<Vec<String>, Said> {
    let wrong = |words: &str| Said::new(OpenAi, 400, words);
    let asked: Asked = serde_json::from_slice(body).map_err(|error| {
        wrong(&format!(
            "We could not parse the JSON body of your request: {error}"
        ))
    })?;
    if asked.model != MODEL {
        let words = "The requested model does not exist";
        return Err(Said::new(OpenAi, 404, words));
    }
    if asked
        .encoding_format
        .is_some_and(|format| format != "float")
    {
        return Err(wrong("encoding_format: expected float"));
    }
    let texts = match asked.input {
        Input::One(text) => vec![text],
        Input::Several(texts) => texts,
    };
    if texts.is_empty() || texts.len() > MOST {
        let words = format!("input: expected an array of 1 to {MOST} texts");
        return Err(wrong(&words));
    }
    if texts.iter().any(String::is_empty) {
        return Err(wrong("input: cannot contain an empty text"));
    }
    Ok(texts)
}

/// Vectors of unit length, equal for equal texts and different for different texts.
fn answer(texts: &[String]) -> Value {
    let all = texts.iter().enumerate();
    let data: Vec<_> = all
        .map(|(index, text)| {
            json!({"object": "embedding", "index": index, "embedding": vector(text, DIMENSIONS)})
        })
        .collect();
    let tokens: usize = texts.iter().map(|text| text.len().div_ceil(4)).sum();
    json!({
        "object": "list",
        "data": data,
        "model": MODEL,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    })
}

/// The text's own vector of unit length.
pub fn vector(text: &str, dimensions: u32) -> Vec<f32> {
    let seed = text.bytes().fold(7_u32, |seed, byte| {
        seed.wrapping_mul(31).wrapping_add(u32::from(byte))
    });
    let one_of = |i: u32| f64::from(seed.wrapping_add(i)).sin() as f32;
    let numbers: Vec<f32> = (0..dimensions).map(one_of).collect();
    let length = numbers.iter().map(|n| n * n).sum::<f32>().sqrt();
    numbers.iter().map(|n| n / length).collect()
}
