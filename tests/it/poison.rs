//! Publications and keys that no fleet has written: their effect lasts until the next answer, or a
//! reset.

use std::time::{Duration, Instant};

use commontrip::{
    CircuitBreaker, Commontrip, Name, Override, Policy, RedisStore, Snapshot, State, Store,
    model::{Head, KindNote, Latencies, Report},
    operator::Operator,
};
use redis::Connection;
use serde_json::json;

use crate::support::{OwnServer, say};
use crate::wait::until;

const KEY: &str = "commontrip:{c}";
/// 2^52 - 1, the largest number in a reply, and the largest generation.
const LARGEST: u64 = (1 << 52) - 1;
const MOST_GENERATIONS: u64 = 1 << 40;

fn policy() -> Policy {
    Policy::builder()
        .consecutive_failures_threshold(5)
        .wait_duration_in_open_state(Duration::from_secs(1))
        .backoff(1.0, Duration::from_secs(1))
        .probe_lease(Duration::from_millis(500))
        .success_threshold(1)
        .build()
        .unwrap()
}

struct Fleet {
    server: OwnServer,
    admin: Connection,
    replicas: Vec<(Commontrip, CircuitBreaker)>,
}

impl Fleet {
    async fn start() -> Self {
        let server = OwnServer::start();
        let client = redis::Client::open(server.admin_url()).unwrap();
        let admin = client.get_connection().unwrap();
        let replica = |_| {
            let built = Commontrip::builder().redis(&server.url());
            let built = built.store_timeout(Duration::from_millis(500));
            let circuits = built.build().unwrap();
            let breaker = circuits.circuit("c", policy()).unwrap();
            (circuits, breaker)
        };
        let replicas = (0..3).map(replica).collect();
        let fleet = Self {
            server,
            admin,
            replicas,
        };
        fleet.passes("at first").await;
        for (circuits, _) in &fleet.replicas {
            until("push is heard", async || circuits.health().push).await;
            circuits.flush().await;
        }
        fleet
    }

    /// Checks that every replica admits calls.
    async fn passes(&self, what: &str) {
        for (_, breaker) in &self.replicas {
            until(what, async || call(breaker).await).await;
        }
    }

    /// Checks that failures of one replica open the circuit for all, and that it recovers.
    async fn works(&self) {
        let (_, failing) = &self.replicas[0];
        until("it opens", async || {
            let _ = failing.call(async || Err::<(), _>(())).await;
            self.replicas
                .iter()
                .all(|(_, breaker)| breaker.state() == State::Open)
        })
        .await;
        self.passes("it closes").await;
        // Data that somebody added is deleted once, which may take longer than a call waits.
        until("its generation is one that can be", async || {
            let seen = failing.snapshot().await;
            seen.is_ok_and(|seen| seen.generation <= MOST_GENERATIONS)
        })
        .await;
    }

    fn publish(&mut self, snapshot: &Snapshot) -> u64 {
        let message = rmp_serde::to_vec(&(2, snapshot)).unwrap();
        self.publish_bytes(&message)
    }

    fn publish_bytes(&mut self, message: &[u8]) -> u64 {
        let mut publish = redis::cmd("PUBLISH");
        publish
            .arg(KEY)
            .arg(message)
            .query(&mut self.admin)
            .unwrap()
    }

    fn write(&mut self, fields: &[(&str, String)]) {
        let mut set = redis::cmd("HSET");
        set.arg(KEY);
        for (field, value) in fields {
            set.arg(field).arg(value);
        }
        set.exec(&mut self.admin).unwrap();
    }
}

async fn call(breaker: &CircuitBreaker) -> bool {
    breaker.call(async || Ok::<_, ()>(())).await.is_ok()
}

