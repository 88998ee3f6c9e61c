//! Calls to the providers, through genai.
//!
//! Owns the address and key of each provider; knows nothing of circuits.

use std::{collections::BTreeMap, net::SocketAddr};

use futures_util::{StreamExt, TryStreamExt, stream::BoxStream};
use genai::{
    Client, ModelIden, ServiceTarget,
    chat::{ChatMessage, ChatOptions, ChatRequest, ChatStreamEvent},
    embed::EmbedResponse,
    resolver::{AuthData, Endpoint, Error, ServiceTargetResolver},
};
use serde::Serialize;

use super::{
    chat::{Chat, Role},
    provider::Provider,
};

/// A model's answer, and its usage.
pub struct Reply {
    pub text: String,
    /// The provider's name for the model.
    pub model: String,
    pub usage: Usage,
}

/// Numbers of tokens; 0 if a provider does not report them.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Usage {
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    pub total_tokens: u64,
}

/// All providers behind one client.
#[derive(Clone)]
pub struct Upstream {
    client: Client,
}

impl Upstream {
    /// Uses these addresses of the providers instead of the real ones.
    pub fn at(places: BTreeMap<Provider, SocketAddr>) -> genai::Result<Self> {
        let resolve = move |target: ServiceTarget| {
            let kind = target.model.adapter_kind;
            let provider = Provider::of(kind).and_then(|p| Some((p, places.get(&p)?)));
            let Some((provider, place)) = provider else {
                return Err(Error::Custom(format!("there is no {kind} here")));
            };
            let url = format!("http://{place}{}", provider.base());
            Ok(ServiceTarget {
                endpoint: Endpoint::from_owned(url),
                auth: AuthData::from_single(provider.key()),
                model: target.model,
            })
        };
        let client = Client::builder()
            .with_service_target_resolver(ServiceTargetResolver::from_resolver_fn(resolve))
            .build()?;
        Ok(Self { client })
    }

    /// Asks one provider once.
    pub async fn ask(&self, provider: Provider, chat: &Chat) -> genai::Result<Reply> {
        let (request, options) = request(chat);
        let answer = self
            .client
            .exec_chat(provider.iden(), request, Some(&options))
            .await?;
        Ok(Reply {
            model: answer.provider_model_iden.model_name.to_string(),
            usage: Usage::of(&answer.usage),
            text: answer.into_first_text().unwrap_or_default(),
        })
    }

    /// Asks one provider for a stream. The request is sent when the stream is first polled.
    pub async fn stream(
        &self,
        provider: Provider,
        chat: &Chat,
    ) -> genai::Result<BoxStream<'static, genai::Result<ChatStreamEvent>>> {
        let (request, mut options) = request(chat);
        options.capture_usage = Some(true);
        let answer = self
            .client
            .exec_chat_stream(provider.iden(), request, Some(&options))
            .await?;
        Ok(answer.stream.map_err(within).boxed())
    }

    /// Asks one provider once for embeddings.
    pub async fn embed(
        &self,
        model: ModelIden,
        texts: Vec<String>,
    ) -> genai::Result<EmbedResponse> {
        self.client.embed_batch(model, texts, None).await
    }

    /// The list of a provider's models.
    pub async fn models(&self, provider: Provider) -> genai::Result<Vec<String>> {
        let iden = provider.iden();
        let kind = iden.adapter_kind;
        let target = self.client.resolve_service_target(iden).await?;
        let place = (target.endpoint, target.auth);
        self.client.all_model_names(kind, place).await
    }
}

impl Usage {
    pub fn of(usage: &genai::chat::Usage) -> Self {
        let tokens = |n: Option<i32>| n.and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
        Self {
            prompt_tokens: tokens(usage.prompt_tokens),
            completion_tokens: tokens(usage.completion_tokens),
            total_tokens: tokens(usage.total_tokens),
        }
    }
}

/// The error of a plain answer if a stream's error wraps it, such as an HTTP status.
fn within(error: genai::Error) -> genai::Error {
    match error {
        genai::Error::WebStream {
            model_iden,
            cause,
            error,
        } => match error.downcast() {
            Ok(inner) => *inner,
            Err(error) => genai::Error::WebStream {
                model_iden,
                cause,
                error,
            },
        },
        other => other,
    }
}

fn request(chat: &Chat) -> (ChatRequest, ChatOptions) {
    let messages = chat.messages.iter().map(|message| match message.role {
        Role::User => ChatMessage::user(&message.content),
        Role::Assistant => ChatMessage::assistant(&message.content),
    });
    let mut request = ChatRequest::new(messages.collect());
    request.system.clone_from(&chat.system);
    let options = ChatOptions {
        max_tokens: chat.max_tokens,
        temperature: chat.temperature,
        ..ChatOptions::default()
    };
    (request, options)
}
