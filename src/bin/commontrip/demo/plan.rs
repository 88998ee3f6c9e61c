//! What happens when in the show, and the policy that makes it fit.
//!
//! Everything is measured in units of a twelfth of the show:
//!
//! ```text
//! 0       2         2.7        5.2          7        8.7       9          12
//! healthy | failing | (trip)   | (probe     | healthy | (probes | (closed)  end
//!         |         |          |  fails)    |  again  |  pass)  |
//! ```
//!
//! Only `failing`, `healthy again` and `end` are set here. The phases in parentheses follow from
//! the circuit's decisions.

use std::time::Duration;

use commontrip::{Policy, PolicyError};

/// The shortest and the longest show, seconds.
pub const SECONDS: (f64, f64) = (3.0, 600.0);
/// How many replicas a show can have.
pub const REPLICAS: (usize, usize) = (1, 64);
/// Errors among the answers of the failing upstream, percent.
pub const ERROR_PERCENT: u64 = 70;

/// The plan of one show.
#[derive(Clone, Debug)]
pub struct Plan {
    /// When the upstream begins to fail.
    pub fails_at: Duration,
    /// When the upstream recovers.
    pub heals_at: Duration,
    /// When the show ends.
    pub ends_at: Duration,
    /// Interval between two lines of counts.
    pub tick: Duration,
    /// Mean interval between two calls of one replica.
    pub call_every: Duration,
    /// The circuit's policy.
    pub policy: Policy,
}

impl Plan {
    pub fn new(seconds: f64, replicas: usize) -> Result<Self, PolicyError> {
        let units = |n: f64| Duration::from_secs_f64(seconds * n / 12.0);
        let policy = Policy::builder()
            .sliding_window_time(units(1.0), 10)
            .failure_rate_threshold(50)
            .minimum_number_of_calls(10)
            .wait_duration_in_open_state(units(2.5))
            .backoff(1.4, units(6.0))
            .permitted_number_of_calls_in_half_open_state(3)
            .success_threshold(5)
            .half_open_failure_threshold(1)
            // At most the open wait, so that a probe never outlasts its half-open state into the
            // next one.
            .probe_lease(units(2.0))
            .report_interval(units(0.1).min(Duration::from_millis(100)))
            .build()?;
        // About 250 calls a second for a small fleet. The limits keep a large fleet from saturating
        // a laptop.
        let call_every_ms = (4 * replicas as u64).clamp(10, 100);
        Ok(Self {
            fails_at: units(2.0),
            heals_at: units(7.0),
            ends_at: units(12.0),
            tick: units(0.5),
            call_every: Duration::from_millis(call_every_ms),
            policy,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_show_waits_at_least_a_probe_lease() {
        for seconds in [SECONDS.0, 12.0, SECONDS.1] {
            for replicas in [REPLICAS.0, REPLICAS.1] {
                let plan = Plan::new(seconds, replicas).unwrap();
                let rules = plan.policy.rules();
                assert!(rules.wait_duration_in_open_state_ms >= rules.probe_lease_ms);
            }
        }
    }
}
