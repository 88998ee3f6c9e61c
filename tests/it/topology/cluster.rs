//! Circuits in a Redis Cluster.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use commontrip::{CallError, CircuitBreaker, Commontrip, State};

use super::{admin, call, cluster_servers::Cluster, ms, policy, registry, tell, trip};
use crate::{support, wait::until};

#[tokio::test]
async fn a_hundred_circuits_spread_over_the_masters_and_are_shared_and_listed() {
    let cluster = Cluster::start(3, false).await;
    let replicas = [0, 1].map(|_| registry(&cluster.url()).build().unwrap());
    let name = |i: usize| format!("circuit-{i:03}");
    let circuits = |registry: &Commontrip| -> Vec<CircuitBreaker> {
        let circuit = |i| registry.circuit(&name(i), policy()).unwrap();
        (0..100).map(circuit).collect()
    };
    let [here, there] = [circuits(&replicas[0]), circuits(&replicas[1])];
    for (one, other) in here.iter().zip(&there) {
        call(one, true).await.unwrap();
        call(other, true).await.unwrap();
    }
    for registry in &replicas {
        until("push is heard", async || registry.health().push).await;
    }
    for breaker in here.iter().step_by(2) {
        trip(breaker).await;
    }
    for (i, breaker) in there.iter().enumerate() {
        let expected = if i % 2 == 0 {
            State::Open
        } else {
            State::Closed
        };
        until("the other replica knows", async || {
            breaker.state() == expected
        })
        .await;
    }
    until("all are listed", async || {
        let names = replicas[0].circuits().await.unwrap();
        names == (0..100).map(name).collect::<Vec<_>>()
    })
    .await;
    for node in &cluster.nodes {
        let keys: u64 = tell(node.port(), "DBSIZE").await;
        assert!(keys > 20, "the circuits are not spread: {keys} keys");
    }
    for registry in replicas {
        assert_eq!(registry.health().times_unavailable, 0);
        registry.shutdown().await;
    }
}

/// Makes calls without pause until told to stop; returns how many. Every call must end as the
/// upstream did.
async fn traffic(breaker: CircuitBreaker, stop: Arc<AtomicBool>) -> u64 {
    let mut made = 0;
    while !stop.load(Ordering::Relaxed) {
        call(&breaker, true).await.unwrap();
        made += 1;
        tokio::time::sleep(ms(1)).await;
    }
    made
}

