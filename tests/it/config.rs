//! Policies from files and the environment: what wins, what is wrong, what changes while calls are made.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use commontrip::{
    AbandonedCalls, Commontrip, OnStoreFailure, Policy, State,
    config::{Config, ConfigError},
};

use crate::{
    support::{redis_url, unique},
    traces::listen,
    wait::until,
};

/// A file of its own, removed with this.
struct File(PathBuf);

impl File {
    fn new(ending: &str, text: &str) -> Self {
        let file = Self(std::env::temp_dir().join(unique("commontrip-config")));
        let file = Self(file.0.with_extension(ending));
        file.write(text);
        file
    }

    /// As by who replaces files: nobody reads half of it.
    fn write(&self, text: &str) {
        let new = self.0.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, &self.0).unwrap();
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
    pairs.iter().map(owned).collect()
}

fn load(ending: &str, text: &str, pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let file = File::new(ending, text);
    Config::load_with(&file.0, variables(pairs))
}

/// What is said of a file that is wrong; its name is `F`.
fn wrong(ending: &str, text: &str, pairs: &[(&str, &str)]) -> String {
    let file = File::new(ending, text);
    let error = match Config::load_with(&file.0, variables(pairs)) {
        Err(error) => error,
        Ok(config) => panic!("it is taken: {text}: {config:?}"),
    };
    error.to_string().replace(file.0.to_str().unwrap(), "F")
}

#[test]
fn dropped_calls_are_judged_as_files_and_variables_say() {
    let choice = |text: &str, pairs: &[(&str, &str)]| {
        let config = load("toml", text, pairs).unwrap();
        config.policy("a").unwrap().abandoned_calls()
    };
    let after = |ms| AbandonedCalls::After(Duration::from_millis(ms));
    let toml = "[circuits.a]\nabandoned_after = \"2s\"\n";
    assert_eq!(choice("", &[]), AbandonedCalls::Automatic);
    assert_eq!(choice(toml, &[]), after(2000));
    assert_eq!(
        choice("[default]\nabandoned_after_ms = 70\n", &[]),
        after(70)
    );
    for (variable, value, expected) in [
        ("COMMONTRIP_A_ABANDONED_AFTER", "1m 30s", after(90_000)),
        ("COMMONTRIP_A_ABANDONED_AFTER_MS", "5", after(5)),
        ("COMMONTRIP_A_ABANDONED_CALLS", "0", AbandonedCalls::Ignored),
        (
            "COMMONTRIP_A_ABANDONED_AFTER_MS",
            "0",
            AbandonedCalls::Automatic,
        ),
    ] {
        assert_eq!(choice(toml, &[(variable, value)]), expected, "{variable}");
    }
    let said = wrong("toml", "[default]\nabandoned_calls = 2\n", &[]);
    assert!(
        said.contains("from 0 to 1 (0 ignored, 1 counted)"),
        "{said}"
    );
}

const TOML: &str = r#"
enabled = true

[default]
failure_rate_threshold = 40
jitter = 5

[presets.careful]
minimum_number_of_calls = 7
wait_duration_in_open_state = "1m 30s"
jitter = 50

[circuits.payments]
preset = "careful"
failure_rate_threshold = 30
on_store_failure = "reject"

[circuits."users/eu"]
window_ms = 5_000
"#;

const YAML: &str = r#"
enabled: true
default:
  failure_rate_threshold: 40
  jitter: 5
presets:
  careful:
    minimum_number_of_calls: 7
    wait_duration_in_open_state: 1m 30s
    jitter: 50
circuits:
  payments:
    preset: careful
    failure_rate_threshold: 30
    on_store_failure: reject
  users/eu: {window_ms: 5000}
"#;

#[test]
fn toml_and_yaml_say_the_same() {
    for (ending, text) in [("toml", TOML), ("yaml", YAML), ("yml", YAML)] {
        let config = load(ending, text, &[]).unwrap();
        assert!(config.enabled());
        let payments = config.policy("payments").unwrap();
        let rules = payments.rules();
        assert_eq!(rules.failure_rate_threshold, 30, "the circuit over all");
        assert_eq!(rules.jitter, 50, "its preset over all");
        assert_eq!(rules.wait_duration_in_open_state_ms, 90_000);
        assert_eq!(payments.on_store_failure(), OnStoreFailure::Reject);
        let users = config.policy("users/eu").unwrap();
        assert_eq!((users.rules().window_ms, users.rules().jitter), (5_000, 5));
        let other = config.policy("other").unwrap();
        assert_eq!(other.rules().failure_rate_threshold, 40);
        assert_eq!(other.rules().minimum_number_of_calls, 20);
        // What is said nowhere is as in code.
        let code = Policy::builder().success_threshold(9).jitter(1).build();
        let over = config.policy_over("other", &code.unwrap()).unwrap();
        assert_eq!(
            (over.rules().success_threshold, over.rules().jitter),
            (9, 5)
        );
    }
    for text in ["", "# nothing\n", "default:\n", "circuits:\n  a:\n"] {
        let config = load("yaml", text, &[]).unwrap();
        assert_eq!(config.policy("a").unwrap(), Policy::default());
    }
}

