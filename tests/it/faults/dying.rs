//! The server is missing, dies, freezes or has to load its data first.

use crate::processes::ms;
use crate::support::OwnServer;

use super::{
    quiet,
    trial::{Trial, Way, operator, say},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_start_before_their_redis_are_protected_and_join_later() {
    let _quiet = quiet().await;
    let server = OwnServer::start();
    server.kill();
    let mut trial = Trial::start_without_server("refused at start", &server).await;
    trial.hold(ms(1000)).await;
    server.restart();
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_killed_and_restarted_empty_is_survived() {
    let _quiet = quiet().await;
    let server = OwnServer::start();
    let mut trial = Trial::start("kill -9, restarted empty", &server, &server.url()).await;
    trial.begin().await;
    server.kill();
    trial.hold(ms(1000)).await;
    server.restart();
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_killed_and_restarted_with_its_data_is_survived() {
    let _quiet = quiet().await;
    let server = OwnServer::start_with(&["--appendonly", "yes"]);
    let mut trial = Trial::start("kill -9, restarted with data", &server, &server.url()).await;
    trial.begin().await;
    server.kill();
    trial.hold(ms(1000)).await;
    server.restart();
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_redis_is_survived() {
    let _quiet = quiet().await;
    let server = OwnServer::start();
    let mut trial = Trial::start("SIGSTOP, SIGCONT", &server, &server.url()).await;
    trial.begin().await;
    server.pause();
    trial.hold(ms(1200)).await;
    server.resume();
    trial.end().await;
}

/// Without push, decisions are valid for `decision_ttl`, and then a call has to ask.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_redis_holds_calls_up_once_where_nothing_is_pushed() {
    let _quiet = quiet().await;
    let server = OwnServer::start();
    let way = Way::without_push(&server, server.port()).await;
    let mut trial = Trial::start_as("SIGSTOP, without push", &server, way).await;
    trial.begin().await;
    server.pause();
    trial.hold(ms(1200)).await;
    server.resume();
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_loads_its_data_is_survived() {
    let _quiet = quiet().await;
    // A millisecond for each of the keys below; clients are answered meanwhile.
    let slowly = [
        "--key-load-delay",
        "1000",
        "--loading-process-events-interval-bytes",
        "1024",
    ];
    let server = OwnServer::start_with(&slowly);
    let mut redis = operator(&server).await;
    let keys = "for i = 1, 1200 do redis.call('SET', 'key' .. i, string.rep('x', 100)) end";
    redis::cmd("EVAL")
        .arg(keys)
        .arg(0)
        .exec_async(&mut redis)
        .await
        .unwrap();
    let mut trial = Trial::start("LOADING", &server, &server.url()).await;
    say(&mut redis, "SAVE").await;
    trial.begin().await;
    server.begin_restart();
    trial.hold(ms(1000)).await;
    server.until_ready();
    assert!(
        server.log().contains("DB loaded from disk: 1."),
        "it took a second and more to load"
    );
    trial.end().await;
}
