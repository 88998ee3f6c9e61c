//! `commontrip doctor` on real servers that lack something: its text, its JSON, its exit status.

mod reach;
mod rights;

use std::{
    process::{Command, Output, Stdio},
    thread,
};

use serde_json::Value;

use crate::support::OwnServer;

/// Runs it with only these settings. Answer times are compared with a timeout that a busy machine
/// does not exceed.
fn doctor(arguments: &[&str], settings: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_commontrip"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("COMMONTRIP_") {
            command.env_remove(name);
        }
    }
    command.arg("doctor").args(arguments).stdin(Stdio::null());
    command.args(["--timeout", "4000"]);
    command.envs(settings.iter().copied()).output().unwrap()
}

/// Its findings, and its exit status.
#[derive(Debug)]
struct Findings {
    status: i32,
    checks: Vec<Value>,
}

impl Findings {
    fn at(url: &str, arguments: &[&str]) -> Findings {
        let mut all = vec!["--json", "--redis", url];
        all.extend(arguments);
        Findings::of(&doctor(&all, &[]))
    }

    fn of(output: &Output) -> Findings {
        let text = String::from_utf8_lossy(&output.stdout);
        let found: Value =
            serde_json::from_str(&text).unwrap_or_else(|err| panic!("{err}: {text} {output:?}"));
        let checks = found["checks"].as_array().unwrap().clone();
        let status = output.status.code().unwrap();
        let failed = checks.iter().any(|check| check["verdict"] == "failure");
        assert_eq!(status, i32::from(failed), "{text}");
        assert_eq!(found["verdict"] == "failure", failed, "{text}");
        Findings { status, checks }
    }

    fn check(&self, name: &str) -> &Value {
        let found = self.checks.iter().find(|check| check["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {self:#?}"))
    }

    fn verdict(&self, name: &str) -> &str {
        self.check(name)["verdict"].as_str().unwrap()
    }

    /// All text about a check, joined.
    fn words(&self, name: &str) -> String {
        let check = self.check(name);
        let said = ["found", "means", "advice"].map(|key| check[key].as_str().unwrap_or_default());
        said.join("\n")
    }

    fn missing(&self) -> Vec<String> {
        let rules = self
            .checks
            .iter()
            .flat_map(|check| check["missing"].as_array().unwrap());
        rules
            .map(|rule| rule.as_str().unwrap().to_owned())
            .collect()
    }

    fn with(&self, verdict: &str) -> Vec<&str> {
        let checks = self
            .checks
            .iter()
            .filter(|check| check["verdict"] == verdict);
        checks
            .map(|check| check["name"].as_str().unwrap())
            .collect()
    }
}

