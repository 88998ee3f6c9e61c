//! The integration tests: one binary, so that they link once and share one Redis.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods
)]

mod away;
mod breaker;
mod calls;
mod contract;
#[cfg(feature = "cli")]
mod demo;
mod differential;
#[cfg(feature = "cli")]
mod doctor;
mod late_replies;
mod lua;
mod processes;
mod properties;
mod provision;
mod rooms;
mod support;
mod topology;
mod transitions;
mod wait;
