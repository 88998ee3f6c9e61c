//! The types that users hold: the registry, circuits, permits, events.
//!
//! Owns the decision cache, the tally of outcomes, the reporter and the listener. Imports the
//! store's trait and the model; nothing here knows Lua or keys.

mod answered;
mod ask;
mod builder;
mod circuit_breaker;
#[cfg(feature = "balance")]
mod condition;
mod control;
mod ending;
mod error;
mod events;
mod gate;
mod health;
mod inner;
mod kinds;
mod listener;
mod note;
#[cfg(any(feature = "reqwest", feature = "stream"))]
mod open;
mod outage;
mod outbox;
mod own_stats;
mod permit;
mod registry;
mod replica_name;
mod reporter;
mod shared;
mod stats;
mod summary;
mod tally;
mod undecided;
mod unsent;
#[cfg(any(feature = "alerts", feature = "health", feature = "otel"))]
mod watch;

#[cfg(feature = "balance")]
pub(crate) use self::condition::Condition;
pub(crate) use self::note::confirm;
pub(crate) use self::replica_name::replica_name;
#[cfg(feature = "fallback")]
pub(crate) use self::unsent::Unfinished;
#[cfg(any(feature = "alerts", feature = "health", feature = "otel"))]
pub(crate) use self::watch::Watch;
pub use self::{
    answered::{FallbackKind, FallbackStats},
    builder::CommontripBuilder,
    circuit_breaker::{CircuitBreaker, Protect},
    error::{BuildError, CallError, ControlError, Rejection, TimedOut},
    events::Events,
    health::RegistryHealth,
    note::{Note, Override},
    own_stats::{ProbeStats, Transition},
    permit::Permit,
    registry::Commontrip,
    stats::{CircuitStats, Observer},
    summary::CircuitSummary,
    unsent::Unsent,
};
