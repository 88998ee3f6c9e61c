//! The scripts themselves: headers against bodies, hostile arguments, expiry, memory, reloading.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use commontrip::model::{Acquire, Command, Control, Head, KindNote, Latencies, Release, Report};
use commontrip::store::{RedisStore, Store};
use commontrip::{Counts, Name, Policy, Snapshot, State};
use redis::Connection;

use crate::scripts::{
    OPERATIONS, PARTS, Part, array, connect, dumped, expiries, invoke, keys, packed, read, request,
    script,
};
use crate::support::{OwnServer, admin_url, redis_url, unique_prefix};

fn store(url: &str, prefix: &str) -> RedisStore {
    let builder = RedisStore::builder().prefix(prefix);
    builder.timeout(Duration::from_secs(10)).open(url).unwrap()
}

fn head(replica: &str, now_ms: u64) -> Head {
    Head {
        now_ms,
        replica: replica.into(),
        policy: *Policy::default().rules(),
        ..Head::default()
    }
}

// Headers.

fn field<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = header.split_once(name)?;
    let end = rest.find(['.', '\n']).unwrap_or(rest.len());
    Some(rest[..end].trim())
}

#[test]
fn a_scripts_header_says_what_its_body_does() {
    let model = read("src/model/operations.rs");
    let writes = [
        "HSET",
        "HDEL",
        "DEL",
        "ZADD",
        "ZREM",
        "XADD",
        "SETRANGE",
        "PEXPIRE",
        "PUBLISH",
        "save(",
        "load()",
        "transition(",
        "publish(",
        " set(",
        " add(",
    ];
    let mut found = Vec::new();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("lua")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "lua") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let body_at = text.find("\n\n").expect("a header, then an empty line");
        let (header, body) = text.split_at(body_at);
        assert!(header.lines().all(|line| line.starts_with("--")), "{name}");
        assert!(header.starts_with(&format!("-- {name}: ")), "{name}");

        let mode = field(header, "Mode: ").expect("a mode");
        let written = writes.iter().find(|w| body.contains(**w));
        match mode {
            "read" => assert_eq!(written, None, "{name} is to read only"),
            "write" => assert!(written.is_some(), "{name} writes nothing"),
            other => panic!("{name}: mode {other}"),
        }
        let idempotent = field(header, "Idempotent: ").expect("whether it may be repeated");
        assert!(idempotent.starts_with("yes") || idempotent.starts_with("no"));
        let twin = format!("Twin: model::Circuit::{name}.");
        assert!(header.contains(&twin), "{name}: no {twin}");
        assert!(
            model.contains(&format!("pub fn {name}(")),
            "{name}: no twin"
        );
        for part in [
            "-- KEYS[1..12] ",
            "-- ARGV[1] ",
            "-- Returns ",
            "-- Errors ",
        ] {
            assert!(header.contains(part), "{name}: no {part}");
        }
        assert!(header.contains("\"EARITY ...\" \"EREQUEST ...\""), "{name}");
        let arity = body.trim_start().lines().find(|l| l.contains("'request')"));
        assert!(
            arity.is_some_and(|line| line.starts_with("array(request, ")),
            "{name} does not check how long its request is"
        );
        found.push(name);
    }
    found.sort();
    assert_eq!(found, OPERATIONS);
}

const QUEUE: [&str; 7] = [
    "enqueue", "list", "renew", "settle", "stats", "steer", "take",
];

#[test]
fn a_queues_scripts_header_says_what_its_body_does() {
    let lib = read("lua/queue/lib/jobs.lua");
    let parts = [
        "ready", "jobs", "payloads", "delayed", "leases", "dead", "expiring", "names", "kept",
        "counts",
    ];
    for (i, part) in parts.iter().enumerate() {
        let key = format!("-- KEYS[{}]", i + 1);
        let line = lib
            .lines()
            .find(|line| line.starts_with(&format!("{key} ")));
        let words = line.unwrap().split_whitespace();
        assert_eq!(words.clone().nth(2), Some(*part), "{key}");
    }
    let writes = [
        "'HSET'",
        "'HDEL'",
        "'ZADD'",
        "'ZREM'",
        "'XADD'",
        "'XACK'",
        "'XDEL'",
        "'XREADGROUP'",
        "'XGROUP'",
        "'HINCRBY'",
        "save(",
        "leave(",
        "make_ready(",
        "delay(",
        "forget(",
        "bury(",
        "expire(",
        "count(",
    ];
    let mut found = Vec::new();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("lua/queue")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "lua") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let (header, body) = text.split_at(text.find("\n\n").unwrap());
        assert!(header.lines().all(|line| line.starts_with("--")), "{name}");
        assert!(header.starts_with(&format!("-- {name}: ")), "{name}");
        let written = writes.iter().find(|w| body.contains(**w));
        match field(header, "Mode: ").unwrap() {
            "read" => assert_eq!(written, None, "{name} is to read only"),
            "write" => assert!(written.is_some(), "{name} writes nothing"),
            other => panic!("{name}: mode {other}"),
        }
        let idempotent = field(header, "Idempotent: ").unwrap();
        assert_eq!(idempotent.starts_with("no"), name == "take", "{name}");
        for part in [
            "-- KEYS[1..10] ",
            "-- ARGV[1] ",
            "-- Returns ",
            "-- Errors ",
        ] {
            assert!(header.contains(part), "{name}: no {part}");
        }
        assert!(header.contains("\"EARITY ...\" \"EREQUEST ...\""), "{name}");
        found.push(name);
    }
    found.sort();
    assert_eq!(found, QUEUE);
}

