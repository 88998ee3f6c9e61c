//! The model on local machines: its health check, and a chain that uses it after the cloud models.
//!
//! Owns the times of the chain, the check of the local server, and why earlier attempts failed.

use std::{sync::Arc, time::Duration};

use commontrip::{
    CircuitBreaker, Commontrip,
    failover::{Attempt, ChainError, Failover, Stage},
    health::{Check, HealthError, HealthMonitor},
};
use parking_lot::Mutex;
use serde::Serialize;

use super::{
    chain::refusal,
    gateway::{Refusal, millis},
    lab::Setup,
    provider::Provider,
    upstream::{Reply, Upstream, Usage},
    verdict::{said, verdict},
};

/// The stages; all but the last ask the cloud.
const STAGES: [&str; 3] = ["cloud", "cloud-patient", "local"];

/// Cloud 10 s, wait 2 s, cloud 20 s, wait 5 s, local 30 s, each multiplied by `scale`.
pub fn chain(
    cloud: &CircuitBreaker,
    local: &CircuitBreaker,
    scale: f64,
) -> Result<Failover, ChainError> {
    let times = |seconds| Duration::from_secs(seconds).mul_f64(scale);
    let [cloud_once, cloud_again, local_once] = STAGES;
    Failover::builder()
        .stage(Stage::new(cloud_once, cloud).attempt_timeout(times(10)))
        .stage(
            Stage::new(cloud_again, cloud)
                .pause_before(times(2))
                .attempt_timeout(times(20)),
        )
        .stage(
            Stage::new(local_once, local)
                .pause_before(times(5))
                .attempt_timeout(times(30)),
        )
        .build()
}

/// Checks whether the local server is up and has the model. Opens and closes its circuit without
/// calls of users.
pub fn monitor(
    circuits: &Commontrip,
    local: &CircuitBreaker,
    upstream: &Upstream,
    setup: &Setup,
) -> Result<HealthMonitor, HealthError> {
    let upstream = upstream.clone();
    let check = Check::new(Provider::Ollama.name(), move || {
        let upstream = upstream.clone();
        async move { look(&upstream).await }
    });
    HealthMonitor::builder(circuits)
        .check(
            check
                .interval(setup.check_every)
                .timeout(Duration::from_secs(1))
                .failure_threshold(2)
                .circuit(local),
        )
        .start()
}

async fn look(upstream: &Upstream) -> Result<(), String> {
    let model = Provider::Ollama.model();
    let models = upstream.models(Provider::Ollama).await;
    let models = models.map_err(|error| said(&error))?;
    let has = |name: &String| name.split(':').next() == Some(model);
    if models.iter().any(has) {
        Ok(())
    } else {
        Err(format!("it does not have {model}"))
    }
}

/// An answer, and how it was obtained.
#[derive(Serialize)]
pub struct Patient {
    pub text: String,
    pub model: String,
    pub usage: Usage,
    /// The stage of the chain that gave it.
    pub stage: Arc<str>,
    /// Attempts that were made, without skipped stages.
    pub attempt: u32,
    /// Includes the waits.
    pub elapsed_ms: u64,
    /// Whether a stage other than the first one gave it.
    pub fallback: bool,
    /// The stages that gave no answer, in order.
    pub failed: Vec<Failed>,
}

/// A stage that did not answer.
#[derive(Serialize)]
pub struct Failed {
    stage: &'static str,
    /// Absent for a stage that was skipped.
    attempt: Option<u32>,
    why: String,
}

/// Goes along the chain; `ask` makes one attempt at a provider.
pub async fn patiently<F, Fut>(chain: &Failover, ask: F) -> Result<Patient, Refusal>
where
    F: Fn(Provider) -> Fut,
    Fut: Future<Output = genai::Result<Reply>>,
{
    // The attempt of each stage, and what the provider said; `None` after a timeout.
    let tried = Mutex::new([const { None }; STAGES.len()]);
    let call = |attempt: Attempt| {
        tried.lock()[attempt.stage] = Some((attempt.number, None));
        let provider = if attempt.stage + 1 == STAGES.len() {
            Provider::Ollama
        } else {
            Provider::OpenAi
        };
        let answer = ask(provider);
        let tried = &tried;
        async move {
            let answer = answer.await;
            let words = answer.as_ref().err().map(said);
            tried.lock()[attempt.stage] = Some((attempt.number, words));
            answer
        }
    };
    let served = chain.call_with(verdict, call).await;
    let served = served.map_err(|failed| refusal(&failed))?;
    let stages = STAGES.into_iter().zip(tried.into_inner());
    let before = stages.take_while(|(stage, _)| **stage != *served.stage);
    let failed = before.map(|(stage, tried)| Failed {
        stage,
        attempt: tried.as_ref().map(|(attempt, _)| *attempt),
        why: match tried {
            None => "its circuit rejected the call".to_owned(),
            Some((_, Some(words))) => words,
            Some((_, None)) => "it took too long".to_owned(),
        },
    });
    Ok(Patient {
        text: served.value.text,
        model: served.value.model,
        usage: served.value.usage,
        attempt: served.attempt,
        elapsed_ms: millis(served.elapsed),
        fallback: served.fallback,
        failed: failed.collect(),
        stage: served.stage,
    })
}
