//! Bytes and leases beside the circuits: what may be kept, and how a process keeps it.
//!
//! Owns the limits that both stores enforce; knows nothing of what the bytes mean. Twins:
//! `redis::key_value`, `lua/key_value/lease.lua`, `lua/key_value/keep.lua`.

use std::collections::HashMap;

use super::StoreError;

/// The longest key or owner, bytes.
const LONGEST_KEY: usize = 300;
/// The largest value, bytes.
pub(crate) const LARGEST_VALUE: usize = 1 << 20;
/// The longest time that anything is kept: a year. Longer times are capped.
const LONGEST_MS: u64 = 365 * 86_400_000;

/// Checks that a key can be part of a Redis key.
pub(super) fn key(key: &str) -> Result<&str, StoreError> {
    let bad = |c: char| c.is_control() || c == '{' || c == '}';
    if key.is_empty() || key.len() > LONGEST_KEY || key.contains(bad) {
        return Err(StoreError::Invalid(format!(
            "a key has 1 to {LONGEST_KEY} bytes, no control characters and no braces"
        )));
    }
    Ok(key)
}

pub(super) fn owner(owner: &str) -> Result<&str, StoreError> {
    if owner.is_empty() || owner.len() > LONGEST_KEY {
        return Err(StoreError::Invalid(format!(
            "an owner has 1 to {LONGEST_KEY} bytes"
        )));
    }
    Ok(owner)
}

pub(super) fn value(value: &[u8]) -> Result<&[u8], StoreError> {
    if value.len() > LARGEST_VALUE {
        return Err(StoreError::Invalid(format!(
            "the value has {} bytes, but at most {LARGEST_VALUE} are kept",
            value.len()
        )));
    }
    Ok(value)
}

/// How long a value under a lease is kept. 0 is invalid, because it would forget the value.
pub(super) fn bounded_leased(for_ms: u64) -> Result<u64, StoreError> {
    match for_ms {
        0 => Err(StoreError::Invalid(
            "a value under a lease must be kept for at least 1 ms".to_owned(),
        )),
        _ => Ok(bounded(for_ms)),
    }
}

pub(super) fn bounded(for_ms: u64) -> u64 {
    for_ms.min(LONGEST_MS)
}

/// The values and leases of this process, each with its expiry.
#[derive(Debug, Default)]
pub(super) struct KeyValues {
    values: Expiring<Vec<u8>>,
    leases: Expiring<String>,
}

impl KeyValues {
    pub(super) fn keep(&mut self, key: &str, value: &[u8], for_ms: u64, now: u64) {
        self.values.put(key, value.to_vec(), for_ms, now);
    }

    /// [`keep`](Self::keep), if the owner has the key's lease. Returns whether it has.
    pub(super) fn keep_leased(
        &mut self,
        key: &str,
        owner: &str,
        value: &[u8],
        for_ms: u64,
        now: u64,
    ) -> bool {
        let leased = self.leases.find(key, now).is_some_and(|o| o == owner);
        if leased {
            self.keep(key, value, for_ms, now);
        }
        leased
    }

    pub(super) fn kept(&self, key: &str, now: u64) -> Option<Vec<u8>> {
        self.values.find(key, now).cloned()
    }

    pub(super) fn lease(&mut self, key: &str, owner: &str, for_ms: u64, now: u64) -> bool {
        let free = self.leases.find(key, now).is_none_or(|o| o == owner);
        if free {
            self.leases.put(key, owner.to_owned(), for_ms, now);
        } else if for_ms > 0 {
            self.leases.bound(key, now.saturating_add(for_ms));
        }
        free
    }
}

/// Key -> value and expiry (Unix ms).
#[derive(Debug)]
struct Expiring<T> {
    entries: HashMap<String, (T, u64)>,
    /// At this number of entries, expired ones are removed.
    full: usize,
}

impl<T> Default for Expiring<T> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            full: Self::FEW,
        }
    }
}

impl<T> Expiring<T> {
    const FEW: usize = 64;

    /// Stores a value; 0 ms removes it.
    fn put(&mut self, key: &str, what: T, for_ms: u64, now: u64) {
        if for_ms == 0 {
            self.entries.remove(key);
            return;
        }
        if self.entries.len() >= self.full {
            self.entries.retain(|_, (_, until)| *until > now);
            self.full = (2 * self.entries.len()).max(Self::FEW);
        }
        let until = now.saturating_add(for_ms);
        self.entries.insert(key.to_owned(), (what, until));
    }

    /// Caps the expiry of an entry, which is later than `latest` only if a clock was set back.
    fn bound(&mut self, key: &str, latest: u64) {
        if let Some((_, until)) = self.entries.get_mut(key) {
            *until = latest.min(*until);
        }
    }

    fn find(&self, key: &str, now: u64) -> Option<&T> {
        let (what, until) = self.entries.get(key)?;
        (*until > now).then_some(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_ended_takes_no_room() {
        let mut key_values = KeyValues::default();
        for i in 0..10_000 {
            key_values.keep(&format!("key {i}"), b"value", 10, i);
        }
        assert!(key_values.values.entries.len() <= Expiring::<()>::FEW);
        assert_eq!(key_values.kept("key 9999", 10_008), Some(b"value".to_vec()));
        assert_eq!(key_values.kept("key 9999", 10_009), None);
    }
}
