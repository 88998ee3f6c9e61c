//! Circuits behind Redis Sentinel.

use commontrip::{CallError, Commontrip, Snapshot, State};

use super::{call, ms, policy, registry, tell, trip, try_to_tell};
use crate::{
    support::{self, OwnServer},
    wait::until,
};

/// A master, its replica, and three sentinels that agree within a second.
pub struct Watched {
    pub master: OwnServer,
    pub replica: OwnServer,
    sentinels: Vec<OwnServer>,
}

impl Watched {
    pub async fn start() -> Watched {
        let no_delay = ["--repl-diskless-sync-delay", "0"];
        let master = OwnServer::start_with(&no_delay);
        let replica = OwnServer::start_with(&no_delay);
        let () = tell(
            replica.port(),
            &format!("REPLICAOF 127.0.0.1 {}", master.port()),
        )
        .await;
        until("it replicates", async || {
            let info: String = tell(replica.port(), "INFO replication").await;
            info.contains("master_link_status:up")
        })
        .await;
        let config = format!(
            "sentinel monitor main 127.0.0.1 {} 2\n\
             sentinel down-after-milliseconds main 400\n\
             sentinel failover-timeout main 2000\n",
            master.port()
        );
        let sentinel = |_| OwnServer::start_as(&config, &["--sentinel"]);
        let watched = Watched {
            master,
            replica,
            sentinels: (0..3).map(sentinel).collect(),
        };
        for sentinel in &watched.sentinels {
            until(
                "the sentinels know each other and the replica",
                async || {
                    let info: String = tell(sentinel.port(), "INFO sentinel").await;
                    info.contains("slaves=1,sentinels=3")
                },
            )
            .await;
        }
        watched
    }

