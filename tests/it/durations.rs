//! Every public setter of a time accepts the longest and the shortest value: either it works, or an
//! error says what would be valid. Nothing panics, not even in background tasks.

use std::{cell::Cell, panic, sync::Once, time::Duration};

use commontrip::{Clock, Commontrip, Outcome, Override, Policy, PolicyBuilder, RedisStore, State};
use tokio::time::timeout;

use crate::support::{redis_url, unique, unique_prefix};

/// The maximum, a hundred years, zero, and less than a millisecond.
const TIMES: [Duration; 4] = [
    Duration::MAX,
    Duration::from_secs(100 * 365 * 86_400),
    Duration::ZERO,
    Duration::from_nanos(1),
];
/// The timeout for work that should end at once.
const SOON: Duration = Duration::from_secs(20);

/// Panics on this thread, which runs all tasks of a test.
fn panics() -> u64 {
    thread_local! {
        static SEEN: Cell<u64> = const { Cell::new(0) };
    }
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            SEEN.set(SEEN.get() + 1);
            before(panic);
        }));
    });
    SEEN.get()
}

/// Runs `use_it` with each of the times; fails on a panic.
async fn each(use_it: impl AsyncFn(Duration)) {
    let before = panics();
    for time in TIMES {
        let used = timeout(SOON, use_it(time)).await;
        used.unwrap_or_else(|_| panic!("{time:?} takes for ever"));
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(panics(), before, "a task panicked");
}

async fn works(circuits: &Commontrip, policy: Policy) {
    let breaker = circuits.circuit(&unique("times"), policy).unwrap();
    let _ = breaker.call(async || Ok::<(), ()>(())).await;
    let _ = breaker.call(async || Err::<(), ()>(())).await;
    circuits.flush().await;
    // Through open and half-open.
    breaker.acquire().await.unwrap().record(Outcome::trip());
    circuits.flush().await;
    let _ = breaker.call(async || Ok::<(), ()>(())).await;
    let _ = breaker.call(async || Ok::<(), ()>(())).await;
    circuits.flush().await;
    breaker.snapshot().await.unwrap();
}

type Setter = fn(PolicyBuilder, Duration) -> PolicyBuilder;

#[tokio::test]
async fn of_a_policy() {
    let setters: [(&str, Setter); 11] = [
        ("window_ms", |p, t| p.sliding_window_time(t, 1)),
        ("slow_call_duration_threshold_ms", |p, t| {
            p.slow_calls(t, 50)
        }),
        (
            "wait_duration_in_open_state_ms",
            PolicyBuilder::wait_duration_in_open_state,
        ),
        ("max_wait_duration_in_open_state_ms", |p, t| {
            p.backoff(2.0, t)
        }),
        ("backoff_reset_after_ms", PolicyBuilder::backoff_reset_after),
        (
            "max_wait_duration_in_half_open_state_ms",
            PolicyBuilder::max_wait_duration_in_half_open_state,
        ),
        ("probe_lease_ms", PolicyBuilder::probe_lease),
        ("ramp_duration_ms", |p, t| p.ramp(t, 10)),
        ("call_timeout_ms", PolicyBuilder::call_timeout),
        ("decision_ttl_ms", PolicyBuilder::decision_ttl),
        ("report_interval_ms", PolicyBuilder::report_interval),
    ];
    let year = Duration::from_secs(365 * 86_400);
    let longest = |key| match key {
        "decision_ttl_ms" | "report_interval_ms" => Duration::from_secs(3600),
        _ => year,
    };
    for (key, set) in setters {
        each(async |time| {
            let builder = Policy::builder()
                .probe_lease(year)
                .max_wait_duration_in_half_open_state(year)
                .wait_duration_in_open_state(Duration::from_millis(1));
            for time in [time, time.min(longest(key))] {
                match set(builder.clone(), time).build() {
                    Ok(policy) => {
                        let circuits = Commontrip::embedded().unwrap();
                        works(&circuits, policy).await;
                        circuits.shutdown().await;
                    }
                    Err(error) => {
                        let error = error.to_string();
                        assert!(error.starts_with(key), "{error}");
                        assert!(!error.contains(&u64::MAX.to_string()), "{error}");
                    }
                }
            }
        })
        .await;
    }
}

#[tokio::test]
async fn of_what_a_call_says() {
    each(async |time| {
        let clock = Clock::manual();
        let circuits = Commontrip::builder().clock(clock.clone()).build().unwrap();
        let breaker = circuits.circuit("c", Policy::default()).unwrap();
        let retry_after = Some(time);
        for outcome in [
            Outcome::failure().with_retry_after(retry_after),
            Outcome::trip().with_retry_after(retry_after),
        ] {
            breaker.acquire().await.unwrap().record(outcome);
            circuits.flush().await;
        }
        assert_eq!(breaker.state(), State::Open);
        let rejected = breaker.acquire().await.unwrap_err();
        assert!(rejected.retry_after.is_some());
        let with = Override::because("times").lasting(time);
        breaker.force_open(with).await.unwrap();
        breaker.snapshot().await.unwrap();
        breaker.reset().await.unwrap();
        clock.advance(time);
        clock.advance(time);
        let _ = breaker.call(async || Ok::<(), ()>(())).await;
        circuits.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn of_stores_and_registries() {
    each(async |time| {
        let prefix = unique_prefix("times");
        let store = RedisStore::builder().prefix(&prefix).timeout(time);
        let store = store.open(redis_url()).unwrap();
        let by_store = Commontrip::builder().store(store);
        let by_store = by_store.store_timeout(time.min(SOON)).idle_timeout(time);
        let by_store = by_store.build().unwrap();
        let by_url = Commontrip::builder().redis(redis_url()).prefix(&prefix);
        let by_url = by_url.store_timeout(time).build().unwrap();
        for circuits in [by_store, by_url] {
            let seen = circuits.observe(time, |_, _| {});
            let breaker = circuits.circuit(&unique("c"), Policy::default());
            let breaker = breaker.unwrap();
            // A store with no time to answer is unavailable, and calls continue.
            breaker.call(async || Ok::<(), ()>(())).await.unwrap();
            circuits.flush().await;
            if time > Duration::from_secs(1) {
                assert!(circuits.health().unavailable_for.is_none());
                assert_eq!(breaker.snapshot().await.unwrap().successes_total, 1);
                breaker.reset().await.unwrap();
            }
            drop(seen);
            circuits.shutdown_timeout(time).await;
        }
    })
    .await;
}

#[cfg(feature = "config")]
#[tokio::test]
async fn of_a_configuration() {
    use commontrip::config::Config;

    each(async |time| {
        let circuits = Commontrip::embedded().unwrap();
        let config = Config::from_variables([]).unwrap();
        let live = config.watch_every(time, &circuits);
        let breaker = live.circuit("c").unwrap();
        breaker.call(async || Ok::<(), ()>(())).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        circuits.shutdown().await;
    })
    .await;
    // Times as text.
    for (words, said) in [
        ("584542046090 years", "shorter time"),
        ("100 years", "must be from 1 to 31536000000 ms"),
        ("0s", "must be from 1 to 31536000000 ms"),
        ("1ns", "whole milliseconds"),
    ] {
        let variable = ("COMMONTRIP_PROBE_LEASE".to_owned(), words.to_owned());
        let wrong = Config::from_variables([variable]).unwrap_err().to_string();
        assert!(wrong.contains(said), "{words}: {wrong}");
    }
}

#[cfg(feature = "failover")]
#[tokio::test]
async fn of_a_chain_of_stages() {
    use commontrip::failover::{Failover, Stage};

    each(async |time| {
        let circuits = Commontrip::embedded().unwrap();
        let breaker = circuits.circuit("c", Policy::default()).unwrap();
        let chain = Failover::builder()
            .stage(Stage::new("one", &breaker).attempt_timeout(time))
            .stage(Stage::new("two", &breaker).pause_before(time.min(Duration::from_millis(1))))
            .total_timeout(time);
        let Ok(chain) = chain.build() else {
            assert!(time < Duration::from_millis(1), "{time:?} is refused");
            return;
        };
        let served = chain.call(|_| async { Ok::<_, ()>(1) }).await;
        assert!(served.is_ok_and(|served| served.value == 1) || time < Duration::from_millis(1));
        // An endless pause ends with the chain's total time.
        let chain = Failover::builder()
            .stage(Stage::new("one", &breaker))
            .stage(Stage::new("two", &breaker).pause_before(time))
            .total_timeout(Duration::from_millis(20))
            .build()
            .unwrap();
        let _ = chain
            .call(|_| async { Err::<(), _>(()) })
            .await
            .unwrap_err();
    })
    .await;
}

#[cfg(feature = "fallback")]
#[tokio::test]
async fn of_a_last_good_answer() {
    use commontrip::fallback::LastGood;

    each(async |time| {
        let circuits = Commontrip::embedded().unwrap();
        let breaker = circuits.circuit("c", Policy::default()).unwrap();
        let kept: LastGood<u32> = match LastGood::builder("n")
            .ttl(time)
            .refresh(time)
            .shared(&circuits)
            .build()
        {
            Ok(kept) => kept,
            Err(error) => {
                assert!(error.to_string().contains("ttl"), "{error}");
                return;
            }
        };
        let good = kept.call(&breaker, "k", || async { Ok::<_, ()>(1) }).await;
        assert_eq!(good.unwrap().value, 1);
        let stale = kept.call(&breaker, "k", || async { Err(()) }).await;
        assert!(stale.is_ok() || time < Duration::from_millis(2));
        circuits.shutdown().await;
    })
    .await;
}

#[cfg(feature = "retry")]
#[tokio::test]
async fn of_a_retry() {
    use commontrip::retry::ExponentialBuilder;

    each(async |time| {
        let circuits = Commontrip::embedded().unwrap();
        let breaker = circuits.circuit("c", Policy::default()).unwrap();
        let backoff = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(1))
            .with_max_times(1);
        let retry_after = Some(Duration::from_millis(1));
        let classify = |result: &Result<(), ()>| match result {
            Ok(()) => Outcome::Success,
            Err(()) => Outcome::failure().with_retry_after(retry_after),
        };
        let retried = breaker.retry(backoff).longest_retry_after(time);
        let again = retried
            .call_with(classify, || async { Err::<(), ()>(()) })
            .await;
        assert!(again.is_err());
        // Longer than the retry waits.
        let retried = breaker
            .retry(backoff)
            .longest_retry_after(Duration::from_secs(1));
        let classify = |_: &Result<(), ()>| Outcome::failure().with_retry_after(time);
        let again = retried
            .call_with(classify, || async { Err::<(), ()>(()) })
            .await;
        assert!(again.is_err());
    })
    .await;
}

#[cfg(feature = "health")]
#[tokio::test]
async fn of_a_check() {
    use commontrip::health::{Check, HealthMonitor};

    each(async |time| {
        let circuits = Commontrip::embedded().unwrap();
        let check = || Check::new("c", || async { Ok::<(), std::io::Error>(()) });
        for check in [check().interval(time), check().timeout(time)] {
            let started = HealthMonitor::builder(&circuits).check(check).start();
            let error = started.unwrap_err().to_string();
            assert!(error.contains("be from 1"), "{error}");
        }
        let check = check().latency(
            time.min(Duration::from_secs(1)),
            time.max(Duration::from_secs(1)),
        );
        let check = check.interval(Duration::from_millis(10));
        match HealthMonitor::builder(&circuits).check(check).start() {
            Ok(monitor) => {
                tokio::time::sleep(Duration::from_millis(30)).await;
                monitor.stop().await;
            }
            Err(error) => assert!(error.to_string().contains("latency"), "{error}"),
        }
        circuits.shutdown().await;
    })
    .await;
}

#[cfg(feature = "metrics")]
#[tokio::test]
async fn of_an_exporter() {
    use commontrip::metrics::Exporter;

    each(async |time| {
        let circuits = Commontrip::embedded().unwrap();
        let exporter = Exporter::start_on(metrics::NoopRecorder, &circuits, time);
        works(
            &circuits,
            Policy::builder()
                .wait_duration_in_open_state(Duration::from_millis(1))
                .build()
                .unwrap(),
        )
        .await;
        circuits.shutdown().await;
        drop(exporter);
    })
    .await;
}

#[cfg(feature = "alerts")]
#[tokio::test]
async fn of_alerts() {
    use commontrip::alerts::{Alert, Alerts, Delivery, Notification, Sink};

    struct Nowhere;
    impl Sink for Nowhere {
        fn send<'a>(&'a self, _: &'a Notification) -> Delivery<'a> {
            Box::pin(async { Ok(()) })
        }
    }
    each(async |time| {
        let circuits = Commontrip::embedded().unwrap();
        let breaker = circuits.circuit("c", Policy::default()).unwrap();
        let alerts = Alerts::to(Nowhere)
            .on(Alert::opened().cooldown(time))
            .on(Alert::open_for(time))
            .on(Alert::flapping(2, time).cooldown(time))
            .on(Alert::store_unavailable(time).cooldown(time))
            .start(&circuits);
        breaker.acquire().await.unwrap().record(Outcome::trip());
        circuits.flush().await;
        // Until the rules were evaluated.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        drop(alerts);
        circuits.shutdown().await;
    })
    .await;
}

#[cfg(feature = "queue")]
#[tokio::test]
async fn of_a_queue_and_its_worker() {
    use commontrip::queue::{Enqueue, Failure, Job, Queue};
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    };

    each(async |time| {
        let store = RedisStore::builder().prefix(&unique_prefix("times"));
        let store = store
            .timeout(Duration::from_secs(5))
            .open(redis_url())
            .unwrap();
        let circuits = Commontrip::builder().store(store.clone()).build().unwrap();
        let breaker = circuits.circuit("api", Policy::default()).unwrap();
        let queue = Queue::builder(&store, "jobs").timeout(time).keep(time);
        // A job that is expired from the beginning would never run.
        let queue = match time.is_zero() || time < Duration::from_millis(1) {
            true => queue,
            false => queue.ttl(time),
        };
        let queue = queue.build().unwrap();
        queue.enqueue(&1_u32).await.unwrap();
        queue
            .enqueue_with(&2_u32, Enqueue::new().delay(time))
            .await
            .unwrap();
        queue
            .enqueue_with(&3_u32, Enqueue::new().ttl(time))
            .await
            .unwrap();
        let done = Arc::new(tokio::sync::Notify::new());
        let attempts = Arc::new(AtomicU64::new(0));
        let (ran, tries) = (Arc::clone(&done), Arc::clone(&attempts));
        let handler = move |job: Job<u32>| {
            let (ran, tries) = (Arc::clone(&ran), Arc::clone(&tries));
            async move {
                // The first attempt of the first job fails, and its next attempt is delayed.
                if job.body == 1 && tries.fetch_add(1, SeqCst) == 0 {
                    ran.notify_one();
                    return Err("once");
                }
                Ok(())
            }
        };
        let worker = queue
            .worker(&breaker, handler)
            .classify(move |_| Failure::Retry {
                retry_after: Some(time),
            })
            .backoff(time, time)
            .lease(time)
            .poll(time)
            .grace(time);
        worker.run(done.notified()).await;
        assert!(attempts.load(SeqCst) >= 1);
        queue.stats().await.unwrap();
        circuits.shutdown().await;
    })
    .await;
}

#[cfg(feature = "test-util")]
#[tokio::test]
async fn of_a_test() {
    use commontrip::test_util::{Fault, Fleet};

    each(async |time| {
        let fleet = Fleet::new(2).unwrap();
        let breakers = fleet.circuit("c", Policy::default()).unwrap();
        fleet.advance(time).await;
        let late = fleet.link(0).unwrap().inject(Fault::delay(time));
        let _ = breakers[0].call(async || Ok::<(), ()>(())).await;
        late.end();
        breakers[1].call(async || Ok::<(), ()>(())).await.unwrap();
        fleet.shutdown().await;
    })
    .await;
}
