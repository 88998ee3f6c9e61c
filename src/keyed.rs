//! Circuits by keys that come from requests: a host, a route, a model.
//!
//! Owns their names and the bound on their number; knows nothing of what a request is.
//! Invariant: two keys have the same name only where the bound has both share one circuit.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::RwLock;

use crate::{CircuitBreaker, Commontrip, Name, NameError, Policy};

/// How many circuits there are at most, unless said otherwise.
const AT_MOST: usize = 1000;
/// The longest name, in bytes.
const LONGEST: usize = 200;
/// What follows the prefix in the name of the circuit that further keys share.
const OTHERS: &str = "~others";

/// Circuits of one registry, one for each key, named `{prefix}{key}`.
///
/// Keys may come from outside:
///
/// - Control characters, braces, `%` and `~` of a key stand in the name as `%` and two hexadecimal digits
///   for each byte. A name that would have more than 200 bytes is cut and ends in `~` and the SHA-1 of the
///   key. So each key has a name of its own, the same in every replica.
/// - Beyond 1,000 keys (or what [`at_most`](Self::at_most) says) all further ones share the circuit
///   `{prefix}~others`, which is logged once. A circuit is kept until its registry ends.
///
/// Clones are the same circuits.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use commontrip::{Commontrip, Policy, keyed::KeyedCircuits};
///
/// let circuits = Commontrip::embedded()?;
/// let strict = Policy::consecutive(3)?;
/// let models = KeyedCircuits::new(&circuits, "model:", move |key| match key {
///     "gpt-5" => strict.clone(),
///     _ => Policy::default(),
/// })?;
/// assert_eq!(models.circuit("gpt-5").name(), "model:gpt-5");
/// assert_eq!(models.circuit("a{b}").name(), "model:a%7Bb%7D");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct KeyedCircuits {
    at_most: usize,
    inner: Arc<Inner>,
}

struct Inner {
    circuits: Commontrip,
    prefix: String,
    policy: Box<dyn Fn(&str) -> Policy + Send + Sync>,
    known: RwLock<HashMap<String, CircuitBreaker>>,
    others: CircuitBreaker,
    told: AtomicBool,
}

impl KeyedCircuits {
    /// Circuits whose names begin with `prefix`, which keeps them apart from circuits that are named in
    /// code; `policy` gives each key its policy, when it is first seen. The circuit that further keys
    /// share has the policy of the key `~others`.
    ///
    /// # Errors
    /// [`NameError`] when `prefix` is empty, has control characters or braces, or leaves no room for a
    /// key: it may have 159 bytes.
    pub fn new(
        circuits: &Commontrip,
        prefix: &str,
        policy: impl Fn(&str) -> Policy + Send + Sync + 'static,
    ) -> Result<Self, NameError> {
        Name::new(prefix)?;
        Name::new(&format!("{prefix}{}", digest("")))?;
        let others = circuits.circuit(&format!("{prefix}{OTHERS}"), policy(OTHERS))?;
        let inner = Inner {
            circuits: circuits.clone(),
            prefix: prefix.to_owned(),
            policy: Box::new(policy),
            known: RwLock::default(),
            others,
            told: AtomicBool::new(false),
        };
        Ok(Self {
            at_most: AT_MOST,
            inner: Arc::new(inner),
        })
    }

    /// How many keys have circuits of their own. Default 1,000; with 0 all keys share one.
    #[must_use]
    pub const fn at_most(mut self, keys: usize) -> Self {
        self.at_most = keys;
        self
    }

    /// The circuit of a key.
    #[must_use]
    pub fn circuit(&self, key: &str) -> CircuitBreaker {
        let inner = &*self.inner;
        let part = inner.part(key);
        let full = {
            let known = inner.known.read();
            if let Some(breaker) = known.get(&*part) {
                return breaker.clone();
            }
            known.len() >= self.at_most
        };
        if full {
            return inner.shared_by_others(self.at_most);
        }
        // Before the lock is taken: it is not ours.
        let policy = (inner.policy)(key);
        let mut known = inner.known.write();
        if let Some(breaker) = known.get(&*part) {
            return breaker.clone();
        }
        if known.len() >= self.at_most {
            return inner.shared_by_others(self.at_most);
        }
        let name = format!("{}{part}", inner.prefix);
        let Ok(breaker) = inner.circuits.circuit(&name, policy) else {
            // Not so: `part` is made to fit.
            return inner.others.clone();
        };
        known.insert(part.into_owned(), breaker.clone());
        breaker
    }
}

impl Inner {
    fn shared_by_others(&self, at_most: usize) -> CircuitBreaker {
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                circuit = self.others.name(),
                at_most,
                "too many keys for circuits of their own: further ones share this one"
            );
        }
        self.others.clone()
    }

    /// What follows the prefix in a key's name.
    fn part<'a>(&self, key: &'a str) -> Cow<'a, str> {
        let room = LONGEST - self.prefix.len();
        if key.len() <= room && !key.contains(is_escaped) {
            return Cow::Borrowed(key);
        }
        let mut part = String::new();
        for c in key.chars() {
            if is_escaped(c) {
                let mut bytes = [0; 4];
                let bytes = c.encode_utf8(&mut bytes).bytes();
                part.extend(bytes.map(|byte| format!("%{byte:02X}")));
            } else {
                part.push(c);
            }
            if part.len() > room {
                let digest = digest(key);
                let mut end = room - digest.len();
                while !part.is_char_boundary(end) {
                    end -= 1;
                }
                part.truncate(end);
                part.push_str(&digest);
                break;
            }
        }
        Cow::Owned(part)
    }
}

/// `~` marks what is no key, and `%` what is escaped.
fn is_escaped(c: char) -> bool {
    c.is_control() || matches!(c, '{' | '}' | '%' | '~')
}

/// Nobody finds another key with the digest of one that is in use, which is all that is asked of it.
fn digest(key: &str) -> String {
    format!("~{}", sha1_smol::Sha1::from(key).digest())
}

impl fmt::Debug for KeyedCircuits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedCircuits")
            .field("prefix", &self.inner.prefix)
            .field("at_most", &self.at_most)
            .field("keys", &self.inner.known.read().len())
            .finish_non_exhaustive()
    }
}
