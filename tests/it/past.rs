//! A circuit's history in Redis: its memory after weeks, and that the model keeps the same.

use std::collections::BTreeMap;
use std::time::Duration;

use commontrip::model::{Circuit, Counts, Head, Report};
use commontrip::store::{RedisStore, Store};
use commontrip::{Name, Policy};

use crate::support::{admin_url, redis_url, unique_prefix};

/// A multiple of every slice's width.
const BASE: u64 = 1_735_689_600_000;
const DAY: u64 = 86_400_000;
/// The maximum size of a circuit's history.
const MOST_BYTES: u64 = 64 * 1024;

/// A circuit in Redis and in the model, with the same reports.
struct Pair {
    store: RedisStore,
    prefix: String,
    name: Name,
    model: Circuit,
    policy: Policy,
    seq: u64,
    waiting: Vec<(Name, Report)>,
}

impl Pair {
    fn new(policy: Policy) -> Self {
        let prefix = unique_prefix("past");
        let builder = RedisStore::builder().prefix(&prefix);
        let store = builder.timeout(Duration::from_secs(20)).open(redis_url());
        Self {
            store: store.unwrap(),
            prefix,
            name: Name::new("payments").unwrap(),
            model: Circuit::default(),
            policy,
            seq: 0,
            waiting: Vec::new(),
        }
    }

    async fn report(&mut self, now_ms: u64, [s, f, slow, i, r, a]: [u64; 6]) {
        self.seq += 1;
        let counts = Counts {
            successes: s,
            failures: f,
            slow_successes: slow,
            ignored: i,
            rejected: r,
            abandoned: a,
            ..Counts::default()
        };
        let head = Head {
            now_ms,
            replica: "r1".to_owned(),
            policy: *self.policy.rules(),
            ..Head::default()
        };
        // A generation in which the report cannot open the circuit.
        let report = Report {
            head,
            seq: self.seq,
            late: counts,
            ..Report::default()
        };
        self.model.report(&report, now_ms);
        self.waiting.push((self.name.clone(), report));
        if self.waiting.len() == 100 {
            self.send().await;
        }
    }

    async fn send(&mut self) {
        for answer in self.store.report(&self.waiting).await.unwrap() {
            answer.unwrap();
        }
        self.waiting.clear();
    }

    /// Compares both; returns the memory in Redis, bytes.
    async fn compare(&mut self) -> u64 {
        self.send().await;
        let key = format!("{}:{{payments}}:history", self.prefix);
        let mut redis = redis::Client::open(admin_url()).unwrap();
        let held: BTreeMap<String, String> =
            redis::cmd("HGETALL").arg(&key).query(&mut redis).unwrap();
        let model = self.model.held().remove(":history").unwrap_or_default();
        assert_eq!(
            held.keys().collect::<Vec<_>>(),
            model.keys().collect::<Vec<_>>()
        );
        for (field, text) in &held {
            assert_eq!(text, &model[field], "{field}");
        }
        assert_eq!(
            self.store.past(&self.name).await.unwrap(),
            self.model.past()
        );
        let history = self
            .store
            .history(std::slice::from_ref(&self.name), 360)
            .await;
        assert_eq!(history.unwrap().remove(0), self.model.history(360));
        let mut usage = redis::cmd("MEMORY");
        usage.arg("USAGE").arg(&key).arg("SAMPLES").arg(0);
        usage.query(&mut redis).unwrap()
    }
}

/// Fifteen days of traffic, then an hour with a report in each second.
async fn weeks(second: [u64; 6]) -> (Pair, u64) {
    let mut pair = Pair::new(Policy::default());
    let ten_minutes = second.map(|n| n * 600);
    let mut now = BASE;
    while now < BASE + 15 * DAY {
        // Values grow slowly, so that no two slices have the same digits.
        let more = (now / 600_000) % 97;
        pair.report(now, ten_minutes.map(|n| if n > 0 { n + more } else { 0 }))
            .await;
        now += 600_000;
    }
    let mut most = 0;
    for n in 0..4500 {
        let more = n % 7;
        pair.report(now, second.map(|n| if n > 0 { n + more } else { 0 }))
            .await;
        now += 1000;
        if n % 300 == 0 {
            most = most.max(pair.compare().await);
        }
    }
    let bytes = pair.compare().await.max(most);
    (pair, bytes)
}

