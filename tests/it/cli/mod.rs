//! The operators' commands as a shell sees them: text, JSON, exit status; on a real Redis.

mod away;
mod help;
mod hostile;
mod live;
mod look;
mod many;
mod overrides;
mod places;
mod policy;
mod remove;
mod simulate;
mod steer;
mod times;

use std::{
    process::{Command, Output, Stdio},
    time::Duration,
};

use commontrip::{CircuitBreaker, Commontrip, Policy, RedisStore};
use serde_json::Value;

use crate::{
    support::{redis_url, unique_prefix},
    wait::until,
};

/// A timeout that a busy machine does not exceed.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A service whose circuits the commands read.
struct Service {
    prefix: String,
    circuits: Commontrip,
}

/// The result of a run of the program.
#[derive(Debug)]
pub struct Ran {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|err| panic!("{err}: {self:?}"))
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self {
            status: output.status.code().unwrap(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

/// The program, without settings from this process' environment.
fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_commontrip"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("COMMONTRIP_") || ["USER", "SUDO_USER", "NO_COLOR"].contains(&&*name) {
            command.env_remove(&*name);
        }
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs the program against a store, while the test's runtime continues.
pub async fn run_at(url: &str, prefix: &str, arguments: &[&str]) -> Ran {
    // Options go before `--`, because the words after it are not options.
    let words = arguments.iter().take_while(|word| **word != "--").count();
    let mut command = program(&arguments[..words]);
    command.args(["--redis", url, "--prefix", prefix]);
    command.args(["--timeout", "20000"]);
    command.args(&arguments[words..]);
    let output = tokio::task::spawn_blocking(move || command.output());
    output.await.unwrap().unwrap().into()
}

impl Service {
    fn new(name: &str) -> Self {
        let prefix = unique_prefix(name);
        let store = RedisStore::builder().prefix(&prefix).timeout(TIMEOUT);
        let store = store.open(redis_url()).unwrap();
        let circuits = Commontrip::builder().store(store).build().unwrap();
        Self { prefix, circuits }
    }

    /// A listed circuit with this many calls.
    async fn circuit(&self, name: &str, ok: usize, failed: usize) -> CircuitBreaker {
        // With both a rate and a run that are reached at once, the reason would be ambiguous.
        let policy = Policy::builder().no_consecutive_failures_threshold();
        let policy = policy.build().unwrap();
        let breaker = self.circuits.circuit(name, policy).unwrap();
        self.call(&breaker, ok, failed).await;
        let listed = async || {
            let names = self.circuits.circuits().await.unwrap();
            names.iter().any(|listed| listed == name)
        };
        until("it is listed", listed).await;
        breaker
    }

    /// Makes calls through a circuit; they are reported when this returns.
    async fn call(&self, breaker: &CircuitBreaker, ok: usize, failed: usize) {
        for i in 0..ok + failed {
            let outcome = if i < ok { Ok(()) } else { Err(()) };
            let _ = breaker.call(|| async { outcome }).await;
        }
        self.circuits.flush().await;
    }

    async fn run(&self, arguments: &[&str]) -> Ran {
        run_at(redis_url(), &self.prefix, arguments).await
    }

    /// The JSON output of a successful run.
    async fn json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.push("--json");
        let ran = self.run(&all).await;
        assert_eq!(ran.status, 0, "{ran:?}");
        ran.json()
    }
}

fn names(listed: &Value) -> Vec<&str> {
    let circuits = listed["circuits"].as_array().unwrap().iter();
    circuits
        .map(|circuit| circuit["name"].as_str().unwrap())
        .collect()
}