#[test]
fn a_wrong_request_to_a_queue_is_refused_by_its_code_and_changes_nothing() {
    let (prefix, mut redis) = (unique_prefix("hostile-queue"), connect(admin_url()));
    let lib = read("lua/queue/lib/jobs.lua");
    let keys: Vec<_> = (0..10).map(|i| format!("{prefix}:{{q}}:{i}")).collect();
    for name in QUEUE {
        let body = read(&format!("lua/queue/{name}.lua"));
        let script = redis::Script::new(&format!(
            "{lib}local function operate()\n{body}end\nreturn operate()\n"
        ));
        script.load(&mut redis).unwrap();
        let invoke = |redis: &mut Connection, keys: &[String], arguments: &[Vec<u8>]| {
            let mut call = redis::cmd("EVALSHA");
            call.arg(script.get_hash()).arg(keys.len()).arg(keys);
            call.arg(arguments).query::<redis::Value>(redis)
        };
        for (what, bytes) in hostile() {
            let answer = invoke(&mut redis, &keys, &[bytes, b"x".to_vec()]);
            // One script reads no part of its request.
            if let Err(error) = answer {
                assert_eq!(error.code(), Some("EREQUEST"), "{name}, {what}: {error}");
            } else {
                assert_eq!(name, "stats", "{what}");
            }
        }
        for (some, arguments) in [(&keys[..9], 1), (&keys[..], 0), (&keys[..], 3)] {
            let arguments = vec![packed([0; 0]); arguments];
            let error = invoke(&mut redis, some, &arguments).unwrap_err();
            assert_eq!(error.code(), Some("EARITY"), "{name}: {error}");
        }
        let there: u64 = redis::cmd("EXISTS").arg(&keys).query(&mut redis).unwrap();
        assert_eq!(there, 0, "{name}");
    }
}

#[test]
fn every_key_comes_through_keys() {
    let libs = [
        "prelude", "hash", "window", "windows", "latency", "history", "quorum", "in_use", "kinds",
        "circuit",
    ]
    .map(|lib| format!("lua/lib/{lib}.lua"));
    let scripts = OPERATIONS.map(|name| format!("lua/{name}.lua"));
    let fast = ["acquire", "report"].map(|name| format!("lua/fast_path/{name}.lua"));
    let known = [
        "CIRCUIT", "WINDOW", "PROBES", "REPLICAS", "SEQ", "EVENTS", "FAILING", "ALONE", "LATENCY",
        "HISTORY", "CODE", "KINDS", "key", "KEYS[1]", "KEYS[2]",
    ];
    let of_queues = [
        "READY", "JOBS", "PAYLOADS", "DELAYED", "LEASES", "DEAD", "EXPIRING", "NAMES", "KEPT",
        "COUNTS", "key", "'CREATE'", "'GROUP'",
    ];
    let beside = [
        "alerts/claim",
        "key_value/group",
        "key_value/keep",
        "key_value/lease",
    ]
    .map(|name| format!("lua/{name}.lua"));
    let queue = QUEUE.map(|name| format!("lua/queue/{name}.lua"));
    let queue = queue
        .into_iter()
        .chain(["lua/queue/lib/jobs.lua".to_owned()]);
    let circuits = libs.iter().chain(&scripts).chain(&fast).chain(&beside);
    let all = circuits.map(|file| (file.clone(), &known[..]));
    for (file, known) in all.chain(queue.map(|file| (file, &of_queues[..]))) {
        for call in read(&file).split("redis.call(").skip(1) {
            let arguments = call.split(')').next().unwrap();
            let (command, rest) = arguments.split_once(',').unwrap_or((arguments, ""));
            let key = rest.split([',', ')']).next().unwrap().trim();
            assert!(
                command == "'TIME'" || known.contains(&key),
                "{file}: redis.call({arguments})"
            );
        }
    }
}

