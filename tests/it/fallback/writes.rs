//! Which of many concurrent values reach the fleet, and the fate of those that wait.

use std::io;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use commontrip::Commontrip;
use commontrip::fallback::{LastGood, LastGoodBuilder, Source};
use futures_util::future::join_all;
use tokio::time::timeout;

use super::{
    circuit,
    fleet::replica,
    gated::{Gated, Warned},
};
use crate::support::{OwnServer, redis_url, unique_prefix};
use crate::wait::until;

const MANY: usize = 500;

fn speech(circuits: &Commontrip) -> LastGoodBuilder<String> {
    LastGood::builder("speech")
        .refresh(Duration::ZERO)
        .shared(circuits)
}

fn of(key: usize) -> String {
    format!("the audio of {key}")
}

/// How many of the keys a new replica gets from the fleet.
async fn left(circuits: &Commontrip, keys: usize) -> usize {
    let newcomer = speech(circuits).build().unwrap();
    let mut left = 0;
    for key in 0..keys {
        if let Some(answer) = newcomer.recall(&key.to_string()).await {
            assert_eq!((answer.value, answer.from), (of(key), Source::Fleet));
            left += 1;
        }
    }
    left
}

#[tokio::test]
async fn all_that_is_kept_in_a_loop_is_left_to_the_fleet() {
    let prefix = unique_prefix("burst");
    let (a, b) = (replica(redis_url(), &prefix), replica(redis_url(), &prefix));
    let there = speech(&a).build().unwrap();
    for key in 0..MANY {
        there.keep(&key.to_string(), &of(key));
    }
    let mut most = 0;
    let all = until("all are there", async || {
        most = left(&b, MANY).await;
        most == MANY
    });
    let all = timeout(Duration::from_secs(20), all).await;
    assert!(all.is_ok(), "{most} of {MANY} are left to the fleet");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_many_calls_at_once_are_left_to_the_fleet() {
    let prefix = unique_prefix("burst");
    let (a, b) = (replica(redis_url(), &prefix), replica(redis_url(), &prefix));
    let (there, breaker) = (speech(&a).build().unwrap(), circuit(&a));
    let call = async |key: usize| {
        let good = async || Ok::<_, io::Error>(of(key));
        there.call(&breaker, &key.to_string(), good).await.unwrap()
    };
    join_all((0..MANY).map(call)).await;
    let mut most = 0;
    let all = until("all are there", async || {
        most = left(&b, MANY).await;
        most == MANY
    });
    let all = timeout(Duration::from_secs(20), all).await;
    assert!(all.is_ok(), "{most} of {MANY} are left to the fleet");
}

#[tokio::test]
async fn sixteen_are_written_at_a_time_and_the_newest_of_each_key_at_last() {
    let store = Gated::new(0);
    let circuits = store.replica();
    let there = speech(&circuits).build().unwrap();
    for round in 0..3 {
        for key in 0..100 {
            let value = if round == 2 {
                of(key)
            } else {
                "old".to_owned()
            };
            there.keep(&key.to_string(), &value);
        }
        until("as many write as may", async || {
            store.seen.at_once.load(SeqCst) == 16
        })
        .await;
        // Rounds differ only in their time, which is in milliseconds.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    store.seen.gate.add_permits(Gated::OPEN);
    until("the newest are there", async || {
        left(&circuits, 100).await == 100
    })
    .await;
    // The values in flight when newer ones came, and each newest one.
    assert_eq!(store.seen.writes.load(SeqCst), 116);
    assert_eq!(store.seen.most_at_once.load(SeqCst), 16);
    assert_eq!(there.lost_writes(), 0);
}

#[tokio::test]
async fn what_has_no_room_to_wait_is_dropped_counted_and_told_once() {
    let warned = Warned::default();
    let _logging = warned.listen();
    let store = Gated::new(0);
    let circuits = store.replica();
    let there = speech(&circuits).max_waiting_bytes(5000).build().unwrap();
    for key in 0..16 {
        there.keep(&key.to_string(), &of(key));
    }
    until("as many write as may", async || {
        store.seen.at_once.load(SeqCst) == 16
    })
    .await;
    for key in 16..1000 {
        there.keep(&key.to_string(), &of(key));
    }
    let lost = there.lost_writes();
    assert!((800..950).contains(&lost), "{lost}");
    assert_eq!(warned.count("wait for the store"), 1);
    store.seen.gate.add_permits(Gated::OPEN);
    let whole = 1000 - lost as usize;
    until("the others are there", async || {
        store.seen.writes.load(SeqCst) as usize == whole
    })
    .await;
    assert_eq!(left(&circuits, 1000).await, whole);
    let newcomer = speech(&circuits).build().unwrap();
    assert!(
        newcomer.recall("999").await.is_some(),
        "the newest has waited"
    );
    assert!(newcomer.recall("16").await.is_none());
    // This process has all of them.
    assert!(there.recall("16").await.is_some());
    assert_eq!(there.lost_writes(), lost);
}

#[tokio::test]
async fn a_shutdown_waits_for_what_waits_and_tells_what_is_lost() {
    let warned = Warned::default();
    let _logging = warned.listen();
    for (permits, lost) in [(Gated::OPEN, 0), (20, 80)] {
        let store = Gated::new(permits);
        let circuits = store.replica();
        let there = speech(&circuits).build().unwrap();
        for key in 0..100 {
            there.keep(&key.to_string(), &of(key));
        }
        let patience = Duration::from_secs(if lost == 0 { 20 } else { 1 });
        let end = circuits.shutdown_timeout(patience);
        timeout(Duration::from_secs(30), end).await.unwrap();
        assert_eq!(store.seen.writes.load(SeqCst), 100 - lost);
        // 16 of 80 are in flight, and their fate is not known yet.
        assert_eq!(there.lost_writes(), lost.saturating_sub(16));
        let told = warned.count("before the end");
        assert_eq!(told, usize::from(lost > 0));
    }
}

#[tokio::test]
async fn what_waits_is_written_though_nobody_holds_it_any_more() {
    let store = Gated::new(0);
    let circuits = store.replica();
    let there = speech(&circuits).build().unwrap();
    for key in 0..100 {
        there.keep(&key.to_string(), &of(key));
    }
    drop(there);
    store.seen.gate.add_permits(Gated::OPEN);
    until("all are there", async || left(&circuits, 100).await == 100).await;
}

#[test]
fn what_a_runtimes_end_loses_is_told() {
    let warned = Warned::default();
    let _logging = warned.listen();
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Gated::new(0);
        let there = speech(&store.replica()).build().unwrap();
        for key in 0..100 {
            there.keep(&key.to_string(), &of(key));
        }
        let until_all_write = until("as many write as may", async || {
            store.seen.at_once.load(SeqCst) == 16
        });
        until_all_write.await;
    });
    drop(runtime);
    assert_eq!(warned.count("before the end"), 1);
}

