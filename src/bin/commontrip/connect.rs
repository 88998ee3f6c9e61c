//! How the program connects to the store.
//!
//! Owns the connection options and the environment variables behind them. Every command except the
//! demo has these options.

use std::{env, path::PathBuf, time::Duration};

use clap::Args;
use commontrip::{RedisStore, StoreError, operator::Operator};

use crate::{asked::Asked, out::Failure};

/// Help text on the variables that replace absent flags, as `RedisStoreBuilder::open_env` reads
/// them.
pub const ENVIRONMENT: &str = "\
Without a flag, these variables apply: COMMONTRIP_REDIS_URL, _PREFIX, _USERNAME, _PASSWORD or _PASSWORD_FILE,
_TLS_CA, _TLS_CERT and _TLS_KEY, all with the prefix COMMONTRIP_REDIS.";

/// How long an operator command waits for an answer, ms.
pub const TIMEOUT_MS: u64 = 2000;

/// The address of the store and the credentials for it.
#[derive(Args, Debug)]
#[command(next_help_heading = "Connection")]
pub struct Connection {
    /// redis://, rediss://, redis+unix://, redis-sentinel:// or redis-cluster:// [default:
    /// redis://127.0.0.1:6379/]
    #[arg(long, value_name = "URL")]
    redis: Option<String>,

    /// The prefix of all keys [default: commontrip]
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,

    /// The ACL user
    #[arg(long, value_name = "NAME")]
    username: Option<String>,

    /// A file that holds the password
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,

    /// A file with the CA certificates to trust (PEM) [default: those of the system]
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,

    /// A file with the client certificate (PEM); needs its key
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// A file with the key of that certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// How long to wait for an answer [default: 2000; 50 for `doctor`, a service's store_timeout]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=600_000))]
    timeout: Option<u64>,
}

impl Connection {
    /// Opens the store. `timeout_ms` applies unless a flag sets the timeout.
    ///
    /// # Errors
    /// When an option is wrong. Does not contact the store yet.
    pub fn open(&self, timeout_ms: u64) -> Result<RedisStore, Failure> {
        let opened = self.builder(timeout_ms).and_then(|builder| {
            let url = or_var(&self.redis, "URL");
            builder.open(url.as_deref().unwrap_or("redis://127.0.0.1:6379/"))
        });
        let store = opened.map_err(|error| Failure::of_settings(&error))?;
        let said_by = match (&self.redis, var("URL")) {
            (Some(_), _) => "from --redis",
            (None, Some(_)) => "from COMMONTRIP_REDIS_URL",
            (None, None) => "the default: no --redis, and COMMONTRIP_REDIS_URL is not set",
        };
        Asked::note(&store, said_by);
        Ok(store)
    }

    fn builder(&self, timeout_ms: u64) -> Result<commontrip::RedisStoreBuilder, StoreError> {
        let timeout = self.timeout.unwrap_or(timeout_ms);
        let mut builder = RedisStore::builder().timeout(Duration::from_millis(timeout));
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
            (None, None) => Ok(builder),
            (Some(certificate), Some(key)) => Ok(builder.tls_client_files(certificate, key)),
            _ => {
                let words = "the certificate and its key go together: --tls-cert and --tls-key";
                Err(StoreError::Configuration(words.to_owned()))
            }
        }
    }

    /// Returns an operator of the store's circuits. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When an option is wrong.
    pub fn operator(&self) -> Result<Operator, Failure> {
        let operator = self.operator_within(TIMEOUT_MS)?;
        Ok(operator.from(&format!("cli@{}", host_name())))
    }

    /// Like `operator`, but without an author of its own. `timeout_ms` applies unless a flag sets
    /// the timeout.
    ///
    /// # Errors
    /// When an option is wrong.
    pub fn operator_within(&self, timeout_ms: u64) -> Result<Operator, Failure> {
        let store = self.open(timeout_ms)?;
        let timeout = self.timeout.unwrap_or(timeout_ms);
        Ok(Operator::new(store).timeout(Duration::from_millis(timeout)))
    }
}

fn var(name: &str) -> Option<String> {
    let value = env::var(format!("COMMONTRIP_REDIS_{name}")).ok();
    value.filter(|value| !value.is_empty())
}

fn or_var(flag: &Option<String>, name: &str) -> Option<String> {
    flag.clone().or_else(|| var(name))
}

fn or_file(flag: &Option<PathBuf>, name: &str) -> Option<PathBuf> {
    flag.clone().or_else(|| var(name).map(PathBuf::from))
}

#[cfg(target_os = "linux")]
fn host_name() -> String {
    let uname = rustix::system::uname();
    uname.nodename().to_string_lossy().into_owned()
}

#[cfg(not(target_os = "linux"))]
fn host_name() -> String {
    env::var("HOSTNAME").unwrap_or_default()
}
