//! A fleet that moves from this release's format to a fictitious next one, and back.
//!
//! The next format has an additional total. By the rule of ARCHITECTURE.md, "Upgrades", it takes
//! two releases: the first one reads it, but keeps the format that it finds; the second one writes
//! it.

use std::{thread, time::Duration};

use commontrip::{
    Commontrip, Counts, Policy,
    model::{Head, Report},
};
use redis::{Connection, Script};

use crate::{
    scripts::{connect, fast_path, invoke, keys, packed, text},
    support::{admin_url, redis_url, unique, unique_prefix},
    traces::listen,
    wait::until,
};

const THREADS: u64 = 4;
const REPORTS: u64 = 150;

/// The report script of a release that writes one format and supports those up to another.
fn release(writes: u64, reads: u64) -> Script {
    let mut text = text("report");
    let mut replace = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        text = text.replacen(from, to, 1);
    };
    replace("local FORMAT = 1", &format!("local FORMAT = {writes}"));
    replace(
        "local NEWEST_FORMAT = 1",
        &format!("local NEWEST_FORMAT = {reads}"),
    );
    if reads > 1 {
        replace(
            "parse_words(c.total, TOTAL_READ)",
            "parse_words((string.gsub(c.total, ' seventh=%d+$', '')), TOTAL_READ)
             c.seventh = c.format > 1 and tonumber(string.match(c.total, ' seventh=(%d+)$')) or 0",
        );
        replace(
            "local left, most =",
            "if c.format > 1 then
               set(c, 'total', string.format(TOTAL .. ' seventh=%d', c.successes_total, c.failures_total, c.slow_total, c.seventh))
             end
             local left, most =",
        );
        replace(
            "c.successes_total = ",
            "c.seventh = c.seventh + successes
             c.successes_total = ",
        );
    }
    Script::new(&text)
}

fn report(replica: &str, seq: u64, successes: u64) -> Vec<u8> {
    report_at(0, replica, seq, successes)
}

fn report_at(now_ms: u64, replica: &str, seq: u64, successes: u64) -> Vec<u8> {
    packed(Report {
        head: Head {
            now_ms,
            replica: replica.to_owned(),
            ..Head::default()
        },
        seq,
        counts: Counts {
            successes,
            ..Counts::default()
        },
        ..Report::default()
    })
}

/// Sends reports of several replicas at once. The replicas alternate between the releases.
fn traffic(phase: &str, keys: &[String], releases: &[&Script]) {
    thread::scope(|scope| {
        for n in 0..THREADS {
            let release = releases[n as usize % releases.len()];
            scope.spawn(move || {
                let mut redis = connect(admin_url());
                for seq in 1..=REPORTS {
                    let report = report(&format!("{phase}-{n}"), seq, 1);
                    invoke(&mut redis, release, keys, &[report]).unwrap();
                }
            });
        }
    });
}

fn field(redis: &mut Connection, keys: &[String], name: &str) -> String {
    let mut read = redis::cmd("HGET");
    read.arg(&keys[0]).arg(name).query(redis).unwrap()
}

fn totals(redis: &mut Connection, keys: &[String]) -> Vec<u64> {
    let total = field(redis, keys, "total");
    let number = |word: &str| word.split_once('=').unwrap().1.parse().unwrap();
    total.split(' ').map(number).collect()
}

