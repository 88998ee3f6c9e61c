//! One replica of the gateway: cache, then circuits, then providers.
//!
//! Owns the chains of providers, the cache, and the counts; knows nothing of HTTP. Invariant: a
//! cached answer touches no circuit.

use std::{collections::BTreeMap, pin::pin, sync::Arc, time::Duration};

use commontrip::{
    CircuitBreaker, Commontrip, Policy,
    failover::{Attempt, Failover},
    health::HealthMonitor,
    metrics::{BUCKETS, Exporter},
};
use metrics::{counter, with_local_recorder};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use moka::sync::Cache;
use tokio::time::Instant;

use super::{
    chain::{Chain, refusal},
    chat::{Answer, Chat},
    embeddings::{Embeddings, Texts, Vectors},
    lab::{Error, Setup},
    local::{self, Patient},
    meter::Meter,
    provider::Provider,
    streaming::{self, Streams},
    upstream::{Reply, Upstream},
    verdict::verdict,
};

/// The maximum number of cached answers.
const KEPT: u64 = 10_000;

/// Why there is no answer.
pub enum Refusal {
    /// The question is invalid, for this reason.
    Question(String),
    /// No provider answers: when to ask again, if known, and what each one said.
    Nobody(Option<Duration>, String),
}

/// Where the answer to a question comes from.
pub(super) enum Found<'a> {
    Kept(Answer),
    /// These providers are asked in order; the answer is cached under this key.
    Ask(&'a Chain, String),
}

pub struct Gateway {
    pub circuits: Commontrip,
    pub prometheus: PrometheusHandle,
    name: String,
    pub(super) upstream: Upstream,
    pub(super) streams: Streams,
    breakers: BTreeMap<Provider, CircuitBreaker>,
    chains: BTreeMap<Provider, Chain>,
    answers: Cache<String, Arc<Answer>>,
    pub embeddings: Embeddings,
    /// Checks the local server.
    pub monitor: HealthMonitor,
    patient: Failover,
    // Not the global recorder, which two replicas of one process would share.
    pub(super) recorder: Arc<PrometheusRecorder>,
    _exporter: Exporter,
}

