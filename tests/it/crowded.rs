//! A Redis with its maximum number of clients.

use std::time::Duration;

use commontrip::{Commontrip, Policy};
use redis::aio::MultiplexedConnection;

use crate::{support::OwnServer, wait::until};

async fn rejected(admin: &mut MultiplexedConnection) -> u64 {
    let mut info = redis::cmd("INFO");
    let stats: String = info.arg("stats").query_async(admin).await.unwrap();
    let rejected = stats
        .lines()
        .find_map(|l| l.strip_prefix("rejected_connections:"));
    rejected.unwrap().trim().parse().unwrap()
}

async fn limit(admin: &mut MultiplexedConnection, clients: u64) {
    let mut config = redis::cmd("CONFIG");
    config.arg("SET").arg("maxclients").arg(clients);
    config.exec_async(admin).await.unwrap();
}

#[tokio::test]
async fn a_crowded_redis_is_asked_ever_more_rarely_and_is_back_when_it_has_room() {
    let server = OwnServer::start();
    let client = redis::Client::open(server.admin_url()).unwrap();
    let mut admin = client.get_multiplexed_async_connection().await.unwrap();
    limit(&mut admin, 1).await;
    let registry = Commontrip::redis(&server.url()).unwrap();
    let circuits = [1, 2, 3, 4, 5, 6, 7, 8].map(|i| {
        let name = format!("c{i}");
        registry.circuit(&name, Policy::default()).unwrap()
    });
    let use_them = async || {
        for circuit in &circuits {
            circuit.call(|| async { Ok::<_, ()>(()) }).await.unwrap();
        }
    };
    until("it is turned away", async || {
        use_them().await;
        registry.health().unavailable_for.is_some()
    })
    .await;
    let mut wait = async || {
        let before = rejected(&mut admin).await;
        for _ in 0..80 {
            use_them().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        rejected(&mut admin).await - before
    };
    assert!(wait().await > 0);
    // By now one attempt in 2 s for commands, and one a second for the subscription.
    let attempts = wait().await;
    assert!(attempts <= 15, "{attempts} attempts");
    limit(&mut admin, 100).await;
    until("it is back, also for what is pushed", async || {
        use_them().await;
        let health = registry.health();
        health.unavailable_for.is_none() && health.push
    })
    .await;
}
