//! The data that each published release has written into Redis. This release must read it
//! correctly.
//!
//! This test makes `1.json`, and fails when the written data changes. Then either older releases do
//! not notice the change, and `COMMONTRIP_TEST_RECORD=1` makes the record again, or the format gets
//! a new number and a record of its own (ARCHITECTURE.md, "Upgrades"). Records of published
//! releases never change.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use commontrip::{
    Counts, Name, Rules,
    model::{Acquire, Command, Control, Head, KindNote, Latencies, Report, Runs},
    store::{RedisStore, Store},
};
use redis::Connection;
use serde_json::{Value, json};

use crate::{
    scripts::{connect, keys},
    support::{admin_url, redis_url, unique_prefix},
};

const BEGAN: u64 = 1_735_689_600_000;
/// The time at which each circuit is read.
const LOOK: u64 = BEGAN + 8_000;

struct Fleet {
    store: RedisStore,
    prefix: String,
    redis: Connection,
}

impl Fleet {
    fn new() -> Self {
        let prefix = unique_prefix("recorded");
        let store = RedisStore::builder()
            .prefix(&prefix)
            .timeout(Duration::from_secs(10));
        Self {
            store: store.open(redis_url()).unwrap(),
            prefix,
            redis: connect(admin_url()),
        }
    }

    async fn report(&self, name: &str, at: u64, replica: &str, policy: &str, more: Report) {
        let report = Report {
            head: head(at, replica, policy),
            ..more
        };
        let batch = [(Name::new(name).unwrap(), report)];
        self.store.report(&batch).await.unwrap().remove(0).unwrap();
    }

    async fn command(&self, name: &str, at: u64, command: Command, policy: &str) {
        let control = Control {
            head: head(at, "r1", ""),
            command,
            for_ms: 60_000,
            author: "ada".to_owned(),
            reason: "drill".to_owned(),
            policy: policy.to_owned(),
            expects: 0,
        };
        let name = Name::new(name).unwrap();
        self.store.control(&name, &control).await.unwrap();
    }

    async fn acquire(&self, name: &str, at: u64, policy: &str) {
        let acquire = Acquire {
            head: head(at, "r1", policy),
            token: "r1:7".to_owned(),
        };
        let name = Name::new(name).unwrap();
        self.store.acquire(&name, &acquire).await.unwrap();
    }

    /// Makes a circuit of each kind.
    async fn make(&self) {
        let mut latencies = Latencies::default();
        latencies.record(Duration::from_micros(700), 8);
        let some = |seq, successes, failures| Report {
            seq,
            counts: Counts {
                successes,
                failures,
                slow_successes: successes / 4,
                ignored: 1,
                rejected: 2,
                abandoned: 3,
                ..Counts::default()
            },
            runs: Runs {
                first: 0,
                longest: failures,
                last: failures,
            },
            latencies: latencies.clone(),
            kinds: vec![
                KindNote {
                    kind: "timeout".into(),
                    count: failures,
                    detail: String::new(),
                },
                KindNote {
                    kind: "database".into(),
                    count: 1,
                    detail: "SQLSTATE 40P01".into(),
                },
            ],
            ..Report::default()
        };
        let trip = |seq| Report {
            trips: 1,
            ..some(seq, 1, 5)
        };
        for (seq, at) in [(1, 0), (2, 1500), (3, 7000)] {
            self.report("closed", BEGAN + at, "r1", "", some(seq, 20, 2))
                .await;
            let ring = "window_calls=30";
            self.report("ring", BEGAN + at, "r1", ring, some(seq, 20, 2))
                .await;
            let quorum = "quorum=3 slow_call_duration_threshold_ms=50";
            self.report("quorum", BEGAN + at, "r1", quorum, some(seq, 20, 2))
                .await;
            self.report(
                "mixed",
                BEGAN + at,
                "r1",
                "window_ms=60000",
                some(seq, 20, 2),
            )
            .await;
            self.report(
                "mixed",
                BEGAN + at + 1,
                "r2",
                "window_calls=30 jitter=5",
                some(seq, 9, 1),
            )
            .await;
        }
        let alone = Report {
            alone_ms: 20_000,
            ..some(4, 1, 1)
        };
        self.report("quorum", BEGAN + 7500, "r1", "quorum=3", alone)
            .await;
        self.report("open", BEGAN, "r1", "", trip(1)).await;
        let half_open = "wait_duration_in_open_state_ms=1000";
        self.report("half_open", BEGAN, "r1", half_open, trip(1))
            .await;
        self.acquire("half_open", BEGAN + 1000, half_open).await;
        for (name, command) in [
            ("forced_open", Command::ForceOpen),
            ("disabled", Command::Disable),
            ("metrics_only", Command::MetricsOnly),
        ] {
            self.report(name, BEGAN, "r1", "", some(1, 20, 2)).await;
            self.command(name, BEGAN + 1, command, "").await;
            self.report(name, BEGAN + 2, "r1", "", some(2, 20, 2)).await;
        }
        self.report("stored", BEGAN, "r1", "", some(1, 20, 2)).await;
        self.command(
            "stored",
            BEGAN + 1,
            Command::Policy,
            "window_ms=5000 jitter=3",
        )
        .await;
        self.report("stored", BEGAN + 6000, "r1", "", some(2, 20, 2))
            .await;
    }

