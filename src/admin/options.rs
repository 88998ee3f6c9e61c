//! What an admin server can be told: the token, and by which names it is reached.

use std::{
    collections::BTreeSet,
    env, fmt, fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use subtle::ConstantTimeEq;

/// The shortest token, bytes.
const SHORTEST_TOKEN: usize = 16;
/// The longest, bytes; it has to fit a header.
const LONGEST_TOKEN: usize = 1024;

/// What is wrong with the options.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OptionsError {
    /// A token is empty, short, long, or cannot be sent.
    #[error("the token {0}; make one with `openssl rand -hex 32`")]
    Token(String),
    /// A token cannot be read.
    #[error("the token cannot be read from {}", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// A name is not a host's.
    #[error("{0:?} is not the name of a host; give it without scheme, port and path")]
    Host(String),
}

/// Options of [`router`](super::router): by default read-only, reached by loopback names and addresses.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Options {
    token: Option<Token>,
    hosts: Hosts,
}

#[derive(Clone, Debug, Default)]
struct Hosts {
    any: bool,
    named: BTreeSet<String>,
}

/// Never shown.
#[derive(Clone)]
struct Token(Vec<u8>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Options {
    /// Read-only, reached by loopback names and addresses.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets in commands with `Authorization: Bearer <token>`: 16 to 1024 bytes of visible ASCII.
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

    /// [`token`](Self::token) from a variable of the environment, such as `COMMONTRIP_ADMIN_TOKEN`;
    /// where it is not set everything stays as it is.
    ///
    /// # Errors
    /// [`OptionsError::Token`], also when it is set and empty.
    pub fn token_from_env(self, variable: &str) -> Result<Self, OptionsError> {
        match env::var_os(variable) {
            None => Ok(self),
            Some(token) => self.token(&token.to_string_lossy()),
        }
    }

    /// [`token`](Self::token) from a file, without the white space around it.
    ///
    /// # Errors
    /// [`OptionsError::File`] when it cannot be read; [`OptionsError::Token`].
    pub fn token_from_file(self, path: impl AsRef<Path>) -> Result<Self, OptionsError> {
        let path = path.as_ref();
        let token = fs::read_to_string(path);
        let token = token.map_err(|error| OptionsError::File(path.to_owned(), error))?;
        self.token(token.trim())
    }

    /// Answers also to this name, with any port: that of a proxy, or of the service in its network. Pages
    /// under it may command, as long as they have the token.
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

    /// Answers to any name, for who is behind a proxy that checks it: else another site's page could read
    /// everything, by a name of its own that leads here (DNS rebinding).
    pub fn any_host(mut self) -> Self {
        self.hosts.any = true;
        self
    }

    /// Whether there is no token, and so no command.
    #[must_use]
    pub const fn is_read_only(&self) -> bool {
        self.token.is_none()
    }

    /// Whether this is the token, in a time that does not depend on where it differs.
    pub(super) fn accepts(&self, token: &[u8]) -> bool {
        let own = self.token.as_ref();
        own.is_some_and(|own| own.0.ct_eq(token).into())
    }

    /// Whether the server answers to a host. An address is always its own: no foreign name leads to it.
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
        // What every process has, and what none has.
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
