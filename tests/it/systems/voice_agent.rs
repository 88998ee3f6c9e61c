//! A voice agent: its three services by name, the audio that it keeps and its bounds, and its
//! answer when a service is down.

use std::time::Duration;

use commontrip::fallback::{Fallback, LastGood, Source};
use commontrip::{
    CallError, CircuitBreaker, Commontrip, FallbackKind, Outcome, Policy, State, TimedOutCalls,
};
use serde::{Deserialize, Serialize};

use super::{letters, secs};
use crate::{
    support::{redis_url, unique, unique_prefix},
    wait::until,
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Clip(String);

impl Clip {
    fn of(bytes: usize) -> Self {
        Self("x".repeat(bytes))
    }
}

/// Three consecutive failures, open for 30 s; a listener who hangs up early does not count.
fn policy() -> Policy {
    let policy = Policy::builder()
        .no_failure_rate_threshold()
        .consecutive_failures_threshold(3)
        .wait_duration_in_open_state(secs(30))
        .call_timeout(Duration::from_millis(50))
        .timed_out_calls(TimedOutCalls::Ignored);
    policy.build().unwrap()
}

#[tokio::test]
async fn its_manager_knows_every_service_by_name() {
    let circuits = Commontrip::embedded().unwrap();
    for name in ["stt", "llm", "tts"] {
        circuits.circuit(name, policy()).unwrap();
    }
    let tts = circuits.circuit("tts", policy()).unwrap();
    assert_eq!(letters(&tts, "SFFFS").await, "SFFFR");
    let states: Vec<_> = circuits
        .stats()
        .into_iter()
        .map(|stats| (stats.name, stats.cached.state))
        .collect();
    let expected = [
        ("llm", State::Closed),
        ("stt", State::Closed),
        ("tts", State::Open),
    ];
    assert_eq!(
        states,
        expected.map(|(name, state)| (name.to_owned(), state))
    );
    let summary = tts.summary();
    assert_eq!(
        (summary.circuit.as_str(), summary.state),
        ("tts", State::Open)
    );
    assert_eq!((summary.failures, summary.rejected), (3, 1));
    assert!(summary.open_ms.is_some());
}

async fn speak(
    speech: &LastGood<Clip>,
    tts: &CircuitBreaker,
    key: &str,
    clip: Option<Clip>,
) -> Result<commontrip::fallback::Answer<Clip>, CallError<&'static str>> {
    speech
        .call(tts, key, || async move { clip.ok_or("503") })
        .await
}

#[tokio::test]
async fn clips_of_every_size_are_kept_and_the_oldest_go_first() {
    let circuits = Commontrip::builder().redis(redis_url());
    let circuits = circuits.prefix(&unique_prefix("voice-agent"));
    let circuits = circuits.store_timeout(secs(5)).build().unwrap();
    let tts = circuits.circuit(&unique("tts"), Policy::default()).unwrap();
    let speech: LastGood<Clip> = LastGood::builder("tts")
        .max_bytes(6 << 20)
        .refresh(Duration::ZERO)
        .shared(&circuits)
        .build()
        .unwrap();
    // A sentence, a minute, and more than Redis accepts.
    let sizes = [
        ("sentence", 100_000),
        ("minute", 1_000_000),
        ("story", 3 << 20),
    ];
    for (key, bytes) in sizes {
        let answer = speak(&speech, &tts, key, Some(Clip::of(bytes))).await;
        assert!(!answer.unwrap().stale);
    }
    for (key, bytes) in sizes {
        let answer = speak(&speech, &tts, key, None).await.unwrap();
        assert!(answer.stale && answer.value == Clip::of(bytes), "{key}");
    }
    assert_eq!(tts.stats().fallbacks.of(FallbackKind::LastGood), 3);
    // A second story does not fit beside the first one; the most recently used one stays.
    speak(&speech, &tts, "story 2", Some(Clip::of(3 << 20)))
        .await
        .unwrap();
    assert!(speak(&speech, &tts, "story", None).await.is_err());
    let answer = speak(&speech, &tts, "story 2", None).await.unwrap();
    assert_eq!(answer.from, Source::Process);
    until("the sentence is in Redis", async || {
        let sentence = speak(&speech, &tts, "sentence", None).await;
        sentence.is_ok_and(|answer| answer.value == Clip::of(100_000))
    })
    .await;
    circuits.shutdown().await;
}

#[tokio::test]
async fn a_listener_without_patience_opens_nothing_and_hears_silence() {
    let circuits = Commontrip::embedded().unwrap();
    let tts = circuits.circuit("tts", policy()).unwrap();
    for _ in 0..5 {
        let heard = tts
            .call(std::future::pending::<Result<&'static str, &'static str>>)
            .await
            .fallback("silence")
            .counted(&tts);
        assert!(matches!(heard.instead_of, Some(CallError::TimedOut(_))));
        assert_eq!(heard.value, "silence");
    }
    let stats = tts.stats();
    assert_eq!((stats.failures, stats.timeouts, stats.ignored), (0, 0, 5));
    assert_eq!(stats.fallbacks.of(FallbackKind::Fixed), 5);
    assert_eq!(stats.cached.state, State::Closed);
    // A single call can have its own classifier.
    type Judged = Result<&'static str, CallError<&'static str>>;
    let strict = |result: &Judged| match result {
        Ok(_) => Outcome::Success,
        Err(_) => Outcome::failure(),
    };
    for _ in 0..3 {
        let hangs = std::future::pending::<Result<&'static str, &'static str>>;
        let judged = tts.call_judged(strict, hangs).await;
        assert!(matches!(judged, Err(CallError::TimedOut(_))));
    }
    let stats = tts.stats();
    assert_eq!((stats.failures, stats.timeouts, stats.ignored), (3, 3, 5));
    assert_eq!(tts.state(), State::Open);
}
