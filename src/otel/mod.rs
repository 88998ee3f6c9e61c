//! OpenTelemetry: statistics as metrics, and spans of calls with the circuit's decision.
//!
//! Owns the names and attributes; knows no SDK and no exporter. Adds no work to a call unless it is
//! made through [`Traced`]; metrics are read when a reader of the SDK collects. Invariant: all
//! attributes except `circuit_breaker.name` have few values.
//!
//! # Metrics
//!
//! All have the attribute `circuit_breaker.name`, unless the table says otherwise.
//!
//! | name | instrument | unit | attributes | says |
//! |---|---|---|---|---|
//! | `circuit_breaker.status` | up-down counter | `1` | `circuit_breaker.state` | 1 for the state that this replica decides by, 0 for the others: `closed`, `open`, `half_open`, `forced_open`, `disabled`, `metrics_only` |
//! | `circuit_breaker.generation` | gauge | `{transition}` | | increases by one with each transition |
//! | `circuit_breaker.calls` | counter | `{call}` | `circuit_breaker.result` | this process' calls: `success`, `failure`, `ignored`, `rejected`, `timeout`, `abandoned`: each call has one |
//! | `circuit_breaker.slow_calls` | counter | `{call}` | | slow calls among the successes, failures and timeouts |
//! | `circuit_breaker.failures` | counter | `{failure}` | `error.type` | failures and timeouts that have a [kind](crate::FailureKind): at most 15 kinds, and `other` |
//! | `circuit_breaker.call.duration` | histogram | `s` | | how long recorded calls took |
//! | `circuit_breaker.failure_rate` | gauge | `1` | | failure rate of the fleet's window, 0 to 1; 0 without calls |
//! | `circuit_breaker.window.calls` | gauge | `{call}` | | recorded calls in the fleet's window |
//! | `circuit_breaker.transitions` | counter | `{transition}` | `circuit_breaker.transition.from`, `.to`, `.reason`, `.local` | transitions as this process saw them; `local` marks those of its local circuit |
//! | `circuit_breaker.probes` | counter | `{probe}` | `circuit_breaker.result` | this process' probes: `success`, `failure`, `ignored`, `abandoned` |
//! | `circuit_breaker.fallbacks` | counter | `{call}` | `circuit_breaker.fallback.kind` | calls of this process that a fallback answered: `fixed`, `computed`, `last_good`, `stage` |
//! | `circuit_breaker.open_for` | gauge | `s` | | time since the circuit opened, across failed probes; 0 if it is neither open nor half-open |
//! | `circuit_breaker.open_time` | counter | `s` | | total time that the fleet's circuit was open |
//! | `circuit_breaker.staleness` | gauge | `s` | | time since the store last confirmed the circuit; grows while there are no calls |
//! | `circuit_breaker.reports` | counter | `{report}` | no name; `circuit_breaker.report.result` | reports of this process: `filed`, `failed` |
//! | `circuit_breaker.report.duration` | histogram | `s` | none | how long the store took to answer reports |
//! | `circuit_breaker.store.up` | gauge | `{store}` | none | 1 while the store answers for every circuit, 0 otherwise |
//! | `circuit_breaker.store.unavailable_time` | gauge | `s` | none | how long the store has been unavailable; 0 while it answers |
//! | `health_check.status` | up-down counter | `1` | `health_check.name`, `health_check.state` | [`Exporter::with_checks`]: 1 for the state of the check, 0 for the others |
//! | `health_check.up` | gauge | `{check}` | `health_check.name` | whether the last run passed |
//! | `health_check.duration` | gauge | `s` | `health_check.name` | how long the last run took |
//! | `health_check.uptime` | gauge | `1` | `health_check.name` | share of the remembered runs that passed, 0 to 1 |
//! | `queue.jobs` | up-down counter | `{job}` | `queue.name`, `queue.job.state` | [`Exporter::with_queue`]: jobs of the fleet's queue, by state |
//! | `queue.oldest.duration` | gauge | `s` | `queue.name` | how long the oldest due job has waited for a worker; 0 if none is due |
//!
//! # Names
//!
//! OpenTelemetry's semantic conventions 1.44.0 define no names for circuit breakers. These names
//! follow the general conventions:
//! [Naming](https://opentelemetry.io/docs/specs/semconv/general/naming/) (namespaces with dots,
//! plural for countable things, no `total`, `duration` for histograms of time),
//! [Metrics](https://opentelemetry.io/docs/specs/semconv/general/metrics/) (seconds,
//! `{annotations}` for countable things, `1` for fractions), [State
//! metrics](https://opentelemetry.io/docs/specs/semconv/how-to-write-conventions/status-metrics/)
//! (an up-down counter with a series for each state), and [Recording
//! errors](https://opentelemetry.io/docs/specs/semconv/general/recording-errors/) (`error.type`).
//!
//! # Versions
//!
//! The crate `opentelemetry` is not at 1.0, so each of its releases has its own types. The release
//! in use is re-exported: [`otel::opentelemetry`](opentelemetry).

mod exporter;
mod instruments;
mod readings;
mod spans;

pub use opentelemetry;

pub use self::{
    exporter::Exporter,
    spans::{Traced, record},
};
