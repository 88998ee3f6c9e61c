//! The presets that are built in.
//!
//! Owns their numbers; each says what it is for and why it is not the default.

/// Settings that fit a kind of upstream.
type Preset = &'static [(&'static str, u64)];

/// What is called thousands of times a second and answers within milliseconds: a cache, a service next
/// door. It asks for more evidence, which comes soon, and a short wait costs little.
const FAST: Preset = &[
    ("window_ms", 10_000),
    ("minimum_number_of_calls", 50),
    ("consecutive_failures_threshold", 50),
    ("wait_duration_in_open_state_ms", 5_000),
    ("probe_lease_ms", 5_000),
    ("max_wait_duration_in_half_open_state_ms", 15_000),
];

/// What takes seconds to minutes and is called seldom: a model, a report, a batch. Few calls must do to
/// judge by, a probe may be out for long, and each further wait is twice as long, for such services
/// recover slowly.
const SLOW_UPSTREAM: Preset = &[
    ("window_ms", 300_000),
    ("minimum_number_of_calls", 10),
    ("consecutive_failures_threshold", 10),
    ("wait_duration_in_open_state_ms", 60_000),
    ("backoff_multiplier_percent", 200),
    ("backoff_reset_after_ms", 300_000),
    ("jitter", 10),
    ("permitted_number_of_calls_in_half_open_state", 2),
    ("probe_lease_ms", 300_000),
    ("max_wait_duration_in_half_open_state_ms", 600_000),
];

/// What falls over again when everybody comes back at once. One probe at a time, three that must succeed,
/// and then a ramp of half a minute, because its caches are cold.
const DATABASE: Preset = &[
    ("window_ms", 30_000),
    ("wait_duration_in_open_state_ms", 10_000),
    ("jitter", 20),
    ("permitted_number_of_calls_in_half_open_state", 1),
    ("success_threshold", 3),
    ("ramp_duration_ms", 30_000),
    ("ramp_initial", 10),
];

/// Presets by name. `default` changes nothing: it is for circuits that shall not have that of all.
pub(super) const ALL: [(&str, Preset); 4] = [
    ("default", &[]),
    ("fast", FAST),
    ("slow_upstream", SLOW_UPSTREAM),
    ("database", DATABASE),
];

pub(super) fn built_in(name: &str) -> Option<(&'static str, Preset)> {
    ALL.into_iter().find(|(preset, _)| *preset == name)
}
