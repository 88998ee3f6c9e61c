//! `commontrip serve` and `commontrip demo --serve`, as processes.

use std::{
    io::{BufRead, BufReader},
    process::{Child, ChildStderr, ChildStdout, Command, Output, Stdio},
    time::Duration,
};

use serde_json::{Value, json};

use super::site::{Answer, Site, TOKEN};
use crate::{support, wait::until};

/// A program that is stopped with the test.
pub struct Program {
    child: Child,
    out: BufReader<ChildStdout>,
    err: BufReader<ChildStderr>,
    said: String,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(arguments: &[&str], settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_commontrip"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("COMMONTRIP_") {
            command.env_remove(name);
        }
    }
    command
        .args(arguments)
        .envs(settings.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

impl Program {
    pub fn start(arguments: &[&str], settings: &[(&str, &str)]) -> Program {
        let mut child = command(arguments, settings).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let err = BufReader::new(child.stderr.take().unwrap());
        Program {
            child,
            out,
            err,
            said: String::new(),
        }
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line
    }

    /// Reads its log until a line contains these words.
    fn until_said(&mut self, words: &str) {
        let mut from = 0;
        while !self.said[from..].contains(words) {
            from = self.said.len();
            let read = self.err.read_line(&mut self.said).unwrap();
            assert!(read > 0, "{words:?} is not in {:?}", self.said);
        }
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success());
    }

    pub async fn ended(mut self) -> (Option<i32>, String) {
        let mut status = None;
        until("it has ended", async || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        std::io::Read::read_to_string(&mut self.err, &mut self.said).unwrap();
        (status.unwrap().code(), std::mem::take(&mut self.said))
    }
}

fn refused(arguments: &[&str], settings: &[(&str, &str)]) -> Output {
    let output = command(arguments, settings).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    output
}

/// The `http://...` URL in a line.
pub fn url_in(line: &str) -> &str {
    let word = line
        .split_whitespace()
        .find(|word| word.starts_with("http://"));
    word.unwrap_or_else(|| panic!("no URL in {line:?}"))
        .trim_end_matches('/')
}

async fn get(url: &str) -> Answer {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    Answer::of(client.get(url).send().await.unwrap()).await
}

async fn force_open(base: &str, name: &str, token: &str) -> Answer {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.post(format!("{base}/circuits/{name}/force-open"));
    let sent = request
        .bearer_auth(token)
        .json(&json!({"reason": "drill"}))
        .send();
    Answer::of(sent.await.unwrap()).await
}

#[tokio::test]
async fn serve_says_where_it_is_and_ends_at_sigterm_with_streams_open() {
    let site = Site::start().await;
    drop(site);
    let prefix = support::unique_prefix("serve");
    let arguments = [
        "serve",
        "--redis",
        support::redis_url(),
        "--prefix",
        &prefix,
        "--bind",
        "127.0.0.1:0",
    ];
    let mut program = Program::start(&arguments, &[]);
    let line = program.line();
    assert!(line.contains("read-only"), "{line}");
    let base = url_in(&line).to_owned();
    assert_eq!(
        get(&format!("{base}/status")).await.good()["read_only"],
        true
    );
    force_open(&base, "payments", TOKEN).await.problem(403);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut stream = client.get(format!("{base}/events")).send().await.unwrap();
    stream.chunk().await.unwrap().unwrap();
    program.signal("TERM");
    while stream.chunk().await.unwrap().is_some() {}
    let (status, said) = program.ended().await;
    assert_eq!((status, said.as_str()), (Some(0), ""));
}

#[tokio::test]
async fn serve_listens_on_a_host_name_and_says_whose_circuits_it_serves() {
    let prefix = support::unique_prefix("serve");
    let redis = ["--redis", support::redis_url(), "--prefix", &prefix];
    let arguments = [&["serve", "--listen", "localhost:0"], &redis[..]].concat();
    let mut program = Program::start(&arguments, &[]);
    let line = program.line();
    let base = url_in(&line).to_owned();
    get(&format!("{base}/status")).await.good();
    let of = program.line();
    assert!(of.contains(&prefix) && of.contains("from --redis"), "{of}");
    program.signal("TERM");
    assert_eq!(program.ended().await.0, Some(0));
    for (wrong, says) in [
        (
            "no.such.host.invalid:8700",
            "cannot listen on no.such.host.invalid:8700",
        ),
        ("localhost", "such as localhost:8700"),
        ("8700", "such as localhost:8700"),
    ] {
        let output = refused(&["serve", "--listen", wrong], &[]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(says), "{said}");
    }
}

#[tokio::test]
async fn serve_takes_its_token_from_the_environment_or_a_file() {
    let redis = support::redis_url();
    let arguments = ["serve", "--redis", redis, "--bind", "127.0.0.1:0"];
    let file = std::env::temp_dir().join(support::unique("commontrip-token"));
    std::fs::write(&file, "another-token-for-tests\n").unwrap();
    let with_file = [&arguments[..], &["--token-file", file.to_str().unwrap()]].concat();
    for (arguments, token) in [
        (&arguments[..], TOKEN),
        (&with_file, "another-token-for-tests"),
    ] {
        let mut program = Program::start(arguments, &[("COMMONTRIP_ADMIN_TOKEN", TOKEN)]);
        let line = program.line();
        assert!(
            line.contains("need the token") && !line.contains(token),
            "{line}"
        );
        let base = url_in(&line).to_owned();
        // The request was authorized, but there is no such circuit.
        force_open(&base, &support::unique("nobody"), token)
            .await
            .problem(404);
        force_open(&base, "payments", "a-wrong-token-for-tests")
            .await
            .problem(401);
        program.signal("INT");
        assert_eq!(program.ended().await.0, Some(0));
    }
    std::fs::remove_file(&file).unwrap();
}

#[tokio::test]
async fn serve_answers_to_the_names_that_it_is_told_and_warns_beyond_the_loopback() {
    let arguments = [
        "serve",
        "--redis",
        support::redis_url(),
        "--bind",
        "0.0.0.0:0",
        "--allow-host",
        "ops.example.com",
    ];
    let mut program = Program::start(&arguments, &[]);
    let base = url_in(&program.line()).to_owned();
    assert!(base.starts_with("http://localhost:"), "{base}");
    let base = base.replace("localhost", "127.0.0.1");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for (host, status) in [("ops.example.com", 200), ("evil.com", 421)] {
        let sent = client
            .get(format!("{base}/circuits"))
            .header("host", host)
            .send();
        assert_eq!(sent.await.unwrap().status(), status, "{host}");
    }
    program.signal("TERM");
    let (status, said) = program.ended().await;
    assert_eq!(status, Some(0));
    assert!(
        said.contains("warning") && said.contains("without TLS"),
        "{said}"
    );
}

#[test]
fn serve_says_what_is_wrong_before_it_begins() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let said = |arguments: &[&str], settings: &[(&str, &str)]| {
        let all = [&["serve"], arguments].concat();
        String::from_utf8(refused(&all, settings).stderr).unwrap()
    };
    let free = ["--bind", "127.0.0.1:0"];
    for token in ["", "short-secret"] {
        let words = said(&free, &[("COMMONTRIP_ADMIN_TOKEN", token)]);
        assert!(
            words.contains("token") && words.contains("openssl"),
            "{words}"
        );
        assert!(token.is_empty() || !words.contains(token), "{words}");
    }
    let words = said(&["--bind", &taken], &[]);
    assert!(
        words.contains(&format!("cannot listen on {taken}")),
        "{words}"
    );
    let words = said(
        &[&free[..], &["--token-file", "/no/such/file"]].concat(),
        &[],
    );
    assert!(words.contains("/no/such/file"), "{words}");
    let words = said(&[&free[..], &["--allow-host", "https://ops"]].concat(), &[]);
    assert!(words.contains("https://ops"), "{words}");
    let words = said(&[&free[..], &["--redis", "http://:hidden@h"]].concat(), &[]);
    assert!(!words.is_empty() && !words.contains("hidden"), "{words}");
}