#[tokio::test]
async fn a_slot_that_moves_while_in_use_costs_no_call_and_no_count() {
    let cluster = Cluster::start(3, false).await;
    let replicas = [0, 1].map(|_| registry(&cluster.url()).build().unwrap());
    let name = "moving";
    let breakers = replicas
        .each_ref()
        .map(|r| r.circuit(name, policy()).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let traffic = breakers
        .each_ref()
        .map(|breaker| tokio::spawn(traffic(breaker.clone(), Arc::clone(&stop))));
    until("it is there", async || {
        breakers[0]
            .snapshot()
            .await
            .is_ok_and(|s| s.successes_total > 50)
    })
    .await;

    let slot = cluster.slot(name).await;
    let from = cluster.first_master(slot);
    cluster.migrate(slot, from, (from + 1) % 3).await;

    let moved: u64 = tell(cluster.nodes[(from + 1) % 3].port(), "DBSIZE").await;
    assert!(moved > 0);
    stop.store(true, Ordering::Relaxed);
    let mut made = 0;
    for traffic in traffic {
        made += traffic.await.unwrap();
    }
    until("every call is counted, once", async || {
        for registry in &replicas {
            registry.flush().await;
        }
        breakers[1]
            .snapshot()
            .await
            .is_ok_and(|s| s.successes_total == made)
    })
    .await;
    trip(&breakers[0]).await;
    until("the other hears of it", async || {
        breakers[1].state() == State::Open
    })
    .await;
    for registry in replicas {
        assert_eq!(registry.health().circuits_unavailable, 0);
        registry.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_master_takes_only_its_own_circuits_away_until_its_replica_is_promoted() {
    let cluster = Cluster::start(3, true).await;
    let replicas = [0, 1].map(|_| registry(&cluster.url()).build().unwrap());
    let mut by_master: [Vec<String>; 3] = Default::default();
    for i in 0..30 {
        let name = format!("circuit-{i}");
        by_master[cluster.first_master(cluster.slot(&name).await)].push(name);
    }
    let circuit = |r: usize, name: &str| replicas[r].circuit(name, policy()).unwrap();
    for name in by_master.iter().flatten() {
        call(&circuit(0, name), true).await.unwrap();
        call(&circuit(1, name), true).await.unwrap();
    }
    let (dying, other) = (1, 2);
    let open = circuit(0, &by_master[dying][0]);
    let steady = circuit(0, &by_master[dying][1]);
    let failing = circuit(0, &by_master[dying][2]);
    let elsewhere = circuit(0, &by_master[other][0]);
    trip(&open).await;
    let generation = open.snapshot().await.unwrap().generation;
    let port = cluster.nodes[dying].port();
    // Losses in a failover are another test's subject, so this waits for the replica. `WAIT` covers
    // only the writes of its own connection.
    let mut connection = admin(port).await;
    let mark = format!("commontrip:{{{}}}:mark", by_master[dying][0]);
    let mut set = redis::cmd("SET");
    let () = set
        .arg(mark)
        .arg(1)
        .query_async(&mut connection)
        .await
        .unwrap();
    let mut wait = redis::cmd("WAIT");
    let have: u64 = wait
        .arg(1)
        .arg(5000)
        .query_async(&mut connection)
        .await
        .unwrap();
    assert_eq!(have, 1, "the replica has the trip");

    cluster.nodes[dying].kill();
    let errors = AtomicU64::new(0);
    let begun = tokio::time::Instant::now();
    until("its circuits are unavailable", async || {
        let _ = call(&steady, true).await;
        replicas[0].health().circuits_unavailable > 0
    })
    .await;
    let mut rounds = 0;
    until(
        "the replica is promoted and its circuits are back",
        async || {
            rounds += 1;
            for (breaker, ok) in [
                (&open, true),
                (&steady, true),
                (&failing, false),
                (&elsewhere, true),
            ] {
                match call(breaker, ok).await {
                    Ok(()) | Err(CallError::Rejected(_) | CallError::Failed(())) => {}
                    Err(_) => _ = errors.fetch_add(1, Ordering::Relaxed),
                }
            }
            assert_eq!(open.state(), State::Open);
            assert_eq!(elsewhere.state(), State::Closed);
            let away = replicas[0].health().circuits_unavailable;
            assert!(
                away <= by_master[dying].len(),
                "{away} circuits are unavailable"
            );
            replicas
                .iter()
                .all(|r| r.health().unavailable_for.is_none())
        },
    )
    .await;
    support::say(&format!(
        "cluster: promoted and back after {:?}, {rounds} rounds of calls",
        begun.elapsed()
    ));
    assert_eq!(errors.into_inner(), 0);
    // Its own trip was evidence: with it, and maybe a few more failures, the fleet's circuit opens.
    trip(&failing).await;
    assert!(open.snapshot().await.unwrap().generation >= generation);
    // The other replica's view agrees with the promoted master.
    let theirs = circuit(1, &by_master[dying][0]);
    until("both agree", async || theirs.state() == State::Open).await;
    for registry in replicas {
        registry.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_master_takes_no_other_shard_with_it() {
    let cluster = Cluster::start(3, false).await;
    let circuits = registry(&cluster.url()).build().unwrap();
    let mut by_master: [Vec<CircuitBreaker>; 3] = Default::default();
    for i in 0..30 {
        let name = format!("circuit-{i}");
        let master = cluster.first_master(cluster.slot(&name).await);
        by_master[master].push(circuits.circuit(&name, policy()).unwrap());
    }
    for breaker in by_master.iter().flatten() {
        call(breaker, true).await.unwrap();
    }
    circuits.flush().await;
    let hung = 2;
    cluster.nodes[hung].pause();
    let begun = tokio::time::Instant::now();
    let mut answered = 0;
    let mut asked = 0;
    let mut stopped = 0;
    while begun.elapsed() < ms(3000) {
        for breaker in by_master.iter().flatten() {
            call(breaker, true).await.unwrap();
        }
        asked += 1;
        answered += usize::from(by_master[0][0].snapshot().await.is_ok());
        // The cluster client stops all requests for a moment when it looks for a master.
        let away = circuits.health().circuits_unavailable;
        stopped += usize::from(away > by_master[hung].len());
        tokio::time::sleep(ms(20)).await;
    }
    support::say(&format!(
        "cluster: with a hung master another answered {answered} of {asked} times"
    ));
    assert!(circuits.health().circuits_unavailable > 0);
    assert!(answered * 10 >= asked * 9, "{answered} of {asked}");
    assert!(
        stopped * 10 <= asked,
        "others were unavailable at {stopped} of {asked} looks: {:?}",
        circuits.health()
    );
    cluster.nodes[hung].resume();
    until("all are back", async || {
        circuits.health().unavailable_for.is_none()
    })
    .await;
    let snapshot = by_master[hung][0].snapshot().await;
    assert!(snapshot.is_ok(), "{snapshot:?}");
    circuits.shutdown().await;
}

#[tokio::test]
async fn a_clusters_pool_carries_a_circuit_with_push_and_without() {
    let cluster = Cluster::start(3, false).await;
    let nodes = cluster.nodes.iter().map(support::OwnServer::url).collect();
    let pool = deadpool_redis::cluster::Config::from_urls::<Vec<String>>(nodes);
    let pool = pool
        .create_pool(Some(deadpool_redis::Runtime::Tokio1))
        .unwrap();
    let build = |push: Option<&str>| {
        let builder = Commontrip::builder().redis_pool(pool.clone(), push);
        builder.store_timeout(ms(500)).build().unwrap()
    };
    let (pushed, asking) = (build(Some(&cluster.url())), build(None));
    let a = pushed.circuit("pooled", policy()).unwrap();
    let b = asking.circuit("pooled", policy()).unwrap();
    call(&a, true).await.unwrap();
    call(&b, true).await.unwrap();
    until("push is heard", async || pushed.health().push).await;
    trip(&b).await;
    until("pushed", async || a.state() == State::Open).await;
    a.reset().await.unwrap();
    until("asked for", async || call(&b, true).await.is_ok()).await;
    for registry in [pushed, asking] {
        assert_eq!(registry.health().times_unavailable, 0);
        registry.shutdown().await;
    }
}
