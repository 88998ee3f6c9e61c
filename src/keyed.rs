//! Circuits by keys that come from requests: a host, a route, a model.
//!
//! Owns their names and the limit on their number; knows nothing of requests. Invariant: two keys
//! have the same name only if the limit makes them share one circuit.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use commontrip::{Commontrip, Policy, keyed::KeyedCircuits};
//!
//! let circuits = Commontrip::embedded()?;
//! let tenants = KeyedCircuits::new(&circuits, "tenant:", |_key| Policy::default())?;
//! tenants.circuit("acme").acquire().await?.success();
//! # Ok(()) }
//! ```

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

/// The default limit on the number of circuits.
const AT_MOST: usize = 1000;
/// The longest name, in bytes.
const LONGEST: usize = 200;
/// Follows the prefix in the name of the circuit that keys beyond the limit share.
const OTHERS: &str = "~others";

/// Circuits of one registry, one for each key, named `{prefix}{key}`.
///
/// Keys may come from outside:
///
/// - Control characters, braces, `%` and `~` in a key become `%` and two hexadecimal digits for
///   each byte in the name. A name of more than 200 bytes is truncated and ends in `~` and the
///   SHA-1 of the key. So each key has its own name, the same in every replica.
/// - Beyond 1,000 keys (or [`at_most`](Self::at_most)), all further keys share the circuit
///   `{prefix}~others`, which is logged once. A circuit is kept until its registry ends.
///
/// Clones share the circuits.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
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

/// Takes a circuit by its name, with the policy in code.
pub(crate) type Take = Box<dyn Fn(&str, Policy) -> Result<CircuitBreaker, NameError> + Send + Sync>;

struct Inner {
    prefix: String,
    policy: Box<dyn Fn(&str) -> Policy + Send + Sync>,
    take: Take,
    known: RwLock<HashMap<String, CircuitBreaker>>,
    others: CircuitBreaker,
    told: AtomicBool,
}

impl KeyedCircuits {
    /// Creates circuits whose names begin with `prefix`, which separates them from circuits named
    /// in code. `policy` returns a key's policy when the key is first seen. The circuit that
    /// further keys share has the policy of the key `~others`.
    ///
    /// # Errors
    /// [`NameError`] if `prefix` is empty, has control characters or braces, or leaves no room for
    /// a key: it may have at most 159 bytes.
    pub fn new(
        circuits: &Commontrip,
        prefix: &str,
        policy: impl Fn(&str) -> Policy + Send + Sync + 'static,
    ) -> Result<Self, NameError> {
        let circuits = circuits.clone();
        let take = move |name: &str, policy: Policy| circuits.circuit(name, policy);
        Self::taken_by(prefix, policy, Box::new(take))
    }

    /// [`new`](Self::new) with another way to take a circuit.
    pub(crate) fn taken_by(
        prefix: &str,
        policy: impl Fn(&str) -> Policy + Send + Sync + 'static,
        take: Take,
    ) -> Result<Self, NameError> {
        Name::new(prefix)?;
        Name::new(&format!("{prefix}{}", digest("")))?;
        let name = format!("{prefix}{OTHERS}");
        let others = take(&name, policy(OTHERS))?;
        let inner = Inner {
            prefix: prefix.to_owned(),
            policy: Box::new(policy),
            take,
            known: RwLock::default(),
            others,
            told: AtomicBool::new(false),
        };
        Ok(Self {
            at_most: AT_MOST,
            inner: Arc::new(inner),
        })
    }

    /// Sets how many keys have their own circuits. Default 1,000; with 0, all keys share one
    /// circuit.
    #[must_use]
    pub const fn at_most(mut self, keys: usize) -> Self {
        self.at_most = keys;
        self
    }

    /// Returns the circuit of a key.
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
        let name = format!("{}{part}", inner.prefix);
        // Before the lock is taken, because this calls the user's code.
        let policy = (inner.policy)(key);
        let mut known = inner.known.write();
        if let Some(breaker) = known.get(&*part) {
            return breaker.clone();
        }
        if known.len() >= self.at_most {
            return inner.shared_by_others(self.at_most);
        }
        let Ok(breaker) = (inner.take)(&name, policy) else {
            // This cannot happen: `part` always makes a valid name.
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
                "key limit reached: further keys share this circuit"
            );
        }
        self.others.clone()
    }

    /// The part of a key's name that follows the prefix.
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

/// `~` marks names that are not plain keys, and `%` marks escaped bytes.
fn is_escaped(c: char) -> bool {
    c.is_control() || matches!(c, '{' | '}' | '%' | '~')
}

/// SHA-1 is enough: nobody can find another key with the digest of one in use.
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
