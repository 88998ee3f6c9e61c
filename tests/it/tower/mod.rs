//! Circuits around services: mocks for what a service must keep to, and the real ones over real sockets.

mod axum;
mod examples;
mod http;
mod hyper;
mod service;
mod tonic;
