//! `commontrip demo` from outside: lines of JSON, and an exit status.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::support;

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_commontrip"));
    command
        .arg("demo")
        .args(arguments)
        .env_remove("COMMONTRIP_REDIS_URL")
        .stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    demo(arguments).output().unwrap()
}

fn facts(output: &Output) -> Vec<Value> {
    let text = std::str::from_utf8(&output.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn of_kind<'a>(facts: &'a [Value], kind: &str) -> Vec<&'a Value> {
    facts.iter().filter(|f| f["kind"] == kind).collect()
}

fn pids(start: &Value) -> Vec<u64> {
    let members = start["replicas"].as_array().unwrap();
    members.iter().map(|m| m["pid"].as_u64().unwrap()).collect()
}

/// The process is neither running nor a zombie.
fn is_gone(pid: u64) -> bool {
    !std::path::Path::new(&format!("/proc/{pid}")).exists()
}

fn soon(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..300 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("not within 3 s: {what}");
}

fn keeps_its_promises(output: &Output, replicas: usize) -> Vec<Value> {
    let facts = facts(output);
    let shown = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{shown}");

    let states: Vec<_> = of_kind(&facts, "transition")
        .iter()
        .map(|t| t["to"].as_str().unwrap())
        .collect();
    assert_eq!(states.first(), Some(&"open"), "{shown}");
    assert!(states.contains(&"half_open"), "{shown}");
    assert_eq!(states.last(), Some(&"closed"), "{shown}");
    let trip = of_kind(&facts, "spread")[0];
    let knew = trip["after_ms"].as_object().unwrap();
    assert_eq!(knew.len(), replicas, "{shown}");

    let verdict = facts.last().unwrap();
    assert_eq!(verdict["kind"], "verdict");
    assert_eq!(verdict["kept"], true);
    let most = verdict["probes_most"].as_u64().unwrap();
    assert!((1..=3).contains(&most), "{shown}");
    assert!(verdict["probes"].as_u64().unwrap() >= 5, "{shown}");
    let totals = of_kind(&facts, "replica");
    assert_eq!(totals.len(), replicas);
    for total in totals {
        assert_eq!(total["state"], "closed");
        assert!(total["rejected"].as_u64().unwrap() > 0, "{shown}");
    }
    facts
}

#[test]
fn a_fleet_in_one_process_trips_probes_and_closes_together() {
    let output = run(&["--json", "--for", "4", "--seed", "7"]);
    let facts = keeps_its_promises(&output, 5);
    assert_eq!(facts[0]["kind"], "start");
    assert_eq!(facts[0]["store"], "embedded");
    assert_eq!(of_kind(&facts, "tick").len(), 24);
}

#[test]
fn a_fleet_of_processes_does_so_through_redis_and_leaves_none_behind() {
    let circuit = support::unique("demo");
    let redis = support::redis_url();
    let output = run(&[
        "--json",
        "--for",
        "5",
        "--seed",
        "7",
        "--replicas",
        "3",
        "--redis",
        redis,
        "--circuit",
        &circuit,
    ]);
    let facts = keeps_its_promises(&output, 3);
    let mut pids = pids(&facts[0]);
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 3, "{pids:?}");
    assert!(pids.iter().all(|pid| is_gone(*pid)), "{pids:?}");
}