#[tokio::test]
async fn serve_begins_without_its_store_and_finds_it() {
    let server = support::OwnServer::start();
    server.kill();
    let url = server.url();
    let arguments = ["serve", "--redis", &url, "--bind", "127.0.0.1:0"];
    let mut program = Program::start(&arguments, &[]);
    let base = url_in(&program.line()).to_owned();
    assert_eq!(get(&format!("{base}/health")).await.status.as_u16(), 503);
    server.restart();
    until("it is found", async || {
        get(&format!("{base}/health")).await.status.as_u16() == 200
    })
    .await;
    program.signal("TERM");
    let (_, said) = program.ended().await;
    assert!(said.contains("warning"), "{said}");
}

/// Reads the rest of a demo's output, so that it does not wait for a reader.
fn read_on(program: &mut Program) -> std::thread::JoinHandle<Vec<Value>> {
    let out = program.child.stdout.take();
    assert!(out.is_none(), "its output is read by lines");
    let (mut lines, _) = (Vec::new(), ());
    let mut reader = std::mem::replace(&mut program.out, BufReader::new(spare()));
    std::thread::spawn(move || {
        let mut line = String::new();
        while reader.read_line(&mut line).unwrap() > 0 {
            lines.push(serde_json::from_str(&line).unwrap());
            line.clear();
        }
        lines
    })
}

