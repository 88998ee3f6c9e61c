//! Bytes in groups of bounded size: the group in this process, and the limits of both stores.
//!
//! Owns the order of eviction; knows nothing of what the bytes mean. Invariant: a group is never
//! larger than the last write to it allowed. Twin: `lua/key_value/group.lua`.

use std::collections::{BTreeSet, HashMap};

use super::{StoreError, key_value};

/// Approximate overhead of a key and the structures around it, bytes.
const AROUND: usize = 128;
/// The largest bound of a group, bytes: a Lua number holds it exactly.
const LARGEST: u64 = 1 << 50;

/// The bound of a group, capped at `LARGEST`; an error if the value does not fit.
pub(super) fn bound(key: &str, value: &[u8], most: u64) -> Result<u64, StoreError> {
    let most = most.min(LARGEST);
    if size(key, value.len()) > most {
        return Err(StoreError::Invalid(format!(
            "the value has {} bytes, but its group has at most {most}",
            value.len()
        )));
    }
    Ok(most)
}

/// Checks that the name of a group can be part of a Redis key.
pub(super) fn name(group: &str) -> Result<&str, StoreError> {
    key_value::key(group)
}

/// The size of a value in its group, bytes.
pub(crate) const fn size(key: &str, length: usize) -> u64 {
    (length + key.len() + AROUND) as u64
}

/// Key -> bytes and expiry (Unix ms).
#[derive(Debug, Default)]
pub(super) struct Group {
    values: HashMap<String, (Vec<u8>, u64)>,
    order: BTreeSet<(u64, String)>,
    size: u64,
}

impl Group {
    /// Keeps a value for `for_ms`; 0 forgets it. The value must not be larger than `most`.
    pub(super) fn keep(&mut self, key: &str, value: &[u8], for_ms: u64, most: u64, now: u64) {
        self.forget(key);
        while let Some((_, over)) = self.order.first().filter(|(until, _)| *until <= now) {
            self.forget(&over.clone());
        }
        if for_ms == 0 {
            return;
        }
        let size = size(key, value.len());
        while let Some((_, first)) = self.order.first()
            && self.size + size > most
        {
            self.forget(&first.clone());
        }
        let until = now.saturating_add(for_ms);
        self.values.insert(key.to_owned(), (value.to_vec(), until));
        self.order.insert((until, key.to_owned()));
        self.size += size;
    }

    pub(super) fn kept(&self, key: &str, now: u64) -> Option<Vec<u8>> {
        let (value, until) = self.values.get(key)?;
        (*until > now).then(|| value.clone())
    }

    fn forget(&mut self, key: &str) {
        let Some((value, until)) = self.values.remove(key) else {
            return;
        };
        self.order.remove(&(until, key.to_owned()));
        self.size -= size(key, value.len());
    }
}
