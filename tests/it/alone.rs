//! A single bad replica of a fleet with a quorum: opens its own circuit and recovers by itself.

use std::time::Duration;

use commontrip::{
    CallError, CircuitBreaker, Clock, Commontrip, MemoryStore, Outcome, Override, Policy, Reason,
    Rejection, State,
};

use crate::{
    support::{self, OwnServer},
    wait::until,
};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Two replicas must have failed; an open circuit stays open for `wait`.
fn policy(wait: Duration) -> Policy {
    let policy = Policy::builder()
        .quorum(2)
        .minimum_number_of_calls(10)
        .wait_duration_in_open_state(wait)
        .success_threshold(2)
        .report_interval(ms(20))
        .decision_ttl(ms(50));
    policy.build().unwrap()
}

struct Fleet {
    registries: Vec<Commontrip>,
    replicas: Vec<CircuitBreaker>,
}

impl Fleet {
    /// Starts replicas that know of each other.
    async fn start(url: &str, count: usize, policy: &Policy) -> Fleet {
        let name = support::unique("alone");
        let registry = |_| {
            let builder = Commontrip::builder().redis(url);
            builder.store_timeout(ms(1000)).build().unwrap()
        };
        let registries: Vec<Commontrip> = (0..count).map(registry).collect();
        let circuit = |r: &Commontrip| r.circuit(&name, policy.clone()).unwrap();
        let replicas: Vec<_> = registries.iter().map(circuit).collect();
        for breaker in &replicas {
            call(breaker, Ok(())).await.unwrap();
        }
        until("all are known", async || {
            for registry in &registries {
                registry.flush().await;
            }
            let pushed = registries.iter().all(|r| r.health().push);
            let live = replicas[0].snapshot().await.map(|s| s.replicas);
            pushed && live.is_ok_and(|live| live == count as u64)
        })
        .await;
        Fleet {
            registries,
            replicas,
        }
    }

    async fn end(self) {
        for registry in self.registries {
            registry.shutdown().await;
        }
    }
}

async fn call(breaker: &CircuitBreaker, answer: Result<(), ()>) -> Result<(), CallError<()>> {
    breaker.call(|| async { answer }).await
}

/// Makes failing calls until the replica rejects them.
async fn fail_until_rejected(breaker: &CircuitBreaker) -> Rejection {
    let mut rejection = None;
    until("it rejects", async || {
        let answer = call(breaker, Err(())).await;
        rejection = answer.unwrap_err().rejection().copied();
        rejection.is_some()
    })
    .await;
    rejection.unwrap()
}

#[tokio::test]
async fn a_lone_bad_replica_opens_for_itself_alone_and_says_so() {
    let hour = Duration::from_secs(3600);
    let fleet = Fleet::start(support::redis_url(), 4, &policy(hour)).await;
    let (bad, good) = fleet.replicas.split_first().unwrap();
    let rejection = fail_until_rejected(bad).await;
    assert_eq!(
        (rejection.state, rejection.reason, rejection.local),
        (State::Open, Reason::FailureRate, true)
    );
    assert!(rejection.retry_after.unwrap() > ms(3_000_000));
    assert!(
        rejection.to_string().contains("by this replica alone"),
        "{rejection}"
    );
    until("the store shows it", async || {
        let seen = good[0].snapshot().await.unwrap();
        assert_eq!(seen.state, State::Closed);
        (seen.failing, seen.alone) == (1, 1)
    })
    .await;
    for breaker in good {
        for _ in 0..50 {
            call(breaker, Ok(())).await.unwrap();
        }
        assert_eq!(breaker.state(), State::Closed);
    }
    // An answer with the fleet's state does not change that.
    fleet.registries[0].flush().await;
    assert_eq!(bad.state(), State::Open);
    assert_eq!(bad.snapshot().await.unwrap().state, State::Closed);
    assert!(fleet.registries[0].health().unavailable_for.is_none());
    fleet.end().await;
}

#[tokio::test]
async fn a_lone_bad_replica_is_healed_by_its_own_probes() {
    let fleet = Fleet::start(support::redis_url(), 3, &policy(ms(300))).await;
    let bad = &fleet.replicas[0];
    fail_until_rejected(bad).await;
    // A failed probe keeps it open; two successful ones close it.
    until("its own half-open gives a probe", async || {
        match bad.acquire().await {
            Ok(permit) => {
                assert!(permit.is_probe());
                permit.failure();
                true
            }
            Err(_) => false,
        }
    })
    .await;
    assert!(fail_until_rejected(bad).await.local);
    until("its own probes close it", async || {
        let _ = call(bad, Ok(())).await;
        bad.state() == State::Closed
    })
    .await;
    until("the store shows it", async || {
        fleet.registries[0].flush().await;
        bad.snapshot().await.unwrap().alone == 0
    })
    .await;
    let seen = bad.snapshot().await.unwrap();
    assert_eq!((seen.state, seen.generation), (State::Closed, 0));
    for _ in 0..20 {
        call(bad, Ok(())).await.unwrap();
    }
    fleet.end().await;
}