#[tokio::test]
async fn a_panic_of_the_store_stops_no_other_write() {
    let store = Gated::new(Gated::OPEN);
    let circuits = store.replica();
    let there = speech(&circuits).build().unwrap();
    store.seen.panics.store(true, SeqCst);
    for key in 0..50 {
        there.keep(&key.to_string(), &of(key));
    }
    until("the others are there", async || {
        store.seen.writes.load(SeqCst) == 49
    })
    .await;
    assert_eq!(there.lost_writes(), 1);
    tokio::time::sleep(Duration::from_millis(2)).await;
    for key in 0..50 {
        there.keep(&key.to_string(), &of(key));
    }
    until("all are there", async || left(&circuits, 50).await == 50).await;
}

#[tokio::test]
async fn a_store_that_is_away_for_a_moment_has_them_all_in_the_end() {
    let server = OwnServer::start();
    let prefix = unique_prefix("moment");
    let [a, b] = [(); 2].map(|()| replica(&server.url(), &prefix));
    let there = speech(&a).build().unwrap();
    there.keep("0", &of(0));
    until("it is there", async || left(&b, 1).await == 1).await;
    server.kill();
    for key in 0..MANY {
        there.keep(&key.to_string(), &of(key));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.restart();
    until("all are there", async || left(&b, MANY).await == MANY).await;
    assert_eq!(there.lost_writes(), 0);
}
