//! Error texts for invalid files and variables.

use commontrip::config::{Config, ConfigError};

use super::{variables, wrong};

#[test]
fn a_file_that_is_wrong_is_told_by_its_line() {
    for (text, said) in [
        (
            "enabled = 1",
            "F:1: `enabled` is 1, but must be true or false",
        ),
        (
            "\n[defaults]",
            "F:2: unknown key `defaults`: did you mean `default`?",
        ),
        (
            "zz = 1",
            "F:1: unknown key `zz`: there are enabled, default, presets, circuits, default_check, checks, default_fallback, fallbacks",
        ),
        (
            "default = 3",
            "F:1: `default` is 3, but must be a table of settings",
        ),
        (
            "[default]\n\nfailure_rate_treshold = 5",
            "F:3: unknown key `failure_rate_treshold` in `default`: did you mean `failure_rate_threshold`?",
        ),
        (
            "[default]\nwait_duration_in_open_state = 30",
            "F:2: `wait_duration_in_open_state` is 30, but must be a time such as \"30s\" or \"1m 30s\"; `wait_duration_in_open_state_ms` takes milliseconds",
        ),
        (
            "[default]\nwindow_ms = '30s'",
            "F:2: `window_ms` is \"30s\", but must be whole milliseconds; write `window` for a time in words",
        ),
        (
            "[default]\njitter = -5",
            "F:2: `jitter` is -5, but must be a whole number",
        ),
        (
            "[default]\njitter = [5]",
            "F:2: `jitter` is a list, but must be a whole number",
        ),
        (
            "[default]\nquorum = 99999999999999999",
            "F:2: `quorum` is 99999999999999999, but must be a smaller number",
        ),
        (
            "[default]\nwindow_ms = 5000\nwindow = '5s'",
            "F:3: `window_ms` is set twice, also at F:2",
        ),
        (
            "[default]\non_store_failure = 'open'",
            "F:2: `on_store_failure` is \"open\", but must be \"local\", \"allow\" or \"reject\"",
        ),
        (
            "[circuits.payments]\nquorum = 2\njitter = 130",
            "F:3: jitter is 130, but must be from 0 to 100 percent",
        ),
        (
            "[presets.unused]\njitter = 130",
            "F:2: jitter is 130, but must be from 0 to 100 percent",
        ),
        (
            "[default]\nfailure_rate_threshold = 0\nconsecutive_failures_threshold = 0",
            "F:2: no trip condition: set failure_rate_threshold, failure_count_threshold, consecutive_failures_threshold or slow_call_duration_threshold",
        ),
        (
            "[default]\ncall_timeout = '8s'\n[circuits.payments]\nprobe_lease = '5s'",
            "F:4: probe_lease_ms is 5000, but call_timeout_ms is 8000: a probe that outlives its lease decides nothing, and other probes start while it still runs; set probe_lease_ms to at least call_timeout_ms",
        ),
        (
            "[circuits.payments]\npreset = 'fast'\ncall_timeout = '8s'",
            "F:3: probe_lease_ms is 5000, but call_timeout_ms is 8000: a probe that outlives its lease decides nothing, and other probes start while it still runs; set probe_lease_ms to at least call_timeout_ms",
        ),
        (
            "[presets.few]\nwindow_calls = 10\nfailure_count_threshold = 20",
            "F:3: failure_count_threshold is 20, but window_calls is 10: the window can never hold that many failures; set failure_count_threshold to at most window_calls",
        ),
        (
            "[circuits.payments]\n\npreset = 'databse'",
            "F:3: there is no preset `databse`: did you mean `database`?",
        ),
        (
            "[presets.fast]\njitter = 1",
            "F:1: preset `fast` is built in: choose another name",
        ),
        (
            "[presets.x]\npreset = 'fast'",
            "F:2: `presets.x` is a preset, which cannot have a `preset` of its own",
        ),
        (
            "[default]\nenabled = false",
            "F:2: `default` cannot have `enabled`: set it at the top level for all circuits, or in `circuits.NAME` for one",
        ),
        (
            "[circuits.a]\nenabled = 'false'",
            "F:2: `enabled` is \"false\", but must be true or false",
        ),
        (
            "[default]\nzzz = 1",
            "F:2: unknown key `zzz` in `default`: keys are those of a policy, such as `jitter`",
        ),
        (
            "[default]\nsliding_window_time = '5s'",
            "F:2: unknown key `sliding_window_time` in `default`: here it is `window`",
        ),
        (
            "[default]\nfailureRatio = 1",
            "F:2: unknown key `failureRatio` in `default`: here it is `failure_rate_threshold`, in percent",
        ),
        (
            "[default]\nlatency_recording = 'some'",
            "F:2: `latency_recording` is \"some\", but must be off or sampled or every_call",
        ),
        ("[default]\njitter = \n", "F:2: "),
    ] {
        let words = wrong("toml", text, &[]);
        match said.ends_with(' ') {
            true => assert!(words.starts_with(said), "{words}"),
            false => assert_eq!(words, said),
        }
    }
    for (text, said) in [
        (
            "enabled: 1",
            "F:1: `enabled` is 1, but must be true or false",
        ),
        (
            "default:\n  jitter: 5\n  failure_rate_treshold: 5",
            "F:3: unknown key `failure_rate_treshold` in `default`: did you mean `failure_rate_threshold`?",
        ),
        (
            "default:\n  jitter: -5",
            "F:2: `jitter` is -5, but must be a whole number",
        ),
        (
            "default:\n  jitter: 0.5",
            "F:2: `jitter` is 0.5, but must be a whole number",
        ),
        (
            "default:\n  jitter:",
            "F:2: `jitter` is empty, but must be a whole number",
        ),
        (
            "- a\n- b",
            "F:1: `the file` is a list, but must be a table of settings",
        ),
        (
            "circuits:\n  a:\n    quorum: 2\n  b:\n    jitter: 130",
            "F:5: jitter is 130, but must be from 0 to 100 percent",
        ),
        ("default:\n  jitter: 5\n  jitter: 6", "F:3: "),
        ("default:\n  jitter: [5", "F:"),
    ] {
        let words = wrong("yaml", text, &[]);
        match said.ends_with(['0', '%', 't', 'e', 'r', 's', '?']) {
            true => assert_eq!(words, said),
            false => assert!(words.starts_with(said), "{words}"),
        }
        assert_eq!(words.lines().count(), 1, "{words}");
    }
    let words = wrong("json", "{}", &[]);
    assert_eq!(
        words,
        "F is not a configuration file: its name must end in .toml, .yaml or .yml"
    );
    let missing = Config::load_with("/nowhere/commontrip.toml", []).unwrap_err();
    assert!(matches!(missing, ConfigError::Read { .. }), "{missing}");
}

