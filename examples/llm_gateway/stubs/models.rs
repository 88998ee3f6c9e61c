//! Ollama's `GET /api/tags`: its list of models.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde_json::{Value, json};

use super::{Inner, Provider::Ollama, errors::Said};

pub const PATH: &str = "/api/tags";

pub async fn list(State(inner): State<Arc<Inner>>) -> Result<Json<Value>, Said> {
    inner.ready().await?;
    let name = format!("{}:latest", Ollama.model());
    Ok(Json(json!({"models": [{
        "name": name,
        "model": name,
        "modified_at": "2025-11-24T16:00:00.123456Z",
        "size": 2_019_393_189_u64,
        "digest": "a80c4f17acd55265feec403c7aef86be0c25983ab279d83f3bcd3abbcb5b8b72",
        "details": {
            "parent_model": "",
            "format": "gguf",
            "family": "llama",
            "families": ["llama"],
            "parameter_size": "3.2B",
            "quantization_level": "Q4_K_M",
        },
    }]})))
}
