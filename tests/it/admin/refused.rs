//! Requests that are rejected; every error is a problem document.

use commontrip::{MemoryStore, Policy, admin::Options};
use reqwest::Method;
use serde_json::json;

use super::site::{Answer, Site, TOKEN, with_token};

/// Every command, with a valid body.
const COMMANDS: [(&str, &str, &str); 7] = [
    ("POST", "/circuits/payments/force-open", "{}"),
    ("POST", "/circuits/payments/disable", "{}"),
    ("POST", "/circuits/payments/metrics-only", "{}"),
    ("POST", "/circuits/payments/reset", "{}"),
    (
        "PUT",
        "/circuits/payments/policy",
        r#"{"set": {"jitter": 1}}"#,
    ),
    ("DELETE", "/circuits/payments/policy", "{}"),
    ("POST", "/reset-all", r#"{"confirm": "reset-all"}"#),
];

async fn site(options: Options) -> Site {
    let site = Site::on(MemoryStore::default(), options).await;
    site.circuit("payments", Policy::default()).await;
    site
}

/// Sends every command with these headers instead of the right ones.
async fn every_command(site: &Site, headers: &[(&str, &str)]) -> Vec<Answer> {
    let mut answers = Vec::new();
    for (method, path, body) in COMMANDS {
        let method: Method = method.parse().unwrap();
        let mut request = site.ask(method, path).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answers.push(Answer::of(request.send().await.unwrap()).await);
    }
    let now = site.get("/circuits/payments").await.good();
    assert_eq!(now["events"], json!([]), "nothing was done");
    answers
}

const JSON: (&str, &str) = ("content-type", "application/json");

fn authorization() -> (&'static str, String) {
    ("authorization", format!("Bearer {TOKEN}"))
}

#[tokio::test]
async fn a_command_needs_the_token() {
    let site = site(with_token()).await;
    for answer in every_command(&site, &[JSON]).await {
        assert!(answer.problem(401).contains("Bearer"));
        assert_eq!(
            answer.header("www-authenticate"),
            r#"Bearer realm="commontrip""#
        );
    }
    for wrong in [
        "Bearer a-token-for-the-testz",
        "Bearer a-token-for-the-test",
        "Bearer a-token-for-the-tests-x",
        "bearer x",
    ] {
        for answer in every_command(&site, &[JSON, ("authorization", wrong)]).await {
            assert_eq!(answer.problem(401), "the token is wrong");
            assert!(answer.header("www-authenticate").contains("invalid_token"));
            assert!(!answer.text.contains("a-token"), "{answer:?}");
        }
    }
    for odd in [
        "Bearer ",
        "Bearer",
        "Basic YTpi",
        TOKEN,
        "Bearera-token-for-the-tests",
    ] {
        for answer in every_command(&site, &[JSON, ("authorization", odd)]).await {
            answer.problem(401);
        }
    }
}

#[tokio::test]
async fn without_a_token_there_are_no_commands() {
    let site = site(Options::new()).await;
    let (name, token) = authorization();
    for answer in every_command(&site, &[JSON, (name, &token)]).await {
        assert!(answer.problem(403).contains("read-only"));
    }
    for answer in every_command(&site, &[JSON, ("authorization", "Bearer ")]).await {
        answer.problem(403);
    }
    assert_eq!(site.get("/status").await.good()["read_only"], true);
    site.get("/circuits").await.good();
}

#[tokio::test]
async fn another_sites_page_cannot_command() {
    let site = site(with_token().allow_host("ops.example.com").unwrap()).await;
    let (name, token) = authorization();
    let port = site.base.rsplit(':').next().unwrap().to_owned();
    for origin in [
        "https://evil.com",
        "null",
        "http://127.0.0.1:1",
        "http://127.0.0.1",
        "http://localhost.evil.com",
        "file://",
        "://",
    ] {
        for answer in every_command(&site, &[JSON, (name, &token), ("origin", origin)]).await {
            assert!(answer.problem(403).contains("origin"), "{origin}");
        }
    }
    let odd = [JSON, (name, &token), ("origin", "https://shop.example.com")];
    for answer in every_command(&site, &odd).await {
        let words = answer.problem(403);
        assert!(words.contains("--allow-host shop.example.com"), "{words}");
    }
    let own = format!("http://127.0.0.1:{port}");
    for origin in [own.as_str(), "https://ops.example.com"] {
        let sent = site
            .command(Method::POST, "/circuits/payments/reset")
            .json(&json!({}));
        Answer::of(sent.header("origin", origin).send().await.unwrap())
            .await
            .good();
    }
}

#[tokio::test]
async fn a_name_that_leads_here_from_elsewhere_is_not_answered() {
    let site = site(with_token().allow_host("ops.example.com").unwrap()).await;
    for host in ["evil.com", "evil.com:8700", "127.0.0.1.evil.com"] {
        for path in ["/", "/circuits", "/events", "/metrics", "/nothing"] {
            let sent = site.ask(Method::GET, path).header("host", host).send();
            let words = Answer::of(sent.await.unwrap()).await.problem(421);
            assert!(words.contains("--allow-host"), "{words}");
        }
    }
    for host in [
        "localhost:8700",
        "10.0.0.5",
        "[::1]:8700",
        "OPS.example.com:443",
    ] {
        let sent = site
            .ask(Method::GET, "/circuits")
            .header("host", host)
            .send();
        Answer::of(sent.await.unwrap()).await.good();
    }
}

#[tokio::test]
async fn a_body_is_json_and_small() {
    let site = site(with_token()).await;
    let (name, token) = authorization();
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/jsonx",
    ] {
        for answer in every_command(&site, &[(name, &token), ("content-type", kind)]).await {
            assert!(answer.problem(415).contains("application/json"));
        }
    }
    let send = async |body: Vec<u8>| {
        let sent = site
            .command(Method::POST, "/circuits/payments/force-open")
            .header(JSON.0, JSON.1);
        Answer::of(sent.body(body).send().await.unwrap()).await
    };
    for bad in ["{", "{\"for_ms\": }", "\u{0}", "nul"] {
        let words = send(bad.into()).await.problem(400);
        assert!(words.starts_with("the body is not JSON: "), "{words}");
    }
    send(vec![0xff, 0xfe, b'{', b'}']).await.problem(400);
    send(format!("{}1{}", "[".repeat(8000), "]".repeat(8000)).into())
        .await
        .problem(422);
    let large = json!({"reason": "x".repeat(16 * 1024)}).to_string();
    let words = send(large.into()).await.problem(413);
    assert!(words.contains("16384 bytes"), "{words}");
    // Not more is read of a body without a length either.
    let chunks = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 1024]));
    let endless = reqwest::Body::wrap_stream(futures_util::StreamExt::take(chunks, 64));
    let sent = site
        .command(Method::POST, "/circuits/payments/force-open")
        .header(JSON.0, JSON.1);
    Answer::of(sent.body(endless).send().await.unwrap())
        .await
        .problem(413);
}