// Hostile arguments.

fn hostile() -> Vec<(&'static str, Vec<u8>)> {
    let deep = [vec![0x91; 100_000], vec![0]].concat();
    vec![
        ("nothing at all", vec![]),
        ("nil", packed(None::<u8>)),
        ("true", packed(true)),
        ("-1", packed(-1)),
        ("-2", packed(-2)),
        ("1.5", packed(1.5)),
        ("NaN", packed(f64::NAN)),
        ("inf", packed(f64::INFINITY)),
        ("-inf", packed(f64::NEG_INFINITY)),
        ("0", packed(0)),
        ("2^53-1", packed((1_u64 << 53) - 1)),
        ("2^53", packed(1_u64 << 53)),
        ("2^64-1", packed(u64::MAX)),
        ("-2^63", packed(i64::MIN)),
        ("empty text", packed("")),
        ("a number as text", packed("12")),
        ("text", packed("no such word")),
        ("long text", packed("x".repeat(100_000))),
        ("an empty array", packed([0; 0])),
        ("a long array", packed(vec![0_u64; 100_000])),
        ("a map", vec![0x81, 0xa1, b'a', 1]),
        ("a deep array", deep),
        ("a reserved byte", vec![0xc1]),
    ]
}

#[test]
fn a_wrong_request_is_refused_by_its_code_and_changes_nothing() {
    let (prefix, mut redis) = (unique_prefix("hostile"), connect(admin_url()));
    let now = 1_735_689_600_000;
    let good = |operation| request(operation, now).bytes();
    let mut refused = 0;
    for operation in OPERATIONS {
        let script = script(operation);
        script.load(&mut redis).unwrap();
        let report = self::script("report");
        report.load(&mut redis).unwrap();
        let keys = keys(&prefix, operation);
        for (what, bytes) in hostile() {
            for wrong in request(operation, now).replaced(&bytes) {
                // A circuit in use, with values at a third of the limits.
                redis::cmd("DEL").arg(&keys).exec(&mut redis).unwrap();
                let set_up = array(&match request("report", now) {
                    Part::Many(mut parts) => {
                        parts[5] = Part::of(1);
                        parts.iter().map(Part::bytes).collect::<Vec<_>>()
                    }
                    Part::One(_) => unreachable!("a request is an array"),
                });
                invoke(&mut redis, &report, &keys, &[set_up]).unwrap();
                let before = dumped(&mut redis, &keys);
                if let Err(error) = invoke(&mut redis, &script, &keys, &[wrong.bytes()]) {
                    assert_eq!(
                        error.code(),
                        Some("EREQUEST"),
                        "{operation}, {what}: {error}"
                    );
                    assert!(before == dumped(&mut redis, &keys), "{operation}, {what}");
                    refused += 1;
                }
                let expiries = expiries(&mut redis, &keys);
                assert!(!expiries.contains(&-1), "{operation}, {what}: {expiries:?}");
                let after = invoke(&mut redis, &script, &keys, &[good(operation)]);
                assert!(after.is_ok(), "{operation} after {what}: {after:?}");
            }
        }
        for (some, arguments) in [(&keys[..7], 1), (&[], 1), (&keys, 0), (&keys, 3)] {
            let arguments = vec![good(operation); arguments];
            let error = invoke(&mut redis, &script, some, &arguments).unwrap_err();
            assert_eq!(error.code(), Some("EARITY"), "{operation}: {error}");
        }
    }
    assert!(refused > 1000, "{refused}");
}