#[tokio::test]
async fn the_second_bad_replica_opens_the_fleet_and_one_trip_does_not() {
    let hour = Duration::from_secs(3600);
    let fleet = Fleet::start(support::redis_url(), 3, &policy(hour)).await;
    let [first, second, good] = &fleet.replicas[..] else {
        panic!("three replicas");
    };
    let trip = async |breaker: &CircuitBreaker| {
        let permit = breaker.acquire().await.unwrap();
        permit.record(Outcome::trip());
    };
    trip(first).await;
    until("it opens for itself", async || first.state() == State::Open).await;
    assert_eq!(good.snapshot().await.unwrap().state, State::Closed);
    trip(second).await;
    for breaker in &fleet.replicas {
        until("the fleet is open", async || {
            breaker.state() == State::Open
                && !call(breaker, Ok(()))
                    .await
                    .unwrap_err()
                    .rejection()
                    .unwrap()
                    .local
        })
        .await;
    }
    // A decision of the fleet ends a replica's own.
    good.reset().await.unwrap();
    for breaker in &fleet.replicas {
        until("the fleet is closed", async || {
            call(breaker, Ok(())).await.is_ok()
        })
        .await;
    }
    fleet.end().await;
}

#[tokio::test]
async fn an_operators_word_ends_what_a_replica_decided_alone() {
    let hour = Duration::from_secs(3600);
    let fleet = Fleet::start(support::redis_url(), 3, &policy(hour)).await;
    let (bad, operator) = (&fleet.replicas[0], &fleet.replicas[1]);
    fail_until_rejected(bad).await;
    operator
        .force_open(Override::because("test"))
        .await
        .unwrap();
    until("forced open", async || bad.state() == State::ForcedOpen).await;
    operator.reset().await.unwrap();
    until("closed", async || call(bad, Ok(())).await.is_ok()).await;
    fail_until_rejected(bad).await;
    operator.store_policy("quorum=1").await.unwrap();
    until("a quorum of one is the fleet's own", async || {
        fleet.registries[0].flush().await;
        call(bad, Ok(())).await.is_ok()
    })
    .await;
    fleet.end().await;
}

#[tokio::test]
async fn a_lone_bad_replica_stays_open_while_the_store_is_away() {
    let server = OwnServer::start();
    let hour = Duration::from_secs(3600);
    let fleet = Fleet::start(&server.url(), 3, &policy(hour)).await;
    let (bad, good) = (&fleet.replicas[0], &fleet.replicas[1]);
    fail_until_rejected(bad).await;
    server.kill();
    until("the store is unavailable to all", async || {
        let _ = (call(bad, Ok(())).await, call(good, Ok(())).await);
        fleet.registries[..2]
            .iter()
            .all(|r| r.health().unavailable_for.is_some())
    })
    .await;
    assert!(call(bad, Ok(())).await.is_err());
    call(good, Ok(())).await.unwrap();
    fleet.end().await;
}

#[tokio::test]
async fn a_replica_that_crashes_and_starts_again_is_one_of_the_quorum() {
    let memory = MemoryStore::new(Clock::system());
    for on_redis in [true, false] {
        let name = support::unique("crash-loop");
        let start = |replica: &str| {
            let builder = Commontrip::builder()
                .store_timeout(ms(1000))
                .replica(replica);
            let builder = match on_redis {
                true => builder.redis(support::redis_url()),
                false => builder.store(memory.clone()),
            };
            let registry = builder.build().unwrap();
            let policy = Policy::builder().quorum(3).minimum_number_of_calls(10);
            let breaker = registry.circuit(&name, policy.build().unwrap());
            (registry, breaker.unwrap())
        };
        let healthy: Vec<_> = (1..=5).map(|n| start(&format!("pod-{n}"))).collect();
        for (registry, breaker) in &healthy {
            call(breaker, Ok(())).await.unwrap();
            registry.flush().await;
        }
        for _ in 0..5 {
            let (registry, breaker) = start("pod-6");
            for _ in 0..12 {
                let _ = call(&breaker, Err(())).await;
            }
            registry.shutdown().await;
        }
        let seen = healthy[0].1.snapshot().await.unwrap();
        assert_eq!((seen.state, seen.failing), (State::Closed, 1));
        assert!(seen.failures >= 50, "it failed at each start: {seen:?}");
        // With two more failing replicas there are three.
        for (registry, breaker) in &healthy[..2] {
            let _ = call(breaker, Err(())).await;
            registry.flush().await;
        }
        let seen = healthy[4].1.snapshot().await.unwrap();
        assert_eq!((seen.state, seen.failing), (State::Open, 3));
    }
}
