//! What other rooms see of a registry without keeping it from ending.

use std::sync::Arc;

use super::{
    link::Health,
    registry::{Commontrip, Shared},
};
use crate::{
    model::{Name, Snapshot},
    store::Store,
};

/// A registry, watched.
#[derive(Clone)]
pub(crate) struct Watch(Arc<Shared>);

impl Watch {
    pub(crate) fn has_ended(&self) -> bool {
        *self.0.stop.borrow()
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &*self.0.store
    }

    pub(crate) fn replica(&self) -> &str {
        &self.0.replica
    }

    pub(crate) fn health(&self) -> Health {
        self.0.health()
    }

    /// The time by this process' clock, Unix ms.
    pub(crate) fn unix_ms(&self) -> u64 {
        self.0.clock.unix_ms()
    }

    /// The shared circuits as last heard of.
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