#[test]
fn latencies_that_no_replica_could_have_measured_are_refused_and_change_nothing() {
    let (prefix, mut redis) = (unique_prefix("latencies"), connect(admin_url()));
    let script = script("report");
    script.load(&mut redis).unwrap();
    let keys = keys(&prefix, "c");
    let mut report = |latencies: Vec<u8>| {
        let Part::Many(mut parts) = request("report", 1_735_689_600_000) else {
            unreachable!("a request is an array")
        };
        parts[14] = Part::One(latencies);
        let answer = invoke(&mut redis, &script, &keys, &[Part::Many(parts).bytes()]);
        (answer, dumped(&mut redis, &keys))
    };
    let all: Vec<u64> = (0..368).flat_map(|bucket| [bucket, 1]).collect();
    let (right, before) = report(packed(&all));
    right.unwrap();
    let too_many = [all.clone(), vec![367, 1]].concat();
    for wrong in [
        packed([16, 5, 17]),
        packed([368, 1]),
        packed([-1, 1]),
        packed([16.5, 1.0]),
        packed([f64::NAN, 1.0]),
        packed([17, 5, 16, 12]),
        packed([16, 5, 16, 12]),
        packed([16, 0]),
        packed([16.0, 1.5]),
        packed([16.0, f64::NAN]),
        packed([16_u64, 1_000_000_000_001]),
        packed(["16", "5"]),
        packed([[16, 5]]),
        packed(too_many),
        packed(vec![1; 200_000]),
    ] {
        let (answer, after) = report(wrong.clone());
        let error = answer.unwrap_err();
        assert_eq!(error.code(), Some("EREQUEST"), "{wrong:x?}: {error}");
        let words = "latencies must be pairs of a bucket, ascending from 0 to 367, and a count";
        assert!(error.to_string().contains(words), "{wrong:x?}: {error}");
        assert!(before == after, "{wrong:x?}");
    }
    let (answer, _) = report(packed(16));
    let error = answer.unwrap_err().to_string();
    assert!(error.contains("latencies must be an array"), "{error}");
}

#[test]
fn kinds_that_no_replica_could_have_noted_are_refused_and_change_nothing() {
    let (prefix, mut redis) = (unique_prefix("kinds"), connect(admin_url()));
    let script = script("report");
    script.load(&mut redis).unwrap();
    let keys = keys(&prefix, "c");
    let mut report = |kinds: Vec<u8>| {
        let Part::Many(mut parts) = request("report", 1_735_689_600_000) else {
            unreachable!("a request is an array")
        };
        parts[15] = Part::One(kinds);
        let answer = invoke(&mut redis, &script, &keys, &[Part::Many(parts).bytes()]);
        (answer, dumped(&mut redis, &keys))
    };
    let sixteen: Vec<_> = (0..16)
        .map(|n| (format!("status {n}"), 1_u64, ""))
        .collect();
    let (right, before) = report(packed(&sixteen));
    right.unwrap();
    for wrong in [
        packed([("", 1, "")]),
        packed([("Timeout", 1, "")]),
        packed([("time\nout", 1, "")]),
        packed([("a".repeat(33), 1, "")]),
        packed([("timeout", 0, "")]),
        packed([("timeout", 1.5, "")]),
        packed([("timeout", 1_000_000_000_001_u64, "")]),
        packed([("timeout", 1, "x".repeat(121))]),
        packed([("timeout", 1)]),
        packed([(7, 1, "")]),
        packed(["timeout"]),
        packed([&sixteen[..], &[("timeout".to_owned(), 1, "")]].concat()),
    ] {
        let (answer, after) = report(wrong.clone());
        let error = answer.unwrap_err();
        assert_eq!(error.code(), Some("EREQUEST"), "{wrong:x?}: {error}");
        assert!(
            error.to_string().contains("kinds must be at most 16"),
            "{wrong:x?}: {error}"
        );
        assert!(before == after, "{wrong:x?}");
    }
}

