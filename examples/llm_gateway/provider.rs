//! The model providers: what they are called, which model is asked, and where their circuit is.

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

    /// Who is asked when the caller has no wish, in this order. The last one is on our own machines.
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

    /// One circuit for each model, for models of one provider fail alone.
    pub fn circuit(self) -> String {
        format!("llm:{}:{}", self.name(), self.model())
    }

    /// What the provider's base URL has after the host.
    pub const fn base(self) -> &'static str {
        match self {
            Self::OpenAi | Self::Anthropic | Self::DeepSeek => "/v1/",
            Self::Gemini => "/v1beta/",
            Self::Ollama => "/",
        }
    }

    /// The key of our account. Ollama has none.
    pub const fn key(self) -> &'static str {
        match self {
            Self::OpenAi => "sk-proj-example",
            Self::Anthropic => "sk-ant-example",
            Self::Gemini => "AIza-example",
            Self::DeepSeek => "sk-example",
            Self::Ollama => "",
        }
    }

    /// The model as genai has to be asked for it.
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

    /// The provider of one of genai's adapters, where there is one here.
    pub fn of(kind: AdapterKind) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|provider| provider.iden().adapter_kind == kind)
    }
}