    pub fn url(&self) -> String {
        let ports: Vec<_> = self.sentinels.iter().map(OwnServer::port).collect();
        let user = support::userinfo();
        format!(
            "redis-sentinel://{user}@127.0.0.1:{}?node=127.0.0.1:{}&node=127.0.0.1:{}&sentinelServiceName=main",
            ports[0], ports[1], ports[2]
        )
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_while_a_circuit_trips_fails_no_call_and_ends_open_everywhere() {
    let watched = Watched::start().await;
    let replicas = [0, 1].map(|_| registry(&watched.url()).build().unwrap());
    let [a, b] = replicas
        .each_ref()
        .map(|r| r.circuit("tripping", policy()).unwrap());
    let calm = replicas[0].circuit("calm", policy()).unwrap();
    for breaker in [&a, &b, &calm] {
        call(breaker, true).await.unwrap();
    }
    for registry in &replicas {
        until("push is heard", async || registry.health().push).await;
    }
    // One hanging sentinel must not delay the search for the master.
    watched.sentinels[0].pause();
    let begun = tokio::time::Instant::now();
    for i in 0..400 {
        if i == 4 {
            watched.master.kill();
        }
        for (breaker, ok) in [(&a, false), (&b, false), (&calm, true)] {
            let answer = call(breaker, ok).await;
            let fine = matches!(
                answer,
                Ok(()) | Err(CallError::Failed(()) | CallError::Rejected(_))
            );
            assert!(fine, "{answer:?}");
        }
        tokio::time::sleep(ms(2)).await;
    }
    assert_eq!([a.state(), b.state()], [State::Open, State::Open]);
    assert_eq!(calm.state(), State::Closed);
    until("the store is back", async || {
        let _ = call(&calm, true).await;
        replicas
            .iter()
            .all(|r| r.health().unavailable_for.is_none())
    })
    .await;
    support::say(&format!("sentinel: back after {:?}", begun.elapsed()));
    let role: redis::Value = tell(watched.replica.port(), "ROLE").await;
    assert!(format!("{role:?}").contains("master"), "{role:?}");
    // Each replica had tripped its local circuit; their evidence opens the fleet's.
    until("the fleet's circuit opens", async || {
        let _ = (call(&a, false).await, call(&b, false).await);
        let both = [a.snapshot().await, b.snapshot().await];
        both.iter()
            .all(|s| s.as_ref().is_ok_and(|s| s.state == State::Open))
            && [a.state(), b.state()] == [State::Open; 2]
    })
    .await;
    until("push is heard again", async || {
        replicas.iter().all(|r| r.health().push)
    })
    .await;
    b.reset().await.unwrap();
    until("and carries a change", async || a.state() == State::Closed).await;
    watched.sentinels[0].resume();
    for registry in replicas {
        registry.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_lost_the_last_writes_opens_again_what_was_open() {
    let watched = Watched::start().await;
    let replicas = [0, 1].map(|_| registry(&watched.url()).build().unwrap());
    let [a, b] = replicas
        .each_ref()
        .map(|r| r.circuit("lost", policy()).unwrap());
    for breaker in [&a, &b] {
        call(breaker, true).await.unwrap();
    }
    for registry in &replicas {
        until("push is heard", async || registry.health().push).await;
    }
    // Nothing reaches the replica from here on.
    let port = watched.replica.port();
    for command in [
        "CONFIG SET masteruser nobody",
        "CONFIG SET masterauth nothing",
        "CLIENT KILL TYPE master",
    ] {
        let _: redis::Value = tell(port, command).await;
    }
    trip(&a).await;
    until("both know", async || b.state() == State::Open).await;
    let before = a.snapshot().await.unwrap();
    assert_eq!(before.state, State::Open);
    let missed: Option<String> = tell(port, "HGET commontrip:{lost} until_ms").await;
    assert_eq!(missed, None, "the replica has heard of the trip");
    watched.master.kill();
    until("the stale replica is promoted", async || {
        for breaker in [&a, &b] {
            assert!(call(breaker, true).await.is_err(), "it closed");
        }
        let role: redis::RedisResult<redis::Value> = try_to_tell(port, "ROLE").await;
        let promoted = role.is_ok_and(|role| format!("{role:?}").contains("master"));
        promoted
            && replicas
                .iter()
                .all(|r| r.health().unavailable_for.is_none())
    })
    .await;
    until("all agree that it is open", async || {
        let seen = [a.snapshot().await, b.snapshot().await].map(Result::ok);
        let open = |s: &Option<Snapshot>| {
            let open = |s: &Snapshot| s.state == State::Open && s.generation > before.generation;
            s.as_ref().is_some_and(open)
        };
        assert_eq!([a.state(), b.state()], [State::Open; 2]);
        seen.iter().all(open)
    })
    .await;
    for registry in replicas {
        registry.shutdown().await;
    }
}

#[tokio::test]
async fn a_sentinels_pool_carries_a_circuit() {
    let watched = Watched::start().await;
    let urls = watched.sentinels.iter().map(OwnServer::url).collect();
    let mut config = deadpool_redis::sentinel::Config::from_urls::<Vec<String>>(
        urls,
        "main".to_owned(),
        deadpool_redis::sentinel::SentinelServerType::Master,
    );
    let (user, password) = support::userinfo()
        .split_once(':')
        .map(|(u, p)| (u.to_owned(), p.to_owned()))
        .unwrap();
    config.node_connection_info = Some(deadpool_redis::sentinel::SentinelNodeConnectionInfo {
        redis_connection_info: Some(deadpool_redis::RedisConnectionInfo {
            username: Some(user),
            password: Some(password),
            ..Default::default()
        }),
        ..Default::default()
    });
    let pool = config
        .create_pool(Some(deadpool_redis::Runtime::Tokio1))
        .unwrap();
    let circuits = Commontrip::builder()
        .redis_pool(pool, Some(&watched.url()))
        .store_timeout(ms(500))
        .build()
        .unwrap();
    let breaker = circuits.circuit("pooled", policy()).unwrap();
    call(&breaker, true).await.unwrap();
    until("push is heard", async || circuits.health().push).await;
    trip(&breaker).await;
    let state: String = tell(watched.master.port(), "HGET commontrip:{pooled} state").await;
    assert_eq!(state, "open");
    circuits.shutdown().await;
}

#[tokio::test]
async fn a_service_that_no_sentinel_knows_is_said_so() {
    let watched = Watched::start().await;
    let url = watched.url().replace("=main", "=mian");
    let circuits: Commontrip = registry(&url).build().unwrap();
    let breaker = circuits.circuit("nowhere", policy()).unwrap();
    call(&breaker, true).await.unwrap();
    until("it says why", async || {
        let said = circuits.health().last_error.unwrap_or_default();
        said.to_lowercase().contains("master")
    })
    .await;
    circuits.shutdown().await;
}
