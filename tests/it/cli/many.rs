//! `list` with more circuits than fit on a screen, and with other fleets' circuits.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use commontrip::RedisStore;

use super::{Ran, TIMEOUT, names, program, run_at};
use crate::{
    admin::many::filled,
    support::{OwnServer, unique_prefix},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_circuits_are_listed() {
    let server = OwnServer::start();
    let prefix = unique_prefix("cli-many");
    let store = RedisStore::builder().prefix(&prefix).timeout(TIMEOUT);
    filled(&store.open(&server.url()).unwrap(), 5000).await;
    let url = server.url();
    let listed = run_at(&url, &prefix, &["list", "--json"]).await;
    assert_eq!(listed.status, 0, "{}", listed.err);
    let listed = listed.json();
    assert_eq!(names(&listed).len(), 5000);
    assert!(listed["incomplete"].is_null() && listed["more"] == 0);
    let few = run_at(
        &url,
        &prefix,
        &["list", "--json", "--sort", "name", "--limit", "2"],
    )
    .await;
    let json = few.json();
    assert_eq!(
        (names(&json), &json["more"]),
        (vec!["c00000", "c00001"], &4998.into())
    );
    let few = run_at(&url, &prefix, &["list", "--limit", "2"]).await;
    assert_eq!(few.status, 0);
    assert!(
        few.err.contains("4,998") || few.err.contains("4998"),
        "{few:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strangers_index_costs_bounded_memory_and_is_said_to_be_incomplete() {
    let server = OwnServer::start();
    let prefix = unique_prefix("cli-stranger");
    let mut connection = redis::Client::open(server.admin_url())
        .unwrap()
        .get_connection()
        .unwrap();
    let url = server.url();
    let store = RedisStore::builder().prefix(&prefix).timeout(TIMEOUT);
    filled(&store.open(&url).unwrap(), 3).await;
    // A later write forgets names that were not used for weeks.
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    let hour_ago = hour_ago.duration_since(UNIX_EPOCH).unwrap().as_millis();
    let hour_ago = hour_ago.to_string();
    for piece in 0..300 {
        let mut add = redis::cmd("ZADD");
        add.arg(format!("{prefix}:circuits"));
        for i in 0..1000 {
            add.arg(&hour_ago).arg(format!("stranger-{piece}-{i}"));
        }
        add.exec(&mut connection).unwrap();
    }
    // 1 GB of address space holds the program and its threads, but not the data of all listed
    // circuits.
    let mut list = std::process::Command::new("sh");
    list.args(["-c", "ulimit -v 1000000; exec \"$@\"", "sh"]);
    let program = program(&[]);
    list.arg(program.get_program())
        .args(["list", "--json", "--timeout", "20000", "--redis", &url])
        .args(["--prefix", &prefix])
        .env("MALLOC_ARENA_MAX", "2");
    let ran: Ran = tokio::task::spawn_blocking(move || list.output())
        .await
        .unwrap()
        .unwrap()
        .into();
    assert_eq!(ran.status, 1, "{}", ran.err);
    assert!(
        ran.err
            .contains("this is not all: the index has more than 20000"),
        "{}",
        ran.err
    );
    let listed = ran.json();
    assert!(listed["incomplete"].is_string());
    // Its own circuits are those used last.
    assert_eq!(names(&listed).len(), 3);
    let all = &["reset", "--all", "--yes"][..];
    let ran = run_at(&url, &prefix, all).await;
    assert_eq!(ran.status, 1, "{}", ran.err);
    let left_out = "FAILED  other circuits: the index has more than 20000 names";
    assert!(ran.out.contains(left_out), "{}", ran.out);
    let done = run_at(&url, &prefix, &[all, &["--json"]].concat()).await;
    assert_eq!(done.status, 1, "{}", done.err);
    let done = done.json();
    assert_eq!(done["reset"].as_array().unwrap().len(), 3);
    assert!(done["incomplete"].is_string(), "{done}");
}
