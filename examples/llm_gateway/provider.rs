//! The model providers: names, models, and circuits.

use genai::{ModelIden, adapter::AdapterKind};
use serde::{Deserialize, Serialize};

/// A model provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    OpenAi,
    Anthropic,
    Gemini,
    DeepSeek,
    Ollama,
}

impl Provider {
    pub const ALL: [Self; 5] = [
        Self::OpenAi,
        Self::Anthropic,
        Self::Gemini,
        Self::DeepSeek,
        Self::Ollama,
    ];

    /// The order in which providers are asked if the caller names none. The last one runs on local
    /// machines.
    pub const BY_DEFAULT: [Self; 4] = [Self::OpenAi, Self::Anthropic, Self::Gemini, Self::Ollama];

    pub const fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
            Self::DeepSeek => "deepseek",
            Self::Ollama => "ollama",
        }
    }

    pub const fn model(self) -> &'static str {
        match self {
            Self::OpenAi => "gpt-4o-mini",
            Self::Anthropic => "claude-haiku-4-5",
            Self::Gemini => "gemini-2.5-flash",
            Self::DeepSeek => "deepseek-chat",
            Self::Ollama => "llama3.2",
        }
    }

    /// One circuit for each model, because models of one provider fail independently.
    pub fn circuit(self) -> String {
        format!("llm:{}:{}", self.name(), self.model())
    }

    /// The path of the provider's base URL.
    pub const fn base(self) -> &'static str {
        match self {
            Self::OpenAi | Self::Anthropic | Self::DeepSeek => "/v1/",
            Self::Gemini => "/v1beta/",
            Self::Ollama => "/",
        }
    }

    /// The API key of the gateway's account. Ollama has none.
    pub const fn key(self) -> &'static str {
        match self {
            Self::OpenAi => "sk-proj-example",
            Self::Anthropic => "sk-ant-example",
            Self::Gemini => "AIza-example",
            Self::DeepSeek => "sk-example",
            Self::Ollama => "",
        }
    }

    /// The model's identifier in genai.
    pub fn iden(self) -> ModelIden {
        let kind = match self {
            Self::OpenAi => AdapterKind::OpenAI,
            Self::Anthropic => AdapterKind::Anthropic,
            Self::Gemini => AdapterKind::Gemini,
            Self::DeepSeek => AdapterKind::DeepSeek,
            Self::Ollama => AdapterKind::Ollama,
        };
        ModelIden::from_static(kind, self.model())
    }

    /// The provider of a genai adapter, if the gateway has it.
    pub fn of(kind: AdapterKind) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|provider| provider.iden().adapter_kind == kind)
    }
}
