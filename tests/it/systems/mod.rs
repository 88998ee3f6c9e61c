//! Five systems that requested a circuit breaker, each with its own settings and numbers.
//! docs/coming-from.md says where each of their features is.

mod embeddings;
mod local_client;
mod model_manager;
mod platform;
mod voice_agent;

use std::time::Duration;

use commontrip::{CallError, CircuitBreaker};

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Makes a call with this result; returns how it ended as a letter: `S`uccess, `F`ailure or
/// `R`ejection.
async fn letter(breaker: &CircuitBreaker, result: Result<(), &'static str>) -> char {
    match breaker.call(async || result).await {
        Ok(()) => 'S',
        Err(CallError::Rejected(_)) => 'R',
        Err(_) => 'F',
    }
}

/// Makes calls with these results, `S` or `F`; returns how each ended.
async fn letters(breaker: &CircuitBreaker, calls: &str) -> String {
    let mut came = String::new();
    for call in calls.chars() {
        let result = if call == 'S' { Ok(()) } else { Err("down") };
        came.push(letter(breaker, result).await);
    }
    came
}