#[test]
fn the_timeline_fits_80_columns_and_has_no_colours_in_a_pipe() {
    let output = run(&["--for", "3", "--replicas", "9"]);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{shown}");
    for word in [
        "UPSTREAM FAILS",
        "TRIP",
        "HALF-OPEN",
        "CLOSED",
        "one breaker",
    ] {
        assert!(shown.contains(word), "no {word} in:\n{shown}");
    }
    assert!(!shown.contains('\x1b'));
    for line in shown.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

/// Starts a show with processes and reads its first line.
fn started(redis: &str, circuit: &str) -> (Child, BufReader<std::process::ChildStdout>, Vec<u64>) {
    let arguments = [
        "--json",
        "--for",
        "5",
        "--redis",
        redis,
        "--circuit",
        circuit,
    ];
    let mut show = demo(&arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(show.stdout.take().unwrap());
    let mut first = String::new();
    lines.read_line(&mut first).unwrap();
    let pids = pids(&serde_json::from_str(&first).unwrap());
    (show, lines, pids)
}

fn signal(name: &str, pid: u64) {
    let killed = Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .status();
    assert!(killed.unwrap().success());
}

#[test]
fn a_replica_that_is_killed_breaks_a_promise() {
    let (mut show, lines, pids) = started(support::redis_url(), &support::unique("demo"));
    signal("KILL", pids[1]);
    let facts: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect();
    assert_eq!(show.wait().unwrap().code(), Some(1));
    let notes = of_kind(&facts, "note");
    let killed = |note: &&Value| note["text"].as_str().unwrap().starts_with("r2 ended early");
    assert!(notes.iter().any(killed), "{notes:?}");
    let verdict = facts.last().unwrap();
    let promises = verdict["promises"].as_array().unwrap();
    let seen = promises.iter().find(|p| p["promise"] == "trip_seen");
    let seen = seen.unwrap();
    assert_eq!(seen["kept"], false);
    assert!(seen["text"].as_str().unwrap().contains("r2"), "{seen}");
    assert!(pids.iter().all(|pid| is_gone(*pid)), "{pids:?}");
}

#[test]
fn ctrl_c_ends_the_replicas_too() {
    let (mut show, _lines, pids) = started(support::redis_url(), &support::unique("demo"));
    signal("INT", u64::from(show.id()));
    assert_eq!(show.wait().unwrap().code(), Some(130));
    assert!(pids.iter().all(|pid| is_gone(*pid)), "{pids:?}");
}

#[test]
fn replicas_end_when_the_show_is_killed() {
    let (mut show, _lines, pids) = started(support::redis_url(), &support::unique("demo"));
    show.kill().unwrap();
    show.wait().unwrap();
    // The process that adopts orphans may not reap them, so a zombie counts as ended.
    let ended = |pid: &u64| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    };
    soon("the replicas have ended", || pids.iter().all(ended));
}

#[test]
fn a_redis_that_does_not_answer_is_said_at_once() {
    let output = run(&["--redis", "redis://ana:secret@127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("no Redis answers at redis://ana:***@127.0.0.1:1"));
    assert!(said.contains("docker-compose up -d"), "{said}");
    assert!(!said.contains("secret"), "{said}");
}

/// The demo ignores the service's variable.
#[test]
fn a_demo_uses_a_redis_only_when_it_is_named_on_the_command_line() {
    let mut command = demo(&["--json", "--for", "3", "--replicas", "2"]);
    command.env("COMMONTRIP_REDIS_URL", "redis://127.0.0.1:1/");
    let output = command.output().unwrap();
    let facts = facts(&output);
    assert_eq!(facts[0]["store"], "embedded", "{output:?}");
    assert_eq!(facts[0]["circuit"], "commontrip-demo");
}

/// A circuit with the default prefix, like a service's.
async fn used(circuit: &str) -> commontrip::Commontrip {
    let builder = commontrip::Commontrip::builder().redis(support::redis_url());
    let circuits = builder.replica("shop-7").build().unwrap();
    let breaker = circuits
        .circuit(circuit, commontrip::Policy::default())
        .unwrap();
    for _ in 0..100 {
        breaker.call(|| async { Ok::<_, ()>(()) }).await.unwrap();
        circuits.flush().await;
        if breaker
            .snapshot()
            .await
            .is_ok_and(|seen| seen.successes_total > 0)
        {
            return circuits;
        }
    }
    panic!("nothing was reported");
}

async fn on_redis(circuit: &str) -> Output {
    let mut command = demo(&[
        "--for",
        "3",
        "--replicas",
        "1",
        "--redis",
        support::redis_url(),
    ]);
    command.args(["--circuit", circuit]);
    let run = tokio::task::spawn_blocking(move || command.output());
    run.await.unwrap().unwrap()
}

#[tokio::test]
async fn a_demo_leaves_a_services_circuit_alone() {
    let name = support::unique("shop");
    let circuits = used(&name).await;
    let breaker = circuits
        .circuit(&name, commontrip::Policy::default())
        .unwrap();
    let generation = breaker.snapshot().await.unwrap().generation;
    let output = on_redis(&name).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    for words in [
        &*name,
        "1 replica",
        "shop-7",
        "--circuit",
        "nothing was changed",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let seen = breaker.snapshot().await.unwrap();
    assert_eq!(seen.generation, generation, "it was reset");
    circuits.shutdown().await;
}

#[tokio::test]
async fn a_demo_leaves_an_override_alone() {
    let name = support::unique("shop");
    let circuits = used(&name).await;
    let breaker = circuits
        .circuit(&name, commontrip::Policy::default())
        .unwrap();
    let with = commontrip::Override::because("db upgrade").by("ana");
    breaker.force_open(with).await.unwrap();
    // Simulates that the service stopped long ago.
    let mut connection = redis::Client::open(support::admin_url()).unwrap();
    let key = format!("commontrip:{{{name}}}:replicas");
    redis::cmd("DEL").arg(key).exec(&mut connection).unwrap();
    circuits.shutdown().await;
    let key = format!("commontrip:{{{name}}}:replicas");
    redis::cmd("DEL").arg(key).exec(&mut connection).unwrap();
    let output = on_redis(&name).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("forced_open by ana (db upgrade), until a reset"),
        "{said}"
    );
}

#[test]
fn a_demo_leaves_another_demo_alone_and_follows_one_that_has_ended() {
    let circuit = support::unique("demo");
    let (mut show, _lines, _) = started(support::redis_url(), &circuit);
    let second = run(&[
        "--for",
        "3",
        "--redis",
        support::redis_url(),
        "--circuit",
        &circuit,
    ]);
    assert_eq!(second.status.code(), Some(2), "{second:?}");
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("another demo runs on it"), "{said}");
    show.kill().unwrap();
    show.wait().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let arguments = ["--json", "--for", "3", "--replicas", "2", "--redis"];
    let third = demo(&arguments)
        .args([support::redis_url(), "--circuit", &circuit])
        .output();
    let third = third.unwrap();
    let facts = facts(&third);
    assert_eq!(facts[0]["kind"], "start", "{third:?}");
    assert_eq!(facts[0]["prefix"], "commontrip");
}

#[test]
fn wrong_options_are_usage_errors() {
    for (wrong, says) in [
        (&["--for", "1"][..], "from 3 to 600 seconds"),
        (&["--for", "NaN"], "from 3 to 600 seconds"),
        (&["--replicas", "0"], "from 1 to 64"),
        (&["--replicas", "65"], "from 1 to 64"),
        (&["--circuit", "a{b"], "or braces"),
        (&["--nonsense"], "--nonsense"),
    ] {
        let output = run(wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(says), "{wrong:?}: {said}");
    }
}
