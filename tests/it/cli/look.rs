//! `list`, `show`, `events`, `replicas`, `completions`.

use commontrip::{FailureKind, Snapshot};
use serde_json::Value;

use super::{Service, names, program};
use crate::scripts::read;

#[tokio::test]
async fn a_list_has_the_worst_first_and_takes_patterns_states_and_orders() {
    let service = Service::new("cli-list");
    service.circuit("apples", 10, 1).await;
    service.circuit("pears", 5, 0).await;
    let open = service.circuit("payments", 5, 30).await;
    assert_eq!(open.snapshot().await.unwrap().state.as_str(), "open");
    let all = service.json(&["list"]).await;
    assert_eq!(names(&all), ["payments", "apples", "pears"]);
    assert!(all["now_ms"].as_u64().unwrap() > 0);
    assert_eq!(all["circuits"][0]["state"], "open");
    for (arguments, expected) in [
        (&["list", "pa"][..], &["payments"][..]),
        (&["list", "p*s"], &["payments", "pears"]),
        (&["list", "P?ARS"], &["pears"]),
        (&["list", "--state", "open,half-open"], &["payments"]),
        (&["list", "--state", "half_open"], &[]),
        (
            &["list", "--sort", "name"],
            &["apples", "payments", "pears"],
        ),
        (
            &["list", "--sort", "calls"],
            &["payments", "apples", "pears"],
        ),
    ] {
        let listed = service.json(arguments).await;
        assert_eq!(names(&listed), expected, "{arguments:?}");
    }
    let text = service.run(&["list"]).await;
    assert_eq!(text.status, 0);
    let lines: Vec<_> = text.out.lines().collect();
    assert!(lines[0].starts_with("NAME      STATE"), "{text:?}");
    assert!(lines[1].starts_with("payments  open "), "{text:?}");
    assert!(
        lines[1].contains(" of 35 calls failed") || lines[1].contains("calls failed ("),
        "{text:?}"
    );
    assert!(
        !text.out.contains('\u{1b}'),
        "colours without a terminal: {text:?}"
    );
    let painted = service.run(&["list", "--color", "always"]).await;
    assert!(
        painted.out.contains("\u{1b}[31mopen\u{1b}[0m"),
        "{painted:?}"
    );
}

#[tokio::test]
async fn an_empty_list_says_what_to_do() {
    let service = Service::new("cli-empty");
    let none = service.run(&["list"]).await;
    assert_eq!(none.status, 0);
    assert!(
        none.out.contains("made calls through it") && none.out.contains("--prefix"),
        "{none:?}"
    );
    assert_eq!(names(&service.json(&["list"]).await), [""; 0]);
    service.circuit("payments", 1, 0).await;
    let none = service.run(&["list", "inventory"]).await;
    assert_eq!((none.status, none.out.as_str()), (1, ""));
    assert!(none.err.contains("`inventory`"), "{none:?}");
    let none = service.run(&["list", "--state", "open"]).await;
    assert_eq!(none.status, 0);
    assert!(none.out.contains("none of 1 circuit is open"), "{none:?}");
}

/// Fields that `show` omits from its text. Its JSON has every field.
const LEFT_OUT: [&str; 3] = ["pace_ms", "failing", "alone"];

#[test]
fn every_field_of_a_snapshot_is_on_the_page_of_show_or_left_out_on_purpose() {
    let source = ["show", "words"].map(|file| read(&format!("src/bin/commontrip/{file}.rs")));
    let source = source.concat();
    let snapshot = serde_json::to_value(Snapshot::default()).unwrap();
    let fields = snapshot.as_object().unwrap().keys();
    let words: Vec<_> = source
        .split(|c: char| c != '.' && c != '_' && !c.is_alphanumeric())
        .flat_map(|path| path.split('.').skip(1))
        .collect();
    for field in fields {
        let is_shown = words.contains(&field.as_str());
        assert_ne!(is_shown, LEFT_OUT.contains(&field.as_str()), "{field}");
    }
}

