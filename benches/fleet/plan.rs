//! The length of each phase, the rate of calls, and the policy.

use std::{fmt, time::Duration};

use commontrip::Policy;

use crate::servers::ms;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    One,
    Cluster,
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::One => "one",
            Self::Cluster => "cluster",
        })
    }
}

#[derive(Clone, Debug)]
pub struct Plan {
    /// Until the pace of reports has settled.
    pub warm: Duration,
    pub steady: Duration,
    pub steady_cut: Duration,
    /// Between two outages. With a failure rate of 50 %, this is also how long the next outage goes
    /// unnoticed.
    pub calm: Duration,
    pub outages: usize,
    pub outages_cut: usize,
    /// `wait_duration_in_open_state`.
    pub open: Duration,
}

impl Plan {
    pub fn quick() -> Plan {
        Plan {
            warm: ms(300),
            steady: ms(500),
            steady_cut: ms(500),
            calm: ms(300),
            outages: 2,
            outages_cut: 1,
            open: ms(400),
        }
    }

    pub fn usual() -> Plan {
        Plan {
            warm: ms(2_000),
            steady: ms(5_000),
            steady_cut: ms(2_000),
            calm: ms(1_000),
            outages: 3,
            outages_cut: 1,
            open: ms(2_000),
        }
    }

    pub fn long() -> Plan {
        Plan {
            warm: ms(5_000),
            steady: ms(30_000),
            steady_cut: ms(10_000),
            outages: 20,
            outages_cut: 10,
            ..Plan::usual()
        }
    }

    pub fn policy(&self) -> Policy {
        let policy = Policy::builder()
            .sliding_window_time(Duration::from_secs(WINDOW_S), WINDOW_S)
            .failure_rate_threshold(FAILURE_PERCENT)
            .minimum_number_of_calls(MINIMUM_CALLS)
            // The bench measures how soon the fleet's spread evidence meets.
            .no_consecutive_failures_threshold()
            .wait_duration_in_open_state(self.open)
            .probe_lease(self.open)
            .permitted_number_of_calls_in_half_open_state(PROBES)
            .success_threshold(2);
        policy.build().expect("it is valid")
    }
}

/// The window's length; its buckets are one second each.
pub const WINDOW_S: u64 = 10;
pub const FAILURE_PERCENT: u64 = 50;
pub const MINIMUM_CALLS: u64 = 20;
pub const PROBES: u64 = 3;

/// Calls a second of one replica. The total is what two cores can make beside a Redis.
pub fn rate(replicas: usize) -> f64 {
    (10_000.0 / replicas as f64).clamp(10.0, 200.0)
}

/// Whether each replica is a process of its own.
pub fn are_processes(replicas: usize) -> bool {
    replicas <= 16
}
