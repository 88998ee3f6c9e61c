//! `commontrip doctor`: what the crate finds at a Redis, for people and for programs.
//!
//! Owns the options, the words' layout and the exit status; the findings are the crate's.

use std::{
    env,
    fmt::Write as _,
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use commontrip::{
    RedisStore, StoreError,
    store::{Check, Verdict},
};
use serde::Serialize;

use crate::demo::wrap;

/// What the environment says where a flag is absent, as `RedisStoreBuilder::open_env` reads it.
pub const AFTER_HELP: &str = "\
Where a flag is absent, the environment counts: COMMONTRIP_REDIS_URL, _PREFIX, _USERNAME, _PASSWORD or
_PASSWORD_FILE, _TLS_CA, _TLS_CERT and _TLS_KEY, each beginning with COMMONTRIP_REDIS.

It changes nothing but a circuit of its own, which it deletes. What the user is not allowed to look at
is a note. Exit status: 0 no failure, 1 a failure, 2 the command line is wrong.";

/// Where the store is, and as whom to ask it.
#[derive(Args, Debug)]
pub struct Connection {
    /// redis://, rediss://, redis+unix://, redis-sentinel:// or redis-cluster://
    #[arg(long, value_name = "URL")]
    redis: Option<String>,

    /// How keys begin; `commontrip` by default
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,

    /// The ACL user
    #[arg(long, value_name = "NAME")]
    username: Option<String>,

    /// A file that holds the password
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,

    /// The authority whose certificates are trusted (PEM); those of the system by default
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,

    /// A certificate to show the server (PEM), with its key
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// The key of that certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

/// What `commontrip doctor` can be told.
#[derive(Args, Debug)]
pub struct Options {
    #[command(flatten)]
    connection: Connection,

    /// The store_timeout of the service, which answers are held against
    #[arg(long, value_name = "MS", default_value = "50", value_parser = clap::value_parser!(u64).range(1..=600_000))]
    timeout: u64,

    /// Write one JSON object
    #[arg(long)]
    json: bool,

    /// Only print the ACL rules of a user who may do what is needed and nothing else
    #[arg(long, conflicts_with = "json")]
    acl: bool,
}

/// Examines. Status: 0 no failure, 1 a failure, 2 the command line is wrong.
pub fn run(options: &Options) -> ExitCode {
    let store = match options.connection.open(options.timeout) {
        Ok(store) => store,
        Err(error) => return unusable(&error.to_string()),
    };
    if options.acl {
        return told(&format!("{}\n", store.acl_rules()), ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let checks = match runtime {
        Ok(runtime) => runtime.block_on(store.examine()),
        Err(error) => return unusable(&format!("cannot start a runtime: {error}")),
    };
    let findings = Findings::new(checks);
    let status = match findings.verdict {
        Verdict::Failure => ExitCode::from(1),
        _ => ExitCode::SUCCESS,
    };
    if options.json {
        return match serde_json::to_string_pretty(&findings) {
            Ok(text) => told(&format!("{text}\n"), status),
            Err(error) => unusable(&error.to_string()),
        };
    }
    told(&findings.text(colourful()), status)
}

impl Connection {
    /// The store that is meant; nothing is asked yet.
    pub fn open(&self, timeout_ms: u64) -> Result<RedisStore, StoreError> {
        let var = |name: &str| {
            let value = env::var(format!("COMMONTRIP_REDIS_{name}")).ok();
            value.filter(|value| !value.is_empty())
        };
        let or_var = |flag: &Option<String>, name| flag.clone().or_else(|| var(name));
        let or_file =
            |flag: &Option<PathBuf>, name| flag.clone().or_else(|| var(name).map(PathBuf::from));
        let mut builder = RedisStore::builder().timeout(Duration::from_millis(timeout_ms));
        if let Some(prefix) = or_var(&self.prefix, "PREFIX") {
            builder = builder.prefix(&prefix);
        }
        if let Some(username) = or_var(&self.username, "USERNAME") {
            builder = builder.username(&username);
        }
        if let Some(path) = &self.password_file {
            builder = builder.password_file(path);
        } else if let Some(password) = var("PASSWORD") {
            builder = builder.password(&password);
        } else if let Some(path) = var("PASSWORD_FILE") {
            builder = builder.password_file(path);
        }
        if let Some(path) = or_file(&self.tls_ca, "TLS_CA") {
            builder = builder.tls_ca_file(path);
        }
        let certificate = or_file(&self.tls_cert, "TLS_CERT");
        match (certificate, or_file(&self.tls_key, "TLS_KEY")) {
            (None, None) => {}
            (Some(certificate), Some(key)) => builder = builder.tls_client_files(certificate, key),
            _ => {
                let words = "the certificate and its key go together: --tls-cert and --tls-key";
                return Err(StoreError::Refused(words.to_owned()));
            }
        }
        let url = or_var(&self.redis, "URL");
        let url = url.unwrap_or_else(|| "redis://127.0.0.1:6379/".to_owned());
        builder.open(&url)
    }
}

fn unusable(why: &str) -> ExitCode {
    let why = why.strip_prefix("the store refused: ").unwrap_or(why);
    let _ = writeln!(io::stderr(), "commontrip: {}", shown(why));
    ExitCode::from(2)
}

/// Writes to whoever reads; one that stopped reading is no error.
fn told(text: &str, status: ExitCode) -> ExitCode {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    status
}

fn colourful() -> bool {
    let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
    io::stdout().is_terminal() && !set("NO_COLOR") && !dumb
}

/// What was found, and how bad the worst of it is.
#[derive(Serialize)]
struct Findings {
    verdict: Verdict,
    checks: Vec<Check>,
}

const WIDTH: usize = 100;
/// Where the name of a check begins, and what was found.
const NAME: usize = 9;
const FOUND: usize = NAME + 13;

impl Findings {
    fn new(checks: Vec<Check>) -> Self {
        let worst = checks.iter().map(|check| check.verdict).max();
        let verdict = worst.unwrap_or(Verdict::Ok);
        Self { verdict, checks }
    }

    fn text(&self, colour: bool) -> String {
        let mut text = String::new();
        let indent = format!("\n{:FOUND$}", "");
        for check in &self.checks {
            let (word, code) = word(check.verdict);
            let mark = paint(colour, code, &format!("{word:NAME$}"));
            let name = format!("{:width$}", check.name, width = FOUND - NAME);
            let rows = |words: &str| wrap(&shown(words), WIDTH - FOUND).join(&indent);
            let _ = writeln!(text, "{mark}{name}{}", rows(&check.found));
            for words in check.means.iter().chain(&check.advice) {
                let _ = writeln!(text, "{:FOUND$}{}", "", rows(words));
            }
        }
        let count = |verdict| {
            let checks = self.checks.iter();
            checks.filter(|check| check.verdict == verdict).count()
        };
        let numbered = |n: usize, word: &str| match n {
            0 => None,
            1 => Some(format!("1 {word}")),
            n => Some(format!("{n} {word}s")),
        };
        let counts = [
            numbered(count(Verdict::Failure), "failure"),
            numbered(count(Verdict::Warning), "warning"),
            numbered(count(Verdict::Note), "note"),
        ];
        let counts: Vec<_> = counts.into_iter().flatten().collect();
        let conclusion = match self.verdict {
            Verdict::Failure => "commontrip cannot share circuits here",
            Verdict::Warning => "it works, for now",
            _ => "all is well",
        };
        let counts = match counts.is_empty() {
            true => String::new(),
            false => format!(" ({})", counts.join(", ")),
        };
        let (_, code) = word(self.verdict);
        let line = paint(colour, code, &format!("{conclusion}{counts}"));
        let _ = writeln!(text, "\n{line}");
        text
    }
}

fn word(verdict: Verdict) -> (&'static str, &'static str) {
    match verdict {
        Verdict::Ok => ("ok", "32"),
        Verdict::Note => ("note", "36"),
        Verdict::Warning => ("warning", "33"),
        _ => ("FAIL", "31"),
    }
}

fn paint(colour: bool, code: &str, text: &str) -> String {
    match colour {
        true => format!("\x1b[{code}m{text}\x1b[0m"),
        false => text.to_owned(),
    }
}

/// Text from elsewhere must not move a terminal's cursor.
pub fn shown(text: &str) -> String {
    let shown = |c: char| match c.is_control() {
        true => c.escape_default().collect::<String>(),
        false => c.to_string(),
    };
    text.chars().map(shown).collect()
}