#[tokio::test]
async fn a_list_is_no_body_of_a_command() {
    let site = site(with_token()).await;
    for (method, path, _) in COMMANDS {
        let sent = site.command(method.parse().unwrap(), path);
        let sent = sent.header(JSON.0, JSON.1).body("[]").send();
        Answer::of(sent.await.unwrap()).await.problem(422);
    }
    let now = site.get("/circuits/payments").await.good();
    assert_eq!(now["events"], json!([]), "nothing was done");
}

#[tokio::test]
async fn what_is_not_there_is_said() {
    let site = site(with_token()).await;
    for path in [
        "/nothing",
        "/circuits/",
        "/circuits/payments/",
        "/circuits/payments/nothing",
        "//",
        "/../etc/passwd",
    ] {
        site.get(path).await.problem(404);
    }
    site.get("/circuits/nobody").await.problem(404);
    site.get(&format!("/circuits/{}", "x".repeat(201)))
        .await
        .problem(404);
    for path in ["/circuits/%ff", "/circuits/%C3%28"] {
        let words = site.get(path).await.problem(400);
        assert!(words.contains("percent-encoded"), "{words}");
    }
    for query in [
        "history=361",
        "history=-1",
        "history=x",
        "state=ajar",
        "state=",
        "state=open&state=open",
        "history=99999999999999999999",
    ] {
        let words = site.get(&format!("/circuits?{query}")).await.problem(400);
        let field = query.split('=').next().unwrap();
        assert!(words.contains(field), "{words}");
        for framework in ["Failed to", "deserialize", "invalid digit"] {
            assert!(!words.contains(framework), "{words}");
        }
    }
    for (method, path, allow) in [
        ("POST", "/circuits", "GET,HEAD"),
        ("PUT", "/circuits/payments", "GET,HEAD,DELETE"),
        ("GET", "/circuits/payments/force-open", "POST"),
        ("PATCH", "/circuits/payments/policy", "PUT,DELETE"),
        ("TRACE", "/health", "GET,HEAD"),
        ("BREW", "/", "GET,HEAD"),
    ] {
        let sent = site.command(method.parse().unwrap(), path).send();
        let answer = Answer::of(sent.await.unwrap()).await;
        answer.problem(405);
        assert_eq!(answer.header("allow"), allow, "{method} {path}");
    }
}