/// An output that has ended.
fn spare() -> ChildStdout {
    let mut child = Command::new("true").stdout(Stdio::piped()).spawn().unwrap();
    let out = child.stdout.take().unwrap();
    child.wait().unwrap();
    out
}

async fn a_demo_is_served(arguments: &[&str], name: &str) {
    let all = [
        &[
            "demo",
            "--json",
            "--for",
            "3",
            "--replicas",
            "2",
            "--serve",
            "--bind",
            "127.0.0.1:0",
        ],
        arguments,
    ]
    .concat();
    let mut program = Program::start(&all, &[]);
    let start: Value = serde_json::from_str(&program.line()).unwrap();
    assert_eq!(start["kind"], "start");
    let serving: Value = serde_json::from_str(&program.line()).unwrap();
    assert_eq!(serving["kind"], "serving");
    let base = serving["url"]
        .as_str()
        .unwrap()
        .trim_end_matches('/')
        .to_owned();
    let token = serving["token"].as_str().unwrap().to_owned();
    assert!(token.len() >= 32, "{token}");
    let facts = read_on(&mut program);

    // Outages continue after the story: it has one outage, and this is the next.
    let circuit = async || get(&format!("{base}/circuits/{name}")).await.good();
    until("it opens a second time", async || {
        let details = circuit().await;
        let events = details["events"].as_array().unwrap();
        let trips = events
            .iter()
            .filter(|e| e["to"] == "open" && e["from"] == "closed");
        trips.count() >= 2
    })
    .await;
    until("it recovers", async || {
        circuit().await["circuit"]["state"] == "closed"
    })
    .await;
    let now = force_open(&base, name, &token).await;
    assert_eq!(now.good()["state"], "forced_open");
    let rejected = async || {
        circuit().await["circuit"]["rejected_total"]
            .as_u64()
            .unwrap()
    };
    let before = rejected().await;
    until("its calls are rejected", async || rejected().await > before).await;
    program.signal("INT");
    let (status, said) = program.ended().await;
    assert_eq!((status, said.as_str()), (Some(0), ""));
    let facts = facts.join().unwrap();
    let verdicts = facts.iter().filter(|fact| fact["kind"] == "verdict");
    assert_eq!(verdicts.count(), 1);
}

#[tokio::test]
async fn a_demo_in_one_process_is_served_and_goes_on() {
    a_demo_is_served(&[], "commontrip-demo").await;
}

#[tokio::test]
async fn a_demo_of_processes_is_served_and_goes_on() {
    let name = support::unique("served");
    a_demo_is_served(
        &["--redis", support::redis_url(), "--circuit", &name],
        &name,
    )
    .await;
}

