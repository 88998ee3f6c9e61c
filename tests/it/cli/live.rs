//! `watch --json` and `events --follow`: updates as lines.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use commontrip::Override;
use serde_json::Value;

use super::{Service, program};
use crate::support::{OwnServer, redis_url};

/// A running program, and its lines.
struct Live {
    child: Child,
    lines: Receiver<Value>,
}

impl Live {
    fn start(url: &str, prefix: &str, arguments: &[&str]) -> Self {
        let mut command = program(arguments);
        command.args(["--redis", url, "--prefix", prefix, "--timeout", "20000"]);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (to, lines) = channel();
        thread::spawn(move || {
            for line in out.lines() {
                let line = serde_json::from_str(&line.unwrap()).unwrap();
                if to.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// The next line that matches; drops the lines before it.
    async fn next(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..3000 {
            for line in self.lines.try_iter() {
                if wanted(&line) {
                    return line;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not within 30 s: {what}");
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_watch_without_a_terminal_writes_a_line_for_each_piece_of_news() {
    let service = Service::new("cli-watch");
    let breaker = service.circuit("payments", 5, 0).await;
    service.circuit("pears", 1, 0).await;
    for arguments in [&["watch", "--json"][..], &["watch"]] {
        let live = Live::start(redis_url(), &service.prefix, arguments);
        let first = live.next("all circuits", |_| true).await;
        assert_eq!(first["event"], "circuits");
        assert_eq!(super::names(&first["data"]).len(), 2);
        assert!(
            !first["data"]["circuits"][0]["history"]
                .as_array()
                .unwrap()
                .is_empty()
        );
        live.next("a tick", |line| line["event"] == "tick").await;
        breaker
            .disable(Override::because("drill").by("ana"))
            .await
            .unwrap();
        let is_of = |line: &Value, event: &str| {
            line["event"] == event && line["data"]["name"] == "payments"
        };
        let entry = live.next("the entry", |line| is_of(line, "entry")).await;
        assert_eq!(
            (&entry["data"]["to"], &entry["data"]["note"]),
            (&"disabled".into(), &"drill".into())
        );
        let circuit = live
            .next("the circuit", |line| is_of(line, "circuit"))
            .await;
        assert_eq!(circuit["data"]["state"], "disabled");
        let ok = live
            .next("the store", |line| line["event"] == "store")
            .await;
        assert_eq!(ok["data"]["ok"], true);
        breaker.reset().await.unwrap();
    }
}

#[tokio::test]
async fn a_watch_of_one_circuit_has_nothing_of_others() {
    let service = Service::new("cli-watch-one");
    let breaker = service.circuit("payments", 5, 0).await;
    let other = service.circuit("pears", 1, 0).await;
    let live = Live::start(redis_url(), &service.prefix, &["watch", "payments"]);
    let first = live.next("all circuits", |_| true).await;
    assert_eq!(super::names(&first["data"]), ["payments"]);
    live.next("a tick", |line| line["event"] == "tick").await;
    other.disable(Override::because("drill")).await.unwrap();
    breaker.disable(Override::because("drill")).await.unwrap();
    let next = live
        .next("an entry", |line| !line["data"]["name"].is_null())
        .await;
    assert_eq!(next["data"]["name"], "payments");
}

#[tokio::test]
async fn a_watch_says_that_the_store_is_away_and_back() {
    let server = OwnServer::start();
    let live = Live::start(&server.admin_url(), "shop", &["watch"]);
    live.next("a tick", |line| line["event"] == "tick").await;
    server.kill();
    let away = live
        .next("it is unavailable", |line| line["data"]["ok"] == false)
        .await;
    assert!(
        away["data"]["error"]
            .as_str()
            .unwrap()
            .contains("the store"),
        "{away}"
    );
    server.restart();
    live.next("it is back", |line| line["data"]["ok"] == true)
        .await;
    live.next("a tick", |line| line["event"] == "tick").await;
}

#[tokio::test]
async fn events_are_followed_and_each_is_told_once() {
    let service = Service::new("cli-follow");
    let breaker = service.circuit("payments", 1, 0).await;
    let other = service.circuit("pears", 1, 0).await;
    other.disable(Override::because("other")).await.unwrap();
    let arguments = ["events", "payments", "--follow", "--json", "--limit", "3"];
    let live = Live::start(redis_url(), &service.prefix, &arguments);
    let disable = async |i: usize| {
        let numbered = Override::because(i.to_string());
        breaker.disable(numbered).await.unwrap();
    };
    // Events continue while it starts, so that the record and the live updates overlap.
    let mut happened = 0;
    let first = loop {
        disable(happened).await;
        happened += 1;
        if let Ok(line) = live.lines.try_recv() {
            break line;
        }
    };
    other.disable(Override::because("other")).await.unwrap();
    for i in happened..happened + 20 {
        disable(i).await;
    }
    let number = |line: &Value| line["note"].as_str().unwrap().parse::<usize>().unwrap();
    let mut told = vec![number(&first)];
    while told.last() != Some(&(happened + 19)) {
        let line = live.next("the last one", |_| true).await;
        assert_eq!(line["name"], "payments");
        told.push(number(&line));
    }
    assert_eq!(told, (told[0]..happened + 20).collect::<Vec<_>>());
}
