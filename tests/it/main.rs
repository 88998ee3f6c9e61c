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
#[cfg(all(feature = "fallback", feature = "metrics"))]
mod fallback;
mod fast_path;
mod faults;
mod formats;
mod fuzz;
mod groups;
#[cfg(feature = "health")]
mod health;
mod histories;
#[cfg(feature = "test-util")]
mod hooks;
mod index;
mod key_value;
#[cfg(feature = "keyed")]
mod keyed;
mod kinds;
#[cfg(all(feature = "admin", feature = "metrics"))]
mod kubernetes;
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
mod open_time;
mod operator;
#[cfg(all(feature = "admin", feature = "metrics"))]
mod ops;
#[cfg(all(feature = "metrics", feature = "otel"))]
mod otel;
mod pacing;
mod past;
mod poison;
mod policies;
mod processes;
mod properties;
mod prose;
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
mod right_after;
#[cfg(any(feature = "webhook", feature = "health"))]
mod role;
mod rooms;
mod scripts;
mod soak;
mod stats;
mod steps;
mod stores;
#[cfg(feature = "stream")]
mod streams;
mod support;
mod switch;
mod sync_callers;
#[cfg(all(
    feature = "admin",
    feature = "config",
    feature = "failover",
    feature = "fallback",
    feature = "health",
    feature = "metrics",
    feature = "queue"
))]
mod systems;
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
