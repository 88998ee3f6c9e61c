//! Policies from files and the environment: precedence, errors, and changes while calls are made.

mod made;
mod wrong;

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

/// A temporary file.
struct File(PathBuf);

impl File {
    fn new(ending: &str, text: &str) -> Self {
        let file = Self(std::env::temp_dir().join(unique("commontrip-config")));
        let file = Self(file.0.with_extension(ending));
        file.write(text);
        file
    }

    /// Replaces the file atomically, so that nobody reads half of it.
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

/// The error for an invalid file; `F` stands for its name.
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
        // Settings that are configured nowhere come from the code.
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
    // Valid or invalid only together with the code.
    let config = load("toml", "[circuits.llm]\ncall_timeout = '45s'", &[]).unwrap();
    let refused = config.policy("llm").unwrap_err().to_string();
    let said = ":2: probe_lease_ms is 30000, but call_timeout_ms is 45000";
    assert!(refused.contains(said), "{refused}");
    let code = Policy::builder().probe_lease(Duration::from_secs(45));
    let policy = config.policy_over("llm", &code.build().unwrap()).unwrap();
    assert_eq!(policy.call_timeout(), Some(Duration::from_secs(45)));
    // One setting in the file, one in the environment.
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
    for preset in [
        "default",
        "fast",
        "slow_upstream",
        "database",
        "opossum",
        "polly",
    ] {
        let pairs = variables(&[("COMMONTRIP_PRESET", preset)]);
        Config::from_variables(pairs).unwrap().policy("x").unwrap();
    }
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
    // Read often, and always unchanged.
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
        // Read many more times: logged once, and nothing has changed.
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
async fn circuits_by_keys_follow_the_file() {
    let circuits = Commontrip::embedded().unwrap();
    let text = |jitter: u8| format!("[circuits.'model:a%7Bb%7D']\njitter = {jitter}");
    let file = File::new("toml", &text(2));
    let config = Config::load_with(&file.0, []).unwrap();
    let live = config.watch_every(Duration::from_millis(10), &circuits);
    let code = |key: &str| {
        let jitter = key.len() as u64;
        Policy::builder().jitter(jitter).build().unwrap()
    };
    let models = live.keyed("model:", code).unwrap();
    let jitters = |keys: [&str; 3]| keys.map(|key| models.circuit(key).policy().rules().jitter);
    // `others` is not configured, and neither is what further keys share.
    let at_most = live.keyed("few:", code).unwrap().at_most(0);
    assert_eq!(at_most.circuit("x").policy().rules().jitter, 7);
    assert_eq!(jitters(["a{b}", "others", "x"]), [2, 6, 1]);
    file.write(&text(9));
    until("it is in force", async || {
        jitters(["a{b}", "others", "x"]) == [9, 6, 1]
    })
    .await;
    // Settings that contradict those in code are for the log: a key cannot fail.
    let (log, _guard) = listen();
    file.write("[circuits.'odd:k']\nprobe_lease = '1s'");
    let patient = |_: &str| {
        let rules = Policy::builder().call_timeout(Duration::from_secs(20));
        rules.build().unwrap()
    };
    until("it is read", async || {
        live.config()
            .policy("odd:k")
            .is_ok_and(|policy| policy.rules().probe_lease_ms == 1000)
    })
    .await;
    let odd = live.keyed("odd:", patient).unwrap();
    assert_eq!(odd.circuit("k").policy(), patient("k"));
    assert_eq!(log.of("the circuit has the policy in code").len(), 1);
    // It does not keep others from what the file says, nor itself once that is right.
    let said = "[circuits.'odd:k']\nprobe_lease = '1s'\n[circuits.'model:x']\njitter = 3";
    file.write(said);
    until("the other has it", async || jitters(["x"; 3]) == [3; 3]).await;
    let said = "[circuits.'odd:k']\nprobe_lease = '40s'\n[circuits.'model:off']\nenabled = false";
    file.write(said);
    until("it has it too", async || {
        odd.circuit("k").policy().rules().probe_lease_ms == 40_000
    })
    .await;
    assert!(!models.circuit("off").is_enabled() && models.circuit("on").is_enabled());
}

#[tokio::test(start_paused = true)]
async fn circuits_that_are_configured_and_not_used_are_named_once() {
    let (log, _guard) = listen();
    let circuits = Commontrip::embedded().unwrap();
    let text = "circuits: {payments: {jitter: 1}, paymets: {jitter: 1}, taken-in-code: {jitter: 1}, model:x: {jitter: 1}}";
    let variables = variables(&[
        ("COMMONTRIP_ORDERS_EU_JITTER", "5"),
        ("COMMONTRIP_ORDERRS_JITTER", "5"),
        ("COMMONTRIP_PAYMETS_JITTER", "5"),
    ]);
    let file = File::new("yaml", text);
    let config = Config::load_with(&file.0, variables).unwrap();
    let live = config.watch(&circuits);
    let _payments = live.circuit("payments").unwrap();
    let _orders = live.circuit("orders-eu").unwrap();
    let _other = circuits.circuit("taken-in-code", Policy::default());
    let unused = ["paymets", "ORDERRS"];
    // Which keys will be used is not known.
    let _models = live.keyed("model:", |_| Policy::default()).unwrap();
    let said = live.config().unused_circuits(&circuits);
    assert_eq!(said, ["model:x", "paymets", "ORDERRS"]);
    let lines = || log.of("the configuration names circuits that this process does not use");
    tokio::time::sleep(Duration::from_secs(55)).await;
    assert!(lines().is_empty());
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(lines().len(), 1);
    assert_eq!(lines()[0].get("circuits"), format!("{unused:?}"));
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
    // Without a file there is nothing to watch, but circuits are created in the same way.
    let alone = Config::from_variables(variables(&[("COMMONTRIP_JITTER", "3")])).unwrap();
    let live = alone.watch(&circuits);
    assert!(circuits.health().enabled);
    assert_eq!(live.circuit("x").unwrap().policy().rules().jitter, 3);
}

#[test]
fn a_table_of_the_services_own_file_is_enough() {
    let text = "
        port = 8080
        [database]
        url = 'postgres://…'
        [commontrip.circuits.payments]
        window = '30s'
        latency_recording = 'every_call'
    ";
    let file = File::new("toml", text);
    let config = Config::load_table(&file.0, "commontrip").unwrap();
    let rules = *config.policy("payments").unwrap().rules();
    assert_eq!((rules.window_ms, rules.latency_recording), (30_000, 2));
    let other = Config::load_table(&file.0, "resilience").unwrap();
    assert_eq!(other.policy("payments").unwrap(), Policy::default());
    file.write("[commontrip]\nport = 8080");
    let error = Config::load_table(&file.0, "commontrip").unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with(":2: unknown key `port`: there are enabled, default, presets, circuits, default_check, checks, default_fallback, fallbacks"),
        "{error}"
    );
}