#[test]
fn a_slice_that_somebody_wrote_counts_when_it_could_be_ours_and_is_empty_otherwise() {
    let (prefix, mut redis) = (unique_prefix("slice"), connect(admin_url()));
    let (report, snapshot) = (script("report"), script("snapshot"));
    report.load(&mut redis).unwrap();
    snapshot.load(&mut redis).unwrap();
    let (keys, now) = (keys(&prefix, "c"), 1_735_689_600_000_u64);
    let largest = (1_u64 << 52) - 1;
    let full = |count: u64| {
        let pairs: Vec<_> = (0..368).map(|b| format!("{b}:{count}")).collect();
        pairs.join(" ")
    };
    let long = [full(largest), " ".repeat(1000)].concat();
    for (written, merged) in [
        ("16:5", "16:10 17:12"),
        ("16:5 17:1 18:3", "16:10 17:13 18:3"),
        ("1:1 20:9", "1:1 16:5 17:12 20:9"),
        ("17:1", "16:5 17:13"),
        (&format!("17:{largest}"), &format!("16:5 17:{largest}")),
        (&full(largest), &full(largest)),
        ("", "16:5 17:12"),
        ("18:3 ", "16:5 17:12"),
        (" 18:3", "16:5 17:12"),
        ("18:3  19:1", "16:5 17:12"),
        ("18:3 19", "16:5 17:12"),
        ("18:3 18:3", "16:5 17:12"),
        ("20:3 18:3", "16:5 17:12"),
        ("1:1:1:1", "16:5 17:12"),
        ("18:0", "16:5 17:12"),
        ("368:1", "16:5 17:12"),
        ("18:4503599627370496", "16:5 17:12"),
        ("18:99999999999999999999", "16:5 17:12"),
        ("words", "16:5 17:12"),
        (&long, "16:5 17:12"),
    ] {
        redis::cmd("DEL").arg(&keys).exec(&mut redis).unwrap();
        let mut write = redis::cmd("HSET");
        write.arg(&keys[8]).arg(now).arg(written);
        // An entry that does not start a slice, or lies outside the window, is not shown, and the
        // next slice removes it.
        for field in [
            "x",
            "-5",
            "1.5",
            "0",
            "1735689540000",
            "99999999999999999999",
        ] {
            write.arg(field).arg("1:1");
        }
        write.exec(&mut redis).unwrap();
        let mut ask = |script, operation, at| {
            let request = request(operation, at).bytes();
            invoke(&mut redis, script, &keys, &[request]).unwrap()
        };
        ask(&report, "report", now);
        let (_, slices, _, _): (Snapshot, Vec<String>, String, Vec<String>) =
            rmp_serde::from_slice(&ask(&snapshot, "snapshot", now)).unwrap();
        assert_eq!(slices, [merged], "{written}");
        let Part::Many(mut next) = request("report", now + 6000) else {
            unreachable!("a request is an array")
        };
        next[5] = Part::of(3);
        invoke(&mut redis, &report, &keys, &[Part::Many(next).bytes()]).unwrap();
        let mut left: Vec<u64> = redis::cmd("HKEYS").arg(&keys[8]).query(&mut redis).unwrap();
        left.sort_unstable();
        assert_eq!(left, [now, now + 6000], "{written}");
    }
}

#[test]
fn a_key_of_another_type_is_named_as_such() {
    let (prefix, mut redis) = (unique_prefix("types"), connect(admin_url()));
    let script = script("report");
    script.load(&mut redis).unwrap();
    for i in 0..PARTS.len() {
        let keys = keys(&prefix, &i.to_string());
        redis::cmd("LPUSH")
            .arg(&keys[i])
            .arg("x")
            .exec(&mut redis)
            .unwrap();
        let request = request("report", 1_735_689_600_000).bytes();
        if let Err(error) = invoke(&mut redis, &script, &keys, &[request]) {
            assert_eq!(error.code(), Some("WRONGTYPE"), "{error}");
        }
    }
}

#[test]
fn a_stored_policy_without_bounds_does_not_break_the_circuit() {
    let (prefix, mut redis) = (unique_prefix("absurd"), connect(admin_url()));
    let keys = keys(&prefix, "c");
    let absurd = "window_ms=0 window_buckets=99999999 window_calls=999999999999999 jitter=999 =4 jitter= probe_lease_ms=-1";
    redis::cmd("HSET")
        .arg(&keys[0])
        .arg(&[
            "state",
            "closed",
            "policy",
            absurd,
            "generation",
            "x",
            "window",
            "time",
            "changed",
            "7",
        ])
        .exec(&mut redis)
        .unwrap();
    for operation in OPERATIONS {
        let script = script(operation);
        script.load(&mut redis).unwrap();
        let request = request(operation, 1_735_689_600_000).bytes();
        invoke(&mut redis, &script, &keys, &[request]).unwrap();
    }
}

// Expiry, memory, reloading.

#[tokio::test]
async fn every_key_expires_and_an_override_without_an_end_outlives_years() {
    let (prefix, mut redis) = (unique_prefix("expiry"), connect(admin_url()));
    let store = store(redis_url(), &prefix);
    let name = Name::new("c").unwrap();
    let report = Report {
        head: head("r", 0),
        seq: 1,
        counts: Counts {
            successes: 1,
            ..Counts::default()
        },
        ..Report::default()
    };
    store.report(&[(name.clone(), report)]).await.unwrap();
    let acquire = Acquire {
        head: head("r", 0),
        token: "t".into(),
    };
    store.acquire(&name, &acquire).await.unwrap();
    let release = Release {
        head: head("r", 0),
        token: "t".into(),
    };
    store.release(&name, &release).await.unwrap();
    let mut failed = Report {
        head: head("s", 0),
        seq: 1,
        counts: Counts {
            failures: 1,
            ..Counts::default()
        },
        alone_ms: 60_000,
        latencies: latency(20, 1),
        kinds: vec![KindNote {
            kind: "timeout".into(),
            count: 1,
            detail: String::new(),
        }],
        ..Report::default()
    };
    failed.head.policy.quorum = 2;
    store.report(&[(name.clone(), failed)]).await.unwrap();
    let there = expiries(&mut redis, &keys(&prefix, "c"));
    assert!(!there[6..].contains(&-2), "{there:?}");
    let day = 86_400_000;
    for (key, expiry) in PARTS.iter().zip(expiries(&mut redis, &keys(&prefix, "c"))) {
        assert!(
            expiry == -2 || (day / 2..30 * day).contains(&expiry),
            "{key} {expiry}"
        );
    }
    let control = Control {
        head: head("r", 0),
        command: Command::ForceOpen,
        ..Control::default()
    };
    let snapshot = store.control(&name, &control).await.unwrap();
    assert_eq!(snapshot.state, State::ForcedOpen);
    let expiry = expiries(&mut redis, &keys(&prefix, "c"))[0];
    assert!(expiry > 5 * 365 * day, "{expiry}");
}

