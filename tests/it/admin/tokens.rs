//! Named tokens: the author of a command is the token's holder, within the token's role.

use std::{fs, path::PathBuf};

use commontrip::{
    Policy,
    admin::{NewToken, Options, Role},
};
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    commands::last_event,
    site::{Answer, Site, TOKEN, redis, with_token},
};
use crate::{support, wait::until};

/// A file of tokens, removed with the test.
pub struct Tokens {
    pub path: PathBuf,
}

impl Tokens {
    pub fn of(tokens: &[&NewToken]) -> Tokens {
        let path = std::env::temp_dir().join(support::unique("commontrip-tokens"));
        let file = Tokens { path };
        file.write(tokens);
        file
    }

    pub fn write(&self, tokens: &[&NewToken]) {
        let lines: Vec<_> = tokens.iter().map(|token| token.line()).collect();
        fs::write(&self.path, lines.join("\n")).unwrap();
    }
}

impl Drop for Tokens {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

pub fn token(name: &str, role: Role) -> NewToken {
    NewToken::generate(name, role).unwrap()
}

async fn site(options: Options) -> Site {
    let site = Site::on(redis(support::redis_url()), options).await;
    site.circuit("payments", Policy::default()).await;
    site
}

async fn send(site: &Site, method: Method, path: &str, token: &str, body: Option<Value>) -> Answer {
    let mut request = site.ask(method, path).bearer_auth(token);
    if let Some(body) = body {
        request = request.json(&body);
    }
    Answer::of(request.send().await.unwrap()).await
}

const FORCE_OPEN: &str = "/circuits/payments/force-open";
const RESET: &str = "/circuits/payments/reset";

#[tokio::test]
async fn the_author_is_who_holds_the_token() {
    let (ana, bob) = (token("ana", Role::Command), token("bob", Role::Command));
    let file = Tokens::of(&[&ana, &bob]);
    let site = site(with_token().tokens_from_file(&file.path).unwrap()).await;
    let post = async |path, token: &str, body| send(&site, Method::POST, path, token, body).await;
    for (body, by) in [
        (json!({"reason": "drill"}), &ana),
        (json!({"author": "bob"}), &bob),
    ] {
        post(FORCE_OPEN, by.secret(), Some(body)).await.good();
        let name = by.line().split(' ').next().unwrap().to_owned();
        let event = last_event(&site, "payments").await;
        assert_eq!(event["by"], name);
        assert_eq!(
            event["origin"],
            format!("http from 127.0.0.1 by the token of {name}")
        );
    }
    // No command lets a holder pose as somebody else.
    let forged = json!({"author": "bob", "reason": "x"});
    for (method, path, body) in [
        (Method::POST, FORCE_OPEN, forged.clone()),
        (Method::POST, "/circuits/payments/disable", forged.clone()),
        (
            Method::POST,
            "/circuits/payments/metrics-only",
            forged.clone(),
        ),
        (Method::POST, RESET, forged.clone()),
        (Method::DELETE, "/circuits/payments/policy", forged.clone()),
        (
            Method::PUT,
            "/circuits/payments/policy",
            json!({"set": {"jitter": 3}, "author": "bob"}),
        ),
        (
            Method::POST,
            "/reset-all",
            json!({"confirm": "reset-all", "author": "bob"}),
        ),
    ] {
        let words = send(&site, method, path, ana.secret(), Some(body))
            .await
            .problem(422);
        assert!(
            words.contains("\"bob\"") && words.contains("ana's"),
            "{words}"
        );
    }
    assert_eq!(last_event(&site, "payments").await["by"], "bob");
    // The single token is still valid, and its holder names any author.
    post(RESET, TOKEN, Some(json!({"author": "eve"})))
        .await
        .good();
    let event = last_event(&site, "payments").await;
    assert_eq!(
        (&event["by"], &event["origin"]),
        (&json!("eve"), &json!("http from 127.0.0.1"))
    );
    post(RESET, "no-such-token-at-all", None).await.problem(401);
}

#[tokio::test]
async fn a_token_to_read_commands_nothing_and_is_told_which_role_it_needs() {
    let (ana, eyes) = (token("ana", Role::Command), token("eyes", Role::Read));
    let file = Tokens::of(&[&ana, &eyes]);
    let site = site(Options::new().tokens_from_file(&file.path).unwrap()).await;
    for (method, path, body) in [
        ("POST", FORCE_OPEN, json!({})),
        ("POST", RESET, json!({})),
        (
            "PUT",
            "/circuits/payments/policy",
            json!({"set": {"jitter": 1}}),
        ),
        ("DELETE", "/circuits/payments/policy", json!({})),
        ("DELETE", "/circuits/payments", json!({})),
        ("POST", "/reset-all", json!({"confirm": "reset-all"})),
    ] {
        let method: Method = method.parse().unwrap();
        let refused = send(&site, method, path, eyes.secret(), Some(body)).await;
        let words = refused.problem(403);
        assert!(
            words.contains("role read") && words.contains("needs the role command"),
            "{words}"
        );
    }
    let you = async |token: &str| {
        let status = send(&site, Method::GET, "/status", token, None)
            .await
            .good();
        (status["read_only"].clone(), status["you"].clone())
    };
    assert_eq!(
        you(eyes.secret()).await,
        (json!(false), json!({"name": "eyes", "role": "read"}))
    );
    assert_eq!(
        you(ana.secret()).await.1,
        json!({"name": "ana", "role": "command"})
    );
    assert_eq!(
        you("a-token-that-is-wrong").await.1,
        json!({"name": null, "role": null})
    );
    site.get("/circuits").await.good();
}

#[tokio::test]
async fn where_reading_needs_a_token_nothing_is_told_without_one() {
    let eyes = token("eyes", Role::Read);
    let file = Tokens::of(&[&eyes]);
    let options = with_token().tokens_from_file(&file.path).unwrap();
    let site = Site::on(redis(support::redis_url()), options.require_token()).await;
    for path in [
        "/circuits",
        "/circuits/x",
        "/circuit?name=x",
        "/status",
        "/health",
        "/metrics",
        "/events",
        "/checks",
        "/nothing",
    ] {
        let answer = site.get(path).await;
        assert!(answer.problem(401).contains("Bearer"), "{path}");
        assert!(!answer.header("www-authenticate").is_empty(), "{path}");
        let wrong = send(&site, Method::GET, path, "a-token-that-is-wrong", None).await;
        assert_eq!(wrong.problem(401), "the token is wrong");
    }
    for token in [eyes.secret(), TOKEN] {
        send(&site, Method::GET, "/circuits", token, None)
            .await
            .good();
        let metrics = send(&site, Method::GET, "/metrics", token, None).await;
        assert_eq!(metrics.status, 200);
    }
    // Routes without data are public: the page asks for the token.
    assert_eq!(site.get("/").await.status, 200);
    site.get("/openapi.json").await.good();
}

#[tokio::test]
async fn a_changed_file_is_read_again_and_a_bad_one_changes_nothing() {
    let [ana, bob, eyes] = [
        ("ana", Role::Command),
        ("bob", Role::Command),
        ("eyes", Role::Read),
    ]
    .map(|(name, role)| token(name, role));
    let file = Tokens::of(&[&ana, &eyes]);
    let options = Options::new()
        .tokens_from_file(&file.path)
        .unwrap()
        .require_token();
    let site = Site::on(redis(support::redis_url()), options).await;
    let knows = async |token: &NewToken| {
        let answer = send(&site, Method::GET, "/circuits", token.secret(), None).await;
        answer.status == 200
    };
    assert!(knows(&ana).await && !knows(&bob).await);
    // A stream ends when its token is removed.
    let watching = site.ask(Method::GET, "/events").bearer_auth(eyes.secret());
    let mut watching = watching.send().await.unwrap();
    assert!(watching.chunk().await.unwrap().is_some());
    file.write(&[&bob]);
    until("bob is known", async || knows(&bob).await).await;
    assert!(!knows(&ana).await && !knows(&eyes).await);
    let ended = async { while watching.chunk().await.unwrap().is_some() {} };
    let limit = std::time::Duration::from_secs(30);
    tokio::time::timeout(limit, ended)
        .await
        .expect("the stream ends");
    for bad in ["", "nonsense", "ana root sha256:00"] {
        fs::write(&file.path, bad).unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
        assert!(knows(&bob).await, "{bad:?}");
    }
    fs::remove_file(&file.path).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    assert!(knows(&bob).await, "a file that is gone changes nothing");
    file.write(&[&ana]);
    until("ana is known again", async || knows(&ana).await).await;
    assert!(!knows(&bob).await);
}

#[test]
fn a_file_that_cannot_be_used_is_refused_at_the_start() {
    let file = Tokens::of(&[]);
    for (text, words) in [
        ("", "no token"),
        ("ana command", "line 1"),
        ("a b c", "line 1: the role is not read or command"),
    ] {
        fs::write(&file.path, text).unwrap();
        let error = Options::new().tokens_from_file(&file.path).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    assert!(Options::new().tokens_from_file("/no/such/file").is_err());
}

#[tokio::test]
async fn a_command_needs_no_body() {
    let site = site(with_token()).await;
    for (path, state) in [
        (FORCE_OPEN, "forced_open"),
        ("/circuits/payments/disable", "disabled"),
        ("/circuits/payments/metrics-only", "metrics_only"),
        (RESET, "closed"),
    ] {
        let bare = send(&site, Method::POST, path, TOKEN, None).await;
        assert_eq!(bare.good()["state"], state);
        let kind = site
            .command(Method::POST, path)
            .header("content-type", "application/json");
        let empty = Answer::of(kind.send().await.unwrap()).await;
        assert_eq!(empty.good()["state"], state);
    }
    // A missing body is reported.
    let words = send(&site, Method::POST, "/reset-all", TOKEN, None)
        .await
        .problem(422);
    assert!(words.contains("confirm"), "{words}");
    let path = "/circuits/payments/policy";
    let words = send(&site, Method::PUT, path, TOKEN, None)
        .await
        .problem(422);
    assert!(words.contains("set"), "{words}");
}
