//! Embeddings: cache, then circuit, then the model's provider.
//!
//! Owns the cached vectors, their circuits, and the counts; knows nothing of HTTP. Invariant: a
//! text whose vector is cached touches no circuit.

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
use genai::{ModelIden, embed::EmbedResponse};
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

/// Provider, model, and the maximum number of texts in one request. The first entry is the default.
/// Vectors of different models cannot be compared, so no model stands in for another.
const MODELS: [(Provider, &str, usize); 3] = [
    (Provider::OpenAi, "text-embedding-3-small", 2048),
    (Provider::Gemini, "gemini-embedding-001", 100),
    (Provider::Ollama, "nomic-embed-text", 2048),
];

/// The default model's circuit. It is separate from those of the same provider's chat models.
#[allow(dead_code, reason = "only tests look")]
pub const CIRCUIT: &str = "llm:openai:text-embedding-3-small";

/// The maximum number of cached vectors of each model: 60 MB, or 120 MB for Gemini's longer ones.
const KEPT: u64 = 10_000;

/// The texts to embed.
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
    /// Tokens of the texts that were sent to the provider.
    usage: Usage,
}

#[derive(Serialize)]
struct Vector {
    index: usize,
    embedding: Arc<[f32]>,
    /// Whether the vector came from the cache.
    cached: bool,
}

/// Counts since the start.
#[derive(Serialize)]
pub struct Stats {
    /// Texts whose vector was cached.
    hits: u64,
    /// Texts whose vector was not cached.
    misses: u64,
    /// Calls to the provider. One call requests all missing texts of a request.
    calls: u64,
    /// Requests that the circuit rejected.
    rejected: u64,
    /// Vectors in the cache.
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
    models: Vec<Model>,
    upstream: Upstream,
    counts: [AtomicU64; 4],
}

/// One model, its circuit, and its cached vectors.
struct Model {
    provider: Provider,
    name: &'static str,
    most: usize,
    breaker: CircuitBreaker,
    once: Failover,
    kept: Cache<String, Arc<[f32]>>,
}

impl Embeddings {
    pub fn new(
        circuits: &Commontrip,
        policy: Policy,
        upstream: Upstream,
        setup: &Setup,
    ) -> Result<Self, Error> {
        let mut models = Vec::new();
        for (provider, name, most) in MODELS {
            let circuit = format!("llm:{}:{name}", provider.name());
            let breaker = circuits.circuit(&circuit, policy.clone())?;
            let stage = Stage::new(provider.name(), &breaker);
            let once = Failover::builder()
                .stage(stage.attempt_timeout(setup.attempt_timeout))
                .build()?;
            models.push(Model {
                provider,
                name,
                most,
                breaker,
                once,
                // Without an expiry: a model always gives a text the same vector.
                kept: Cache::new(KEPT),
            });
        }
        Ok(Self {
            models,
            upstream,
            counts: Default::default(),
        })
    }

    /// The circuit of the default model.
    pub fn breaker(&self) -> &CircuitBreaker {
        &self.models[0].breaker
    }

    /// Returns the vector of each text. Asks the provider once for those that are not cached.
    pub async fn embed(&self, texts: &Texts) -> Result<Vectors, Refusal> {
        let model = self.model(texts).map_err(Refusal::Question)?;
        let mut found: Vec<_> = texts
            .input
            .iter()
            .map(|text| model.kept.get(text))
            .collect();
        let cached: Vec<_> = found.iter().map(Option::is_some).collect();
        let hits = cached.iter().filter(|cached| **cached).count();
        self.count(Event::Hits, hits);
        self.count(Event::Misses, found.len() - hits);
        let each = || texts.input.iter().zip(&cached);
        let missing: BTreeSet<_> = each().filter(|(_, kept)| !**kept).map(|(t, _)| t).collect();
        let mut spent = Usage::default();
        if !missing.is_empty() {
            let missing: Vec<_> = missing.into_iter().cloned().collect();
            let (vectors, usage) = self.ask(model, &missing).await?;
            spent = usage;
            for (text, place) in texts.input.iter().zip(&mut found) {
                if place.is_none()
                    && let Ok(at) = missing.binary_search(text)
                {
                    *place = Some(Arc::clone(&vectors[at]));
                }
            }
            for (text, vector) in missing.into_iter().zip(vectors) {
                model.kept.insert(text, vector);
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
            model: model.name,
            usage: spent,
        })
    }

    pub fn stats(&self) -> Stats {
        let of = |event: Event| self.counts[event as usize].load(Ordering::Relaxed);
        let kept = |model: &Model| {
            model.kept.run_pending_tasks();
            model.kept.entry_count()
        };
        Stats {
            hits: of(Event::Hits),
            misses: of(Event::Misses),
            calls: of(Event::Calls),
            rejected: of(Event::Rejected),
            kept: self.models.iter().map(kept).sum(),
        }
    }

    /// The requested model.
    ///
    /// # Errors
    /// When the model would not accept the texts; says why.
    fn model(&self, texts: &Texts) -> Result<&Model, String> {
        let asked = texts.model.as_deref().unwrap_or(MODELS[0].1);
        let found = self.models.iter().find(|model| model.name == asked);
        let model = found.ok_or_else(|| {
            let all = MODELS.map(|(_, name, _)| name).join(", ");
            format!("model: {asked:?} is not one of {all}")
        })?;
        let most = model.most;
        if texts.input.is_empty() || texts.input.len() > most {
            return Err(format!("input: it can have from 1 to {most} texts"));
        }
        if texts.input.iter().any(String::is_empty) {
            return Err("input: none may be empty".to_owned());
        }
        Ok(model)
    }

    /// Asks the provider, if the circuit admits the call.
    async fn ask(
        &self,
        model: &Model,
        texts: &[String],
    ) -> Result<(Vec<Arc<[f32]>>, Usage), Refusal> {
        let call = |_| async {
            self.count(Event::Calls, 1);
            let kind = model.provider.iden().adapter_kind;
            let iden = ModelIden::from_static(kind, model.name);
            let answer = self.upstream.embed(iden, texts.to_vec()).await?;
            let spent = Usage::of(&answer.usage);
            Ok((in_order(answer, texts.len())?, spent))
        };
        match model.once.call_with(verdict, call).await {
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

/// Sorts the vectors by the texts' order, which each vector states.
fn in_order(answer: EmbedResponse, texts: usize) -> genai::Result<Vec<Arc<[f32]>>> {
    let mut all = answer.embeddings;
    all.sort_by_key(|one| one.index);
    if !all.iter().map(|one| one.index).eq(0..texts) {
        let words = format!("{} vectors for {texts} texts", all.len());
        return Err(genai::Error::Internal(words));
    }
    Ok(all.into_iter().map(|one| one.vector.into()).collect())
}
