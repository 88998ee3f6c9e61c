//! The integration tests: one binary, so that they link once and share one Redis.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods
)]

mod abandoned;
#[cfg(feature = "admin")]
mod admin;
mod afterwards;
#[cfg(feature = "webhook")]
mod alerts;
mod alone;
mod away;
#[cfg(all(feature = "balance", feature = "test-util"))]
mod balance;
mod breaker;
#[cfg(feature = "admin")]
mod browser;
mod calls;
#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "config")]
mod config;
mod contract;
mod crowded;
mod default_policy;
mod delegate;
#[cfg(feature = "cli")]
mod demo;
mod differential;
mod distant;
#[cfg(feature = "cli")]
mod doctor;
mod durations;
mod evidence;
mod explore;
#[cfg(feature = "failover")]
mod failover;
#[cfg(feature = "fallback")]
mod fallback;
mod faults;
mod formats;
mod fuzz;
#[cfg(feature = "health")]
mod health;
mod histories;
mod index;
mod keeping;
#[cfg(feature = "keyed")]
mod keyed;
#[cfg(feature = "test-util")]
mod late_replies;
mod latency;
mod leaks;
#[cfg(all(
    feature = "admin",
    feature = "failover",
    feature = "health",
    feature = "metrics",
    feature = "stream"
))]
mod llm_gateway;
mod lua;
mod many;
#[cfg(feature = "metrics")]
mod metrics;
mod netns;
mod operator;
#[cfg(all(feature = "admin", feature = "metrics"))]
mod ops;
mod pacing;
mod poison;
mod policies;
mod processes;
mod properties;
mod provision;
mod proxy;
#[cfg(feature = "queue")]
mod queue;
mod quorum;
mod readings;
mod refusals;
#[cfg(feature = "reqwest")]
mod reqwest;
#[cfg(feature = "retry")]
mod retry;
mod rooms;
mod scripts;
mod soak;
mod stats;
mod steady;
mod steps;
mod stores;
#[cfg(feature = "stream")]
mod streams;
mod support;
mod switch;
mod sync_callers;
#[cfg(feature = "test-util")]
mod test_util;
mod topology;
#[cfg(feature = "tower")]
mod tower;
mod traces;
mod transitions;
#[cfg(any(
    feature = "reqwest",
    feature = "retry",
    feature = "stream",
    feature = "tower"
))]
mod upstream;
mod votes;
mod wait;
#[cfg(all(feature = "tls", feature = "webhook"))]
mod webhook;