/// A forged snapshot: a state without an end.
fn forged(now: &Snapshot, state: State, generation: u64) -> Snapshot {
    let mut forged = serde_json::to_value(now).unwrap();
    forged["state"] = json!(state);
    forged["generation"] = json!(generation);
    forged["reason"] = json!("tripped");
    forged["until_ms"] = json!(now.now_ms + 999_999_000);
    forged["since_ms"] = json!(now.now_ms + 999_000);
    forged["policy_version"] = json!(LARGEST);
    forged["policy"] = json!("failure_rate_threshold=100 call_timeout_ms=1");
    serde_json::from_value(forged).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_holds_until_the_next_answer() {
    for state in [
        State::Open,
        State::ForcedOpen,
        State::Closed,
        State::HalfOpen,
        State::Disabled,
    ] {
        let mut fleet = Fleet::start().await;
        let before = fleet.replicas[1].1.snapshot().await.unwrap();
        for generation in [
            before.generation,
            before.generation + 1,
            1000,
            MOST_GENERATIONS,
            MOST_GENERATIONS + 1,
            LARGEST,
            u64::MAX,
        ] {
            let mut forged = forged(&before, state, generation);
            assert_eq!(fleet.publish(&forged), 3);
            forged.now_ms += 86_400_000;
            fleet.publish(&forged);
            fleet.passes("what was published is over").await;
        }
        for (circuits, breaker) in &fleet.replicas {
            // A replica may receive it later than the others.
            until(
                "the stored state is shown, and the contradiction",
                async || {
                    call(breaker).await
                        && breaker.cached().generation == before.generation
                        && circuits.health().publications_contradicted > 0
                },
            )
            .await;
            assert_eq!(breaker.policy(), policy());
            assert!(circuits.health().unavailable_for.is_none());
        }
        let after = fleet.replicas[1].1.snapshot().await.unwrap();
        assert_eq!(
            (after.generation, after.state),
            (before.generation, before.state)
        );
        fleet.works().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_was_published_is_remembered_by_an_emptied_redis() {
    let mut fleet = Fleet::start().await;
    let before = fleet.replicas[0].1.snapshot().await.unwrap();
    let forged = forged(&before, State::ForcedOpen, 1 << 39);
    for _ in 0..20 {
        fleet.publish(&forged);
        redis::cmd("FLUSHALL").exec(&mut fleet.admin).unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        fleet.passes("forged, then flushed").await;
    }
    let after = fleet.replicas[0].1.snapshot().await.unwrap();
    assert!(after.generation < 100, "{after:?}");
    fleet.works().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_publications_keeps_no_calls_from_passing() {
    let mut fleet = Fleet::start().await;
    let before = fleet.replicas[0].1.snapshot().await.unwrap();
    let (mut passed, mut rejected, mut generation) = (0, 0, 1000);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        let mut flood = redis::pipe();
        for _ in 0..200 {
            generation += 1;
            let forged = forged(&before, State::ForcedOpen, generation);
            let message = rmp_serde::to_vec(&(2, forged)).unwrap();
            flood.cmd("PUBLISH").arg(KEY).arg(message).ignore();
        }
        flood.exec(&mut fleet.admin).unwrap();
        for (_, breaker) in &fleet.replicas {
            match call(breaker).await {
                true => passed += 1,
                false => rejected += 1,
            }
        }
        tokio::task::yield_now().await;
    }
    say(&format!(
        "flood: {} published, {passed} calls passed, {rejected} rejected",
        generation - 1000
    ));
    assert!(
        passed > rejected,
        "{passed} passed, {rejected} were rejected"
    );
    fleet.passes("the flood is over").await;
    fleet.works().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publications_that_are_none_or_huge_say_nothing() {
    let mut fleet = Fleet::start().await;
    for message in [
        &b""[..],
        b"\xc1",
        b"\x92\x02",
        &vec![0x92; 100_000],
        &vec![0xff; 40_000_000],
    ] {
        fleet.publish_bytes(message);
        fleet.passes("nothing was said").await;
    }
    for (circuits, _) in &fleet.replicas {
        until("push is heard again", async || circuits.health().push).await;
    }
    fleet.works().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_keys_have_poisoned_are_healed_by_a_reset_and_by_a_flush() {
    for generation in [
        5000,
        MOST_GENERATIONS - 1,
        MOST_GENERATIONS,
        MOST_GENERATIONS + 1,
        1 << 50,
        LARGEST,
    ] {
        for heal in ["reset", "flush", "restart"] {
            let mut fleet = Fleet::start().await;
            let far = (LARGEST - 1).to_string();
            fleet.write(&[
                ("generation", generation.to_string()),
                ("state", "open".to_owned()),
                ("until_ms", far.clone()),
                ("since_ms", far.clone()),
                ("opened_ms", far.clone()),
                ("open_total_ms", far.clone()),
                ("ramp_until_ms", far.clone()),
                ("retry_after_until_ms", far.clone()),
                ("consecutive_opens", far.clone()),
                ("policy_version", far),
            ]);
            for (circuits, breaker) in &fleet.replicas {
                until("every replica has seen it", async || {
                    let _ = call(breaker).await;
                    circuits.flush().await;
                    generation > MOST_GENERATIONS || breaker.cached().generation >= generation
                })
                .await;
            }
            match heal {
                "reset" => {
                    let store = RedisStore::builder().open(&fleet.server.url()).unwrap();
                    let operator = Operator::new(store);
                    operator
                        .reset("c", Override::because("poisoned"))
                        .await
                        .unwrap();
                }
                "flush" => redis::cmd("FLUSHALL").exec(&mut fleet.admin).unwrap(),
                _ => {
                    fleet.server.restart();
                    let client = redis::Client::open(fleet.server.admin_url()).unwrap();
                    fleet.admin = client.get_connection().unwrap();
                }
            }
            fleet.passes(&format!("{heal} of {generation}")).await;
            fleet.works().await;
            redis::cmd("FLUSHALL").exec(&mut fleet.admin).unwrap();
            fleet.passes("flushed").await;
            fleet.works().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_beside_is_not_read() {
    let mut fleet = Fleet::start().await;
    let parts = ["", ":window", ":latency", ":code", ":seq", ":kinds"];
    for part in parts {
        for chunk in 0..400 {
            let mut set = redis::cmd("HSET");
            set.arg(format!("{KEY}{part}"));
            for n in 0..1000 {
                set.arg(format!("junk{}", chunk * 1000 + n)).arg("1 1");
            }
            set.exec(&mut fleet.admin).unwrap();
        }
    }
    redis::cmd("CONFIG")
        .arg("RESETSTAT")
        .exec(&mut fleet.admin)
        .unwrap();
    let store = RedisStore::builder().timeout(Duration::from_secs(10));
    let store = store.open(&fleet.server.url()).unwrap();
    let name = Name::new("c").unwrap();
    let mut latencies = Latencies::default();
    latencies.record(Duration::from_millis(5), 3);
    for seq in 1..3 {
        let head = Head {
            replica: "x".into(),
            ..Head::default()
        };
        let latencies = latencies.clone();
        let kinds = vec![KindNote {
            kind: "timeout".into(),
            count: 1,
            detail: String::new(),
        }];
        let report = Report {
            head: head.clone(),
            seq,
            latencies,
            kinds,
            ..Report::default()
        };
        store
            .report(&[(name.clone(), report)])
            .await
            .unwrap()
            .remove(0)
            .unwrap();
        store.snapshot(&name, &head).await.unwrap();
    }
    fleet.works().await;
    let stats: String = redis::cmd("INFO")
        .arg("commandstats")
        .query(&mut fleet.admin)
        .unwrap();
    let read = stats
        .lines()
        .find(|line| line.starts_with("cmdstat_hgetall"));
    say(&format!("beside 400,000 fields: {read:?}"));
    let length = |admin: &mut Connection, part: &str| {
        redis::cmd("HLEN")
            .arg(format!("{KEY}{part}"))
            .query::<u64>(admin)
            .unwrap()
    };
    for part in [":latency", ":code", ":kinds"] {
        assert!(length(&mut fleet.admin, part) < 100, "{part}");
    }
    for (circuits, _) in &fleet.replicas {
        until("no replica is unavailable", async || {
            circuits.health().unavailable_for.is_none()
        })
        .await;
    }
    let operator = Operator::new(store);
    operator
        .reset("c", Override::because("junk"))
        .await
        .unwrap();
    fleet.works().await;
}
