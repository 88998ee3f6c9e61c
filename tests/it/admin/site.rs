//! An admin server on its own port, a client, and circuits to read.

use std::time::Duration;

use axum::Router;
use commontrip::{
    CircuitBreaker, Commontrip, Policy, RedisStore, Store,
    admin::{self, Options},
    operator::Operator,
};
use reqwest::{Method, RequestBuilder, Response, StatusCode, header::HeaderMap};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use crate::{support, wait::until};

pub const TOKEN: &str = "a-token-for-the-tests";

/// A server; stops when dropped.
pub struct Site {
    pub base: String,
    pub circuits: Commontrip,
    client: reqwest::Client,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<std::io::Result<()>>,
}

/// A complete answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub async fn of(response: Response) -> Answer {
        Answer {
            status: response.status(),
            headers: response.headers().clone(),
            text: response.text().await.unwrap(),
        }
    }

    pub fn kind(&self) -> &str {
        self.header("content-type")
    }

    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|err| panic!("{err}: {self:?}"))
    }

    /// The JSON of a successful answer.
    #[track_caller]
    pub fn good(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{self:?}");
        assert_eq!(self.kind(), "application/json");
        self.json()
    }

    /// The detail of a failed answer, which is a problem document with this status.
    #[track_caller]
    pub fn problem(&self, status: u16) -> String {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert_eq!(self.kind(), "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], status);
        let title = problem["title"].as_str().unwrap();
        assert!(!title.is_empty() && problem["type"].is_string());
        problem["detail"].as_str().unwrap().to_owned()
    }
}

pub fn with_token() -> Options {
    Options::new().token(TOKEN).unwrap()
}

pub fn redis(url: &str) -> RedisStore {
    let prefix = support::unique_prefix("admin");
    let builder = RedisStore::builder().prefix(&prefix);
    builder.timeout(Duration::from_secs(4)).open(url).unwrap()
}

/// A policy that opens after two failures, for a minute.
pub fn tripping() -> Policy {
    Policy::builder()
        .minimum_number_of_calls(2)
        .wait_duration_in_open_state(Duration::from_secs(60))
        .report_interval(Duration::ZERO)
        .build()
        .unwrap()
}

impl Site {
    /// Starts on the tests' Redis with its own prefix, so it sees no other circuits.
    pub async fn start() -> Site {
        Site::on(redis(support::redis_url()), with_token()).await
    }

    pub async fn on(store: impl Store, options: Options) -> Site {
        let circuits = Commontrip::builder().store(store).build().unwrap();
        let router = admin::router(Operator::of(&circuits), options);
        Site::serving(circuits, router).await
    }

    pub async fn serving(circuits: Commontrip, router: Router) -> Site {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel();
        let until = async {
            let _ = stopped.await;
        };
        Site {
            base,
            circuits,
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            stop: Some(stop),
            served: tokio::spawn(admin::serve(listener, router, until)),
        }
    }

    /// Tells the server to stop.
    pub fn stop(&mut self) {
        drop(self.stop.take());
    }

    /// Stops the server, and waits until it has stopped.
    pub async fn end(mut self) {
        self.stop();
        self.served.await.unwrap().unwrap();
    }

    /// A circuit that the store lists.
    pub async fn circuit(&self, name: &str, policy: Policy) -> CircuitBreaker {
        let breaker = self.circuits.circuit(name, policy).unwrap();
        breaker.call(|| async { Ok::<_, ()>(()) }).await.unwrap();
        self.circuits.flush().await;
        until("it is listed", async || {
            let names = self.circuits.circuits().await.unwrap();
            names.iter().any(|known| known == name)
        })
        .await;
        breaker
    }

    /// A circuit that has opened.
    pub async fn tripped(&self, name: &str) -> CircuitBreaker {
        let breaker = self.circuit(name, tripping()).await;
        self.trip(&breaker).await;
        breaker
    }

    pub async fn trip(&self, breaker: &CircuitBreaker) {
        until("it is open", async || {
            let _ = breaker.call(|| async { Err::<(), _>("down") }).await;
            self.circuits.flush().await;
            breaker.state() == commontrip::State::Open
        })
        .await;
    }

    pub fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.ask(Method::GET, path).send().await.unwrap()).await
    }

    /// A command with the token.
    pub fn command(&self, method: Method, path: &str) -> RequestBuilder {
        self.ask(method, path).bearer_auth(TOKEN)
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        let sent = self.command(Method::POST, path).json(&body).send();
        Answer::of(sent.await.unwrap()).await
    }

    pub async fn put_policy(&self, name: &str, set: Value) -> Answer {
        let path = format!("/circuits/{name}/policy");
        let body = json!({ "set": set, "reason": "tuned", "author": "ana" });
        let sent = self.command(Method::PUT, &path).json(&body).send();
        Answer::of(sent.await.unwrap()).await
    }

    pub async fn stream(&self, path: &str) -> Stream {
        let response = self.ask(Method::GET, path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let kind = response.headers()["content-type"].to_str().unwrap();
        assert_eq!(kind, "text/event-stream");
        Stream {
            response,
            text: String::new(),
        }
    }
}

/// Updates as a browser gets them.
pub struct Stream {
    response: Response,
    text: String,
}

/// An event: its kind and its data.
pub type Told = (String, Value);

impl Stream {
    /// The next event; `None` when the server has ended the stream.
    pub async fn next(&mut self) -> Option<Told> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let event = event.to_owned();
                self.text = rest.to_owned();
                let field = |name: &str| {
                    let mut lines = event.lines();
                    lines.find_map(|line| line.strip_prefix(name).map(str::to_owned))
                };
                if let (Some(kind), Some(data)) = (field("event: "), field("data: ")) {
                    return Some((kind, serde_json::from_str(&data).unwrap()));
                }
                continue;
            }
            let more = self.response.chunk();
            let more = tokio::time::timeout(Duration::from_secs(30), more);
            let more = more.await.expect("no news for 30 s").unwrap()?;
            self.text.push_str(std::str::from_utf8(&more).unwrap());
        }
    }

    /// The next event of this kind for which the condition holds.
    pub async fn until(&mut self, kind: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let found = tokio::time::timeout(Duration::from_secs(60), async {
            loop {
                let (told, data) = self.next().await.expect("the stream goes on");
                if told == kind && holds(&data) {
                    return data;
                }
            }
        });
        let found = found.await;
        found.unwrap_or_else(|_| panic!("no {kind} that is as it should be within 60 s"))
    }

    pub async fn first(&mut self, kind: &str) -> Value {
        self.until(kind, |_| true).await
    }
}
