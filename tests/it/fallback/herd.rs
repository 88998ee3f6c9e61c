//! Many callers that want the same key at the same time: one request, and an answer for each.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use commontrip::fallback::{LastGood, LastGoodBuilder, Source};
use commontrip::{Clock, Commontrip};
use futures_util::future::join_all;
use serde::{Deserialize, Deserializer, Serialize};
use tokio::task::JoinSet;

use super::{HOUR, fleet::replica, gated::Gated};
use crate::scripts::connect;
use crate::support::{OwnServer, redis_url, unique_prefix};
use crate::wait::until;

fn speech<T>(circuits: &Commontrip) -> LastGoodBuilder<T> {
    let speech = LastGood::builder("speech").refresh(HOUR);
    speech.ttl(24 * HOUR).shared(circuits)
}

/// How many commands that can read a value a server has received.
fn reads(server: &mut redis::Connection) -> u64 {
    let stats: String = redis::cmd("INFO")
        .arg("commandstats")
        .query(server)
        .unwrap();
    let of = |line: &str| {
        let (command, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let is_read = ["get", "hget", "hmget", "mget"].contains(&command);
        is_read.then(|| rest.split(',').next().unwrap().parse::<u64>().unwrap())
    };
    stats.lines().filter_map(of).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_herd_asks_redis_once_and_everybody_is_answered() {
    let server = OwnServer::start();
    let circuits = Commontrip::builder().redis(&server.url());
    let circuits = circuits.prefix(&unique_prefix("herd"));
    let circuits = circuits.store_timeout(Duration::from_secs(5));
    let circuits = circuits.build().unwrap();
    let there = speech(&circuits).build().unwrap();
    there.keep("v", &7);
    until("it is there", async || {
        let newcomer = speech::<i32>(&circuits).build().unwrap();
        newcomer.recall("v").await.is_some()
    })
    .await;
    let mut redis = connect(&server.admin_url());
    let before = reads(&mut redis);
    let here = speech::<i32>(&circuits).build().unwrap();
    let mut herd = JoinSet::new();
    for _ in 0..10_000 {
        let here = here.clone();
        herd.spawn(async move { here.recall("v").await.map(|answer| answer.value) });
    }
    let answers = herd.join_all().await;
    let none = answers.iter().filter(|answer| **answer != Some(7)).count();
    let asked = reads(&mut redis) - before;
    assert_eq!((none, asked), (0, 1), "without an answer, questions");
}

#[tokio::test]
async fn a_key_is_written_and_asked_for_once_in_a_while_only() {
    let store = Gated::new(1);
    let circuits = store.replica();
    let (kept, asked) = (&store.seen.writes, &store.seen.asked);
    const MANY: usize = 20;
    let there = speech::<i32>(&circuits).build().unwrap();
    for i in 0..100 {
        there.keep("v", &i);
    }
    until("it is written", async || kept.load(SeqCst) > 0).await;
    let here = speech::<i32>(&circuits).build().unwrap();
    // Callers that ask at the same time get the same answer.
    let all = join_all((0..MANY).map(|_| here.recall("v")));
    let ((), answers) = tokio::join!(
        async {
            until("it is asked for", async || asked.load(SeqCst) == 1).await;
            store.seen.gate.add_permits(1);
        },
        all
    );
    for answer in answers.into_iter().map(Option::unwrap) {
        assert_eq!((answer.value, answer.from), (0, Source::Fleet));
    }
    assert_eq!(asked.load(SeqCst), 1);
    store.seen.gate.add_permits(1);
    let answers = join_all((0..MANY).map(|_| here.recall("w"))).await;
    assert!(answers.iter().all(Option::is_none));
    assert_eq!(asked.load(SeqCst), 2);
    for _ in 0..100 {
        assert!(here.recall("v").await.is_some());
        assert!(here.recall("w").await.is_none());
    }
    assert_eq!((asked.load(SeqCst), kept.load(SeqCst)), (2, 1));
}

/// Starts this many callers that wait for the answer to one request.
async fn waiting<T>(here: &LastGood<T>, store: &Gated, many: usize) -> JoinSet<Option<i32>>
where
    T: Serialize + for<'a> Deserialize<'a> + Into<i32> + 'static,
{
    let before = store.seen.asked.load(SeqCst);
    let mut herd = JoinSet::new();
    for _ in 0..many {
        let here = here.clone();
        herd.spawn(async move { here.recall("v").await.map(|answer| answer.value.into()) });
    }
    until("the question is asked", async || {
        store.seen.asked.load(SeqCst) == before + 1
    })
    .await;
    herd
}

#[tokio::test]
async fn a_herd_that_has_an_old_value_asks_once_for_a_newer_one() {
    let store = Gated::new(2);
    let circuits = store.replica();
    let clock = Clock::manual();
    let [here, there] = [(); 2].map(|()| speech(&circuits).clock(clock.clone()));
    let (here, there) = (here.build().unwrap(), there.build().unwrap());
    here.keep("v", &1);
    until("it is there", async || store.seen.writes.load(SeqCst) == 1).await;
    clock.advance(2 * HOUR);
    there.keep("v", &2);
    until("it is there", async || store.seen.writes.load(SeqCst) == 2).await;
    let herd = waiting(&here, &store, 100).await;
    store.seen.gate.add_permits(1);
    let answers = herd.join_all().await;
    assert!(answers.iter().all(|answer| *answer == Some(2)));
    // If the fleet has nothing newer or cannot answer, there is no second request; the own value is
    // served.
    for fails in [true, false] {
        clock.advance(2 * HOUR);
        store.seen.fails.store(fails, SeqCst);
        let herd = waiting(&here, &store, 100).await;
        store.seen.gate.add_permits(1);
        let answers = herd.join_all().await;
        assert!(answers.iter().all(|answer| *answer == Some(2)));
    }
    assert_eq!(here.recall("v").await.unwrap().from, Source::Process);
    assert_eq!(store.seen.asked.load(SeqCst), 3);
}

#[tokio::test]
async fn who_gives_up_takes_the_answer_from_nobody() {
    let store = Gated::new(1);
    let circuits = store.replica();
    speech(&circuits).build().unwrap().keep("v", &7);
    until("it is there", async || store.seen.writes.load(SeqCst) == 1).await;
    // All but one give up: the first, the last, or one in between remains; then all give up.
    for stays in [Some(0), Some(9), Some(5), None] {
        let here = speech::<i32>(&circuits).build().unwrap();
        let mut tasks = Vec::new();
        let before = store.seen.asked.load(SeqCst);
        for _ in 0..10 {
            let here = here.clone();
            tasks.push(tokio::spawn(async move { here.recall("v").await }));
        }
        until("the question is asked", async || {
            store.seen.asked.load(SeqCst) == before + 1
        })
        .await;
        for (i, task) in tasks.iter().enumerate() {
            if Some(i) != stays {
                task.abort();
            }
        }
        tokio::task::yield_now().await;
        store.seen.gate.add_permits(1);
        for (i, task) in tasks.into_iter().enumerate() {
            match Some(i) == stays {
                true => assert_eq!(task.await.unwrap().unwrap().value, 7),
                false => assert!(task.await.unwrap_err().is_cancelled()),
            }
        }
        // A later caller is answered in any case.
        assert_eq!(here.recall("v").await.unwrap().value, 7);
        let asked = store.seen.asked.load(SeqCst) - before;
        assert_eq!(asked, if stays.is_some() { 1 } else { 2 });
    }
}

#[tokio::test]
async fn a_question_that_fails_is_over_for_all_and_the_next_one_asks_again() {
    let store = Gated::new(1);
    let circuits = store.replica();
    speech(&circuits).build().unwrap().keep("v", &7);
    until("it is there", async || store.seen.writes.load(SeqCst) == 1).await;
    for kind in [&store.seen.fails, &store.seen.panics] {
        let here = speech::<i32>(&circuits).build().unwrap();
        kind.store(true, SeqCst);
        let herd = waiting(&here, &store, 100).await;
        store.seen.gate.add_permits(1);
        assert!(herd.join_all().await.iter().all(Option::is_none));
        let herd = waiting(&here, &store, 100).await;
        store.seen.gate.add_permits(1);
        let answers = herd.join_all().await;
        assert!(answers.iter().all(|answer| *answer == Some(7)));
    }
    assert_eq!(store.seen.asked.load(SeqCst), 4);
}

#[derive(Serialize)]
struct Odd(i32);

impl From<Odd> for i32 {
    fn from(odd: Odd) -> Self {
        odd.0
    }
}

impl<'de> Deserialize<'de> for Odd {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = i32::deserialize(from)?;
        assert!(value % 2 == 1, "an even one");
        Ok(Self(value))
    }
}

#[tokio::test]
async fn a_value_that_cannot_be_read_without_a_panic_wedges_nothing() {
    let store = Gated::new(Gated::OPEN);
    let circuits = store.replica();
    let there = speech(&circuits).refresh(Duration::ZERO).build().unwrap();
    let here = speech::<Odd>(&circuits).build().unwrap();
    for value in [2, 3] {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let before = store.seen.writes.load(SeqCst);
        there.keep("v", &value);
        until("it is there", async || {
            store.seen.writes.load(SeqCst) > before
        })
        .await;
        let answers = waiting(&here, &store, 1).await.join_all().await;
        assert_eq!(answers[0], (value == 3).then_some(value));
    }
}

#[tokio::test]
async fn what_the_fleet_has_is_served_however_little_this_process_keeps() {
    let prefix = unique_prefix("little");
    let circuits = replica(redis_url(), &prefix);
    let gated = Gated::new(Gated::OPEN);
    for circuits in [circuits, Commontrip::embedded().unwrap(), gated.replica()] {
        let there = speech(&circuits).build().unwrap();
        for key in 0..20 {
            there.keep(&key.to_string(), &key);
        }
        for (entries, bytes) in [(10, 1 << 20), (1000, 100), (1, 1)] {
            let here = speech::<i32>(&circuits)
                .max_entries(entries)
                .max_bytes(bytes);
            let here = Arc::new(here.build().unwrap());
            until("all are there", async || {
                let newcomer = speech::<i32>(&circuits).build().unwrap();
                let keys = (0..20).map(|key| key.to_string()).collect::<Vec<_>>();
                let all = keys.iter().map(|key| newcomer.recall(key));
                join_all(all).await.iter().all(Option::is_some)
            })
            .await;
            let mut none = 0;
            for i in 0..600 {
                let answer = here.recall(&(i % 20).to_string()).await;
                none += usize::from(answer.is_none_or(|answer| answer.value != i % 20));
            }
            assert_eq!(none, 0, "of 600, with {entries} entries of {bytes} bytes");
        }
    }
}
