//! What callers of the gateway send and receive.

use commontrip::CircuitSummary;
use serde::{Deserialize, Serialize};

use super::{provider::Provider, upstream::Usage};

/// A question.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chat {
    /// The provider that is asked first; the others follow in their default order.
    pub model: Option<String>,
    pub system: Option<String>,
    pub messages: Vec<Message>,
    pub max_tokens: Option<u32>,
    pub temperature: Option<f64>,
    /// Whether to answer with a stream. The answer is the same, so the cache ignores this.
    #[serde(default, skip_serializing)]
    pub stream: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    pub role: Role,
    pub content: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    User,
    Assistant,
}

impl Chat {
    /// Validates the question. Returns the provider that is asked first.
    ///
    /// # Errors
    /// When no provider would accept the question; says why.
    pub fn check(&self) -> Result<Provider, String> {
        if self
            .messages
            .last()
            .is_none_or(|last| last.role != Role::User)
        {
            return Err("messages: the last one must be the user's".to_owned());
        }
        if self
            .messages
            .iter()
            .any(|message| message.content.is_empty())
        {
            return Err("messages: none may be empty".to_owned());
        }
        // The narrowest range of all providers.
        if self.temperature.is_some_and(|t| !(0.0..=1.0).contains(&t)) {
            return Err("temperature: it can be from 0 to 1".to_owned());
        }
        let Some(model) = &self.model else {
            return Ok(Provider::BY_DEFAULT[0]);
        };
        let found = Provider::ALL.into_iter().find(|p| p.model() == model);
        found.ok_or_else(|| {
            let all = Provider::ALL.map(Provider::model).join(", ");
            format!("model: {model:?} is not one of {all}")
        })
    }
}

/// An answer, and how it was obtained.
#[derive(Clone, Debug, Serialize)]
pub struct Answer {
    pub text: String,
    pub provider: Provider,
    pub model: String,
    pub usage: Usage,
    /// Calls that were made for it, without skipped circuits.
    pub attempt: u32,
    pub elapsed_ms: u64,
    /// Whether a provider other than the first one gave it.
    pub fallback: bool,
    /// Whether the cache had it, so that no provider was asked.
    pub cached: bool,
    /// The circuit that admitted the call, as it was then; absent if the cache had the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circuit: Option<CircuitSummary>,
    /// Which replica of the gateway this is.
    pub replica: String,
}
