//! Which keys were already warned about.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
};

use parking_lot::Mutex;

/// The most keys that are warned about.
const MOST: usize = 1000;

/// Keys, by their hash, that were warned about.
#[derive(Default)]
pub(super) struct Warned {
    keys: Mutex<HashSet<u64>>,
    hasher: RandomState,
}

impl Warned {
    /// Whether this is the first warning about this key; false for every new key once `MOST` are
    /// known.
    pub(super) fn is_first(&self, key: &str) -> bool {
        let mut keys = self.keys.lock();
        keys.len() < MOST && keys.insert(self.hasher.hash_one(key))
    }
}
