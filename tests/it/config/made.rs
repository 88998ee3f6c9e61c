//! Health checks and last good values that are configured by files and variables.

use std::{io, time::Duration};

use commontrip::{
    Clock, Commontrip,
    config::Config,
    fallback::{LastGood, LastGoodError},
    health::{Check, CheckStatus, HealthMonitor},
};

use super::{load, variables, wrong};
use crate::wait::until;

const TOML: &str = "
[default_check]
interval = '20ms'
failure_threshold = 2

[checks.orders-db]
timeout_ms = 700
history = 4
error_rate_warning = '10%'

[default_fallback]
ttl = '1h'

[fallbacks.speech]
ttl = '30s'
max_entries = 2
";

fn failing(name: &str) -> Check {
    Check::new(name, || async { Err(io::Error::other("down")) })
}

#[tokio::test]
async fn a_check_runs_as_it_is_said_and_the_environment_wins() {
    let pairs = [
        ("COMMONTRIP_CHECKS_TIMEOUT", "9s"),
        ("COMMONTRIP_CHECKS_ORDERS_DB_FAILURE_THRESHOLD", "1"),
        ("COMMONTRIP_CHECKS_OTHER_LATENCY_CRITICAL", "2s"),
    ];
    let config = load("toml", TOML, &pairs).unwrap();
    let circuits = Commontrip::embedded().unwrap();
    let monitor = HealthMonitor::builder(&circuits)
        .check(config.health_check(failing("orders-db")).unwrap())
        .check(config.health_check(failing("other")).unwrap())
        .start()
        .unwrap();
    let seen = |name: &str| monitor.check(name).unwrap();
    until("both have run", async || {
        seen("orders-db").runs >= 6 && seen("other").runs >= 6
    })
    .await;
    let (one, other) = (seen("orders-db"), seen("other"));
    assert_eq!((one.interval_ms, one.timeout_ms), (20, 700));
    assert_eq!((other.interval_ms, other.timeout_ms), (20, 9000));
    assert_eq!((one.history.len(), one.status), (4, CheckStatus::Critical));
    monitor.stop().await;
    // Settings that are configured nowhere come from the code.
    let slow = failing("x").history(77).latency(ms(1), ms(2));
    let slow = format!("{:?}", config.health_check(slow).unwrap());
    assert!(slow.contains("latency: Some((1ms, 2ms))"), "{slow}");
    assert!(slow.contains("failures: 2"), "{slow}");
    let one = format!("{:?}", config.health_check(failing("orders-db")).unwrap());
    assert!(one.contains("failures: 1"), "{one}");
    assert!(one.contains("error_rate: Some((10, 100))"), "{one}");
    let other = format!("{:?}", config.health_check(failing("other")).unwrap());
    assert!(other.contains("latency: Some((2s, 2s))"), "{other}");
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[tokio::test]
async fn last_good_values_are_kept_as_it_is_said() {
    let pairs = [("COMMONTRIP_FALLBACKS_SPEECH_TTL", "10s")];
    let config = load("toml", TOML, &pairs).unwrap();
    for (name, lives) in [("speech", 10), ("other", 3600)] {
        let clock = Clock::manual();
        let builder = LastGood::<String>::builder(name).clock(clock.clone());
        let kept = config.last_good(builder).unwrap().build().unwrap();
        for key in ["a", "b", "c"] {
            kept.keep(key, &"x".to_owned());
        }
        let first = kept.recall("a").await.is_some();
        assert_eq!(first, name == "other", "{name} keeps two keys");
        clock.advance(Duration::from_secs(lives - 1));
        assert!(kept.recall("c").await.is_some());
        clock.advance(Duration::from_secs(2));
        assert!(kept.recall("c").await.is_none(), "{name}");
    }
    // The builder reports a mistake in code.
    let bad = LastGood::<()>::builder("y").max_entries(0);
    let bad = Config::from_variables([]).unwrap().last_good(bad).unwrap();
    assert_eq!(bad.build().err(), Some(LastGoodError::MaxEntries));
}

#[test]
fn a_variable_is_judged_with_what_the_file_says_of_the_same_name() {
    let checks =
        "[default_check]\nlatency_critical_ms = 200\n[checks.orders-db]\nlatency_critical_ms = 500";
    let warning = [("COMMONTRIP_CHECKS_ORDERS_DB_LATENCY_WARNING", "300ms")];
    load("toml", checks, &warning).unwrap();
    let circuits = "[default]\nwait_duration_in_open_state = '1s'\nmax_wait_duration_in_open_state = '6s'\n\
                    backoff_multiplier_percent = 200\n                    [circuits.orders-db]\nmax_wait_duration_in_open_state = '1m'";
    let wait = [("COMMONTRIP_ORDERS_DB_WAIT_DURATION_IN_OPEN_STATE", "30s")];
    load("toml", circuits, &wait).unwrap();
    // Settings of a name that the file does not have are validated with the defaults.
    let other = [("COMMONTRIP_OTHER_WAIT_DURATION_IN_OPEN_STATE", "30s")];
    load("toml", circuits, &other).unwrap_err();
}

#[test]
fn what_is_wrong_is_told_by_its_line_or_variable() {
    for (text, said) in [
        (
            "[checks.a]\n\ninterval = '5ms'",
            "F:3: `interval` must be from 10 ms to 1 h",
        ),
        (
            "[checks.a]\ninterval = 5",
            "F:2: `interval` is 5, but must be a time such as \"30s\" or \"1m 30s\"; `interval_ms` takes milliseconds",
        ),
        (
            "[default_check]\nintervall = '5s'",
            "F:2: unknown key `intervall` in `default_check`: did you mean `interval`?",
        ),
        (
            "[checks.a]\nlatency_warning = '2s'\nlatency_critical = '1s'",
            "F:3: `latency` must be above 0, and critical not below warning",
        ),
        (
            "[fallbacks.a]\nttl_ms = 0",
            "F:2: a ttl of 0ns is not possible: 1 ms to a year",
        ),
        (
            "[default_fallback]\nmax_bytes = 0",
            "F:2: max_bytes is 0; it must be 1 or more",
        ),
        (
            "[check.a]\ninterval = '5s'",
            "F:1: unknown key `check`: did you mean `checks`?",
        ),
    ] {
        assert_eq!(wrong("toml", text, &[]), said);
    }
    for (name, value, said) in [
        (
            "COMMONTRIP_CHECKS_ORDERS_DB_TIMEOUT",
            "much",
            "COMMONTRIP_CHECKS_ORDERS_DB_TIMEOUT: `timeout` is \"much\", but must be a time such as 30s, 1m30s or 250ms, or whole milliseconds",
        ),
        (
            "COMMONTRIP_CHECKS_ORDERS_DB_TIMOUT",
            "5s",
            "COMMONTRIP_CHECKS_ORDERS_DB_TIMOUT: it names no setting of a check: did you mean COMMONTRIP_CHECKS_ORDERS_DB_TIMEOUT?",
        ),
        (
            "COMMONTRIP_FALLBACKS_SPEECH",
            "5s",
            "COMMONTRIP_FALLBACKS_SPEECH: it names no setting of a fallback: write COMMONTRIP_FALLBACKS_TTL for all, COMMONTRIP_FALLBACKS_SPEECH_TTL for `speech`",
        ),
        (
            "COMMONTRIP_FALLBACKS_TTL",
            "0",
            "COMMONTRIP_FALLBACKS_TTL: a ttl of 0ns is not possible: 1 ms to a year",
        ),
    ] {
        assert_eq!(wrong("toml", "", &[(name, value)]), said);
    }
    // A circuit whose name only begins the same.
    let circuit = variables(&[("COMMONTRIP_CHECKOUT_JITTER", "7")]);
    let config = Config::from_variables(circuit).unwrap();
    assert_eq!(config.policy("checkout").unwrap().rules().jitter, 7);
}
