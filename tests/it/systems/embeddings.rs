//! An embeddings provider: opens at five consecutive failures; and the manual test with ten
//! requests.

use std::fmt::Write as _;

use commontrip::{CircuitStats, Clock, Commontrip, Policy, State};

use super::{letters, secs};
use crate::support::{redis_url, unique};

fn policy() -> Policy {
    let policy = Policy::builder()
        .no_failure_rate_threshold()
        .consecutive_failures_threshold(5)
        .wait_duration_in_open_state(secs(60));
    policy.build().unwrap()
}

/// The statistics in the format of the manual test.
fn printed(stats: &CircuitStats) -> String {
    let made = stats.successes + stats.failures;
    let mut text = String::new();
    let mut line = |label: &str, value: String| {
        let _ = writeln!(text, "{label:<16}{value}");
    };
    line("state", stats.cached.state.to_string());
    line("calls", (made + stats.rejected).to_string());
    line("made", made.to_string());
    line("successful", stats.successes.to_string());
    line("failed", stats.failures.to_string());
    line("rejected", stats.rejected.to_string());
    line(
        "opened",
        stats.transitions.values().sum::<u64>().to_string(),
    );
    let open = stats
        .open_for()
        .map_or("-".to_owned(), |time| format!("{} s", time.as_secs()));
    line("open for", open);
    let measured = stats.latencies.mean().is_some();
    line("average", if measured { "known" } else { "-" }.to_owned());
    text
}

#[tokio::test]
async fn ten_embeds_that_fail_are_five_failures_and_five_rejections() {
    let embedded = Commontrip::embedded().unwrap();
    let redis = Commontrip::builder().redis(redis_url());
    let redis = redis.store_timeout(secs(5)).build().unwrap();
    for circuits in [embedded, redis] {
        let name = unique("embeddings");
        let breaker = circuits.circuit(&name, policy()).unwrap();
        assert_eq!(letters(&breaker, "FFFFFFFFFF").await, "FFFFFRRRRR");
        circuits.flush().await;
        assert_eq!(
            printed(&breaker.stats()),
            "state           open\n\
             calls           10\n\
             made            5\n\
             successful      0\n\
             failed          5\n\
             rejected        5\n\
             opened          1\n\
             open for        0 s\n\
             average         known\n"
        );
        let seen = breaker.snapshot().await.unwrap();
        assert_eq!((seen.state, seen.consecutive_opens), (State::Open, 1));
        assert_eq!((seen.failures_total, seen.rejected_total), (5, 5));
    }
}

#[tokio::test]
async fn a_minute_later_two_embeds_close_it_and_the_time_open_is_kept() {
    let clock = Clock::manual();
    let circuits = Commontrip::builder().clock(clock.clone()).build().unwrap();
    let breaker = circuits.circuit("embeddings", policy()).unwrap();
    assert_eq!(letters(&breaker, "SFFFFSFFFFF").await, "SFFFFSFFFFF");
    clock.advance(secs(59));
    assert_eq!(letters(&breaker, "S").await, "R");
    clock.advance(secs(1));
    assert_eq!(letters(&breaker, "F").await, "F");
    clock.advance(secs(60));
    assert_eq!(letters(&breaker, "SSS").await, "SSS");
    let stats = breaker.stats();
    assert_eq!(stats.cached.state, State::Closed);
    assert_eq!((stats.open_for(), stats.open_total()), (None, secs(120)));
}
