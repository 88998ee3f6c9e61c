//! Requests to providers, each in its own shape.
//!
//! Requests are parsed strictly: an unknown field, another path or a wrong key is an error. So the
//! gateway is known to send what the provider documents.

use axum::http::{HeaderMap, Method};
use serde::{Deserialize, de::DeserializeOwned};

use super::{Provider, errors::Said};

const GEMINI_STREAM: &str = "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse";

/// The content of a request, independent of its shape.
pub struct Asked {
    pub texts: Vec<String>,
    /// Whether the answer should be a stream.
    pub stream: bool,
    max_tokens: Option<u32>,
}

impl Asked {
    fn new<'a>(texts: impl Iterator<Item = &'a String>, max_tokens: Option<u32>) -> Self {
        Self {
            texts: texts.cloned().collect(),
            stream: false,
            max_tokens,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    System,
    User,
    Assistant,
    Model,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    role: Role,
    content: String,
}

/// The shape of OpenAI and DeepSeek.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Completion {
    model: String,
    stream: bool,
    stream_options: Option<StreamOptions>,
    messages: Vec<Message>,
    temperature: Option<f64>,
    max_tokens: Option<u32>,
}

/// Without this option a stream does not report its usage.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamOptions {
    include_usage: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Messages {
    model: String,
    stream: bool,
    system: Option<String>,
    messages: Vec<Message>,
    temperature: Option<f64>,
    max_tokens: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GenerateContent {
    contents: Vec<Content>,
    system_instruction: Option<Content>,
    generation_config: Option<GenerationConfig>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    role: Option<Role>,
    parts: Vec<Part>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    text: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GenerationConfig {
    temperature: Option<f64>,
    max_output_tokens: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OllamaChat {
    model: String,
    stream: bool,
    messages: Vec<Message>,
    options: Option<OllamaOptions>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OllamaOptions {
    temperature: Option<f64>,
    num_predict: Option<u32>,
}

/// Parses a request as the provider would.
pub fn read(
    provider: Provider,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Asked, Said> {
    let (route, key) = match provider {
        Provider::OpenAi | Provider::DeepSeek => ("/v1/chat/completions", "authorization"),
        Provider::Anthropic => ("/v1/messages", "x-api-key"),
        Provider::Gemini if path == GEMINI_STREAM => (GEMINI_STREAM, "x-goog-api-key"),
        Provider::Gemini => (
            "/v1beta/models/gemini-2.5-flash:generateContent",
            "x-goog-api-key",
        ),
        Provider::Ollama => ("/api/chat", ""),
    };
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if method != Method::POST || path != route {
        let words = format!("Unknown request URL: {method} {path}");
        return Err(Said::new(provider, 404, &words));
    }
    if !key.is_empty() {
        let sent = header(key).unwrap_or_default();
        if sent.strip_prefix("Bearer ").unwrap_or(sent) != provider.key() {
            return Err(Said::wrong_key(provider));
        }
    }
    let wrong = |words: &str| Said::new(provider, 400, words);
    if header("content-type") != Some("application/json") {
        return Err(wrong("content-type: expected application/json"));
    }
    if provider == Provider::Anthropic && header("anthropic-version") != Some("2023-06-01") {
        return Err(wrong("anthropic-version: header is required"));
    }
    let (mut asked, model, stream, temperature) = fields(provider, body)?;
    if model.is_some_and(|model| model != provider.model()) {
        let words = "The requested model does not exist";
        return Err(Said::new(provider, 404, words));
    }
    // Gemini has this in the path.
    asked.stream = stream || path == GEMINI_STREAM;
    let hottest = match provider {
        Provider::Anthropic => 1.0,
        _ => 2.0,
    };
    if temperature.is_some_and(|t| !(0.0..=hottest).contains(&t)) {
        let words = format!("temperature: expected a number from 0 to {hottest}");
        return Err(wrong(&words));
    }
    if asked.texts.is_empty() {
        return Err(wrong("messages: at least one message is required"));
    }
    let most = match provider {
        Provider::OpenAi => 16_384,
        Provider::Anthropic => 64_000,
        Provider::Gemini => 65_536,
        Provider::DeepSeek => 8_192,
        Provider::Ollama => u32::MAX,
    };
    match asked.max_tokens {
        Some(tokens) if tokens > most => Err(wrong(&format!(
            "max_tokens is too large: {tokens}. This model supports at most {most} completion tokens"
        ))),
        _ => Ok(asked),
    }
}

type Fields = (Asked, Option<String>, bool, Option<f64>);

fn fields(provider: Provider, body: &[u8]) -> Result<Fields, Said> {
    fn json<T: DeserializeOwned>(provider: Provider, body: &[u8]) -> Result<T, Said> {
        serde_json::from_slice(body).map_err(|error| {
            let words = format!("We could not parse the JSON body of your request: {error}");
            Said::new(provider, 400, &words)
        })
    }
    let unknown_role = || Said::new(provider, 400, "role: not one of this provider's");
    Ok(match provider {
        Provider::OpenAi | Provider::DeepSeek => {
            let asked: Completion = json(provider, body)?;
            if asked.stream_options.is_some_and(|all| all.include_usage) != asked.stream {
                let words = "stream_options: expected include_usage, and only with stream";
                return Err(Said::new(provider, 400, words));
            }
            if asked.messages.iter().any(|m| matches!(m.role, Role::Model)) {
                return Err(unknown_role());
            }
            let texts = asked.messages.iter().map(|m| &m.content);
            let all = Asked::new(texts, asked.max_tokens);
            (all, Some(asked.model), asked.stream, asked.temperature)
        }
        Provider::Anthropic => {
            let asked: Messages = json(provider, body)?;
            let known = |m: &Message| matches!(m.role, Role::User | Role::Assistant);
            if !asked.messages.iter().all(known) {
                return Err(unknown_role());
            }
            let texts = asked.messages.iter().map(|m| &m.content);
            let all = Asked::new(asked.system.iter().chain(texts), Some(asked.max_tokens));
            (all, Some(asked.model), asked.stream, asked.temperature)
        }
        Provider::Gemini => {
            let asked: GenerateContent = json(provider, body)?;
            let known = |c: &Content| matches!(c.role, None | Some(Role::User | Role::Model));
            if !asked.contents.iter().all(known) {
                return Err(unknown_role());
            }
            let contents = asked.system_instruction.iter().chain(&asked.contents);
            let texts = contents.flat_map(|content| content.parts.iter().map(|part| &part.text));
            let config = asked.generation_config.as_ref();
            let max_tokens = config.and_then(|config| config.max_output_tokens);
            let temperature = config.and_then(|config| config.temperature);
            // The model is in the path.
            (Asked::new(texts, max_tokens), None, false, temperature)
        }
        Provider::Ollama => {
            let asked: OllamaChat = json(provider, body)?;
            let texts = asked.messages.iter().map(|m| &m.content);
            let options = asked.options.as_ref();
            let all = Asked::new(texts, options.and_then(|options| options.num_predict));
            let temperature = options.and_then(|options| options.temperature);
            (all, Some(asked.model), asked.stream, temperature)
        }
    })
}
