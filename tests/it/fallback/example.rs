//! The examples `voice_cache` and `assistant`. This test includes their files as modules, so that
//! it tests their current code.

use std::time::Duration;

use commontrip::Commontrip;
use tokio::time::timeout;

use crate::support::{redis_url, unique_prefix};

#[path = "../../../examples/voice_cache.rs"]
mod voice_cache;

async fn runs(circuits: Commontrip) {
    let run = voice_cache::run(&circuits);
    timeout(Duration::from_secs(60), run)
        .await
        .expect("it ends by itself")
        .unwrap();
}

#[tokio::test]
async fn it_runs_in_one_process() {
    runs(Commontrip::embedded().unwrap()).await;
}

#[tokio::test]
async fn it_runs_on_redis() {
    let circuits = Commontrip::builder().redis(redis_url());
    let circuits = circuits.prefix(&unique_prefix("voice"));
    let circuits = circuits.store_timeout(Duration::from_millis(500));
    runs(circuits.build().unwrap()).await;
}

#[path = "../../../examples/assistant.rs"]
mod assistant;

#[tokio::test]
async fn the_assistant_says_what_fits_the_question_and_asks_nobody_in_mock_mode() {
    for mock in [false, true] {
        let circuits = Commontrip::embedded().unwrap();
        assistant::run(&circuits, mock).await.unwrap();
    }
}
