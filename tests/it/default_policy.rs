//! The default policy on the embedded store: how soon it opens, and which noise it tolerates.

use std::time::Duration;

use commontrip::{CircuitBreaker, Clock, Commontrip, Policy, State};

/// Calls a second, from one in 3 s to a busy service.
const TRAFFIC: [f64; 5] = [1.0 / 3.0, 1.0, 10.0, 120.0, 1000.0];

/// One replica under the default policy, with a manual clock.
struct Service {
    circuits: Commontrip,
    breaker: CircuitBreaker,
    clock: Clock,
    gap: Duration,
}

impl Service {
    fn new(calls_a_second: f64) -> Self {
        let clock = Clock::manual();
        let circuits = Commontrip::builder().clock(clock.clone()).build().unwrap();
        let breaker = circuits.circuit("payments", Policy::default()).unwrap();
        Self {
            circuits,
            breaker,
            clock,
            gap: Duration::from_secs_f64(1.0 / calls_a_second),
        }
    }

    /// Makes one call and reports it; returns `false` if the circuit is not closed afterwards.
    async fn call(&self, answer: Result<(), ()>) -> bool {
        let _ = self.breaker.call(|| async { answer }).await;
        self.circuits.flush().await;
        self.clock.advance(self.gap);
        self.breaker.state() == State::Closed
    }

    /// Makes calls for this long; `fails` decides by the call's number. Returns the number of
    /// failed calls, and the time until the circuit opened.
    async fn run(
        &self,
        time: Duration,
        mut fails: impl FnMut(u64) -> bool,
    ) -> (u64, Option<Duration>) {
        let (mut failed, mut took) = (0, Duration::ZERO);
        for number in 0.. {
            if took >= time {
                break;
            }
            let failing = fails(number);
            failed += u64::from(failing);
            took += self.gap;
            if !self.call(if failing { Err(()) } else { Ok(()) }).await {
                return (failed, Some(took));
            }
        }
        (failed, None)
    }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test]
async fn a_total_outage_opens_within_20_calls_at_any_traffic() {
    for traffic in TRAFFIC {
        let service = Service::new(traffic);
        assert_eq!(service.run(secs(20), |_| false).await, (0, None));
        let (failed, took) = service.run(secs(300), |_| true).await;
        assert!(
            took.is_some() && failed <= 20,
            "{traffic}/s: {failed} in {took:?}"
        );
    }
}

#[tokio::test]
async fn a_failing_majority_opens_before_the_window_has_passed() {
    for (traffic, within) in [(10.0, 9), (120.0, 6)] {
        let service = Service::new(traffic);
        assert_eq!(service.run(secs(20), |_| false).await, (0, None));
        // With 60 % failures, earlier successes must leave the window until half of it has failed.
        let (failed, took) = service.run(secs(30), |call| call % 5 < 3).await;
        let took = took.unwrap_or_else(|| panic!("{traffic}/s: closed after {failed} failures"));
        assert!(took < secs(within), "{traffic}/s: {took:?}");
    }
    // Without earlier calls, it opens as soon as the window has enough calls.
    let (failed, took) = Service::new(120.0).run(secs(30), |call| call % 5 < 3).await;
    assert!(took.is_some() && failed == 12, "{failed} in {took:?}");
}

#[tokio::test]
async fn noise_opens_nothing() {
    for traffic in [1.0, 10.0, 120.0] {
        let service = Service::new(traffic);
        let mut noise = fastrand::Rng::with_seed(11);
        let calls = 20_000.0 / traffic;
        let time = Duration::from_secs_f64(calls);
        let (failed, took) = service.run(time, |_| noise.f64() < 0.3).await;
        assert!(took.is_none(), "{traffic}/s: {failed} failures in {took:?}");
    }
}
