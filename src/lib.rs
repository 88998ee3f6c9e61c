//! One circuit breaker for every replica of a service, shared through Redis at the price of a
//! local one.
//!
//! Take a [`Commontrip`] once per process, [`CircuitBreaker`]s from it by name, and make calls
//! through them. A call decides from a cached word and counts its outcome in memory; states,
//! rolling counters and probe permits live in Redis and move only in atomic scripts.
//!
//! - [`Commontrip::redis`], [`Commontrip::builder`], [`Commontrip::embedded`]: where circuits live
//! - [`CircuitBreaker::call`], [`call_sync`](CircuitBreaker::call_sync),
//!   [`acquire`](CircuitBreaker::acquire), [`Protect`]: making calls
//! - [`Policy`]: when a circuit opens, for how long, how it closes
//! - [`Outcome`]: what became of a call; [`Rejection`]: why it was not made
//! - [`CircuitBreaker::events`], [`snapshot`](CircuitBreaker::snapshot): looking at a circuit
//! - [`CircuitBreaker::force_open`], `disable`, `metrics_only`, `reset`: operating the fleet
//! - [`Operator`](operator::Operator): the same from outside, and everything that there is to see
//! - [`Commontrip::stats`], [`Commontrip::health`]: what this process has seen
//!
//! The README has the guarantees and their limits, ARCHITECTURE.md the way of a call.
//! [`model`] is the circuit as a pure machine, [`store`] the trait behind both stores.
//!
//! Features, none of which changes how calls are decided. Around a call: `tower`, `reqwest` (and
//! `keyed`, `http`, which both use), `stream`, `retry`, `failover`, `fallback`, `queue`, `health`,
//! `balance`, `config`, `test-util`; each is the module of its name, and has a page in `docs/`. For
//! operators: `cli`, the `commontrip` program; `admin`, a dashboard and an HTTP API to mount in an
//! axum app; `alerts` and `webhook`, rules that one replica of the fleet sends; `metrics`, the
//! statistics for any exporter of the `metrics` crate. And `tls`.

#[cfg(feature = "admin")]
pub mod admin;
#[cfg(feature = "alerts")]
pub mod alerts;
#[cfg(feature = "balance")]
pub mod balance;
mod breaker;
#[cfg(feature = "config")]
pub mod config;
#[cfg(feature = "failover")]
pub mod failover;
#[cfg(feature = "fallback")]
pub mod fallback;
#[cfg(feature = "health")]
pub mod health;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "keyed")]
pub mod keyed;
#[cfg(feature = "metrics")]
pub mod metrics;
pub mod model;
pub mod operator;
#[cfg(feature = "queue")]
pub mod queue;
#[cfg(feature = "reqwest")]
pub mod reqwest;
#[cfg(feature = "retry")]
pub mod retry;
pub mod store;
#[cfg(feature = "stream")]
pub mod stream;
#[cfg(feature = "test-util")]
pub mod test_util;
#[cfg(feature = "tower")]
pub mod tower;

pub use breaker::{
    BuildError, CallError, CircuitBreaker, CircuitStats, Commontrip, CommontripBuilder,
    ControlError, Events, Health, Observer, Override, Permit, ProbeStats, Protect, Rejection,
    Transition, Unsent,
};
pub use model::{
    AbandonedCalls, Counts, Event, Latencies, LatencyRecording, Name, NameError, OnStoreFailure,
    Outcome, Percentiles, Policy, PolicyBuilder, PolicyError, Reason, Rules, Snapshot, State,
};
pub use store::{Clock, MemoryStore, RedisPool, RedisStore, RedisStoreBuilder, Store, StoreError};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;

/// Pages whose examples are compiled and run where their feature is on.
#[cfg(doctest)]
mod pages {
    macro_rules! pages {
        ($($feature:literal $page:literal $name:ident,)+) => {
            $(#[cfg(feature = $feature)]
            #[doc = include_str!($page)]
            struct $name;)+
        };
    }
    pages! {
        "balance" "../docs/balance.md" Balance,
        "config" "../docs/config.md" Config,
        "failover" "../docs/failover.md" Failover,
        "fallback" "../docs/fallback.md" Fallback,
        "health" "../docs/health.md" Health,
        "queue" "../docs/queue.md" Queue,
        "reqwest" "../docs/reqwest.md" Reqwest,
        "retry" "../docs/retry.md" Retry,
        "stream" "../docs/streams.md" Streams,
        "test-util" "../docs/test-util.md" TestUtil,
        "tower" "../docs/tower.md" Tower,
    }
}
