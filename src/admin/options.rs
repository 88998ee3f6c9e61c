//! Options of an admin server: who may read and command, and how it is reached.

use std::{
    collections::BTreeSet,
    env, fmt, fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::http::{Extensions, HeaderMap};
use subtle::ConstantTimeEq;

use super::{
    forwarded::{self, Forwarded, Proxies},
    tokens::{self, Hash, Holder, TokenFile},
};

/// Minimum length of a token, bytes.
const SHORTEST_TOKEN: usize = 16;
/// Maximum length of a token, bytes: it must fit in a header.
const LONGEST_TOKEN: usize = 1024;

/// Why options are not valid.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OptionsError {
    /// A token is empty, too short, too long, or cannot be sent.
    #[error("the token {0}; make one with `openssl rand -hex 32`")]
    Token(String),
    /// The file of a token cannot be read.
    #[error("the token cannot be read from {}", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// A name is not a host name.
    #[error("{0:?} is not the name of a host; give it without scheme, port and path")]
    Host(String),
    /// A file of named tokens has an invalid line, or no token.
    #[error("the tokens of {} cannot be used: {words}", .0.display(), words = .1)]
    Tokens(PathBuf, String),
    /// No token can have this name.
    #[error("{0}")]
    TokenName(String),
    /// The machine has no random numbers to make a token from.
    #[error("this machine gives no random numbers")]
    Random,
    /// The proxy to trust is neither an address nor a network.
    #[error("{0:?} is neither an address nor a network such as 10.0.0.0/8")]
    Proxy(String),
    /// A prefix is not a plain path below the root.
    #[error("{0:?} is not a path such as /breakers")]
    Prefix(String),
}

/// Options of [`router`](super::router). By default, the server is read-only and answers to
/// loopback names and IP addresses.
///
/// ```
/// use commontrip::admin::Options;
///
/// let options = Options::new().token("a-long-random-secret-of-32-bytes!")?.allow_host("ops.example.com")?;
/// assert!(!options.is_read_only());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Options {
    token: Option<Token>,
    named: Option<Arc<TokenFile>>,
    reading_needs_token: bool,
    hosts: Hosts,
    proxies: Proxies,
    prefix: Option<String>,
    #[cfg(feature = "queue")]
    pub(super) queues: Option<crate::RedisStore>,
}

/// The holder of a request's token.
#[derive(Clone, Debug)]
pub(super) enum Caller {
    /// The holder of the single token, which has no name.
    Owner,
    /// The holder of a named token.
    Named(Holder, Hash),
}

#[derive(Clone, Debug, Default)]
struct Hosts {
    any: bool,
    named: BTreeSet<String>,
}

