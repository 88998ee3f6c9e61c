//! What other rooms see of a registry without keeping it from ending.

use std::sync::Arc;

#[cfg(feature = "health")]
use super::registry::stopped;
use super::registry::{Commontrip, Shared};
use crate::store::Store;
#[cfg(feature = "alerts")]
use crate::{
    breaker::Health,
    model::{Name, Snapshot},
};

/// A registry, watched.
#[derive(Clone)]
pub(crate) struct Watch(Arc<Shared>);

impl Watch {
    #[cfg(feature = "alerts")]
    pub(crate) fn has_ended(&self) -> bool {
        *self.0.stop.borrow()
    }

    /// Ends when the registry does.
    #[cfg(feature = "health")]
    pub(crate) async fn ended(&self) {
        stopped(&mut self.0.stop.subscribe()).await;
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &*self.0.store
    }

    pub(crate) fn replica(&self) -> &str {
        &self.0.replica
    }

    #[cfg(feature = "alerts")]
    pub(crate) fn health(&self) -> Health {
        self.0.health()
    }

    /// The time by this process' clock, Unix ms.
    pub(crate) fn unix_ms(&self) -> u64 {
        self.0.clock.unix_ms()
    }

    /// The shared circuits as last heard of.
    #[cfg(feature = "alerts")]
    pub(crate) fn circuits(&self) -> Vec<(Name, Snapshot)> {
        let seen = |cell: &Arc<super::cell::Cell>| {
            let shared = cell.view.lock().shared.clone();
            (cell.name.clone(), shared)
        };
        self.0.cells().iter().map(seen).collect()
    }
}

impl Commontrip {
    /// This registry, watched.
    pub(crate) fn watch(&self) -> Watch {
        Watch(Arc::clone(self.shared()))
    }
}
