//! The pages of `docs/`, one module each; only in the documentation, not in builds.
//!
//! Their examples run as doc tests if their feature is enabled.

/// Declares the modules. A page is gated by a feature if its examples need it.
macro_rules! pages {
    ($($(#[$gate:meta])? $name:ident = $page:literal;)+) => {
        $($(#[$gate])?
        #[doc = include_str!(concat!("../../docs/", $page, ".md"))]
        pub mod $name {})+
    };
}

pages! {
    #[cfg(feature = "webhook")] alerts = "alerts";
    #[cfg(feature = "balance")] balance = "balance";
    #[cfg(feature = "config")] config = "config";
    calls = "calls";
    choosing_a_policy = "choosing-a-policy";
    coming_from = "coming-from";
    costs = "costs";
    #[cfg(feature = "failover")] failover = "failover";
    #[cfg(feature = "fallback")] fallback = "fallback";
    guarantees = "guarantees";
    #[cfg(feature = "health")] health = "health";
    kubernetes = "kubernetes";
    llm_gateway = "llm-gateway";
    metrics = "metrics";
    operations = "operations";
    #[cfg(feature = "otel")] otel = "otel";
    policy = "policy";
    #[cfg(feature = "queue")] queue = "queue";
    redis = "redis";
    #[cfg(feature = "reqwest")] reqwest = "reqwest";
    #[cfg(feature = "retry")] retry = "retry";
    #[cfg(feature = "stream")] streams = "streams";
    #[cfg(feature = "test-util")] test_util = "test-util";
    #[cfg(feature = "tower")] tower = "tower";
    troubleshooting = "troubleshooting";
    upgrading = "upgrading";
}