/// A token, which `Debug` does not show.
#[derive(Clone)]
struct Token(Vec<u8>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Options {
    /// The default options: read-only, answering to loopback names and IP addresses.
    pub fn new() -> Self {
        Self::default()
    }

    /// Allows commands with `Authorization: Bearer <token>`. The token has 16 to 1024 bytes of
    /// visible ASCII.
    ///
    /// # Errors
    /// [`OptionsError::Token`] when it is anything else.
    pub fn token(mut self, token: &str) -> Result<Self, OptionsError> {
        let bytes = token.len();
        let words = match bytes {
            0 => "is empty".to_owned(),
            1..SHORTEST_TOKEN => {
                format!("has {bytes} bytes, but at least {SHORTEST_TOKEN} are needed")
            }
            _ if bytes > LONGEST_TOKEN => {
                format!("has {bytes} bytes, but at most {LONGEST_TOKEN} can be sent")
            }
            _ if !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
                "has spaces or characters beyond ASCII, which cannot be sent".to_owned()
            }
            _ => {
                self.token = Some(Token(token.into()));
                return Ok(self);
            }
        };
        Err(OptionsError::Token(words))
    }

    /// Sets the [`token`](Self::token) from an environment variable, such as
    /// `COMMONTRIP_ADMIN_TOKEN`. Changes nothing if the variable is not set.
    ///
    /// # Errors
    /// [`OptionsError::Token`], also if the variable is set but empty.
    pub fn token_from_env(self, variable: &str) -> Result<Self, OptionsError> {
        match env::var_os(variable) {
            None => Ok(self),
            Some(token) => self.token(&token.to_string_lossy()),
        }
    }

    /// Sets the [`token`](Self::token) from a file, without the white space around it.
    ///
    /// # Errors
    /// [`OptionsError::File`] when it cannot be read; [`OptionsError::Token`].
    pub fn token_from_file(self, path: impl AsRef<Path>) -> Result<Self, OptionsError> {
        let path = path.as_ref();
        let token = fs::read_to_string(path);
        let token = token.map_err(|error| OptionsError::File(path.to_owned(), error))?;
        self.token(token.trim())
    }

    /// Admits the holders of named tokens, as far as the role of each permits. The name of the
    /// token is recorded as the author of commands. The single [`token`](Self::token) stays valid
    /// as well.
    ///
    /// A line of the file is `NAME ROLE sha256:HEX`, as [`NewToken::line`](super::NewToken::line)
    /// writes it; the role is `read` or `command`. Empty lines and lines that begin with `#` are
    /// ignored. A name may have several tokens.
    ///
    /// A thread checks the file once a second, and applies changes. If the changed file is not
    /// valid, the tokens stay as they were. Both are logged.
    ///
    /// # Errors
    /// [`OptionsError::File`] when it cannot be read or is larger than 1 MiB;
    /// [`OptionsError::Tokens`] when it is not valid.
    pub fn tokens_from_file(mut self, path: impl AsRef<Path>) -> Result<Self, OptionsError> {
        self.named = Some(TokenFile::open(path.as_ref())?);
        Ok(self)
    }

    /// Requires a token for reading too, with any role. If the server has no token, nobody can
    /// read. The dashboard's page, which has no data and asks for the token, and `openapi.json`
    /// need none.
    pub const fn require_token(mut self) -> Self {
        self.reading_needs_token = true;
        self
    }

    /// Trusts the `X-Forwarded-For`, `-Host`, `-Proto` and `-Prefix` of a proxy at this address or
    /// in this network, such as `10.0.0.0/8`. Without [`ConnectInfo`](axum::extract::ConnectInfo),
    /// no proxy is trusted.
    ///
    /// # Errors
    /// [`OptionsError::Proxy`] when it is neither.
    pub fn trust_proxy(mut self, net: &str) -> Result<Self, OptionsError> {
        let address = net.parse::<IpAddr>().map(Into::into);
        let parsed = address.or_else(|_| net.parse());
        let wrong = |_| OptionsError::Proxy(net.to_owned());
        self.proxies.add(parsed.map_err(wrong)?);
        Ok(self)
    }

    /// Also serves requests below this path, such as `/breakers`, for a proxy that does not remove
    /// it. In your own app, use [`nest_service`](axum::Router::nest_service) instead.
    ///
    /// # Errors
    /// [`OptionsError::Prefix`] when it is not a path of letters, digits, `-`, `.`, `_` and `~`.
    pub fn path_prefix(mut self, path: &str) -> Result<Self, OptionsError> {
        let prefix = forwarded::prefix(path);
        self.prefix = Some(prefix.ok_or_else(|| OptionsError::Prefix(path.to_owned()))?);
        Ok(self)
    }

    /// Also answers to this host name, with any port: the name of a proxy, or of the service in its
    /// network. Pages under this name may command if they have the token.
    ///
    /// # Errors
    /// [`OptionsError::Host`] when it is not a name.
    pub fn allow_host(mut self, name: &str) -> Result<Self, OptionsError> {
        let known = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if name.is_empty() || name.len() > 253 || !name.chars().all(known) {
            return Err(OptionsError::Host(name.to_owned()));
        }
        self.hosts.named.insert(name.to_ascii_lowercase());
        Ok(self)
    }

    /// Answers to any host name. Use it only behind a proxy that checks the name: otherwise another
    /// site's page could read everything, under a name that resolves to this server (DNS
    /// rebinding).
    pub fn any_host(mut self) -> Self {
        self.hosts.any = true;
        self
    }

    /// Makes `GET /metrics` count the jobs of the queues in this store.
    #[cfg(feature = "queue")]
    pub fn queues(mut self, store: &crate::RedisStore) -> Self {
        self.queues = Some(store.clone());
        self
    }

    /// Whether there is no token, so that commands are rejected.
    #[must_use]
    pub const fn is_read_only(&self) -> bool {
        self.token.is_none() && self.named.is_none()
    }

    /// Whether reading needs a token.
    #[must_use]
    pub const fn requires_token(&self) -> bool {
        self.reading_needs_token
    }

    /// The holder of this token, in a time that does not depend on where the token differs.
    pub(super) fn caller(&self, token: &[u8]) -> Option<Caller> {
        let own = self.token.as_ref();
        let is_own = own.is_some_and(|own| own.0.ct_eq(token).into());
        let hash = tokens::hash(token);
        let holder = self.named.as_ref().and_then(|file| file.holder(&hash));
        match holder {
            Some(holder) => Some(Caller::Named(holder, hash)),
            None => is_own.then_some(Caller::Owner),
        }
    }

    /// Whether a token that was valid still is.
    pub(super) fn still_knows(&self, caller: &Caller) -> bool {
        match caller {
            Caller::Owner => true,
            Caller::Named(_, hash) => {
                let holder = self.named.as_ref().and_then(|file| file.holder(hash));
                holder.is_some()
            }
        }
    }

    /// What the connection and trusted proxies say about a request.
    pub(super) fn forwarded(&self, headers: &HeaderMap, extensions: &Extensions) -> Forwarded {
        self.proxies.see(headers, extensions)
    }

    /// The path prefix that was set.
    pub(super) fn prefix(&self) -> Option<&str> {
        self.prefix.as_deref()
    }

    /// Whether requests may have a path prefix.
    pub(super) const fn may_have_prefix(&self) -> bool {
        self.prefix.is_some() || !self.proxies.is_empty()
    }

    /// Whether the server answers to a host. An IP address is always accepted, because DNS
    /// rebinding needs a name.
    pub(super) fn answers_to(&self, host: &str) -> bool {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let lower = host.to_ascii_lowercase();
        self.hosts.any
            || host.parse::<IpAddr>().is_ok()
            || lower == "localhost"
            || lower.ends_with(".localhost")
            || self.hosts.named.contains(&lower)
    }

    /// Whether a host was allowed by its name.
    pub(super) fn names(&self, host: &str) -> bool {
        self.hosts.named.contains(&host.to_ascii_lowercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Options {
        fn accepts(&self, token: &[u8]) -> bool {
            self.caller(token).is_some()
        }
    }

    #[test]
    fn a_proxy_is_an_address_or_a_network_and_a_prefix_a_path() {
        for good in ["10.0.0.1", "10.0.0.0/8", "::1", "fd00::/8"] {
            let _ = Options::new().trust_proxy(good).unwrap();
        }
        for bad in ["", "nginx", "10.0.0.0/33", "10.0.0.1:80"] {
            let error = Options::new().trust_proxy(bad).unwrap_err().to_string();
            assert!(error.contains("10.0.0.0/8"), "{error}");
        }
        assert_eq!(
            Options::new().path_prefix("/b/").unwrap().prefix(),
            Some("/b")
        );
        let error = Options::new().path_prefix("breakers").unwrap_err();
        assert!(error.to_string().contains("/breakers"), "{error}");
    }

    #[test]
    fn a_token_is_long_enough_to_be_none_that_one_guesses() {
        for bad in [
            "",
            "short",
            "fifteen-bytes-x",
            "sixteen bytes-xx",
            "ümlaut-ümlaut-ü",
            &"x".repeat(1025),
        ] {
            let error = Options::new().token(bad).unwrap_err().to_string();
            assert!(error.contains("openssl rand"), "{error}");
            assert!(bad.is_empty() || !error.contains(bad), "{error}");
        }
        let options = Options::new().token("sixteen-bytes-xx").unwrap();
        assert!(options.accepts(b"sixteen-bytes-xx"));
        for wrong in [
            "",
            "sixteen-bytes-xy",
            "sixteen-bytes-xxx",
            "sixteen-bytes-x",
        ] {
            assert!(!options.accepts(wrong.as_bytes()), "{wrong}");
        }
        assert!(!Options::new().accepts(b""));
    }

    #[test]
    fn a_token_is_not_shown() {
        let options = Options::new().token("sixteen-bytes-xx").unwrap();
        assert!(!format!("{options:?}").contains("sixteen"), "{options:?}");
    }

    #[test]
    fn a_token_comes_from_a_file_or_the_environment() {
        let path = env::temp_dir().join(format!("commontrip-token-{}", fastrand::u64(..)));
        fs::write(&path, "sixteen-bytes-xx\n").unwrap();
        let options = Options::new().token_from_file(&path).unwrap();
        assert!(options.accepts(b"sixteen-bytes-xx"));
        fs::remove_file(&path).unwrap();
        let error = Options::new().token_from_file(&path).unwrap_err();
        assert!(matches!(error, OptionsError::File(..)));
        // A variable that no process has, and one that every process has.
        assert!(
            Options::new()
                .token_from_env("NO_SUCH_VARIABLE")
                .unwrap()
                .is_read_only()
        );
        let path = env::var("PATH").unwrap();
        let options = Options::new().token_from_env("PATH").unwrap();
        assert!(options.accepts(path.as_bytes()));
    }

    #[test]
    fn a_foreign_name_is_not_ours() {
        let options = Options::new().allow_host("Ops.example.com").unwrap();
        for ours in [
            "localhost",
            "LOCALHOST",
            "shop.localhost",
            "127.0.0.1",
            "10.1.2.3",
            "[::1]",
            "ops.EXAMPLE.com",
        ] {
            assert!(options.answers_to(ours), "{ours}");
        }
        for foreign in [
            "evil.com",
            "localhost.evil.com",
            "127.0.0.1.evil.com",
            "notlocalhost",
            "",
            "example.com",
        ] {
            assert!(!options.answers_to(foreign), "{foreign}");
        }
        assert!(Options::new().any_host().answers_to("evil.com"));
        for bad in ["", "https://ops", "ops:80", "ops/x", "ö", &"x".repeat(254)] {
            assert!(Options::new().allow_host(bad).is_err(), "{bad}");
        }
    }
}
