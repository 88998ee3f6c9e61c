//! Metrics of calls to providers: how many, how long, how many tokens.

use std::sync::Arc;

use axum::http::StatusCode;
use metrics::{counter, histogram, with_local_recorder};
use metrics_exporter_prometheus::PrometheusRecorder;
use tokio::time::Instant;

use super::{
    provider::Provider,
    upstream::{Reply, Usage},
};

/// Counts one attempt, including one that is dropped because it takes too long.
pub struct Meter {
    recorder: Arc<PrometheusRecorder>,
    provider: Provider,
    begun: Instant,
    /// The provider's status; `none` until it has answered.
    status: String,
    usage: Option<Usage>,
}

impl Meter {
    pub fn start(recorder: &Arc<PrometheusRecorder>, provider: Provider) -> Self {
        Self {
            recorder: Arc::clone(recorder),
            provider,
            begun: Instant::now(),
            status: "none".to_owned(),
            usage: None,
        }
    }

    pub fn stop(&mut self, result: &genai::Result<Reply>) {
        self.ended(result.as_ref().map(|reply| reply.usage));
    }

    /// [`stop`](Self::stop), for streams as well.
    pub fn ended(&mut self, result: Result<Usage, &genai::Error>) {
        let status = match result {
            Ok(_) => Some(StatusCode::OK),
            Err(error) => error.status(),
        };
        if let Some(status) = status {
            status.as_str().clone_into(&mut self.status);
        }
        self.usage = result.ok();
    }

    fn count(&self) {
        let (name, model) = (self.provider.name(), self.provider.model());
        let status = self.status.clone();
        counter!("llm_requests_total", "provider" => name, "model" => model, "status" => status)
            .increment(1);
        histogram!("llm_request_seconds", "provider" => name, "model" => model)
            .record(self.begun.elapsed());
        let Some(usage) = self.usage else {
            return;
        };
        for (kind, n) in [
            ("prompt", usage.prompt_tokens),
            ("completion", usage.completion_tokens),
        ] {
            counter!("llm_tokens_total", "provider" => name, "model" => model, "kind" => kind)
                .increment(n);
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        with_local_recorder(&*self.recorder, || self.count());
    }
}
