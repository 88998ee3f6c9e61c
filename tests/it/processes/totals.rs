//! Lifetime totals: every outcome is counted exactly once.

use commontrip::CircuitBreaker;

use super::{
    PROCESSES, admits_all, connection_to,
    fleet::Fleet,
    ms, observer_on, say, setup, stormy, until,
    upstream::Upstream,
    wire::{Answer, Order, Setup, Totals},
};
use crate::support;

/// Lets a fleet of 24 replicas make calls until its circuits have had this many generations, and
/// repeats `meanwhile`. Then compares the totals in Redis with those of the processes.
async fn totals_agree(redis: &str, generations: u64, mut meanwhile: impl AsyncFnMut()) {
    let circuit = |i| (support::unique("totals"), stormy(i));
    let circuits: Vec<_> = (0..2).map(circuit).collect();
    let upstream = Upstream::start(circuits.len(), |_| async { false }).await;
    let fleet = Setup {
        redis: redis.to_owned(),
        upstream: upstream.port,
        ..setup(3, circuits.clone())
    };
    let fleet = Fleet::start(fleet, PROCESSES).await;
    let observer = |(name, policy): &(String, _)| observer_on(redis, name, policy);
    let observers: Vec<_> = circuits.iter().map(observer).collect();
    let generation = async |observer: &CircuitBreaker| {
        let seen = observer.snapshot().await;
        seen.map_or(0, |seen| seen.generation)
    };
    fleet.serve(60).await;
    until("the circuits have seen enough generations", async || {
        meanwhile().await;
        for observer in &observers {
            if generation(observer).await < generations {
                return false;
            }
        }
        true
    })
    .await;
    // A shutdown sends the rest only once, so processes must notice broken connections before.
    fleet.serve(0).await;
    until("every process has Redis again", async || {
        fleet.order_all(|| Order::Flush).await;
        let answers = fleet.order_all(|| Order::Look).await;
        answers.iter().all(|answer| answer.in_touch) && admits_all(&fleet).await
    })
    .await;
    let answers: Vec<Answer> = fleet.stop().await;
    for (circuit, observer) in observers.iter().enumerate() {
        let mut did = Totals::default();
        for totals in answers.iter().map(|answer| answer.totals[circuit]) {
            did.successes += totals.successes;
            did.failures += totals.failures;
            did.ignored += totals.ignored;
            did.rejected += totals.rejected;
        }
        let seen = observer.snapshot().await.unwrap();
        let counted = Totals {
            successes: seen.successes_total,
            failures: seen.failures_total,
            ignored: seen.ignored_total,
            rejected: seen.rejected_total,
        };
        assert_eq!(counted, did, "{}", observer.name());
        let away: u64 = answers.iter().map(|answer| answer.times_unavailable).sum();
        say(&format!(
            "counted in {} generations: {counted:?}; Redis unavailable {away} times",
            seen.generation
        ));
    }
}

#[tokio::test]
async fn lifetime_totals_are_what_all_processes_did() {
    totals_agree(support::redis_url(), 30, async || ()).await;
}

#[tokio::test]
async fn lifetime_totals_are_exact_though_connections_break() {
    let server = support::OwnServer::start();
    let mut redis = connection_to(&server.admin_url()).await;
    let mut breaks = 0;
    totals_agree(&server.url(), 60, async || {
        // At any moment: some processes have sent a request and never receive the answer.
        let mut kill = redis::cmd("CLIENT");
        kill.arg("KILL").arg("TYPE").arg("normal");
        breaks += kill.query_async::<u64>(&mut redis).await.unwrap();
        tokio::time::sleep(ms(fastrand::u64(20..200))).await;
    })
    .await;
    say(&format!("{breaks} connections were broken"));
}
