//! Answers as they come: each provider's stream behind its circuit.
//!
//! Owns which provider's stream a caller gets, and what its end means; how it looks is
//! [`sse`](super::sse)'s. Invariant: another provider stands in only as long as the caller has no
//! token.

use std::{future::ready, sync::Arc};

use commontrip::{
    CallError, Outcome,
    stream::{GuardedStream, StreamError, StreamOptions},
};
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use genai::chat::ChatStreamEvent;
use tokio::time::Instant;

use super::{
    chain::{Miss, nobody},
    chat::{Answer, Chat},
    gateway::{Found, Gateway, Refusal, millis},
    lab::Setup,
    meter::Meter,
    provider::Provider,
    upstream::Usage,
    verdict::{failed, said},
};

/// What a caller gets, in order: tokens, then one of the other two.
pub enum Told {
    Token(String),
    /// The answer is whole.
    Done(Answer),
    /// The provider failed after its first token.
    Broken(Provider, String),
}

/// What is expected of each provider's stream.
pub type Streams = StreamOptions<Piece, genai::Error>;

/// What a provider's stream consists of, without what is between.
pub enum Piece {
    Token(String),
    /// The provider's own end of the answer.
    End(Usage),
}

type Pieces = GuardedStream<BoxStream<'static, genai::Result<Piece>>>;
type Failed = StreamError<genai::Error>;

/// Limits, and what ends mean.
pub fn options(setup: &Setup) -> Streams {
    StreamOptions::new()
        .first_item_within(setup.attempt_timeout)
        .items_within(setup.token_timeout)
        .ends_with(|piece| matches!(piece, Piece::End(_)))
        .classify(|end| end.error.map_or(Outcome::Success, outcome))
}

fn outcome(error: &Failed) -> Outcome {
    match error {
        StreamError::Failed(error) => failed(error),
        _ => Outcome::failure(),
    }
}

/// The part of an event that counts: a token, or the end.
///
/// Where a provider's stream just stops, genai has no `End` for some providers, and for the others
/// one without a reason.
fn piece(event: ChatStreamEvent) -> Option<Piece> {
    match event {
        ChatStreamEvent::Chunk(chunk) if !chunk.content.is_empty() => {
            Some(Piece::Token(chunk.content))
        }
        ChatStreamEvent::End(end) if end.captured_stop_reason.is_some() => {
            let usage = end.captured_usage.as_ref();
            Some(Piece::End(usage.map(Usage::of).unwrap_or_default()))
        }
        _ => None,
    }
}

impl Gateway {
    /// Answers a question by a stream, of which the first token is there.
    pub async fn stream(self: &Arc<Self>, chat: Chat) -> Result<BoxStream<'static, Told>, Refusal> {
        self.counted(self.begin(&chat)).await
    }

    async fn begin(self: &Arc<Self>, chat: &Chat) -> Result<BoxStream<'static, Told>, Refusal> {
        let begun = Instant::now();
        let (chain, key) = match self.find(chat, begun)? {
            Found::Kept(answer) => {
                let all = [Told::Token(answer.text.clone()), Told::Done(answer)];
                return Ok(stream::iter(all).boxed());
            }
            Found::Ask(chain, key) => (chain, key),
        };
        let mut attempt = 0;
        let mut misses = Vec::new();
        for &provider in &chain.order {
            let name = provider.name();
            misses.push(match self.open(provider, chat, &mut attempt).await {
                Ok((first, pieces)) => {
                    let answer = Answer {
                        text: String::new(),
                        provider,
                        model: provider.model().to_owned(),
                        usage: Usage::default(),
                        attempt,
                        elapsed_ms: 0,
                        fallback: provider != chain.order[0],
                        cached: false,
                        replica: self.name().to_owned(),
                    };
                    let live = Live {
                        gateway: Arc::clone(self),
                        begun,
                        key,
                        answer,
                        first: Some(first),
                        pieces,
                    };
                    return Ok(stream::unfold(Some(live), Live::next).boxed());
                }
                Err(CallError::Failed(StreamError::Failed(error))) => {
                    if failed(&error) == Outcome::Ignored {
                        let words = format!("{name} says {}", said(&error));
                        return Err(Refusal::Question(words));
                    }
                    Miss::failed(name, &error)
                }
                Err(CallError::Failed(error)) => Miss::in_words(name, error),
                Err(CallError::Rejected(rejection)) => Miss::rejected(name, &rejection),
                Err(error) => Miss::in_words(name, error),
            });
        }
        Err(nobody(misses))
    }

    /// One try: opens a provider's stream, and waits for its first piece.
    async fn open(
        &self,
        provider: Provider,
        chat: &Chat,
        attempt: &mut u32,
    ) -> Result<(Piece, Pieces), CallError<Failed>> {
        let open = async || {
            *attempt += 1;
            let mut meter = Meter::start(&self.recorder, provider);
            let events = self.upstream.stream(provider, chat).await;
            let events = events.map_err(StreamError::Failed)?;
            let pieces = events.filter_map(move |event| {
                let piece = event.map(piece).transpose();
                match &piece {
                    Some(Ok(Piece::End(usage))) => meter.ended(Ok(*usage)),
                    Some(Err(error)) => meter.ended(Err(error)),
                    _ => {}
                }
                ready(piece)
            });
            Ok(pieces.boxed())
        };
        let breaker = self.breaker(provider);
        let mut pieces = breaker.stream_with(&self.streams, outcome, open).await?;
        match pieces.next().await {
            Some(Ok(first)) => Ok((first, pieces)),
            Some(Err(error)) => Err(CallError::Failed(error)),
            None => Err(CallError::Failed(StreamError::Incomplete)),
        }
    }
}

/// A stream that has begun.
struct Live {
    gateway: Arc<Gateway>,
    begun: Instant,
    key: String,
    /// As far as it is there.
    answer: Answer,
    first: Option<Piece>,
    pieces: Pieces,
}

impl Live {
    async fn next(live: Option<Self>) -> Option<(Told, Option<Self>)> {
        let mut live = live?;
        let piece = match live.first.take() {
            Some(first) => Some(Ok(first)),
            None => live.pieces.next().await,
        };
        match piece {
            Some(Ok(Piece::Token(token))) => {
                live.answer.text.push_str(&token);
                Some((Told::Token(token), Some(live)))
            }
            Some(Ok(Piece::End(usage))) => {
                live.answer.usage = usage;
                live.answer.elapsed_ms = millis(live.begun.elapsed());
                live.gateway.keep(live.key, &live.answer);
                Some((Told::Done(live.answer), None))
            }
            Some(Err(error)) => {
                let words = match &error {
                    StreamError::Failed(error) => said(error),
                    other => other.to_string(),
                };
                Some((Told::Broken(live.answer.provider, words), None))
            }
            None => None,
        }
    }
}
