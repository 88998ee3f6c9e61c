//! Commands report the override that they end, and ask before they replace one.

use std::process::Command;

use commontrip::{Override, State};

use super::{Ran, Service};
use crate::support::redis_url;

const OTHERS: &str = "forced_open by ana (db upgrade), 1h 59m left";

/// A circuit with an override by somebody else.
async fn overridden(service: &Service, name: &str) -> commontrip::CircuitBreaker {
    let breaker = service.circuit(name, 5, 0).await;
    let time = std::time::Duration::from_millis(2 * 3_600_000 - 1);
    let upgrade = Override::because("db upgrade").by("ana").lasting(time);
    breaker.force_open(upgrade).await.unwrap();
    breaker
}

#[tokio::test]
async fn an_override_is_replaced_only_when_somebody_said_so() {
    let service = Service::new("cli-replace");
    let breaker = overridden(&service, "payments").await;
    for command in ["force-open", "disable", "metrics-only"] {
        let ran = service.run(&[command, "payments", "--for", "5m"]).await;
        assert_eq!((ran.status, ran.out.as_str()), (1, ""), "{ran:?}");
        assert!(ran.err.contains(OTHERS), "{ran:?}");
        assert!(ran.err.contains("nothing was changed"), "{ran:?}");
        assert!(ran.err.contains("--replace"), "{ran:?}");
    }
    let seen = breaker.snapshot().await.unwrap();
    assert_eq!((seen.generation, &*seen.override_author), (1, "ana"));
    let disable = [
        "disable",
        "payments",
        "--for",
        "5m",
        "--author",
        "bob",
        "--replace",
    ];
    let told = service.json(&disable).await;
    assert_eq!(told["state"], "disabled");
    assert_eq!(told["ended"]["author"], "ana");
    assert_eq!(told["ended"]["reason"], "db upgrade");
    assert_eq!(told["ended"]["state"], "forced_open");
    assert!(told["ended"]["left_ms"].as_u64().unwrap() > 7_000_000);
    assert_eq!(told["meanwhile"], serde_json::json!([]));
    // The user's own override counts as well.
    let ran = service.run(&["disable", "payments", "--until-reset"]).await;
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(ran.err.contains("disabled by bob, 4m"), "{ran:?}");
}

#[tokio::test]
async fn a_reset_says_whose_override_it_ended() {
    let service = Service::new("cli-ended");
    let breaker = overridden(&service, "payments").await;
    let ran = service.run(&["reset", "payments"]).await;
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(
        ran.out.contains(&format!("ended       {OTHERS}")),
        "{ran:?}"
    );
    let told = service.json(&["reset", "payments"]).await;
    assert_eq!(told["ended"], serde_json::Value::Null);
    breaker
        .disable(Override::because("").by("bob"))
        .await
        .unwrap();
    let ran = service.run(&["reset", "payments"]).await;
    assert!(
        ran.out.contains("disabled by bob, until a reset"),
        "{ran:?}"
    );
}

#[tokio::test]
async fn a_reset_of_all_says_which_overrides_it_would_end_and_did() {
    let service = Service::new("cli-all-ended");
    let breaker = overridden(&service, "payments").await;
    service.circuit("pears", 1, 0).await;
    let refused = service.run(&["reset", "--all"]).await;
    assert_eq!(refused.status, 2, "{refused:?}");
    assert!(
        refused.err.contains(&format!("payments: {OTHERS}")),
        "{refused:?}"
    );
    assert!(!refused.err.contains("pears"), "{refused:?}");
    assert_eq!(breaker.snapshot().await.unwrap().state, State::ForcedOpen);
    let done = service.json(&["reset", "--all", "--yes"]).await;
    assert_eq!(done["ended"][0]["name"], "payments");
    assert_eq!(done["ended"][0]["author"], "ana");
    assert_eq!(done["ended"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_override_is_given_a_time_or_said_to_have_none() {
    let service = Service::new("cli-length");
    let breaker = service.circuit("payments", 5, 0).await;
    for command in ["force-open", "disable", "metrics-only"] {
        let ran = service.run(&[command, "payments"]).await;
        assert_eq!(ran.status, 2, "{ran:?}");
        assert!(ran.err.contains("--for"), "{ran:?}");
        assert!(ran.err.contains("--until-reset"), "{ran:?}");
    }
    assert_eq!(breaker.snapshot().await.unwrap().generation, 0);
    let told = service
        .json(&["force-open", "payments", "--until-reset"])
        .await;
    assert_eq!(told["until_ms"], 0);
}

/// `script` gives a command a terminal.
fn on_a_terminal(service: &Service, words: &str, answer: &str) -> Ran {
    crate::support::tool("script", "bsdutils").unwrap();
    let program = env!("CARGO_BIN_EXE_commontrip");
    let command = format!(
        "echo {answer} | script -qec \"{program} {words} --timeout 20000 --redis '{}' --prefix '{}'\" /dev/null",
        redis_url(),
        service.prefix
    );
    let output = Command::new("sh").args(["-c", &command]).output().unwrap();
    output.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_terminal_replacing_is_a_question() {
    let service = Service::new("cli-ask-replace");
    let breaker = overridden(&service, "payments").await;
    let words = "disable payments --for 5m";
    let no = tokio::task::block_in_place(|| on_a_terminal(&service, words, "no"));
    assert_eq!(no.status, 1, "{no:?}");
    assert!(no.out.contains(OTHERS), "{no:?}");
    assert!(no.out.contains("Replace it? Type yes: "), "{no:?}");
    assert_eq!(breaker.snapshot().await.unwrap().state, State::ForcedOpen);
    let yes = tokio::task::block_in_place(|| on_a_terminal(&service, words, "yes"));
    assert_eq!(yes.status, 0, "{yes:?}");
    assert_eq!(breaker.snapshot().await.unwrap().state, State::Disabled);
    let all = "reset --all";
    let no = tokio::task::block_in_place(|| on_a_terminal(&service, all, "no"));
    assert!(no.out.contains("payments: disabled by"), "{no:?}");
}

/// Somebody else sets another override while the question waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_override_that_came_while_the_question_waited_is_not_replaced() {
    let service = Service::new("cli-meanwhile");
    let breaker = overridden(&service, "payments").await;
    crate::support::tool("script", "bsdutils").unwrap();
    let program = env!("CARGO_BIN_EXE_commontrip");
    let command = format!(
        "(sleep 3; echo yes) | script -qec \"{program} disable payments --for 5m --color never --timeout 20000 --redis '{}' --prefix '{}'\" /dev/null",
        redis_url(),
        service.prefix
    );
    let ran = tokio::task::spawn_blocking(move || {
        Command::new("sh").args(["-c", &command]).output().unwrap()
    });
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    let with = Override::because("moved on").by("eve");
    breaker.metrics_only(with).await.unwrap();
    let ran = Ran::from(ran.await.unwrap());
    assert_eq!(ran.status, 1, "{ran:?}");
    for words in ["nothing was changed", "metrics_only by", "eve", "moved on"] {
        assert!(ran.out.contains(words), "{ran:?}");
    }
    let seen = breaker.snapshot().await.unwrap();
    assert_eq!((seen.generation, &*seen.override_author), (2, "eve"));
}