impl Gateway {
    pub fn new(
        name: &str,
        circuits: Commontrip,
        upstream: Upstream,
        setup: &Setup,
    ) -> Result<Self, Error> {
        let policy = Policy::builder()
            .consecutive_failures_threshold(3)
            .failure_rate_threshold(50)
            .minimum_number_of_calls(10)
            .wait_duration_in_open_state(setup.open_for)
            .permitted_number_of_calls_in_half_open_state(1)
            .success_threshold(1)
            .build()?;
        let mut breakers = BTreeMap::new();
        for provider in Provider::ALL {
            let breaker = circuits.circuit(&provider.circuit(), policy.clone())?;
            breakers.insert(provider, breaker);
        }
        let mut chains = BTreeMap::new();
        for first in Provider::ALL {
            chains.insert(first, Chain::beginning_with(first, &breakers, setup)?);
        }
        let embeddings = Embeddings::new(&circuits, policy, upstream.clone(), setup)?;
        let local = &breakers[&Provider::Ollama];
        let monitor = local::monitor(&circuits, local, &upstream, setup)?;
        let patient = local::chain(&breakers[&Provider::OpenAi], local, setup.patient_scale)?;
        let recorder = Arc::new(
            PrometheusBuilder::new()
                .set_buckets_for_metric(Matcher::Prefix("circuit_breaker_".to_owned()), &BUCKETS)?
                .set_buckets_for_metric(Matcher::Prefix("llm_".to_owned()), &BUCKETS)?
                .build_recorder(),
        );
        Ok(Self {
            prometheus: recorder.handle(),
            _exporter: Exporter::start_on(
                Arc::clone(&recorder),
                &circuits,
                Duration::from_millis(250),
            )
            .with_checks(&monitor),
            name: name.to_owned(),
            circuits,
            upstream,
            streams: streaming::options(setup),
            breakers,
            chains,
            answers: Cache::builder()
                .max_capacity(KEPT)
                .time_to_live(setup.keep_for)
                .build(),
            recorder,
            embeddings,
            monitor,
            patient,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Each provider and its circuit.
    pub fn breakers(&self) -> impl Iterator<Item = (Provider, &CircuitBreaker)> {
        self.breakers
            .iter()
            .map(|(provider, breaker)| (*provider, breaker))
    }

    /// A provider's circuit.
    pub fn breaker(&self, provider: Provider) -> &CircuitBreaker {
        &self.breakers[&provider]
    }

    /// Answers a question.
    pub async fn chat(&self, chat: Chat) -> Result<Answer, Refusal> {
        self.counted(self.answer(&chat)).await
    }

    /// Returns the vector of each text.
    pub async fn embed(&self, texts: Texts) -> Result<Vectors, Refusal> {
        self.counted(self.embeddings.embed(&texts)).await
    }

    /// Answers a question with a cloud model, then with more patience, then with the local model.
    pub async fn chat_patiently(&self, chat: Chat) -> Result<Patient, Refusal> {
        chat.check().map_err(Refusal::Question)?;
        if chat.stream {
            let words = "stream: this route answers in one piece";
            return Err(Refusal::Question(words.to_owned()));
        }
        let ask = |provider| self.ask(provider, &chat);
        self.counted(local::patiently(&self.patient, ask)).await
    }

    /// Runs `work` with this replica's metrics recorder.
    pub(super) async fn counted<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        std::future::poll_fn(|cx| with_local_recorder(&self.recorder, || work.as_mut().poll(cx)))
            .await
    }

    async fn answer(&self, chat: &Chat) -> Result<Answer, Refusal> {
        let begun = Instant::now();
        let (chain, key) = match self.find(chat, begun)? {
            Found::Kept(answer) => return Ok(answer),
            Found::Ask(chain, key) => (chain, key),
        };
        let ask = |attempt: Attempt| self.ask(chain.order[attempt.stage], chat);
        let served = match chain.failover.call_with(verdict, ask).await {
            Ok(served) => served,
            Err(failed) => return Err(refusal(&failed)),
        };
        let provider = chain.named(&served.stage);
        let answer = Answer {
            provider,
            circuit: Some(self.breaker(provider).summary()),
            text: served.value.text,
            model: served.value.model,
            usage: served.value.usage,
            attempt: served.attempt,
            elapsed_ms: millis(begun.elapsed()),
            fallback: served.fallback,
            cached: false,
            replica: self.name.clone(),
        };
        self.keep(key, &answer);
        Ok(answer)
    }

    /// Looks up the answer, or returns the providers to ask.
    pub(super) fn find(&self, chat: &Chat, begun: Instant) -> Result<Found<'_>, Refusal> {
        let first = chat.check().map_err(Refusal::Question)?;
        // The key is the whole question, because another temperature is another question.
        let key = serde_json::to_string(chat).map_err(|e| Refusal::Question(e.to_string()))?;
        if let Some(kept) = self.answers.get(&key) {
            counter!("llm_cache_total", "result" => "hit").increment(1);
            return Ok(Found::Kept(Answer {
                cached: true,
                attempt: 0,
                circuit: None,
                elapsed_ms: millis(begun.elapsed()),
                ..Answer::clone(&kept)
            }));
        }
        counter!("llm_cache_total", "result" => "miss").increment(1);
        match self.chains.get(&first) {
            Some(chain) => Ok(Found::Ask(chain, key)),
            None => Err(Refusal::Question("nobody has this model".to_owned())),
        }
    }

    pub(super) fn keep(&self, key: String, answer: &Answer) {
        self.answers.insert(key, Arc::new(answer.clone()));
    }

    /// Makes one attempt.
    async fn ask(&self, provider: Provider, chat: &Chat) -> genai::Result<Reply> {
        let mut meter = Meter::start(&self.recorder, provider);
        let result = self.upstream.ask(provider, chat).await;
        meter.stop(&result);
        result
    }
}

pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
