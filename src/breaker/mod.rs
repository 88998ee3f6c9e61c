//! What users hold: the registry, circuits, permits, events.
//!
//! Owns the decision cache, the tally of outcomes, the reporter and the listener. Imports the
//! store's trait and the model; nothing here knows Lua or keys.

mod ask;
mod builder;
mod cell;
mod circuit_breaker;
mod ending;
mod error;
mod events;
mod gate;
mod host;
mod link;
mod listener;
#[cfg(any(feature = "reqwest", feature = "stream"))]
mod open;
mod outbox;
mod permit;
mod registry;
mod reporter;
mod silence;
#[cfg(feature = "balance")]
mod standing;
mod stats;
mod tally;
#[cfg(any(feature = "alerts", feature = "health"))]
mod watch;
mod words;

pub(crate) use self::host::replica_name;
#[cfg(feature = "balance")]
pub(crate) use self::standing::Standing;
#[cfg(any(feature = "alerts", feature = "health"))]
pub(crate) use self::watch::Watch;
pub use self::{
    builder::CommontripBuilder,
    circuit_breaker::{CircuitBreaker, Protect},
    ending::Unsent,
    error::{BuildError, CallError, ControlError, Rejection},
    events::Events,
    link::Health,
    permit::Permit,
    registry::Commontrip,
    stats::{CircuitStats, Observer, ProbeStats, Transition},
    words::Override,
};