#[tokio::test]
async fn kinds_that_took_the_place_of_all_before_expire_too() {
    let (prefix, mut redis) = (unique_prefix("kinds"), connect(admin_url()));
    let store = store(redis_url(), &prefix);
    let name = Name::new("c").unwrap();
    let (began, hour) = (1_735_689_600_000, 3_600_000);
    for (seq, after, failures) in [(1, 0, 1), (2, 23 * hour, 0), (3, 24 * hour, 1)] {
        let note = |count| KindNote {
            kind: "timeout".into(),
            count,
            detail: String::new(),
        };
        let report = Report {
            head: head("r", began + after),
            seq,
            counts: Counts {
                successes: 20,
                failures,
                ..Counts::default()
            },
            kinds: (failures > 0).then(|| note(failures)).into_iter().collect(),
            ..Report::default()
        };
        store.report(&[(name.clone(), report)]).await.unwrap();
    }
    let kinds = format!("{prefix}:{{c}}:kinds");
    let expires: i64 = redis::cmd("PTTL").arg(&kinds).query(&mut redis).unwrap();
    assert!(expires > 0, "{expires}");
}

#[tokio::test]
async fn a_million_calls_take_no_more_memory_than_ten_thousand() {
    let server = OwnServer::start();
    let (prefix, mut redis) = ("commontrip", connect(&server.admin_url()));
    let store = store(&server.url(), prefix);
    let name = Name::new("payments").unwrap();
    let (mut calls, mut now, mut after_ten_thousand) = (0, 1_735_689_600_000, 0);
    let mut used = [0_u64; PARTS.len()];
    for seq in 1..=1000 {
        let counts = Counts {
            successes: 950,
            failures: 40,
            slow_successes: 3,
            ..Counts::default()
        };
        calls += counts.calls();
        now += 1200;
        for replica in ["a-1f2e3d4c", "b-1f2e3d4c", "c-1f2e3d4c"] {
            let report = Report {
                head: head(replica, now),
                seq,
                counts: if replica.starts_with('a') {
                    counts
                } else {
                    Counts::default()
                },
                ..Report::default()
            };
            store
                .report(&[(name.clone(), report)])
                .await
                .unwrap()
                .remove(0)
                .unwrap();
        }
        let mut all = redis::pipe();
        for key in keys(prefix, "payments") {
            all.cmd("MEMORY").arg("USAGE").arg(key);
        }
        let usage: Vec<Option<u64>> = all.query(&mut redis).unwrap();
        for (most, usage) in used.iter_mut().zip(usage) {
            *most = usage.unwrap_or(0).max(*most);
        }
        if seq == 60 {
            after_ten_thousand = used[..5].iter().sum();
        }
    }
    assert!(calls > 900_000);
    let sum: u64 = used[..5].iter().sum();
    // Written to stderr directly, because the test harness captures `eprintln!`.
    let _ = writeln!(
        io::stderr(),
        "memory: {PARTS:?} {used:?} bytes at most, {sum} together"
    );
    assert!(sum <= 1024, "{sum} bytes");
    assert!(
        sum < after_ten_thousand + 100,
        "{after_ten_thousand}, then {sum}"
    );
}

