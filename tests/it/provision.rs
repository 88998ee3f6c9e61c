//! The tests' own Redis: facts that other tests rely on.

use std::collections::HashSet;
use std::net::TcpStream;
use std::time::Duration;

use redis::aio::MultiplexedConnection;

use crate::support::{OwnServer, admin_url, redis_url, say, unique};

#[tokio::test]
async fn the_shared_server_answers() {
    assert_eq!(ping(&mut connect(redis_url()).await).await.unwrap(), "PONG");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shared_server_is_one_for_all_runtimes() {
    assert_eq!(
        redis_url(),
        tokio::task::spawn_blocking(redis_url).await.unwrap()
    );
    assert_eq!(ping(&mut connect(redis_url()).await).await.unwrap(), "PONG");
}

#[tokio::test]
async fn the_crate_is_a_user_who_may_do_nothing_but_what_the_crate_does() {
    let own = OwnServer::start();
    for (url, admin) in [
        (redis_url().to_owned(), admin_url().to_owned()),
        (own.url(), own.admin_url()),
    ] {
        if url == admin {
            say(
                "provision: the URL's user could make no other, so the crate's rights are not held to anything",
            );
            continue;
        }
        let mut crates = connect(&url).await;
        let strlen = redis::cmd("STRLEN").arg("commontrip:x").to_owned();
        let read = redis::cmd("HGET").arg("elsewhere").arg("f").to_owned();
        for forbidden in [redis::cmd("DBSIZE"), strlen, read] {
            let answer = forbidden.exec_async(&mut crates).await;
            let said = answer.unwrap_err().to_string();
            assert!(said.contains("permissions"), "{said}");
        }
        let mut admins = connect(&admin).await;
        let users: Vec<String> = redis::cmd("ACL")
            .arg("USERS")
            .query_async(&mut admins)
            .await
            .unwrap();
        assert!(
            users.iter().any(|user| user.starts_with("commontrip-test")),
            "{users:?}"
        );
    }
}

#[test]
fn unique_names_differ_and_keep_their_beginning() {
    let names: HashSet<String> = (0..1_000).map(|_| unique("checkout")).collect();
    assert_eq!(names.len(), 1_000);
    assert!(names.iter().all(|name| name.starts_with("checkout-")));
}

#[tokio::test]
async fn an_own_server_survives_kill_and_restart_on_the_same_port() {
    let server = OwnServer::start();
    let url = server.url();
    let mut connection = connect(&server.admin_url()).await;
    set(&mut connection, "key").await;

    server.kill();
    assert!(ping(&mut connection).await.is_err());
    assert!(TcpStream::connect(("127.0.0.1", server.port())).is_err());

    server.restart();
    assert_eq!(server.url(), url);
    let mut connection = connect(&server.admin_url()).await;
    assert_eq!(ping(&mut connection).await.unwrap(), "PONG");
    let found: bool = redis::cmd("EXISTS")
        .arg("key")
        .query_async(&mut connection)
        .await
        .unwrap();
    assert!(!found, "a restarted server has forgotten everything");
}

#[tokio::test]
async fn a_running_server_can_be_restarted() {
    let server = OwnServer::start();
    let before = run_id(&mut connect(&server.admin_url()).await).await;
    server.restart();
    assert_ne!(
        before,
        run_id(&mut connect(&server.admin_url()).await).await
    );
}

#[tokio::test]
async fn a_paused_server_answers_after_resume() {
    let server = OwnServer::start();
    let mut connection = connect(&server.admin_url()).await;

    server.pause();
    let mut other = connection.clone();
    let mut pending = std::pin::pin!(ping(&mut other));
    assert!(
        tokio::time::timeout(Duration::from_millis(200), &mut pending)
            .await
            .is_err()
    );

    server.resume();
    assert_eq!(pending.await.unwrap(), "PONG");
    assert_eq!(ping(&mut connection).await.unwrap(), "PONG");
}

#[tokio::test]
async fn a_paused_server_can_be_killed_and_restarted() {
    let server = OwnServer::start();
    server.pause();
    server.kill();
    server.restart();
    assert_eq!(
        ping(&mut connect(&server.admin_url()).await).await.unwrap(),
        "PONG"
    );
}

#[tokio::test]
async fn an_own_server_takes_more_arguments() {
    let server = OwnServer::start_with(&["--maxmemory", "10mb"]);
    let mut connection = connect(&server.admin_url()).await;
    let found: (String, u64) = redis::cmd("CONFIG")
        .arg("GET")
        .arg("maxmemory")
        .query_async(&mut connection)
        .await
        .unwrap();
    assert_eq!(found, ("maxmemory".to_owned(), 10 * 1024 * 1024));
}

#[test]
fn a_dropped_server_is_gone() {
    let server = OwnServer::start();
    let port = server.port();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
    drop(server);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

async fn connect(url: &str) -> MultiplexedConnection {
    // Without timeouts of the client: the tests here set their own.
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None);
    let client = redis::Client::open(url).unwrap();
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .unwrap()
}

async fn ping(connection: &mut MultiplexedConnection) -> redis::RedisResult<String> {
    redis::cmd("PING").query_async(connection).await
}

async fn set(connection: &mut MultiplexedConnection, key: &str) {
    redis::cmd("SET")
        .arg(key)
        .arg(1)
        .exec_async(connection)
        .await
        .unwrap();
}

async fn run_id(connection: &mut MultiplexedConnection) -> String {
    let info: String = redis::cmd("INFO")
        .arg("server")
        .query_async(connection)
        .await
        .unwrap();
    info.lines()
        .find(|line| line.starts_with("run_id:"))
        .unwrap()
        .to_owned()
}
