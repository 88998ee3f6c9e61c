//! Waiting for a condition, with a limit that only a fault reaches.

use std::time::Duration;

/// Checks every 10 ms, for at most 30 s.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..3000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 30 s: {what}");
}
