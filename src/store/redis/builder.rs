//! Settings of a [`RedisStore`].

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    RedisPool, RedisStore, StoreError,
    access::{Access, Secret},
    address::Address,
    endpoint::Endpoint,
    keys::Prefix,
};
use crate::model::FOREVER;

/// Builds a [`RedisStore`].
///
/// User, password and certificates that are set here override the URL's.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use commontrip::{Commontrip, RedisStore};
///
/// let store = RedisStore::builder()
///     .prefix("shop")
///     .username("commontrip")
///     .password("secret")
///     .open("redis://127.0.0.1:6379")?;
/// let circuits = Commontrip::builder().store(store).build()?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct RedisStoreBuilder {
    prefix: String,
    timeout: Duration,
    access: Access,
}

impl RedisStoreBuilder {
    pub(super) fn new() -> Self {
        Self {
            prefix: Prefix::DEFAULT.to_owned(),
            timeout: Duration::from_millis(50),
            access: Access::default(),
        }
    }

    /// Sets the prefix of all keys: 1 to 100 bytes, no control characters, no braces. Default
    /// `commontrip`.
    pub fn prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.prefix);
        self
    }

    /// Sets how long one operation may take. Default 50 ms; at least 1 ms and at most a year.
    ///
    /// Connecting continues in the background for up to half a second (or four times this timeout,
    /// if that is longer), even if no operation waits for it any more.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.clamp(Duration::from_millis(1), FOREVER);
        self
    }

    /// Sets the ACL user.
    pub fn username(mut self, username: &str) -> Self {
        self.access.username = Some(username.to_owned());
        self
    }

    /// Sets the password.
    pub fn password(mut self, password: &str) -> Self {
        self.access.password = Some(Secret::Text(password.to_owned()));
        self
    }

    /// Reads the password from a file for each connection, without line breaks at its end.
    pub fn password_file(mut self, path: impl AsRef<Path>) -> Self {
        self.access.password = Some(Secret::File(path.as_ref().to_owned()));
        self
    }

    /// Trusts only the certificates in a PEM file. Default: those that the system trusts.
    #[cfg(feature = "tls")]
    pub fn tls_ca_file(mut self, path: impl AsRef<Path>) -> Self {
        self.access.tls.ca = Some(path.as_ref().to_owned());
        self
    }

    /// Sets the client certificate (mutual TLS): PEM files of the certificate and its key.
    #[cfg(feature = "tls")]
    pub fn tls_client_files(
        mut self,
        certificate: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Self {
        let files = (certificate.as_ref().to_owned(), key.as_ref().to_owned());
        self.access.tls.client = Some(files);
        self
    }

    /// Opens a store at a URL.
    ///
    /// - `redis://[user][:password@]host[:6379][/database]`, or `redis+unix:///path?db=0`;
    /// - `redis-sentinel://[user][:password@]host[:26379][/database]?sentinelServiceName=mymaster`,
    ///   with `&node=host:port` for each further sentinel, and `&sentinelUsername=` and
    ///   `&sentinelPassword=` if the sentinels require them;
    /// - `redis-cluster://[user][:password@]host[:6379]`, with `?node=host:port` for each further
    ///   seed node.
    ///
    /// `rediss` instead of `redis` means TLS (feature `tls`). `protocol=resp3` sends commands in
    /// RESP3; the default is RESP2. Connects on first use, not now.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use commontrip::RedisStore;
    ///
    /// let store = RedisStore::builder().open("redis://127.0.0.1:6379/2")?;
    /// assert!(RedisStore::builder().open("http://127.0.0.1").is_err());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`StoreError::Configuration`] if the URL or the prefix is invalid.
    pub fn open(self, url: &str) -> Result<RedisStore, StoreError> {
        let endpoint = self.endpoint(url)?;
        let push = self.endpoint(url)?;
        self.build(endpoint, Some(push))
    }

    /// Builds a store on your own pool: deadpool-redis' pool of one server, Sentinel or Cluster.
    ///
    /// `push` is the URL of the subscription to changes, which a pool cannot provide; its form is
    /// that of [`open`](Self::open). Without it, a change made by another replica is noticed within
    /// `decision_ttl`.
    ///
    /// # Errors
    /// [`StoreError::Configuration`] if the URL or the prefix is invalid.
    pub fn from_pool(
        self,
        pool: impl Into<RedisPool>,
        push: Option<&str>,
    ) -> Result<RedisStore, StoreError> {
        let push = push.map(|url| self.endpoint(url)).transpose()?;
        self.build(Endpoint::From(pool.into()), push)
    }

    /// Opens a store from environment variables.
    ///
    /// | variable | default |
    /// |---|---|
    /// | `COMMONTRIP_REDIS_URL` | `redis://127.0.0.1:6379/` |
    /// | `COMMONTRIP_REDIS_USERNAME` | the URL's |
    /// | `COMMONTRIP_REDIS_PASSWORD`, or `COMMONTRIP_REDIS_PASSWORD_FILE` | the URL's |
    /// | `COMMONTRIP_REDIS_TLS_CA` | what the system trusts |
    /// | `COMMONTRIP_REDIS_TLS_CERT` and `COMMONTRIP_REDIS_TLS_KEY` | none |
    /// | `COMMONTRIP_REDIS_PREFIX` | `commontrip` |
    ///
    /// An empty variable counts as not set.
    ///
    /// # Errors
    /// [`StoreError::Configuration`] if a variable is invalid.
    pub fn open_env(mut self) -> Result<RedisStore, StoreError> {
        let var = |name: &str| {
            let value = env::var(format!("COMMONTRIP_REDIS_{name}")).ok();
            value.filter(|value| !value.is_empty())
        };
        if let Some(prefix) = var("PREFIX") {
            self.prefix = prefix;
        }
        if let Some(username) = var("USERNAME") {
            self.access.username = Some(username);
        }
        if let Some(password) = var("PASSWORD") {
            self.access.password = Some(Secret::Text(password));
        } else if let Some(path) = var("PASSWORD_FILE") {
            self.access.password = Some(Secret::File(PathBuf::from(path)));
        }
        let files = ["TLS_CA", "TLS_CERT", "TLS_KEY"].map(|name| var(name).map(PathBuf::from));
        self.take_tls(files)?;
        let url = var("URL").unwrap_or_else(|| "redis://127.0.0.1:6379/".to_owned());
        self.open(&url)
    }

    #[cfg(feature = "tls")]
    fn take_tls(&mut self, [ca, certificate, key]: [Option<PathBuf>; 3]) -> Result<(), StoreError> {
        self.access.tls.ca = ca.or_else(|| self.access.tls.ca.take());
        match (certificate, key) {
            (None, None) => {}
            (Some(certificate), Some(key)) => self.access.tls.client = Some((certificate, key)),
            _ => {
                return Err(StoreError::Configuration(
                    "COMMONTRIP_REDIS_TLS_CERT and COMMONTRIP_REDIS_TLS_KEY go together".to_owned(),
                ));
            }
        }
        Ok(())
    }

    #[cfg(not(feature = "tls"))]
    fn take_tls(&mut self, files: [Option<PathBuf>; 3]) -> Result<(), StoreError> {
        if files.iter().any(Option::is_some) {
            return Err(StoreError::Configuration(
                "COMMONTRIP_REDIS_TLS_* need commontrip's feature \"tls\"".to_owned(),
            ));
        }
        Ok(())
    }

    fn endpoint(&self, url: &str) -> Result<Endpoint, StoreError> {
        let address = Address::parse(url);
        let address =
            address.map_err(|why| StoreError::Configuration(format!("not a Redis URL: {why}")))?;
        Ok(Endpoint::At(Box::new(address), self.access.clone()))
    }

    fn build(self, endpoint: Endpoint, push: Option<Endpoint>) -> Result<RedisStore, StoreError> {
        let prefix = Prefix::new(&self.prefix).ok_or_else(|| {
            let given = &self.prefix;
            StoreError::Configuration(format!(
                "the prefix {given:?} must have 1 to 100 bytes, no control characters and no braces"
            ))
        })?;
        Ok(RedisStore::new(prefix, self.timeout, endpoint, push))
    }
}
