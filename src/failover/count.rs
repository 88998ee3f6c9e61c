//! How chains ended, for the exporters of the `metrics` crate.

use metrics::{counter, describe_counter};

use super::End;

const NAME: &str = "circuit_breaker_failover_total";

pub(super) fn describe() {
    describe_counter!(NAME, "Failover calls, by the stage that served them");
}

pub(super) fn served(stage: &str, fallback: bool) {
    let fallback = if fallback { "true" } else { "false" };
    counter!(NAME, "stage" => stage.to_owned(), "fallback" => fallback, "result" => "served")
        .increment(1);
}

pub(super) fn not_served(end: End) {
    let result = match end {
        End::LastStage => "exhausted",
        End::TotalTimeout(_) => "timeout",
        End::CallersError => "callers_error",
    };
    counter!(NAME, "stage" => "none", "fallback" => "false", "result" => result).increment(1);
}
