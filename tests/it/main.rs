//! The integration tests: one binary, so that they link once and share one Redis.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods
)]

#[cfg(feature = "admin")]
mod admin;
#[cfg(feature = "webhook")]
mod alerts;
mod alone;
mod away;
mod breaker;
#[cfg(feature = "admin")]
mod browser;
mod calls;
#[cfg(feature = "cli")]
mod cli;
mod contract;
mod delegate;
#[cfg(feature = "cli")]
mod demo;
mod differential;
#[cfg(feature = "cli")]
mod doctor;
mod explore;
mod faults;
mod fuzz;
mod histories;
#[cfg(feature = "keyed")]
mod keyed;
mod late_replies;
mod latency;
mod lua;
#[cfg(feature = "metrics")]
mod metrics;
mod netns;
mod operator;
#[cfg(all(feature = "admin", feature = "metrics"))]
mod ops;
mod pacing;
mod processes;
mod properties;
mod provision;
mod proxy;
mod quorum;
mod refusals;
#[cfg(feature = "reqwest")]
mod reqwest;
mod rooms;
mod scripts;
mod soak;
mod stats;
mod steady;
mod support;
mod topology;
#[cfg(feature = "tower")]
mod tower;
mod traces;
mod transitions;
#[cfg(any(feature = "reqwest", feature = "tower"))]
mod upstream;
mod votes;
mod wait;
#[cfg(all(feature = "tls", feature = "webhook"))]
mod webhook;
