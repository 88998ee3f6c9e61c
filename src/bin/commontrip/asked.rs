//! Which store this process asks, for its errors and for what it changed.

use std::sync::OnceLock;

use commontrip::RedisStore;
use serde::Serialize;

static ASKED: OnceLock<Asked> = OnceLock::new();

/// The store that this process asks, and where its address was configured.
#[derive(Debug, Serialize)]
pub struct Asked {
    /// Host, port and database, or the nodes of a Cluster, without passwords.
    address: String,
    /// The prefix of its keys.
    prefix: String,
    #[serde(skip)]
    said_by: &'static str,
}

impl Asked {
    /// Notes the store. A process uses one store only, so an earlier one stays.
    pub fn note(store: &RedisStore, said_by: &'static str) {
        let _ = ASKED.set(Self {
            address: store.address(),
            prefix: store.prefix().to_owned(),
            said_by,
        });
    }

    /// The store's address and where it was configured, for an error.
    pub fn origin(&self) -> String {
        format!("Redis is {} ({})", self.address, self.said_by)
    }

    /// The store that a command changed: address, prefix, and where the address was configured.
    pub fn place(&self) -> String {
        let Self {
            address,
            prefix,
            said_by,
        } = self;
        format!("{address}, prefix {prefix} ({said_by})")
    }
}

/// The store that this process asks, once it is open.
pub fn asked() -> Option<&'static Asked> {
    ASKED.get()
}