#[test]
fn settings_contradict_those_that_hold_beside_them() {
    // Right or wrong only together with the code.
    let config = load("toml", "[circuits.llm]\ncall_timeout = '45s'", &[]).unwrap();
    let refused = config.policy("llm").unwrap_err().to_string();
    let said = ":2: probe_lease_ms is 30000, but call_timeout_ms is 45000";
    assert!(refused.contains(said), "{refused}");
    let code = Policy::builder().probe_lease(Duration::from_secs(45));
    let policy = config.policy_over("llm", &code.build().unwrap()).unwrap();
    assert_eq!(policy.call_timeout(), Some(Duration::from_secs(45)));
    // One in the file, one in the environment.
    let variable = [("COMMONTRIP_LLM_PROBE_LEASE", "40s")];
    let wrong = wrong("toml", "[circuits.llm]\ncall_timeout = '45s'", &variable);
    let said = "COMMONTRIP_LLM_PROBE_LEASE: probe_lease_ms is 40000";
    assert!(wrong.starts_with(said), "{wrong}");
}

#[test]
fn what_is_closer_to_the_circuit_wins_and_the_environment_over_the_file() {
    let config = |pairs: &[(&str, &str)]| load("toml", TOML, pairs).unwrap();
    let of = |config: &Config, name| *config.policy(name).unwrap().rules();
    let all = config(&[
        ("COMMONTRIP_JITTER", "9"),
        ("COMMONTRIP_FAILURE_RATE_THRESHOLD", "60"),
        ("COMMONTRIP_PAYMENTS_WAIT_DURATION_IN_OPEN_STATE", "7s"),
        ("COMMONTRIP_USERS_EU_WINDOW_MS", "6000"),
        ("COMMONTRIP_NEW_ONE_ON_STORE_FAILURE", "allow"),
        ("COMMONTRIP_NEW_ONE_PRESET", "careful"),
    ]);
    let payments = of(&all, "payments");
    assert_eq!(
        payments.failure_rate_threshold, 30,
        "file, circuit over env, all"
    );
    assert_eq!(payments.jitter, 50, "the circuit's preset over env, all");
    assert_eq!(
        payments.wait_duration_in_open_state_ms, 7_000,
        "env, circuit"
    );
    assert_eq!(of(&all, "users/eu").window_ms, 6_000);
    assert_eq!(of(&all, "users/eu").jitter, 9, "env, all over file, all");
    let new = all.policy("new-one").unwrap();
    assert_eq!(new.on_store_failure(), OnStoreFailure::Allow);
    assert_eq!(
        (new.rules().jitter, new.rules().failure_rate_threshold),
        (50, 60)
    );
    let preset = config(&[("COMMONTRIP_PAYMENTS_PRESET", "database")]);
    let payments = of(&preset, "payments");
    assert_eq!((payments.jitter, payments.failure_rate_threshold), (20, 30));
    let longest = [("COMMONTRIP_MAX_WAIT_DURATION_IN_OPEN_STATE_MS", "60000")];
    assert_eq!(
        of(&config(&longest), "x").max_wait_duration_in_open_state_ms,
        60_000
    );
    assert!(!config(&[("COMMONTRIP_ENABLED", "false")]).enabled());
    let alone = variables(&[
        ("COMMONTRIP_PRESET", "slow_upstream"),
        ("COMMONTRIP_JITTER", ""),
    ]);
    let alone = Config::from_variables(alone).unwrap();
    assert_eq!(of(&alone, "x").probe_lease_ms, 300_000);
    assert_eq!(of(&alone, "x").jitter, 10);
    for preset in ["default", "fast", "slow_upstream", "database"] {
        let pairs = variables(&[("COMMONTRIP_PRESET", preset)]);
        Config::from_variables(pairs).unwrap().policy("x").unwrap();
    }
}

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
            "F:1: unknown key `zz`: there are enabled, default, presets, circuits",
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
            "F:4: probe_lease_ms is 5000, but call_timeout_ms is 8000: a probe that takes longer than its lease decides nothing, and others go out beside it; set probe_lease_ms to at least call_timeout_ms",
        ),
        (
            "[circuits.payments]\npreset = 'fast'\ncall_timeout = '8s'",
            "F:3: probe_lease_ms is 5000, but call_timeout_ms is 8000: a probe that takes longer than its lease decides nothing, and others go out beside it; set probe_lease_ms to at least call_timeout_ms",
        ),
        (
            "[presets.few]\nwindow_calls = 10\nfailure_count_threshold = 20",
            "F:3: failure_count_threshold is 20, but window_calls is 10: a window of so few calls never has so many failures; set failure_count_threshold to at most window_calls",
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
            "F:2: `presets.x` is a preset: it has settings, and no preset",
        ),
        (
            "[default]\nzzz = 1",
            "F:2: unknown key `zzz` in `default`: keys are those of a policy, such as `jitter`",
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
        "F is no configuration: its name must end in .toml, .yaml or .yml"
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
            "COMMONTRIP_JITTER: `jitter` is \"much\", but must be a whole number",
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
            "COMMONTRIP_PAYMENTS_FAILURE_RATE_TRESHOLD",
            "5",
            "COMMONTRIP_PAYMENTS_FAILURE_RATE_TRESHOLD: it names no setting: did you mean COMMONTRIP_PAYMENTS_FAILURE_RATE_THRESHOLD?",
        ),
        (
            "COMMONTRIP_X",
            "5",
            "COMMONTRIP_X: it names no setting: write COMMONTRIP_FAILURE_RATE_THRESHOLD for all circuits, COMMONTRIP_PAYMENTS_FAILURE_RATE_THRESHOLD for the circuit `payments`",
        ),
    ] {
        assert_eq!(wrong("toml", "", &[(name, value)]), said);
    }
    // Right by itself, wrong with what the file says.
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
    // Others' variables.
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

