//! The integration tests: one binary, so that they link once and share one Redis.

mod contract;
mod properties;
mod provision;
mod support;
mod transitions;