#[test]
fn a_fleet_rolls_to_the_next_format_and_back_under_traffic_and_loses_nothing() {
    let (prefix, mut redis) = (unique_prefix("rolling"), connect(admin_url()));
    let (this, bridge, next) = (release(1, 1), release(1, 2), release(2, 2));
    for script in [&this, &bridge, &next] {
        script.load(&mut redis).unwrap();
    }
    let keys = keys(&prefix, &unique("c"));
    let phase = THREADS * REPORTS;

    traffic("bridging", &keys, &[&this, &bridge]);
    assert_eq!(field(&mut redis, &keys, "format"), "1");
    assert_eq!(totals(&mut redis, &keys), [phase, 0, 0]);

    // The first write of the next release changes the format; all releases keep its additional
    // field.
    let first = report("first", 1, 0);
    invoke(&mut redis, &next, &keys, &[first]).unwrap();
    redis::cmd("HSET")
        .arg(&keys[0])
        .arg("invented")
        .arg("kept")
        .exec(&mut redis)
        .unwrap();
    traffic("forward", &keys, &[&bridge, &next]);
    assert_eq!(field(&mut redis, &keys, "format"), "2");
    assert_eq!(totals(&mut redis, &keys), [2 * phase, 0, 0, phase]);

    traffic("back", &keys, &[&bridge]);
    let all = [3 * phase, 0, 0, 2 * phase];
    assert_eq!(totals(&mut redis, &keys), all);
    assert_eq!(field(&mut redis, &keys, "invented"), "kept");

    // A late report of this release changes nothing.
    let late = invoke(&mut redis, &this, &keys, &[report("late", 1, 1)]);
    let error = late.unwrap_err();
    assert_eq!(error.code(), Some("EFORMAT"), "{error}");
    assert_eq!(totals(&mut redis, &keys), all);
}

#[test]
fn the_fast_path_leaves_another_format_alone() {
    let (prefix, mut redis) = (unique_prefix("rolling"), connect(admin_url()));
    let keys = keys(&prefix, &unique("c"));
    let (full, now) = (release(1, 1), 1_735_689_600_000_u64);
    full.load(&mut redis).unwrap();
    for seq in 1..3 {
        invoke(&mut redis, &full, &keys, &[report_at(now, "r", seq, 1)]).unwrap();
    }
    for (format, answers) in [("2", false), ("x", false), ("", false), ("1", true)] {
        redis::cmd("HSET")
            .arg(&keys[0])
            .arg("format")
            .arg(format)
            .exec(&mut redis)
            .unwrap();
        // Now, seq, generation, since, then calls; the width of a bucket and thresholds that
        // nothing meets.
        let wide = [now, 3, 0, 0].map(|n| n.to_be_bytes()[2..].to_vec());
        let mut brief = wide.concat();
        for n in [
            1_u32,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            1000,
            20,
            101,
            u32::MAX,
            u32::MAX,
            101,
        ] {
            brief.extend(n.to_be_bytes());
        }
        let (script, taken) = fast_path("report", &keys);
        let mut invocation = script.key(taken);
        invocation.arg(brief).arg("10x1000ms").arg("r");
        let answer: Option<Vec<String>> = invocation.invoke(&mut redis).unwrap();
        assert_eq!(answer.is_some(), answers, "format {format:?}: {answer:?}");
    }
}

#[tokio::test]
async fn a_release_that_is_too_old_goes_on_locally_says_so_and_reports_when_it_can() {
    let (log, _guard) = listen();
    let (prefix, name) = (unique_prefix("rolling"), unique("payments"));
    let replica = Commontrip::builder()
        .redis(redis_url())
        .prefix(&prefix)
        .store_timeout(Duration::from_secs(5))
        .build()
        .unwrap();
    let circuit = replica.circuit(&name, Policy::default()).unwrap();
    let call = async || circuit.acquire().await.unwrap().success();
    call().await;
    replica.flush().await;
    let keys = keys(&prefix, &name);
    let mut redis = connect(admin_url());
    let mut set = |format: u64| {
        let mut set = redis::cmd("HSET");
        set.arg(&keys[0]).arg("format").arg(format);
        set.exec(&mut redis).unwrap();
    };

    set(2);
    call().await;
    replica.flush().await;
    until("the circuit decides by itself", async || {
        replica.health().circuits_unavailable == 1
    })
    .await;
    let error = replica.health().last_error.unwrap();
    assert!(
        error.contains("a newer release has written the circuit"),
        "{error}"
    );
    for _ in 0..50 {
        call().await;
    }
    let error = circuit.snapshot().await.unwrap_err().to_string();
    assert!(error.contains("format 2"), "{error}");
    assert_eq!(log.of("the store refuses circuits").len(), 1);

    set(1);
    until("it is back", async || {
        replica.health().circuits_unavailable == 0
    })
    .await;
    until("everything is reported", async || {
        replica.flush().await;
        circuit.snapshot().await.unwrap().successes_total == 52
    })
    .await;
}