    /// Everything stored of a circuit.
    fn keys(&mut self, name: &str) -> Value {
        let mut held = serde_json::Map::new();
        for (part, key) in keys("", "").iter().zip(keys(&self.prefix, name)) {
            let part = part.trim_start_matches(":{}").to_owned();
            let kind: String = redis::cmd("TYPE").arg(&key).query(&mut self.redis).unwrap();
            let value = match kind.as_str() {
                "none" => continue,
                "hash" => json!(self.pairs(redis::cmd("HGETALL").arg(&key))),
                "zset" => json!(
                    self.pairs(
                        redis::cmd("ZRANGE")
                            .arg(&key)
                            .arg("0")
                            .arg("-1")
                            .arg("WITHSCORES")
                    )
                ),
                "string" => json!(
                    redis::cmd("GET")
                        .arg(&key)
                        .query::<String>(&mut self.redis)
                        .unwrap()
                ),
                _ => {
                    let entries: Vec<(String, BTreeMap<String, String>)> = redis::cmd("XRANGE")
                        .arg(&key)
                        .arg("-")
                        .arg("+")
                        .query(&mut self.redis)
                        .unwrap();
                    // The ids of events contain the server's time.
                    let id = |at: usize, id: String| match part.as_str() {
                        ":events" => format!("{}-0", at + 1),
                        _ => id,
                    };
                    let entries = entries.into_iter().enumerate();
                    json!(
                        entries
                            .map(|(at, (name, fields))| (id(at, name), fields))
                            .collect::<Vec<_>>()
                    )
                }
            };
            held.insert(part, json!({ "type": kind, "value": value }));
        }
        held.into()
    }

    fn pairs(&mut self, read: &redis::Cmd) -> BTreeMap<String, String> {
        read.query(&mut self.redis).unwrap()
    }

    /// Writes the data that another release has stored.
    fn restore(&mut self, name: &str, held: &Value) {
        for (part, key) in keys("", "").iter().zip(keys(&self.prefix, name)) {
            let held = &held[part.trim_start_matches(":{}")];
            let value = &held["value"];
            let pairs = || value.as_object().unwrap().iter();
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            match held["type"].as_str() {
                None => {}
                Some("hash") => {
                    for (field, value) in pairs() {
                        self.run(&["HSET", &key, field, &text(value)]);
                    }
                }
                Some("zset") => {
                    for (member, score) in pairs() {
                        self.run(&["ZADD", &key, &text(score), member]);
                    }
                }
                Some("string") => self.run(&["SET", &key, &text(value)]),
                Some(_) => {
                    for entry in value.as_array().unwrap() {
                        let mut words = vec!["XADD".to_owned(), key.clone(), text(&entry[0])];
                        for (field, value) in entry[1].as_object().unwrap() {
                            words.extend([field.clone(), text(value)]);
                        }
                        self.run(&words);
                    }
                }
            }
        }
    }

    fn run<T: AsRef<str>>(&mut self, words: &[T]) {
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(word.as_ref());
        }
        command.exec(&mut self.redis).unwrap();
    }

    /// What an operator sees of a circuit.
    async fn seen(&self, name: &str) -> Value {
        let operator = Head {
            now_ms: LOOK,
            is_operator: true,
            ..Head::default()
        };
        let name = Name::new(name).unwrap();
        let seen = self.store.snapshot(&name, &operator).await.unwrap();
        let events = self.store.events(&name, 0).await.unwrap();
        json!({ "snapshot": seen, "events": events })
    }
}

fn head(now_ms: u64, replica: &str, policy: &str) -> Head {
    Head {
        now_ms,
        replica: replica.to_owned(),
        policy: Rules::default().with(policy),
        ..Head::default()
    }
}

const CIRCUITS: [&str; 10] = [
    "closed",
    "ring",
    "quorum",
    "mixed",
    "open",
    "half_open",
    "forced_open",
    "disabled",
    "metrics_only",
    "stored",
];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/formats")
}

#[tokio::test]
async fn what_this_release_writes_is_what_is_on_record() {
    let mut fleet = Fleet::new();
    fleet.make().await;
    let mut now = serde_json::Map::new();
    for name in CIRCUITS {
        let (keys, seen) = (fleet.keys(name), fleet.seen(name).await);
        now.insert(name.to_owned(), json!({ "keys": keys, "seen": seen }));
    }
    let (now, path) = (Value::from(now), folder().join("1.json"));
    if std::env::var_os("COMMONTRIP_TEST_RECORD").is_some() {
        fs::write(&path, serde_json::to_string_pretty(&now).unwrap() + "\n").unwrap();
    }
    let before: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    for name in CIRCUITS {
        assert_eq!(now[name], before[name], "{name}: see the head of this file");
    }
}

#[tokio::test]
async fn what_every_release_has_written_is_read_as_it_was_meant() {
    let records = fs::read_dir(folder()).unwrap();
    let records = records.map(|entry| entry.unwrap().path());
    let records: Vec<_> = records
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .collect();
    assert!(!records.is_empty());
    for path in records {
        let record: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        for (name, of) in record.as_object().unwrap() {
            let mut fleet = Fleet::new();
            fleet.restore(name, &of["keys"]);
            let (path, seen) = (path.display(), fleet.seen(name).await);
            assert_eq!(seen, of["seen"], "{path}: {name}");
            // It continues from there.
            let before = seen["snapshot"]["successes_total"].as_u64().unwrap();
            let report = Report {
                seq: 1000,
                counts: Counts {
                    successes: 5,
                    ..Counts::default()
                },
                ..Report::default()
            };
            fleet.report(name, LOOK, "r1", "", report).await;
            let after = fleet.seen(name).await;
            assert_eq!(
                after["snapshot"]["successes_total"],
                before + 5,
                "{path}: {name}"
            );
            assert_eq!(
                after["snapshot"]["state"], seen["snapshot"]["state"],
                "{path}: {name}"
            );
        }
    }
}