/// The program waits for the server, and the test's runtime may have only one thread.
async fn examined(url: &str, arguments: &[&str]) -> Findings {
    let url = url.to_owned();
    let arguments: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
    let run = move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Findings::at(&url, &arguments)
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

fn tell<T: redis::FromRedisValue>(server: &OwnServer, words: &str) -> T {
    let mut words = words.split_whitespace();
    let mut command = redis::cmd(words.next().unwrap());
    for word in words {
        command.arg(word);
    }
    let client = redis::Client::open(server.admin_url()).unwrap();
    let answer = command.query(&mut client.get_connection().unwrap());
    answer.unwrap_or_else(|err| panic!("{err}"))
}

fn keys(server: &OwnServer) -> Vec<String> {
    tell(server, "KEYS *")
}

#[test]
fn a_healthy_server_is_found_well_and_left_as_it_was() {
    let server = OwnServer::start();
    let found = Findings::at(&server.admin_url(), &[]);
    // The tests' servers keep nothing on disk.
    assert_eq!(found.with("note"), ["persistence"], "{found:#?}");
    assert_eq!(found.with("ok").len(), found.checks.len() - 1, "{found:#?}");
    let names: Vec<_> = found
        .checks
        .iter()
        .map(|check| check["name"].as_str().unwrap())
        .collect();
    let expected = [
        "connection",
        "server",
        "latency",
        "rights",
        "circuit",
        "push",
        "eviction",
        "persistence",
        "clock",
        "keys",
        "circuits",
        "format",
        "policies",
    ];
    assert_eq!(names, expected);
    assert_eq!(keys(&server), [""; 0]);
}

#[test]
fn text_and_json_say_the_same() {
    let server = OwnServer::start();
    let () = tell(&server, "ACL SETUSER commontrip-test -zadd");
    let url = server.url();
    let found = Findings::at(&url, &[]);
    let output = doctor(&["--redis", &url], &[("TERM", "xterm-256color")]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains('\x1b'), "colour without a terminal: {text}");
    let lines: Vec<_> = text
        .lines()
        .take_while(|line| !line.is_empty())
        .filter(|line| !line.starts_with(' '))
        .map(|line| line.split_whitespace().take(2).collect::<Vec<_>>())
        .collect();
    let expected: Vec<_> = found
        .checks
        .iter()
        .map(|check| {
            let verdict = check["verdict"].as_str().unwrap();
            let word = if verdict == "failure" {
                "FAIL"
            } else {
                verdict
            };
            vec![word, check["name"].as_str().unwrap()]
        })
        .collect();
    assert_eq!(lines, expected, "{text}");
    let together = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let advice = found.check("rights")["advice"].as_str().unwrap();
    assert!(together(&text).contains(advice), "{advice}\n{text}");
    let count = |verdict| found.with(verdict).len();
    let summary = format!(
        "\ncommontrip cannot share circuits here ({} failures, {} notes)\n",
        count("failure"),
        count("note")
    );
    assert_eq!((count("failure"), count("warning")), (2, 0));
    assert!(text.ends_with(&summary), "{summary}{text}");
}

#[test]
fn a_policy_that_evicts_is_warned_of_and_says_why() {
    for (policy, limit, verdict, word) in [
        ("allkeys-lru", "100mb", "warning", "any key"),
        ("volatile-ttl", "100mb", "warning", "have a TTL"),
        ("noeviction", "100mb", "ok", "100 MiB"),
        ("allkeys-lru", "0", "ok", "without a limit"),
    ] {
        let server = OwnServer::start_with(&["--maxmemory", limit, "--maxmemory-policy", policy]);
        let found = Findings::at(&server.admin_url(), &[]);
        assert_eq!(
            (found.verdict("eviction"), found.status),
            (verdict, 0),
            "{policy}"
        );
        let words = found.words("eviction");
        assert!(words.contains(word), "{words}");
    }
}

#[test]
fn a_prefix_that_others_use_is_warned_of() {
    let server = OwnServer::start();
    let store = commontrip::RedisStore::builder()
        .prefix("shop")
        .timeout(std::time::Duration::from_secs(4));
    let circuits =
        commontrip::Commontrip::builder().store(store.open(&server.admin_url()).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let circuits = circuits.build().unwrap();
        let breaker = circuits
            .circuit("payments", commontrip::Policy::default())
            .unwrap();
        breaker.reset().await.unwrap();
        crate::wait::until("it is listed", async || {
            !circuits.circuits().await.unwrap().is_empty()
        })
        .await;
        circuits.shutdown().await;
    });
    let look = || Findings::at(&server.admin_url(), &["--prefix", "shop"]);
    let found = look();
    assert_eq!(found.verdict("keys"), "ok");
    assert!(
        found
            .words("keys")
            .contains("1 circuit is in use under shop:"),
        "{found:#?}"
    );
    let () = tell(&server, "SET shop:basket 1");
    let () = tell(&server, "SET shopping 1");
    let found = look();
    assert_eq!((found.verdict("keys"), found.status), ("warning", 0));
    assert!(
        found.words("keys").contains("1 other keys: shop:basket"),
        "{found:#?}"
    );
}

#[test]
fn a_wrong_command_line_is_neither_well_nor_ill() {
    for wrong in [
        &["--redis", "http://:hidden@h"][..],
        &["--prefix", "a{b}"],
        &["--tls-cert", "x.pem"],
        &["--colour"],
        &["--timeout", "0"],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_commontrip"));
        let output = command.arg("doctor").args(wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?} {output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!said.is_empty() && !said.contains("hidden"), "{said}");
    }
}

#[test]
fn flags_win_over_the_environment_and_no_password_is_shown() {
    let server = OwnServer::start();
    let () = tell(&server, "ACL SETUSER ana on >very-secret ~* &* +@all");
    let url = server.admin_url();
    let good = [
        ("COMMONTRIP_REDIS_URL", &*url),
        ("COMMONTRIP_REDIS_USERNAME", "ana"),
        ("COMMONTRIP_REDIS_PASSWORD", "very-secret"),
        ("COMMONTRIP_REDIS_PREFIX", "shop"),
    ];
    let found = Findings::of(&doctor(&["--json"], &good));
    assert_eq!(found.status, 0, "{found:#?}");
    assert!(found.words("connection").contains("user ana"), "{found:#?}");
    assert!(found.words("keys").contains("under shop:"), "{found:#?}");
    let found = Findings::of(&doctor(
        &["--json", "--username", "bob", "--prefix", "x"],
        &good,
    ));
    assert_eq!(found.with("failure"), ["connection"]);
    let file = std::env::temp_dir().join(crate::support::unique("commontrip-password"));
    std::fs::write(&file, "wrong-word\n").unwrap();
    let output = doctor(
        &["--json", "--password-file", file.to_str().unwrap()],
        &good,
    );
    std::fs::remove_file(&file).unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        !said.contains("very-secret") && !said.contains("wrong-word"),
        "{said}"
    );
}

/// A server that answers everything with one error.
fn saying(error: &'static str) -> String {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // Ends with the test's process.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(n @ 1..) = stream.read(&mut bytes) {
                    let commands = bytes[..n].iter().filter(|b| **b == b'*').count();
                    if stream.write_all(error.repeat(commands).as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    format!("redis://127.0.0.1:{port}/")
}
