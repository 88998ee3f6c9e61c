//! The server is reachable, but answers with errors, late, or as if it had no data.

use redis::aio::MultiplexedConnection;

use crate::processes::ms;
use crate::support::OwnServer;

use super::{
    quiet,
    trial::{Trial, operator, say},
};

/// The fault is the effect of one command, until another command ends it.
async fn command(fault: &'static str, words: &str, back: &str) {
    let _quiet = quiet().await;
    let server = OwnServer::start();
    let mut redis = operator(&server).await;
    let mut trial = Trial::start(fault, &server, &server.url()).await;
    trial.begin().await;
    say(&mut redis, words).await;
    trial.hold(ms(1200)).await;
    say(&mut redis, back).await;
    trial.end().await;
}

/// A repeated disturbance, which is no reason to consider the store unavailable.
async fn nuisance(fault: &'static str, again: impl AsyncFn(&mut MultiplexedConnection)) {
    let _quiet = quiet().await;
    let server = OwnServer::start();
    let mut redis = operator(&server).await;
    let trial = Trial::start(fault, &server, &server.url()).await;
    let mut trial = trial.unavailable(0..=0);
    trial.begin().await;
    trial
        .hold_while(ms(1500), async || again(&mut redis).await)
        .await;
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_turned_into_a_replica_is_survived() {
    command("READONLY", "REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_without_memory_is_survived() {
    command("OOM", "CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_redis_is_survived() {
    let _quiet = quiet().await;
    let server = OwnServer::start();
    let mut redis = operator(&server).await;
    let mut trial = Trial::start("CLIENT PAUSE", &server, &server.url()).await;
    trial.begin().await;
    say(&mut redis, "CLIENT PAUSE 1500").await;
    trial.hold(ms(1500)).await;
    // Its answer waits for the end of the pause.
    let _ = redis::cmd("PING").exec_async(&mut redis).await;
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_busy_with_a_script_is_survived() {
    let _quiet = quiet().await;
    let server = OwnServer::start_with(&["--busy-reply-threshold", "10"]);
    let mut redis = operator(&server).await;
    let mut trial = Trial::start("BUSY", &server, &server.url()).await;
    trial.begin().await;
    let mut other = operator(&server).await;
    let endless = tokio::spawn(async move {
        let mut endless = redis::cmd("EVAL");
        endless.arg("while true do end").arg(0);
        endless.exec_async(&mut other).await
    });
    trial.hold(ms(1200)).await;
    say(&mut redis, "SCRIPT KILL").await;
    endless.await.unwrap().unwrap_err();
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_may_not_run_scripts_for_a_while_is_survived() {
    let _quiet = quiet().await;
    let server = OwnServer::start();
    let mut redis = operator(&server).await;
    say(&mut redis, "ACL SETUSER replica on >secret ~* &* +@all").await;
    let url = format!("redis://replica:secret@127.0.0.1:{}/", server.port());
    let mut trial = Trial::start("ACL denial", &server, &url).await;
    trial.begin().await;
    say(&mut redis, "ACL SETUSER replica -evalsha").await;
    trial.hold(ms(1200)).await;
    say(&mut redis, "ACL SETUSER replica +evalsha").await;
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_cache_flushed_again_and_again_is_not_noticed() {
    nuisance("SCRIPT FLUSH", async |redis| {
        for _ in 0..20 {
            say(redis, "SCRIPT FLUSH").await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_redis_is_filled_again() {
    nuisance("FLUSHALL", async |redis| {
        say(redis, "FLUSHALL").await;
        tokio::time::sleep(ms(200)).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_connections_are_not_held_to_be_redis() {
    nuisance("CLIENT KILL", async |redis| {
        for kind in ["normal", "pubsub"] {
            say(redis, &format!("CLIENT KILL TYPE {kind}")).await;
        }
        tokio::time::sleep(ms(100)).await;
    })
    .await;
}
