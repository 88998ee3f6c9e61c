//! A map of bounded size that evicts the least recently used entry.
//!
//! Invariant: between two calls, it never exceeds its limits of entries and bytes.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

pub(super) struct Lru<V> {
    slots: HashMap<Arc<str>, Slot<V>>,
    /// Number of the last use -> key.
    order: BTreeMap<u64, Arc<str>>,
    uses: u64,
    bytes: u64,
    most: u64,
    most_bytes: u64,
}

struct Slot<V> {
    value: V,
    bytes: u64,
    used: u64,
}

impl<V> Lru<V> {
    pub(super) fn new(most: u64, most_bytes: u64) -> Self {
        Self {
            slots: HashMap::new(),
            order: BTreeMap::new(),
            uses: 0,
            bytes: 0,
            most,
            most_bytes,
        }
    }

    pub(super) fn get(&mut self, key: &str) -> Option<&mut V> {
        let slot = self.slots.get_mut(key)?;
        self.uses += 1;
        if let Some(key) = self.order.remove(&slot.used) {
            self.order.insert(self.uses, key);
        }
        slot.used = self.uses;
        Some(&mut slot.value)
    }

    /// Keeps a value; `bytes` counts the value and its key.
    pub(super) fn insert(&mut self, key: &str, value: V, bytes: u64) {
        self.remove(key);
        self.uses += 1;
        let (key, used) = (Arc::<str>::from(key), self.uses);
        self.order.insert(used, Arc::clone(&key));
        self.slots.insert(key, Slot { value, bytes, used });
        self.bytes += bytes;
        while (self.slots.len() as u64 > self.most || self.bytes > self.most_bytes)
            && let Some((_, key)) = self.order.pop_first()
            && let Some(slot) = self.slots.remove(&key)
        {
            self.bytes -= slot.bytes;
        }
    }

    pub(super) fn remove(&mut self, key: &str) {
        if let Some(slot) = self.slots.remove(key) {
            self.order.remove(&slot.used);
            self.bytes -= slot.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let mut lru = Lru::new(3, 100);
        for key in ["a", "b", "c"] {
            lru.insert(key, key, 10);
        }
        assert_eq!(lru.get("a"), Some(&mut "a"));
        lru.insert("d", "d", 10);
        assert_eq!(lru.get("b"), None);
        // By bytes: 80 leave room for two entries of 10.
        lru.insert("e", "e", 80);
        assert_eq!(lru.get("c"), None);
        assert_eq!((lru.slots.len(), lru.order.len(), lru.bytes), (3, 3, 100));
        lru.insert("d", "larger", 20);
        assert_eq!(lru.get("a"), None);
        assert_eq!(lru.get("d"), Some(&mut "larger"));
        lru.remove("e");
        lru.remove("e");
        assert_eq!((lru.slots.len(), lru.order.len(), lru.bytes), (1, 1, 20));
        lru.insert("f", "too large", 101);
        assert_eq!((lru.slots.len(), lru.order.len(), lru.bytes), (0, 0, 0));
    }
}