#[tokio::test]
async fn one_circuit_is_shown_with_all_that_there_is() {
    let service = Service::new("cli-show");
    let breaker = service.circuit("payments", 15, 2).await;
    for _ in 0..4 {
        drop(breaker.acquire().await.unwrap());
    }
    service.circuits.flush().await;
    let well = service.run(&["show", "payments"]).await;
    assert_eq!(well.status, 0, "{well:?}");
    for words in [
        "payments  closed: calls pass",
        "17 calls",
        "4 abandoned calls, not judged: other calls succeeded",
        "15 ok, 2 failed, 0 slow, 4 abandoned, 0 ignored, 0 rejected",
        "2 (11.8%; opens at 50%)",
        "judged from 20 on",
    ] {
        assert!(well.out.contains(words), "{words}: {well:?}");
    }
    service.call(&breaker, 0, 30).await;
    let ill = service.run(&["show", "payments"]).await;
    // The status also tells that the circuit rejects calls.
    assert_eq!((ill.status, ill.err.as_str()), (1, ""), "{ill:?}");
    let replica = service.circuits.replica();
    for words in [
        "payments  open",
        "then probes go out",
        "calls failed (",
        "closed -> open",
        replica,
        "0 of 3 out",
        "in its life, ",
        "since it opened",
    ] {
        assert!(ill.out.contains(words), "{words}: {ill:?}");
    }
    let json = service.run(&["show", "payments", "--json"]).await;
    assert_eq!(json.status, 1);
    let json = json.json();
    assert_eq!(json["circuit"]["state"], "open");
    assert_eq!(json["circuit"]["reason"], "failure_rate");
    assert_eq!(json["policy"]["in_force"].as_object().unwrap().len(), 31);
    assert_eq!(json["replicas"][0]["name"], replica);
    assert_eq!(json["events"].as_array().unwrap().len(), 1);
    assert!(!json["circuit"]["history"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn what_failed_is_in_the_list_on_the_page_and_in_the_events() {
    let service = Service::new("cli-kinds");
    let breaker = service.circuit("payments", 20, 0).await;
    let database = || FailureKind::of("database").with_detail("SQLSTATE \u{202e}40P01");
    breaker.acquire().await.unwrap().failure_of(database());
    breaker.acquire().await.unwrap().failure_of("timeout");
    breaker.acquire().await.unwrap().failure_of("timeout");
    service.circuits.flush().await;
    let list = service.run(&["list"]).await;
    assert!(list.out.contains(" timeout 2 of 3\n"), "{list:?}");
    let show = service.run(&["show", "payments"]).await;
    for words in [
        "what failed timeout  2 in the past minutes, 2 in all, last 0s ago",
        "            database  1 in the past minutes, 1 in all, last 0s ago: SQLSTATE \\u{202e}40P01",
    ] {
        assert!(show.out.contains(words), "{words}: {show:?}");
    }
    let json = service.json(&["show", "payments"]).await;
    assert_eq!(json["circuit"]["failure_kinds"][0]["kind"], "timeout");
    assert_eq!(json["circuit"]["failure_kinds"][0]["count"], 2);
    while let Ok(permit) = breaker.acquire().await {
        permit.failure_of("connect");
    }
    service.circuits.flush().await;
    let list = service.run(&["list"]).await;
    assert!(list.out.contains("; connect "), "{list:?}");
    let events = service.run(&["events", "payments"]).await;
    assert!(events.out.contains(", connect "), "{events:?}");
}

#[tokio::test]
async fn a_name_that_there_is_not_offers_one_that_there_is() {
    let service = Service::new("cli-unknown");
    service.circuit("payments", 1, 0).await;
    for command in [
        &["show", "paymnets"][..],
        &["events", "paymnets"],
        &["watch", "paymnets"],
        &["replicas", "paymnets"],
        &["force-open", "paymnets", "--for", "5m"],
        &["reset", "paymnets"],
        &["policy", "show", "paymnets"],
        &["policy", "set", "paymnets", "jitter=5"],
        &["policy", "unset", "paymnets", "--all"],
        &["simulate", "paymnets"],
    ] {
        let ran = service.run(command).await;
        assert_eq!((ran.status, ran.out.as_str()), (1, ""), "{command:?}");
        let said = "commontrip: no circuit `paymnets`; did you mean `payments`?\n";
        assert_eq!(ran.err, said, "{command:?}");
    }
    let listed = service.json(&["list"]).await;
    assert_eq!(names(&listed), ["payments"], "none was made");
}

#[tokio::test]
async fn events_are_told_oldest_first_over_all_circuits() {
    let service = Service::new("cli-events");
    let none = service.circuit("pears", 1, 0).await;
    let said = service.run(&["events"]).await;
    assert_eq!(
        (said.status, said.out.as_str()),
        (0, "nothing has happened yet\n")
    );
    service.circuit("payments", 5, 30).await;
    none.force_open(commontrip::Override::because("drill").by("ana"))
        .await
        .unwrap();
    none.reset().await.unwrap();
    let lines = |ran: super::Ran| -> Vec<Value> {
        assert_eq!(ran.status, 0, "{ran:?}");
        ran.out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let all = lines(service.run(&["events", "--json"]).await);
    let told: Vec<_> = all
        .iter()
        .map(|e| (e["name"].as_str().unwrap(), e["to"].as_str().unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            ("payments", "open"),
            ("pears", "forced_open"),
            ("pears", "closed")
        ]
    );
    let newest = lines(service.run(&["events", "--json", "--limit", "1"]).await);
    assert_eq!(newest, all[2..]);
    let one = lines(service.run(&["events", "pears", "--json"]).await);
    assert_eq!(one, all[1..]);
    let text = service.run(&["events", "pears"]).await.out;
    assert!(
        text.contains("closed -> forced_open") && text.contains("by ana"),
        "{text}"
    );
    assert!(text.contains(": drill\n"), "{text}");
}

#[tokio::test]
async fn replicas_are_told_with_their_circuits() {
    let service = Service::new("cli-replicas");
    let none = service.run(&["replicas"]).await;
    assert_eq!(none.status, 0);
    assert!(none.out.contains("no replica"), "{none:?}");
    service.circuit("apples", 1, 0).await;
    service.circuit("pears", 1, 0).await;
    let name = service.circuits.replica();
    let told = service.json(&["replicas"]).await;
    assert_eq!(told["replicas"].as_array().unwrap().len(), 1);
    assert_eq!(told["replicas"][0]["name"], name);
    assert_eq!(
        told["replicas"][0]["circuits"],
        serde_json::json!(["apples", "pears"])
    );
    let one = service.json(&["replicas", "pears"]).await;
    assert_eq!(one["replicas"][0]["circuits"], serde_json::json!(["pears"]));
    let text = service.run(&["replicas"]).await.out;
    assert!(
        text.contains(name) && text.contains("apples, pears"),
        "{text}"
    );
}

#[test]
fn every_shell_gets_its_completions_and_a_wrong_command_line_its_status() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = program(&["completions", shell]).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(script.contains("force-open"), "{shell}");
    }
    for wrong in [
        &["completions", "tcsh"][..],
        &["list", "--state", "ajar"],
        &["list", "--sort", "size"],
        &["show"],
        &["list", "--redis", "http://x"],
        &["list", "--tls-cert", "x"],
        &["force-open", "x", "--for", "soon"],
        &["force-open", "x", "--for", "0s"],
        &["force-open", "x", "--for", "2years"],
        &["force-open", "x"],
        &["disable", "x", "--for", "5m", "--until-reset"],
        &["reset"],
        &["reset", "x", "--all"],
        &["policy", "set", "x"],
        &["policy", "unset", "x"],
        &["events", "--limit", "many"],
    ] {
        let output = program(wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?} {output:?}");
        assert!(!output.stderr.is_empty(), "{wrong:?}");
    }
}
