//! Streamed answers, with each provider's stream behind its circuit.
//!
//! Owns which provider's stream a caller gets, and what its end means; [`sse`](super::sse) owns the
//! format. Invariant: another provider stands in only until the caller has received a token.

use std::{future::ready, sync::Arc, time::Duration};

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
    chain::{missed, nobody},
    chat::{Answer, Chat},
    gateway::{Found, Gateway, Refusal, millis},
    lab::Setup,
    meter::Meter,
    provider::Provider,
    upstream::Usage,
    verdict::{failed, retry_after, said},
};

/// What a caller receives, in order: tokens, then one of the other two.
pub enum Told {
    Token(String),
    /// The answer is complete.
    Done(Answer),
    /// The provider failed after its first token.
    Broken(Provider, String),
}

/// The limits of each provider's stream.
pub type Streams = StreamOptions<Piece, genai::Error>;

/// The parts of a provider's stream that matter here.
pub enum Piece {
    Token(String),
    /// The provider's own mark of a complete answer.
    End(Usage),
}

type Pieces = GuardedStream<BoxStream<'static, genai::Result<Piece>>>;
type Failed = StreamError<genai::Error>;

/// The limits, and how the end of a stream is classified.
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
        error => Outcome::failure_of(error.kind()),
    }
}

/// The relevant part of an event: a token, or the end.
///
/// If a provider's stream is cut off, genai sends no `End` for some providers, and one without a
/// reason for the others.
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
    /// Answers a question with a stream whose first token has arrived.
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
        let (mut misses, mut waits) = (Vec::new(), Vec::new());
        for &provider in &chain.order {
            let name = provider.name();
            let (words, wait) = match self.open(provider, chat, &mut attempt).await {
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
                        circuit: Some(self.breaker(provider).summary()),
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
                    (said(&error), Wait::of(retry_after(&error)))
                }
                Err(CallError::Failed(error)) => (error.to_string(), Wait::None),
                Err(CallError::Rejected(rejection)) => {
                    let wait = rejection.retry_after.map_or(Wait::Unknown, Wait::For);
                    (rejection.to_string(), wait)
                }
                Err(error) => (error.to_string(), Wait::None),
            };
            misses.push(missed(name, words));
            waits.push(wait);
        }
        Err(nobody(Wait::least(&waits), misses))
    }

    /// Makes one attempt: opens a provider's stream, and waits for its first piece.
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

/// When one provider may be asked again.
#[derive(Clone, Copy)]
enum Wait {
    /// At once: it gave no time.
    None,
    For(Duration),
    /// Not known: an operator has opened the circuit without an end.
    Unknown,
}

impl Wait {
    fn of(told: Option<Duration>) -> Self {
        told.map_or(Self::None, Self::For)
    }

    /// The same rule as [`Exhausted::retry_after`](commontrip::failover::Exhausted::retry_after).
    fn least(all: &[Self]) -> Option<Duration> {
        let least = all.iter().filter_map(|wait| match wait {
            Self::None => Some(Duration::ZERO),
            Self::For(wait) => Some(*wait),
            Self::Unknown => None,
        });
        let told = all.iter().any(|wait| matches!(wait, Self::For(_)));
        least.min().filter(|_| told)
    }
}

/// A stream that has begun.
struct Live {
    gateway: Arc<Gateway>,
    begun: Instant,
    key: String,
    /// The answer so far.
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