#[test]
fn a_variable_that_is_wrong_is_told_by_its_name() {
    for (name, value, said) in [
        (
            "COMMONTRIP_JITTER",
            "much",
            "COMMONTRIP_JITTER: `jitter` is \"much\", but must be whole percent, such as 30%",
        ),
        (
            "COMMONTRIP_PAYMENTS_JITTER",
            "130",
            "COMMONTRIP_PAYMENTS_JITTER: jitter is 130, but must be from 0 to 100 percent",
        ),
        (
            "COMMONTRIP_ENABLED",
            "no",
            "COMMONTRIP_ENABLED: it is \"no\", but must be true or false",
        ),
        (
            "COMMONTRIP_PAYMENTS_ENABLED",
            "no",
            "COMMONTRIP_PAYMENTS_ENABLED: `enabled` is \"no\", but must be true or false",
        ),
        (
            "COMMONTRIP_PAYMENTS_CIRCUIT_BREAKER_ENABLED",
            "false",
            "COMMONTRIP_PAYMENTS_CIRCUIT_BREAKER_ENABLED: it names no setting: here it is no setting of a policy: `enabled` of the circuit in a file or a variable, `set_enabled` in code, `commontrip disable` for the fleet",
        ),
        (
            "COMMONTRIP_PAYMENTS_FAILURE_RATE_TRESHOLD",
            "5",
            "COMMONTRIP_PAYMENTS_FAILURE_RATE_TRESHOLD: it names no setting: did you mean COMMONTRIP_PAYMENTS_FAILURE_RATE_THRESHOLD?",
        ),
        (
            "COMMONTRIP_PAYMENTS_FAILURE_THRESHOLD",
            "5",
            "COMMONTRIP_PAYMENTS_FAILURE_THRESHOLD: it names no setting: here it is `consecutive_failures_threshold` for failures in a row, `failure_count_threshold` for failures in the window, in capitals",
        ),
        (
            "COMMONTRIP_PAYMENTS_FAILURE_TRESHOLD",
            "5",
            "COMMONTRIP_PAYMENTS_FAILURE_TRESHOLD: it names no setting: here it is `consecutive_failures_threshold` for failures in a row, `failure_count_threshold` for failures in the window, in capitals",
        ),
        (
            "COMMONTRIP_FALURE_RATE_THRESHOLD",
            "5",
            "COMMONTRIP_FALURE_RATE_THRESHOLD: it names no setting: did you mean COMMONTRIP_FAILURE_RATE_THRESHOLD?",
        ),
        (
            "COMMONTRIP_PAYMENTS_TIMEOUT",
            "5",
            "COMMONTRIP_PAYMENTS_TIMEOUT: it names no setting: here it is `call_timeout` for how long a call may take, `wait_duration_in_open_state` for how long the circuit stays open, in capitals",
        ),
        (
            "COMMONTRIP_PAYMENTS_ERROR_FILTER",
            "5",
            "COMMONTRIP_PAYMENTS_ERROR_FILTER: it names no setting: here it is in code: a classifier for `call_with`",
        ),
        (
            "COMMONTRIP_X",
            "5",
            "COMMONTRIP_X: it names no setting: write COMMONTRIP_FAILURE_RATE_THRESHOLD for all circuits, COMMONTRIP_PAYMENTS_FAILURE_RATE_THRESHOLD for the circuit `payments`",
        ),
    ] {
        assert_eq!(wrong("toml", "", &[(name, value)]), said);
    }
    // Valid on its own, invalid together with the file.
    let words = wrong(
        "toml",
        "[circuits.a]\nfailure_count_threshold = 5",
        &[
            ("COMMONTRIP_A_WINDOW_MS", "5"),
            ("COMMONTRIP_B_FAILURE_RATE_THRESHOLD", "0"),
        ],
    );
    assert!(
        words.starts_with("COMMONTRIP_A_WINDOW_MS: window_buckets is 10"),
        "{words}"
    );
    // Variables of others.
    for name in [
        "COMMONTRIP_REDIS_URL",
        "COMMONTRIP_ADMIN_TOKEN",
        "COMMONTRIP_TEST_SEED",
        "COMMONTRIP_SERVICE_HOST",
        "COMMONTRIP_PORT_8700_TCP_ADDR",
        "COMMONTRIPS",
        "PATH",
    ] {
        Config::from_variables(variables(&[(name, "x")])).unwrap();
    }
    let named_redis = variables(&[("COMMONTRIP_REDIS_JITTER", "7")]);
    let named_redis = Config::from_variables(named_redis).unwrap();
    assert_eq!(named_redis.policy("redis").unwrap().rules().jitter, 7);
}
