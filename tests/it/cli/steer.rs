//! `force-open`, `disable`, `metrics-only`, `reset`.

use std::process::Command;

use super::{Ran, Service, program};
use crate::support::redis_url;

#[tokio::test]
async fn each_command_does_what_it_says_and_shows_what_is_now() {
    let service = Service::new("cli-steer");
    let breaker = service.circuit("payments", 5, 1).await;
    for (command, state) in [
        ("force-open", "forced_open"),
        ("disable", "disabled"),
        ("metrics-only", "metrics_only"),
        ("reset", "closed"),
    ] {
        let mut words = vec![command, "payments", "--reason", "drill", "--author", "ana"];
        if command != "reset" {
            words.extend(["--until-reset", "--replace"]);
        }
        let ran = service.run(&words).await;
        assert_eq!(ran.status, 0, "{ran:?}");
        assert!(
            ran.out.starts_with(&format!("payments  {state}: ")),
            "{ran:?}"
        );
        assert_eq!(breaker.snapshot().await.unwrap().state.as_str(), state);
    }
    let told = service
        .json(&["force-open", "payments", "--for", "1h30m"])
        .await;
    assert_eq!(told["state"], "forced_open");
    let lasts = told["until_ms"].as_u64().unwrap() - told["since_ms"].as_u64().unwrap();
    assert_eq!(lasts, 90 * 60_000);
    let events = service.run(&["events", "payments", "--json"]).await;
    let events: Vec<serde_json::Value> = events
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(events.len(), 5);
    assert_eq!(
        (&events[0]["by"], &events[0]["note"]),
        (&"ana".into(), &"drill".into())
    );
    for event in &events {
        let origin = event["origin"].as_str().unwrap();
        assert!(origin.starts_with("cli@") && origin.len() > 4, "{origin}");
    }
}

#[tokio::test]
async fn who_commands_is_taken_from_the_environment() {
    let service = Service::new("cli-author");
    let breaker = service.circuit("payments", 1, 0).await;
    for (settings, author) in [
        (&[("SUDO_USER", "ana"), ("USER", "root")][..], "ana"),
        (&[("SUDO_USER", ""), ("USER", "bob")], "bob"),
        (&[], "uid "),
    ] {
        let mut command = program(&["disable", "payments", "--for", "1h", "--replace"]);
        command.args(["--timeout", "20000"]);
        command.args(["--redis", redis_url(), "--prefix", &service.prefix]);
        command.envs(settings.iter().copied());
        let ran: Ran = tokio::task::spawn_blocking(move || command.output())
            .await
            .unwrap()
            .unwrap()
            .into();
        assert_eq!(ran.status, 0, "{ran:?}");
        let by = breaker.snapshot().await.unwrap().override_author;
        assert!(by.starts_with(author), "{by}");
    }
}

#[tokio::test]
async fn what_is_too_long_is_refused() {
    let service = Service::new("cli-long");
    let breaker = service.circuit("payments", 1, 0).await;
    for arguments in [
        ["--reason", &"x".repeat(1001)],
        ["--author", &"x".repeat(201)],
    ] {
        let ran = service
            .run(&[
                "disable",
                "payments",
                "--until-reset",
                arguments[0],
                arguments[1],
            ])
            .await;
        assert_eq!(ran.status, 2, "{ran:?}");
        assert!(ran.err.contains("bytes, but at most"), "{ran:?}");
    }
    assert_eq!(breaker.snapshot().await.unwrap().generation, 0);
}

#[tokio::test]
async fn all_are_reset_only_when_somebody_said_yes() {
    let service = Service::new("cli-all");
    let nothing = service.run(&["reset", "--all", "--yes"]).await;
    assert_eq!(nothing.status, 0);
    assert!(nothing.out.contains("nothing to reset"), "{nothing:?}");
    let first = service.circuit("apples", 5, 30).await;
    let second = service.circuit("pears", 1, 0).await;
    let refused = service.run(&["reset", "--all"]).await;
    assert_eq!(refused.status, 2);
    assert!(refused.err.contains("--yes"), "{refused:?}");
    assert_eq!(first.snapshot().await.unwrap().state.as_str(), "open");
    let done = service.json(&["reset", "--all", "--yes"]).await;
    assert_eq!(done["reset"], serde_json::json!(["apples", "pears"]));
    assert_eq!(done["failed"], serde_json::json!([]));
    assert_eq!(first.snapshot().await.unwrap().state.as_str(), "closed");
    assert_eq!(second.snapshot().await.unwrap().generation, 1);
}

/// `script` gives a command a terminal.
fn on_a_terminal(service: &Service, answer: &str) -> Ran {
    crate::support::tool("script", "bsdutils").unwrap();
    let program = env!("CARGO_BIN_EXE_commontrip");
    let command = format!(
        "echo {answer} | script -qec \"{program} reset --all --timeout 20000 --redis '{}' --prefix '{}'\" /dev/null",
        redis_url(),
        service.prefix
    );
    let output = Command::new("sh").args(["-c", &command]).output().unwrap();
    output.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_terminal_the_question_is_asked() {
    let service = Service::new("cli-ask");
    let breaker = service.circuit("apples", 5, 30).await;
    let no = tokio::task::block_in_place(|| on_a_terminal(&service, "no"));
    assert_eq!(no.status, 1, "{no:?}");
    assert!(
        no.out.contains("Reset 1 circuit (1 open)? Type yes: "),
        "{no:?}"
    );
    assert!(no.out.contains("nothing was reset"), "{no:?}");
    assert_eq!(breaker.snapshot().await.unwrap().state.as_str(), "open");
    let yes = tokio::task::block_in_place(|| on_a_terminal(&service, "yes"));
    assert_eq!(yes.status, 0, "{yes:?}");
    assert_eq!(breaker.snapshot().await.unwrap().state.as_str(), "closed");
}