#[tokio::test]
async fn two_weeks_fit_into_64_kb_whatever_the_traffic() {
    for (second, days, fine_ms) in [
        ([1, 0, 0, 0, 0, 0], 14, 1000),
        ([250, 3, 0, 0, 0, 0], 14, 1000),
        ([1000, 10, 0, 0, 0, 0], 14, 1000),
        // Longer entries are kept for a shorter time, in wider slices.
        ([20_000, 500, 100, 0, 300, 10], 5, 10_000),
        (
            [900_000, 90_000, 80_000, 70_000, 600_000, 50_000],
            3,
            10_000,
        ),
    ] {
        let (pair, bytes) = weeks(second).await;
        println!("{second:?} calls a second: {bytes} bytes");
        assert!(bytes <= MOST_BYTES, "{second:?}: {bytes}");
        let past = pair.model.past();
        let newest = past.last().unwrap();
        let reaches = (newest.counts.at_ms - past[0].counts.at_ms) / DAY;
        assert!(
            reaches >= days && reaches <= 14,
            "{second:?}: {reaches} days"
        );
        let hour_ago = newest.counts.at_ms - 3_600_000;
        let hour = past.iter().filter(|slice| slice.counts.at_ms >= hour_ago);
        let hour: Vec<_> = hour.collect();
        // The newest block may not have been merged yet.
        let whole = hour.iter().filter(|slice| slice.lasted_ms == fine_ms);
        assert!(whole.count() as u64 >= 3_000_000 / fine_ms, "{second:?}");
        let calls: u64 = hour.iter().map(|slice| slice.counts.successes).sum();
        let expected = 3600 * second[0];
        assert!(
            calls >= expected && calls <= expected * 2 + 36_000,
            "{second:?}: {calls}"
        );
    }
}

#[tokio::test]
async fn each_call_is_in_one_slice_whatever_its_width_becomes() {
    let mut pair = Pair::new(Policy::default());
    let mut sent = 0;
    // Blocks that grow too long on the way, with idle times in between.
    for n in 0..2500_u64 {
        let now = BASE + n * 1000 + (n / 400) * 90_000;
        let calls = 123_456 + n;
        sent += calls;
        pair.report(now, [calls, 7890, 123, 0, 4567, 0]).await;
        if n % 97 == 0 {
            pair.compare().await;
        }
    }
    pair.compare().await;
    let past = pair.model.past();
    let found: u64 = past.iter().map(|slice| slice.counts.successes).sum();
    assert_eq!(found, sent);
    assert!(past.iter().any(|slice| slice.lasted_ms == 10_000));
    assert!(
        past.windows(2)
            .all(|two| two[0].counts.at_ms + two[0].lasted_ms <= two[1].counts.at_ms)
    );
}

#[tokio::test]
async fn a_window_of_calls_or_of_long_buckets_has_slices_of_ten_seconds() {
    for policy in ["window=1m", "window_calls=100"] {
        let mut pair = Pair::new(policy.parse().unwrap());
        for n in 0..1000 {
            pair.report(BASE + n * 1000, [10, 0, 0, 0, 0, 0]).await;
        }
        pair.compare().await;
        let past = pair.model.past();
        assert!(
            past.iter().all(|slice| slice.lasted_ms == 10_000),
            "{policy}"
        );
        assert_eq!(past.len(), 100);
    }
}

#[tokio::test]
async fn what_somebody_wrote_into_the_past_is_started_anew() {
    let mut pair = Pair::new(Policy::default());
    let client = redis::Client::open(admin_url()).unwrap();
    let mut redis = client.get_connection().unwrap();
    let key = format!("{}:{{payments}}:history", pair.prefix);
    let hostile = [
        "x".to_owned(),
        String::new(),
        "0 1000 0/0/0/0/0/0 0/0/0/0/0/0 ,".to_owned(),
        format!("{BASE} 7 0/0/0/0/0/0 0/0/0/0/0/0 "),
        format!("{BASE} 1000 9/9/9/9/9/99999999999999999999 0/0/0/0/0/0 "),
        format!(
            "{BASE} 1000 0/0/0/0/0/0 0/0/0/0/0/0 {}",
            "1/,/".repeat(2000)
        ),
        format!("0 {BASE} {}", ",".repeat(30_000)),
    ];
    let mut now = BASE;
    for (i, text) in hostile.iter().cycle().take(80).enumerate() {
        let field = ["0", "1", "6", "weeks"][i % 4];
        redis::cmd("HSET")
            .arg(&key)
            .arg(field)
            .arg(text)
            .exec(&mut redis)
            .unwrap();
        now += [1000, 400_000, 3_000_000][i % 3];
        pair.report(now, [5, 0, 0, 0, 0, 0]).await;
        pair.send().await;
        pair.store.past(&pair.name).await.unwrap();
    }
    redis::cmd("DEL").arg(&key).exec(&mut redis).unwrap();
    redis::cmd("SET")
        .arg(&key)
        .arg("x")
        .exec(&mut redis)
        .unwrap();
    now += 1000;
    pair.report(now, [5, 0, 0, 0, 0, 0]).await;
    pair.send().await;
    assert_eq!(pair.store.past(&pair.name).await.unwrap().len(), 1);
}