#[tokio::test]
async fn a_circuits_hash_is_read_without_a_manual_and_stays_small_with_large_counts() {
    let (prefix, mut redis) = (unique_prefix("words"), connect(admin_url()));
    let store = store(redis_url(), &prefix);
    let name = Name::new("payments").unwrap();
    let circuit = keys(&prefix, "payments").swap_remove(0);
    let mut seen = Snapshot::default();
    // Two reports in each bucket: the second one takes the fast path.
    let mut report = async |seq: u64, many: u64| {
        let mut head = head("r", 1_735_689_600_000 + seq / 2 * 1000 + seq % 2);
        let policy = &mut head.policy;
        (
            policy.failure_rate_threshold,
            policy.consecutive_failures_threshold,
        ) = (0, 0);
        head.seen = seen.clone();
        let counts = Counts {
            successes: 9 * many,
            failures: 2 * many,
            slow_successes: many,
            ignored: 3 * many,
            rejected: 4 * many,
            abandoned: 5 * many,
            ..Counts::default()
        };
        let report = Report {
            head,
            seq,
            counts,
            ..Report::default()
        };
        let answers = store.report(&[(name.clone(), report)]).await;
        seen = answers.unwrap().remove(0).unwrap();
        redis::cmd("HGETALL")
            .arg(&circuit)
            .query::<BTreeMap<String, String>>(&mut redis)
            .unwrap()
    };
    for seq in 2..5 {
        report(seq, 1).await;
    }
    let fields = report(5, 1).await;
    for (field, value) in [
        ("window", "calls=44 failures=8 slow=4"),
        ("undecided", "20"),
        ("total", "successes=36 failures=8 slow=4"),
        ("ignored_total", "12"),
        ("rejected_total", "16"),
        ("abandoned_total", "20"),
        ("last_success_ms", "1735689602001"),
        ("last_failure_ms", "1735689602001"),
        ("window_shape", "10x1000ms"),
        ("bucket_at_ms", "1735689602000"),
        ("ended_buckets", "calls=22 failures=4 slow=2"),
        ("ended_undecided", "10"),
    ] {
        assert_eq!(fields[field], value, "{field}: {fields:?}");
    }

    for many in [1_000_000_000, 10_000_000_000] {
        for seq in 0..4 {
            let fields = report(many / 1_000_000 + seq, many).await;
            let longest = fields.values().map(String::len).max().unwrap();
            assert!(longest <= 64, "{longest}: {fields:?}");
        }
    }
    let encoding: String = redis::cmd("OBJECT")
        .arg("ENCODING")
        .arg(&circuit)
        .query(&mut redis)
        .unwrap();
    assert_eq!(encoding, "listpack");
}

#[tokio::test]
async fn replicas_that_come_and_go_leave_nothing_behind() {
    let (prefix, mut redis) = (unique_prefix("come-and-go"), connect(admin_url()));
    let store = store(redis_url(), &prefix);
    let name = Name::new("c").unwrap();
    for n in 0..300 {
        let mut report = Report {
            head: head(&format!("replica-{n}"), 1_735_689_600_000 + n * 1000),
            seq: 1,
            counts: Counts {
                failures: 1,
                ..Counts::default()
            },
            alone_ms: 5000,
            latencies: latency(n, 1),
            ..Report::default()
        };
        report.head.policy.quorum = 1000;
        report.head.policy.window_ms = 10_000;
        let seen = store.report(&[(name.clone(), report)]).await.unwrap();
        let seen = seen.into_iter().next().unwrap().unwrap();
        assert_eq!(seen.failing, 10.min(n + 1));
        assert_eq!(seen.alone, 5.min(n + 1));
    }
    let slices: u64 = redis::cmd("HLEN")
        .arg(&keys(&prefix, "c")[8])
        .query(&mut redis)
        .unwrap();
    assert_eq!(slices, 10);
    let sizes: Vec<u64> = keys(&prefix, "c")[6..8]
        .iter()
        .map(|key| redis::cmd("ZCARD").arg(key).query(&mut redis).unwrap())
        .collect();
    assert_eq!(sizes, [10, 5]);
}

fn latency(ms: u64, calls: u64) -> Latencies {
    let mut latencies = Latencies::default();
    latencies.record(Duration::from_millis(ms), calls);
    latencies
}

/// How often each command ran, except `EVALSHA` and the commands of this query.
fn commands(redis: &mut Connection) -> BTreeMap<String, u64> {
    let mut info = redis::cmd("INFO");
    let stats: String = info.arg("commandstats").query(redis).unwrap();
    let ran = stats.lines().filter_map(|line| {
        let (command, numbers) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let count = numbers.split(',').next()?.parse().ok()?;
        Some((command.to_owned(), count))
    });
    ran.filter(|(command, _)| !["info", "config|resetstat"].contains(&command.as_str()))
        .collect()
}

