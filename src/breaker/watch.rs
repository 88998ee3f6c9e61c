//! A view of a registry for other modules that does not keep it from ending.

use std::sync::Arc;

#[cfg(feature = "health")]
use super::shared::stopped;
use super::{registry::Commontrip, shared::Shared};
#[cfg(feature = "otel")]
use crate::breaker::CircuitStats;
#[cfg(any(feature = "alerts", feature = "otel"))]
use crate::breaker::RegistryHealth;
#[cfg(feature = "alerts")]
use crate::model::{Name, Snapshot};
#[cfg(any(feature = "alerts", feature = "health"))]
use crate::store::Store;

/// A view of a registry.
#[derive(Clone)]
pub(crate) struct Watch(Arc<Shared>);

impl Watch {
    #[cfg(feature = "alerts")]
    pub(crate) fn has_ended(&self) -> bool {
        *self.0.stop.borrow()
    }

    /// Completes when the registry ends.
    #[cfg(feature = "health")]
    pub(crate) async fn ended(&self) {
        stopped(&mut self.0.stop.subscribe()).await;
    }

    #[cfg(any(feature = "alerts", feature = "health"))]
    pub(crate) fn store(&self) -> &dyn Store {
        &*self.0.store
    }

    #[cfg(any(feature = "alerts", feature = "health"))]
    pub(crate) fn replica(&self) -> &str {
        &self.0.replica
    }

    #[cfg(feature = "otel")]
    pub(crate) fn stats(&self) -> Vec<CircuitStats> {
        self.0.stats()
    }

    #[cfg(any(feature = "alerts", feature = "otel"))]
    pub(crate) fn health(&self) -> RegistryHealth {
        self.0.health()
    }

    /// The time on this process' clock, Unix ms.
    #[cfg(any(feature = "alerts", feature = "health"))]
    pub(crate) fn unix_ms(&self) -> u64 {
        self.0.clock.unix_ms()
    }

    /// The shared circuits as last received.
    #[cfg(feature = "alerts")]
    pub(crate) fn circuits(&self) -> Vec<(Name, Snapshot)> {
        let seen = |inner: &Arc<super::inner::CircuitInner>| {
            let shared = inner.view.lock().shared.clone();
            (inner.name.clone(), shared)
        };
        self.0.inners().iter().map(seen).collect()
    }
}

impl Commontrip {
    /// A view of this registry.
    pub(crate) fn watch(&self) -> Watch {
        Watch(Arc::clone(self.shared()))
    }
}
