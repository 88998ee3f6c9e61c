//! The scripts with hostile bytes, and on circuits that somebody has tampered with.
//!
//! A request is either answered or rejected with an error code. A rejected request leaves every key
//! unchanged, byte for byte, and no request leaves a circuit that a valid request finds broken.
//! `PROPTEST_CASES` sets the number of cases.

mod bench;
mod bytes;
mod tampering;

use std::time::Duration;

use commontrip::model::{Head, Report};
use commontrip::store::{RedisStore, Store};
use commontrip::{Name, State};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};

use self::bench::{Bench, Checked, Doing, doing, fail};
use self::bytes::payload;
use self::tampering::tampering;
pub use self::tampering::{Tampering, content};
use crate::scripts::{OPERATIONS, connect, dumped};
use crate::support::{admin_url, redis_url, unique_prefix};
use crate::wait::until;

const BASE: u64 = 1_735_689_600_000;
/// The time of valid requests: some time after the circuit was set up.
const LATER: u64 = BASE + 40_000;

fn run<S: Strategy>(cases: u32, strategy: &S, test: impl FnMut(S::Value) -> Checked)
where
    S::Value: std::fmt::Debug,
{
    let config = match std::env::var_os("PROPTEST_CASES") {
        Some(_) => Config::default(),
        None => Config::with_cases(cases),
    };
    let mut runner = TestRunner::new(Config {
        failure_persistence: None,
        max_shrink_time: 20_000,
        ..config
    });
    let test = std::cell::RefCell::new(test);
    if let Err(failure) = runner.run(strategy, |case| (*test.borrow_mut())(case)) {
        panic!("{failure}");
    }
}

#[test]
fn a_hostile_request_is_answered_or_refused_and_breaks_nothing() {
    let mut bench = Bench::new("fuzz");
    let (mut answered, mut refused) = (0, 0);
    let strategy = (doing(), select(OPERATIONS.to_vec()), vec(payload(), 1..4));
    run(1000, &strategy, |(doing, operation, payloads)| {
        bench.set_up(doing);
        for payload in payloads {
            let before = dumped(&mut bench.redis, &bench.keys);
            let bytes = payload.bytes(bench.right(operation));
            match bench.invoke(operation, bytes) {
                Ok(answer) => {
                    answered += 1;
                    Bench::readable(operation, &answer)?;
                }
                Err(error) => {
                    refused += 1;
                    if error.code() != Some("EREQUEST") {
                        return fail(format!("{operation}: {error}"));
                    }
                    let after = dumped(&mut bench.redis, &bench.keys);
                    prop_assert!(before == after, "{operation} wrote and refused: {error}");
                }
            }
            bench.adds_up()?;
        }
        bench.all_answer()?;
        bench.adds_up()
    });
    assert!(answered > 100 && refused > 100, "{answered}, {refused}");
}

#[test]
fn a_circuit_that_was_written_into_answers_and_a_reset_makes_it_right() {
    let mut bench = Bench::new("tampered");
    let strategy = (doing(), vec(tampering(), 1..5));
    run(700, &strategy, |(doing, tamperings)| {
        bench.set_up(doing);
        for tampering in &tamperings {
            bench.tamper(tampering);
        }
        let window: String = redis::cmd("TYPE")
            .arg(&bench.keys[1])
            .query(&mut bench.redis)
            .unwrap();
        let calls: Option<String> = redis::cmd("HGET")
            .arg(&bench.keys[0])
            .arg("window_shape")
            .query(&mut bench.redis)
            .unwrap_or_default();
        let fits =
            calls.is_none_or(|w| (w.ends_with("ms") && window != "string") || window == "none");
        if fits {
            bench.all_answer()?;
        } else if let Err(error) = bench.all_answer() {
            // A window of the other kind is a key of another type.
            prop_assert!(error.to_string().contains("WRONGTYPE"), "{error}");
        }
        let seen = bench.reset()?;
        prop_assert_eq!(
            (seen.state, seen.calls, seen.failures),
            (State::Closed, 0, 0)
        );
        bench.adds_up()?;
        bench.all_answer()?;
        bench.adds_up()
    });
}

#[test]
fn a_key_of_another_type_is_an_error_that_says_so_until_the_key_is_deleted() {
    let mut bench = Bench::new("retyped");
    let kinds = select(vec!["SET", "LPUSH", "SADD", "ZADD", "HSET"]);
    let strategy = (doing(), 0_usize..9, kinds, select(OPERATIONS.to_vec()));
    run(200, &strategy, |(doing, key, kind, operation)| {
        bench.set_up(doing);
        let name = bench.keys[key].clone();
        let mut write = redis::cmd(kind);
        write.arg(&name);
        match kind {
            "ZADD" => write.arg(1).arg("x"),
            "HSET" => write.arg("x").arg("y"),
            _ => write.arg("x"),
        };
        redis::cmd("DEL").arg(&name).exec(&mut bench.redis).unwrap();
        write.exec(&mut bench.redis).unwrap();
        for operation in [operation, "report", "acquire", "control"] {
            let right = bench.right(operation).bytes();
            match bench.invoke(operation, right) {
                Ok(answer) => Bench::readable(operation, &answer).map(drop)?,
                Err(error) => prop_assert_eq!(error.code(), Some("WRONGTYPE"), "{}", error),
            }
        }
        redis::cmd("DEL").arg(&name).exec(&mut bench.redis).unwrap();
        bench.all_answer()?;
        bench.reset()?;
        bench.all_answer()?;
        bench.adds_up()
    });
}

#[test]
fn a_bucket_that_is_too_large_counts_nothing() {
    let mut bench = Bench::new("bucket");
    bench.set_up(Doing::Counting);
    for bucket in [
        "99999999999999999999 1",
        "1 4503599627370496",
        "9 9 99999999999999999999",
    ] {
        for policy in ["window_buckets=5", "window_ms=120000", ""] {
            let (bucket, policy) = (bucket.as_bytes().to_vec(), policy.as_bytes().to_vec());
            let start = BASE.to_string().into_bytes();
            bench.tamper(&Tampering::Bucket(start, bucket));
            bench.tamper(&Tampering::Field("policy", policy));
            bench.set_time(LATER - 12_000);
            bench.all_answer().unwrap();
        }
    }
}

#[test]
fn a_generation_that_no_replica_could_remember_is_none() {
    let mut bench = Bench::new("generation");
    bench.set_up(Doing::BeingForced);
    let generation = ((1_u64 << 51) + 1).to_string().into_bytes();
    bench.tamper(&Tampering::Field("generation", generation));
    bench.all_answer().unwrap();
    assert_eq!(bench.reset().unwrap().generation, 1);
}

#[tokio::test]
async fn a_stranger_in_the_index_hides_no_circuit() {
    let prefix = unique_prefix("index");
    let store = RedisStore::builder()
        .prefix(&prefix)
        .timeout(Duration::from_secs(10));
    let store = store.open(redis_url()).unwrap();
    let head = Head {
        replica: "r".into(),
        ..Head::default()
    };
    let report = Report {
        head,
        seq: 1,
        ..Report::default()
    };
    store
        .report(&[(Name::new("c").unwrap(), report)])
        .await
        .unwrap();
    let mut index = redis::cmd("ZADD");
    index.arg(format!("{prefix}:circuits"));
    index.arg(1).arg(b"\xff").arg(2).arg("a\nb").arg(3).arg("");
    index.exec(&mut connect(admin_url())).unwrap();
    // The store writes its own entry in the background.
    until("the circuit is listed, and nothing else", async || {
        store.circuits().await.unwrap() == ["c"]
    })
    .await;
}
