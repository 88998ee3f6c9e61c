//! Bytes and leases beside the circuits: what may be kept, and how a process keeps them.
//!
//! Owns the limits that both stores hold to; knows nothing of what the bytes mean.
//! Twins: `redis::keeping`, `lua/keeping/lease.lua`.

use std::collections::HashMap;

use super::StoreError;

/// The longest key or owner, bytes.
const LONGEST_KEY: usize = 300;
/// The most bytes under one key.
const LARGEST_VALUE: usize = 1 << 20;
/// The longest that anything is kept: a year. What is to be kept longer is kept so long.
const LONGEST_MS: u64 = 365 * 86_400_000;

/// A key that can be part of a key of Redis.
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

pub(super) fn bounded(for_ms: u64) -> u64 {
    for_ms.min(LONGEST_MS)
}

/// What a process keeps, each until its time.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    values: Expiring<Vec<u8>>,
    leases: Expiring<String>,
}

impl Shelf {
    pub(super) fn keep(&mut self, key: &str, value: &[u8], for_ms: u64, now: u64) {
        self.values.put(key, value.to_vec(), for_ms, now);
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

/// Key -> what, and until when.
#[derive(Debug)]
struct Expiring<T> {
    entries: HashMap<String, (T, u64)>,
    /// With so many entries, those that have ended are thrown out.
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

    /// For 0 ms: forgets it.
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

    /// Longer than the caller's would last it is only where a clock was set back.
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
        let mut shelf = Shelf::default();
        for i in 0..10_000 {
            shelf.keep(&format!("key {i}"), b"value", 10, i);
        }
        assert!(shelf.values.entries.len() <= Expiring::<()>::FEW);
        assert_eq!(shelf.kept("key 9999", 10_008), Some(b"value".to_vec()));
        assert_eq!(shelf.kept("key 9999", 10_009), None);
    }
}
