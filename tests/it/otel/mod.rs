//! OpenTelemetry, through its SDK's in-memory exporters: exported values match the calls.

mod metrics;
mod spans;

use std::time::Duration;

use commontrip::{LatencyRecording, Policy, PolicyBuilder};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Trips on demand, and records every latency.
fn told() -> PolicyBuilder {
    Policy::builder()
        .minimum_number_of_calls(1000)
        .success_threshold(1)
        .latency_recording(LatencyRecording::EveryCall)
}
