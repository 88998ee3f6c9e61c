//! Embeddings: cache, then circuit, then OpenAI.
//!
//! Owns the vectors that are kept, their circuit, and what is counted; knows nothing of HTTP.
//! Invariant: a text whose vector is kept touches no circuit.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use commontrip::{
    CallError, CircuitBreaker, Commontrip, Policy,
    failover::{Failover, Stage},
};
use genai::{ModelIden, adapter::AdapterKind, embed::EmbedResponse};
use metrics::counter;
use moka::sync::Cache;
use serde::{Deserialize, Serialize};

use super::{
    chain::refusal,
    gateway::Refusal,
    lab::{Error, Setup},
    provider::Provider,
    upstream::{Upstream, Usage},
    verdict::verdict,
};

const MODEL: &str = "text-embedding-3-small";

/// Chat models of the same provider fail alone.
pub const CIRCUIT: &str = "llm:openai:text-embedding-3-small";

/// The most texts of one request, as OpenAI has it.
const MOST: usize = 2048;

/// Vectors that are kept, at most: 60 MB.
const KEPT: u64 = 10_000;

/// Texts to be embedded.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Texts {
    input: Vec<String>,
    model: Option<String>,
}

/// A vector for each text, in the texts' order.
#[derive(Serialize)]
pub struct Vectors {
    data: Vec<Vector>,
    model: &'static str,
    /// Tokens of the texts that the provider was asked for.
    usage: Usage,
}

#[derive(Serialize)]
struct Vector {
    index: usize,
    embedding: Arc<[f32]>,
    /// Whether it was kept, and nobody was asked now.
    cached: bool,
}

/// What was counted since the start.
#[derive(Serialize)]
pub struct Stats {
    /// Texts whose vector was kept.
    hits: u64,
    /// Texts whose vector was not.
    misses: u64,
    /// Calls to the provider; one is for all missing texts of a request.
    calls: u64,
    /// Requests that the circuit refused.
    rejected: u64,
    /// Texts whose vector is kept now.
    kept: u64,
}

#[derive(Clone, Copy)]
enum Event {
    Hits,
    Misses,
    Calls,
    Rejected,
}

pub struct Embeddings {
    breaker: CircuitBreaker,
    once: Failover,
    upstream: Upstream,
    kept: Cache<String, Arc<[f32]>>,
    counts: [AtomicU64; 4],
}

impl Embeddings {
    pub fn new(
        circuits: &Commontrip,
        policy: Policy,
        upstream: Upstream,
        setup: &Setup,
    ) -> Result<Self, Error> {
        let breaker = circuits.circuit(CIRCUIT, policy)?;
        let openai = Stage::new(Provider::OpenAi.name(), &breaker);
        let once = Failover::builder()
            .stage(openai.attempt_timeout(setup.attempt_timeout))
            .build()?;
        Ok(Self {
            breaker,
            once,
            upstream,
            // Without a time: a model gives a text the same vector again.
            kept: Cache::new(KEPT),
            counts: Default::default(),
        })
    }

    pub const fn breaker(&self) -> &CircuitBreaker {
        &self.breaker
    }

    /// Gives each text its vector; the provider is asked for those that are not kept, once.
    pub async fn embed(&self, texts: &Texts) -> Result<Vectors, Refusal> {
        texts.check().map_err(Refusal::Question)?;
        let mut found: Vec<_> = texts.input.iter().map(|text| self.kept.get(text)).collect();
        let cached: Vec<_> = found.iter().map(Option::is_some).collect();
        let hits = cached.iter().filter(|cached| **cached).count();
        self.count(Event::Hits, hits);
        self.count(Event::Misses, found.len() - hits);
        let each = || texts.input.iter().zip(&cached);
        let missing: BTreeSet<_> = each().filter(|(_, kept)| !**kept).map(|(t, _)| t).collect();
        let mut spent = Usage::default();
        if !missing.is_empty() {
            let missing: Vec<_> = missing.into_iter().cloned().collect();
            let (vectors, usage) = self.ask(&missing).await?;
            spent = usage;
            for (text, place) in texts.input.iter().zip(&mut found) {
                if place.is_none()
                    && let Ok(at) = missing.binary_search(text)
                {
                    *place = Some(Arc::clone(&vectors[at]));
                }
            }
            for (text, vector) in missing.into_iter().zip(vectors) {
                self.kept.insert(text, vector);
            }
        }
        let all = found.into_iter().flatten().zip(cached).enumerate();
        let data = all.map(|(index, (embedding, cached))| Vector {
            index,
            embedding,
            cached,
        });
        Ok(Vectors {
            data: data.collect(),
            model: MODEL,
            usage: spent,
        })
    }

    pub fn stats(&self) -> Stats {
        let of = |event: Event| self.counts[event as usize].load(Ordering::Relaxed);
        self.kept.run_pending_tasks();
        Stats {
            hits: of(Event::Hits),
            misses: of(Event::Misses),
            calls: of(Event::Calls),
            rejected: of(Event::Rejected),
            kept: self.kept.entry_count(),
        }
    }

    /// Asks the provider, if the circuit has nothing against it.
    async fn ask(&self, texts: &[String]) -> Result<(Vec<Arc<[f32]>>, Usage), Refusal> {
        let call = |_| async {
            self.count(Event::Calls, 1);
            let model = ModelIden::from_static(AdapterKind::OpenAI, MODEL);
            let answer = self.upstream.embed(model, texts.to_vec()).await?;
            let spent = Usage::of(&answer.usage);
            Ok((in_order(answer, texts.len())?, spent))
        };
        match self.once.call_with(verdict, call).await {
            Ok(served) => Ok(served.value),
            Err(failed) => {
                let mut tried = failed.attempts.iter();
                if tried.any(|tried| matches!(tried.error, CallError::Rejected(_))) {
                    self.count(Event::Rejected, 1);
                }
                Err(refusal(&failed))
            }
        }
    }

    fn count(&self, event: Event, n: usize) {
        let n = n as u64;
        self.counts[event as usize].fetch_add(n, Ordering::Relaxed);
        let name = match event {
            Event::Hits => "hits",
            Event::Misses => "misses",
            Event::Calls => "calls",
            Event::Rejected => "rejected",
        };
        counter!("llm_embeddings_total", "event" => name).increment(n);
    }
}

impl Texts {
    fn check(&self) -> Result<(), String> {
        if self.input.is_empty() || self.input.len() > MOST {
            return Err(format!("input: it can have from 1 to {MOST} texts"));
        }
        if self.input.iter().any(String::is_empty) {
            return Err("input: none may be empty".to_owned());
        }
        match &self.model {
            Some(model) if model != MODEL => {
                Err(format!("model: {model:?} is not {MODEL}, the only one"))
            }
            _ => Ok(()),
        }
    }
}

/// The vectors in the order of the texts, which each says itself.
fn in_order(answer: EmbedResponse, texts: usize) -> genai::Result<Vec<Arc<[f32]>>> {
    let mut all = answer.embeddings;
    all.sort_by_key(|one| one.index);
    if !all.iter().map(|one| one.index).eq(0..texts) {
        let words = format!("{} vectors for {texts} texts", all.len());
        return Err(genai::Error::Internal(words));
    }
    Ok(all.into_iter().map(|one| one.vector.into()).collect())
}
