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
#[cfg(feature = "failover")]
mod failover;
#[cfg(feature = "fallback")]
mod fallback;
mod faults;
mod fuzz;
mod histories;
mod keeping;
mod late_replies;
mod latency;
#[cfg(all(feature = "admin", feature = "failover", feature = "metrics"))]
mod llm_gateway;
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
#[cfg(feature = "retry")]
mod retry;
mod rooms;
mod scripts;
mod soak;
mod stats;
mod steady;
mod support;
mod topology;
mod traces;
mod transitions;
mod votes;
mod wait;