#[tokio::test]
async fn a_changed_file_is_in_force_without_a_restart_and_without_losing_a_call() {
    let (log, _guard) = listen();
    let said = |words: &str| {
        let lines = log.of("the configuration stays as it was");
        lines
            .iter()
            .filter(|line| line.get("error").contains(words))
            .count()
    };
    let circuits = Commontrip::builder()
        .redis(redis_url())
        .store_timeout(Duration::from_secs(10))
        .build()
        .unwrap();
    let (name, other) = (unique("config"), unique("config-code"));
    let file = File::new("toml", "[default]\njitter = 1");
    let config = Config::load_with(&file.0, []).unwrap();
    let live = config.watch_every(Duration::from_millis(10), &circuits);
    let breaker = live.circuit(&name).unwrap();
    let in_code = circuits.circuit(&other, Policy::default()).unwrap();
    assert_eq!(breaker.policy().rules().jitter, 1);
    let stop = Arc::new(AtomicBool::new(false));
    let caller = tokio::spawn({
        let (breaker, stop) = (breaker.clone(), Arc::clone(&stop));
        async move {
            let mut calls = 0;
            while !stop.load(SeqCst) {
                breaker.call(|| async { Ok::<_, ()>(()) }).await.unwrap();
                calls += 1;
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            calls
        }
    });
    // Read often, and found to be as it was.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(log.of("the configuration was read again").is_empty());
    for jitter in 2..20 {
        file.write(&format!("[circuits.{name}]\njitter = {jitter}"));
        until("it is in force", async || {
            breaker.policy().rules().jitter == jitter
        })
        .await;
    }
    assert_eq!(in_code.policy(), Policy::default());

    for _ in 0..2 {
        file.write("[default]\njitter = 130");
        until("it is said", async || said("jitter is 130") == 1).await;
        // Read many times more: said once, and nothing has changed.
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(said("jitter is 130"), 1);
        assert_eq!(breaker.policy().rules().jitter, 19);
        assert_eq!(live.config().policy(&name).unwrap().rules().jitter, 19);
    }
    fs::remove_file(&file.0).unwrap();
    until("it is said", async || said("cannot be read") == 1).await;
    file.write("enabled = false");
    until("breaking is off", async || !circuits.health().enabled).await;
    assert_eq!(breaker.policy(), Policy::default());
    file.write("enabled = true");
    until("breaking is on", async || circuits.health().enabled).await;

    stop.store(true, SeqCst);
    let calls: u64 = caller.await.unwrap();
    circuits.flush().await;
    let seen = breaker.snapshot().await.unwrap();
    assert_eq!((seen.successes_total, seen.state), (calls, State::Closed));
    drop(live);
    circuits.shutdown().await;
}

#[tokio::test]
async fn a_circuit_that_is_taken_has_the_policy_and_the_switch() {
    let circuits = Commontrip::embedded().unwrap();
    let config = load("toml", TOML, &[("COMMONTRIP_ENABLED", "false")]).unwrap();
    let payments = config.circuit(&circuits, "payments").unwrap();
    assert_eq!(payments.policy(), config.policy("payments").unwrap());
    assert!(!circuits.health().enabled);
    let bad = config.circuit(&circuits, "{");
    assert!(matches!(bad, Err(ConfigError::Name(_))));
    // Without a file there is nothing to follow, and circuits come as from one.
    let alone = Config::from_variables(variables(&[("COMMONTRIP_JITTER", "3")])).unwrap();
    let live = alone.watch(&circuits);
    assert!(circuits.health().enabled);
    assert_eq!(live.circuit("x").unwrap().policy().rules().jitter, 3);
}