#[tokio::test]
async fn a_part_of_another_configuration_is_checked_as_a_file_is() {
    let read = serde_json::from_str::<Config>;
    let config =
        read(r#"{"default": {"jitter": "20%"}, "circuits": {"a": {"jitter": 5}}}"#).unwrap();
    assert_eq!(config.policy("a").unwrap().rules().jitter, 5);
    assert_eq!(config.policy("b").unwrap().rules().jitter, 20);
    // There is no file to watch.
    let circuits = Commontrip::embedded().unwrap();
    config.watch(&circuits).circuit("a").unwrap();
    let error = read(r#"{"circuits": {"a": {"jitter": 130}}}"#).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("the configuration: jitter is 130"),
        "{error}"
    );
}

#[tokio::test]
async fn one_circuit_is_switched_by_a_file_and_a_variable() {
    let circuits = Commontrip::embedded().unwrap();
    let off = "[circuits.a]\nenabled = false\n[circuits.b]\njitter = 1\n";
    let file = File::new("toml", off);
    let on_again = [
        ("COMMONTRIP_A_ENABLED", "true"),
        ("COMMONTRIP_C_ENABLED", "false"),
    ];
    let config = Config::load_with(&file.0, variables(&on_again)).unwrap();
    let said = ["a", "b", "c"].map(|name| config.circuit_enabled(name));
    assert_eq!(said, [true, true, false], "the environment over the file");
    let config = Config::load_with(&file.0, []).unwrap();
    assert!(!config.circuit(&circuits, "a").unwrap().is_enabled());
    assert!(config.circuit(&circuits, "b").unwrap().is_enabled());

    let live = config.watch_every(Duration::from_millis(10), &circuits);
    let (a, b) = (live.circuit("a").unwrap(), live.circuit("b").unwrap());
    b.set_enabled(false);
    file.write("[circuits.b]\njitter = 2\n");
    until("it is on again", async || a.is_enabled()).await;
    assert!(!b.is_enabled(), "what is said nowhere is the code's");
    file.write("[circuits.b]\nenabled = true\n[circuits.a]\nenabled = false\n");
    until("both are switched", async || {
        !a.is_enabled() && b.is_enabled()
    })
    .await;
    a.force_open(Default::default()).await.unwrap();
    a.acquire().await.unwrap().success();
    assert!(circuits.health().enabled);
    circuits.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn unused_circuits_of_the_environment_alone_are_named_too() {
    let (log, _guard) = listen();
    let circuits = Commontrip::embedded().unwrap();
    let config = Config::from_variables(variables(&[("COMMONTRIP_PAYMETS_JITTER", "5")]));
    let _live = config.unwrap().watch(&circuits);
    tokio::time::sleep(Duration::from_secs(61)).await;
    let lines = log.of("the configuration names circuits that this process does not use");
    assert_eq!(lines.len(), 1);
}