#[test]
fn without_a_quorum_or_latencies_a_report_costs_no_command_more() {
    let server = OwnServer::start();
    let (script, mut redis) = (script("report"), connect(&server.admin_url()));
    script.load(&mut redis).unwrap();
    let keys = keys("commontrip", "c");
    let mut ran = |seq: u64, quorum: u64, latencies: &[u64]| {
        let Part::Many(mut parts) = request("report", 1_735_689_600_000 + seq) else {
            unreachable!("a request is an array")
        };
        let Part::Many(policy) = &mut parts[3] else {
            unreachable!("so is a policy")
        };
        policy[24] = Part::of(quorum);
        // The generation that the request remembers.
        (parts[5], parts[6]) = (Part::of(seq), Part::of(1));
        parts[12] = Part::Many(vec![]);
        parts[14] = Part::of(latencies);
        parts[15] = Part::Many(vec![]);
        let reset = redis::cmd("CONFIG").arg("RESETSTAT").exec(&mut redis);
        reset.unwrap();
        let bytes = Part::Many(parts).bytes();
        invoke(&mut redis, &script, &keys, &[bytes]).unwrap();
        commands(&mut redis)
    };
    ran(1, 1, &[16, 1]);
    let one = ran(2, 1, &[]);
    let sets = one.keys().filter(|command| command.starts_with('z'));
    assert_eq!(sets.count(), 0, "{one:?}");
    assert_eq!(one["hset"], 2, "{one:?}");
    let two = ran(3, 2, &[]);
    assert_eq!((two["zadd"], two["zcount"]), (2, 2), "{two:?}");
    let mut measured = ran(4, 1, &[16, 1, 17, 5]);
    for command in ["hget", "hset"] {
        *measured.get_mut(command).unwrap() -= 1;
    }
    assert_eq!(measured, one, "latencies are read and written once");
}

#[tokio::test]
async fn scripts_that_were_flushed_are_loaded_again() {
    let server = OwnServer::start();
    let store = store(&server.url(), "commontrip-test-c");
    let name = Name::new("c").unwrap();
    for _ in 0..3 {
        let acquire = Acquire {
            head: head("r", 0),
            token: "t".into(),
        };
        store.acquire(&name, &acquire).await.unwrap();
        store.snapshot(&name, &head("r", 0)).await.unwrap();
        let mut redis = connect(&server.admin_url());
        redis::cmd("SCRIPT").arg("FLUSH").exec(&mut redis).unwrap();
    }
}

fn sources(folder: &str, ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.display().to_string();
        if path.is_dir() {
            found.extend(sources(&name, ending));
        } else if name.ends_with(ending) {
            found.push((name, std::fs::read_to_string(path).unwrap()));
        }
    }
    found
}

/// The text after `Twin: ` up to the end of its sentence, without comment marks.
fn twins(source: &str) -> Vec<String> {
    let rests = source.split("Twin: ").skip(1);
    let sentence = |rest: &str| {
        let lines: Vec<_> = rest
            .lines()
            .map(|line| line.trim_start_matches(['/', '!', '-', ' ']))
            .collect();
        let text = lines.join(" ");
        let end = text
            .find(". ")
            .or_else(|| text.find(".`"))
            .unwrap_or(text.len());
        text[..end.min(160)].trim_end_matches('.').to_owned()
    };
    rests.map(sentence).collect()
}

#[test]
fn the_twins_that_are_named_exist() {
    let rust = sources("src", ".rs");
    let mut named = 0;
    for (file, source) in &rust {
        for twin in twins(source) {
            let paths = twin.split('`').filter(|word| word.starts_with("lua/"));
            for path in paths.map(|path| path.trim_end_matches("*.lua")) {
                named += 1;
                assert!(Path::new(path).exists(), "{file}: there is no {path}");
            }
        }
    }
    for (file, source) in sources("lua", ".lua") {
        for twin in twins(&source) {
            let path = twin.split([' ', '`']).find(|word| word.contains("::"));
            let path = path.unwrap_or_else(|| panic!("{file}: {twin:?} names nothing"));
            named += 1;
            let parts: Vec<_> = path.split("::").collect();
            let (room, last) = (parts[0], parts[parts.len() - 1]);
            let is_module = Path::new(&format!("src/{}.rs", parts.join("/"))).exists();
            let items = ["fn", "struct", "enum"].map(|kind| format!("{kind} {last}"));
            let in_room = rust
                .iter()
                .filter(|(file, _)| file.starts_with(&format!("src/{room}")));
            let is_item = in_room.flat_map(|(_, source)| source.lines()).any(|line| {
                items.iter().any(|item| {
                    let rest = line.split_once(item.as_str()).map(|(_, rest)| rest);
                    rest.is_some_and(|rest| {
                        !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_')
                    })
                })
            });
            assert!(is_module || is_item, "{file}: there is no {path}");
        }
    }
    assert!(named > 30, "{named} twins are named");
}