#[tokio::test]
async fn a_demo_that_is_interrupted_in_its_story_ends_with_its_page() {
    let mut program = Program::start(
        &["demo", "--serve", "--bind", "127.0.0.1:0", "--for", "600"],
        &[],
    );
    let mut line = String::new();
    while !line.contains("http://") {
        line = program.line();
    }
    get(&format!("{}/health", url_in(&line))).await.good();
    program.signal("TERM");
    let ended = tokio::time::timeout(Duration::from_secs(60), program.ended());
    assert_eq!(ended.await.unwrap().0, Some(130));
}

#[tokio::test]
async fn serve_takes_named_tokens_and_says_when_the_file_changes() {
    let file = super::tokens::Tokens::of(&[]);
    let made = |name: &str, role: &str| {
        let output = command(&["token", name, "--role", role], &[])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        let secret = said
            .lines()
            .map(|line| line.trim_start_matches("commontrip: "));
        let secret = secret.filter(|line| line.len() == 64).collect::<String>();
        let line = String::from_utf8(output.stdout).unwrap();
        assert!(
            line.starts_with(&format!("{name} {role} sha256:")),
            "{line}"
        );
        assert!(!line.contains(&secret), "{line}");
        (line, secret)
    };
    let ((ana, token), (eyes, _)) = (made("ana", "command"), made("eyes", "read"));
    std::fs::write(&file.path, format!("{ana}{eyes}")).unwrap();
    let prefix = support::unique_prefix("serve");
    let path = file.path.to_str().unwrap();
    let redis = ["--redis", support::redis_url(), "--prefix", &prefix];
    let arguments = [
        "serve",
        "--bind",
        "127.0.0.1:0",
        "--tokens",
        path,
        "--require-token",
    ];
    let mut program = Program::start(&[&arguments[..], &redis].concat(), &[]);
    let line = program.line();
    assert!(
        line.contains("reading and commands need a token of"),
        "{line}"
    );
    let base = url_in(&line).to_owned();
    get(&format!("{base}/circuits")).await.problem(401);
    // The request was authorized, but there is no such circuit.
    force_open(&base, "payments", &token).await.problem(404);
    std::fs::write(&file.path, &eyes).unwrap();
    until("ana is not let in", async || {
        force_open(&base, "payments", &token).await.status == 401
    })
    .await;
    std::fs::write(&file.path, "ana command sha256:nonsense").unwrap();
    program.until_said("the tokens stay as they were");
    program.signal("TERM");
    let (status, said) = program.ended().await;
    assert_eq!(status, Some(0));
    for words in [
        "a command method=POST path=\"/circuits/payments/force-open\" by=\"ana\" from=127.0.0.1",
        "the tokens were read again",
        "eyes (read)",
        "the tokens stay as they were",
        "line 1: the hash is not sha256:",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!said.contains(&token), "{said}");
}

#[test]
fn a_token_as_json_is_for_scripts_and_a_wrong_one_is_not_made() {
    let output = command(&["token", "ana", "--role", "read", "--json"], &[])
        .output()
        .unwrap();
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&made["name"], &made["role"]),
        (&json!("ana"), &json!("read"))
    );
    assert_eq!(made["token"].as_str().unwrap().len(), 64);
    assert!(output.stderr.is_empty(), "{output:?}");
    for (wrong, says) in [
        (&["token", "ana"][..], "--role"),
        (&["token", "ana", "--role", "root"], "read or command"),
        (&["token", "a b", "--role", "read"], "not a name"),
        (
            &["serve", "--bind", "127.0.0.1:0", "--require-token"],
            "needs a token",
        ),
        (&["serve", "--tokens", "/no/such/file"], "/no/such/file"),
        (&["serve", "--trusted-proxy", "nginx"], "10.0.0.0/8"),
        (&["serve", "--path-prefix", "breakers"], "/breakers"),
    ] {
        let said = String::from_utf8(refused(wrong, &[]).stderr).unwrap();
        assert!(said.contains(says), "{said}");
    }
}
