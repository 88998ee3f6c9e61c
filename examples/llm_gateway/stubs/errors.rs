//! Errors of providers, each in its own shape.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::Provider;

/// When to retry after a rate limit, in seconds.
const COME_BACK: u16 = 8;

/// Anthropic's own status for an overload.
const OVERLOADED: u16 = 529;

/// An error in the provider's shape.
pub struct Said {
    status: u16,
    retry_after: Option<u16>,
    body: Value,
}

impl Said {
    pub fn failed(provider: Provider) -> Self {
        let words = "The server had an error while processing your request";
        Self::new(provider, 500, words)
    }

    pub fn too_many(provider: Provider) -> Self {
        let mut said = Self::new(provider, 429, "Rate limit reached for requests");
        if provider == Provider::Gemini {
            // Google has no header for this.
            let wait = format!("{COME_BACK}s");
            said.body["error"]["details"] = json!([
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": wait}
            ]);
        } else {
            said.retry_after = Some(COME_BACK);
        }
        said
    }

    pub fn overloaded(provider: Provider) -> Self {
        let (status, words) = match provider {
            Provider::Anthropic => (OVERLOADED, "Overloaded"),
            _ => (503, "The model is overloaded. Please try again later."),
        };
        let mut said = Self::new(provider, status, words);
        said.retry_after = Some(1);
        said
    }

    pub fn wrong_key(provider: Provider) -> Self {
        if provider != Provider::Gemini {
            return Self::new(provider, 401, "Incorrect API key provided");
        }
        // Google uses this status for a wrong key.
        let words = "API key not valid. Please pass a valid API key.";
        let mut said = Self::new(provider, 400, words);
        said.body["error"]["details"] = json!([{
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": "API_KEY_INVALID",
            "domain": "googleapis.com",
        }]);
        said
    }

    pub fn into_body(self) -> Value {
        self.body
    }

    pub fn new(provider: Provider, status: u16, words: &str) -> Self {
        let body = match provider {
            Provider::OpenAi | Provider::DeepSeek => json!({"error": {
                "message": words,
                "type": match status {
                    429 => "requests",
                    400..500 => "invalid_request_error",
                    _ => "server_error",
                },
                "param": null,
                "code": match status {
                    401 => Some("invalid_api_key"),
                    429 => Some("rate_limit_exceeded"),
                    _ => None,
                },
            }}),
            Provider::Anthropic => json!({
                "type": "error",
                "error": {
                    "type": match status {
                        401 => "authentication_error",
                        404 => "not_found_error",
                        429 => "rate_limit_error",
                        400..500 => "invalid_request_error",
                        OVERLOADED => "overloaded_error",
                        _ => "api_error",
                    },
                    "message": words,
                },
                "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy",
            }),
            Provider::Gemini => json!({"error": {
                "code": status,
                "message": words,
                "status": match status {
                    404 => "NOT_FOUND",
                    429 => "RESOURCE_EXHAUSTED",
                    400..500 => "INVALID_ARGUMENT",
                    503 => "UNAVAILABLE",
                    _ => "INTERNAL",
                },
            }}),
            Provider::Ollama => json!({"error": words}),
        };
        Self {
            status,
            retry_after: None,
            body,
        }
    }
}

impl IntoResponse for Said {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::BAD_GATEWAY);
        let mut response = (status, Json(self.body)).into_response();
        if let Some(seconds) = self.retry_after {
            let headers = response.headers_mut();
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
