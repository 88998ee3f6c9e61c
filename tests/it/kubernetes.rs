//! The manifests in `ops/kubernetes` are valid by Kubernetes' own schemas, consistent, and work.

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::LazyLock,
    time::Duration,
};

use commontrip::{Commontrip, Policy, RedisStore, admin, operator::Operator};
use serde_json::Value;

use crate::{
    metrics::promtool,
    support::{self, Watchdog},
    wait::until,
};

const NEEDED: &str = "this test needs Debian's package python3-venv, and PyPI for the first time";
/// The SHA-256 of the password `secret`, in hex.
const SECRET: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Every object, after validation.
fn objects() -> &'static [Value] {
    static OBJECTS: LazyLock<Vec<Value>> = LazyLock::new(|| {
        let venv = Command::new("python3")
            .args(["-c", "import ensurepip"])
            .output();
        if !venv.is_ok_and(|output| output.status.success()) {
            support::install("python3-venv", "python3-venv")
                .unwrap_or_else(|why| panic!("{NEEDED}\n{why}"));
        }
        let output = Command::new(root().join("scripts/kubernetes"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{NEEDED}\n{}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    });
    &OBJECTS
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

fn object(kind: &str, name: &str) -> &'static Value {
    let is = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
    let found = objects().iter().find(is);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

/// Pod templates, by the name of the object that creates the pods.
fn pods() -> Vec<(&'static str, &'static Value)> {
    let made = objects()
        .iter()
        .filter(|o| o["spec"]["template"].is_object());
    let pods = made.map(|o| (text(&o["metadata"]["name"]), &o["spec"]["template"]));
    let pods: Vec<_> = pods.collect();
    assert_eq!(pods.len(), 2, "{pods:?}");
    pods
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Whether labels match a selector.
fn selects(selector: &Value, labels: &Value) -> bool {
    let selector = selector.as_object().unwrap();
    !selector.is_empty() && selector.iter().all(|(key, value)| labels[key] == *value)
}

#[test]
fn every_manifest_is_valid_to_kubernetes_own_schemas() {
    let of_kind = |o: &Value| text(&o["kind"]).to_owned();
    let kinds: BTreeSet<_> = objects().iter().map(of_kind).collect();
    for kind in [
        "ConfigMap",
        "Deployment",
        "PrometheusRule",
        "Secret",
        "Service",
    ] {
        assert!(kinds.contains(kind), "{kinds:?}");
    }
}

#[test]
fn pods_have_no_rights_and_bounded_resources() {
    for (name, pod) in pods() {
        let spec = &pod["spec"];
        assert_eq!(spec["automountServiceAccountToken"], false, "{name}");
        let context = &spec["securityContext"];
        assert_eq!(context["runAsNonRoot"], true, "{name}");
        assert!(context["runAsUser"].as_u64() > Some(0), "{name}");
        assert_eq!(
            context["seccompProfile"]["type"], "RuntimeDefault",
            "{name}"
        );
        for container in list(&spec["containers"]) {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(context["capabilities"]["drop"][0], "ALL", "{name}");
            let resources = &container["resources"];
            assert!(resources["requests"]["cpu"].is_string(), "{name}");
            assert!(resources["requests"]["memory"].is_string(), "{name}");
            assert!(resources["limits"]["memory"].is_string(), "{name}");
            for probe in ["livenessProbe", "readinessProbe"] {
                assert!(container[probe].is_object(), "{name} has no {probe}");
            }
        }
    }
}

#[test]
fn what_a_manifest_names_is_there() {
    let has = |kind: &str, name: &Value, key: &Value| {
        let object = object(kind, text(name));
        let data = ["data", "stringData"].map(|data| object[data][text(key)].is_string());
        assert!(data.contains(&true), "{kind} {name} has no {key}");
    };
    for (name, pod) in pods() {
        let volumes = list(&pod["spec"]["volumes"]);
        for volume in volumes {
            for item in list(&volume["secret"]["items"]) {
                has("Secret", &volume["secret"]["secretName"], &item["key"]);
            }
            if volume["configMap"].is_object() {
                object("ConfigMap", text(&volume["configMap"]["name"]));
            }
        }
        for container in list(&pod["spec"]["containers"]) {
            for from in list(&container["envFrom"]) {
                object("ConfigMap", text(&from["configMapRef"]["name"]));
            }
        }
        let service = object("Service", name);
        assert!(selects(
            &service["spec"]["selector"],
            &pod["metadata"]["labels"]
        ));
        let port = &service["spec"]["ports"][0]["targetPort"];
        let container = &pod["spec"]["containers"][0];
        let named = |named: &Value| named["name"] == *port;
        assert!(
            list(&container["ports"]).iter().any(named),
            "{name}: {port}"
        );
    }
    // The server's access to Redis: the URL, the network policy, and the ACL rights.
    let config = &object("ConfigMap", "commontrip")["data"];
    assert_eq!(
        config["COMMONTRIP_REDIS_URL"],
        "redis://commontrip-redis:6379"
    );
    let rule = &object("NetworkPolicy", "commontrip-redis")["spec"];
    let redis = &object("StatefulSet", "commontrip-redis")["spec"]["template"];
    assert!(selects(
        &rule["podSelector"]["matchLabels"],
        &redis["metadata"]["labels"]
    ));
    let client = &rule["ingress"][0]["from"][0]["podSelector"]["matchLabels"];
    let server = &object("Deployment", "commontrip")["spec"]["template"];
    assert!(selects(client, &server["metadata"]["labels"]));
    let users = text(&object("Secret", "commontrip")["stringData"]["users.acl"]);
    let rules = RedisStore::builder()
        .open("redis://any")
        .unwrap()
        .acl_rules();
    assert!(users.ends_with(&format!(" {rules}\n")), "{users}\n{rules}");
}

/// The rules are those of `ops/prometheus`, character for character.
#[test]
fn the_operators_rules_are_prometheus_own() {
    let file = "ops/kubernetes/monitoring/prometheusrule.yml";
    let indented = |line: &str| match line.trim().is_empty() {
        true => line.to_owned(),
        false => format!("  {line}"),
    };
    let alerts = read("ops/prometheus/alerts.yml");
    let rules: String = alerts.split_inclusive('\n').map(indented).collect();
    let now = read(file);
    let (head, found) = now.split_at(now.find("spec:\n").unwrap() + "spec:\n".len());
    if std::env::var_os("COMMONTRIP_TEST_RECORD").is_some() {
        fs::write(root().join(file), format!("{head}{rules}")).unwrap();
    } else {
        assert!(
            found == rules,
            "{file} is not ops/prometheus/alerts.yml: see its head"
        );
    }
    // As the Prometheus Operator passes them to Prometheus.
    let spec = object("PrometheusRule", "commontrip")["spec"].to_string();
    let folder = folder("rules");
    let path = folder.join("rules.yml");
    fs::write(&path, spec).unwrap();
    promtool(&["check", "rules", &path.display().to_string()], "");
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn the_server_is_scraped_under_the_name_that_alerts_ask_for() {
    let monitor = &object("ServiceMonitor", "commontrip")["spec"];
    let service = object("Service", "commontrip");
    let selector = &monitor["selector"]["matchLabels"];
    assert!(selects(selector, &service["metadata"]["labels"]));
    let other = object("Service", "commontrip-redis");
    assert!(!selects(selector, &other["metadata"]["labels"]));
    let endpoint = &monitor["endpoints"][0];
    assert_eq!(endpoint["path"], "/metrics");
    assert_eq!(endpoint["port"], service["spec"]["ports"][0]["name"]);
    // A job has the name of its service, unless the monitor sets another.
    assert!(read("ops/prometheus/alerts.yml").contains("up{job=\"commontrip\"}"));
}

/// Probes use a path that works without Redis; `/health` and `/metrics` do not.
#[tokio::test]
async fn no_probe_follows_redis_or_a_circuit() {
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let gone = format!("redis://{}/", nobody.local_addr().unwrap());
    drop(nobody);
    let store = RedisStore::builder().timeout(Duration::from_millis(200));
    let operator = Operator::new(store.open(&gone).unwrap());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    let router = admin::router(operator, admin::Options::new());
    tokio::spawn(admin::serve(listener, router, std::future::pending()));
    let status = async |path: &str| {
        let answer = reqwest::get(format!("http://{server}{path}")).await;
        answer.unwrap().status().as_u16()
    };
    assert_eq!(status("/health").await, 503);
    assert_eq!(status("/metrics").await, 503);
    let server = object("Deployment", "commontrip");
    let container = &server["spec"]["template"]["spec"]["containers"][0];
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let path = text(&container[probe]["httpGet"]["path"]);
        assert_eq!(status(path).await, 200, "{probe}: {path}");
    }
}

/// A folder for one test.
fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(support::unique(&format!("commontrip-{name}")));
    fs::create_dir(&folder).unwrap();
    folder
}

/// The server ends when this process ends or drops the watchdog, because standard input closes.
const WATCHDOG: &str = r#"
trap '' HUP INT TERM
"$@" >/dev/null 2>&1 </dev/null & pid=$!
read -r order
kill -s KILL "$pid" && wait "$pid"
"#;

/// The Redis configuration, with a folder in place of the pod's.
fn configuration(folder: &Path, users: &str) -> (String, PathBuf) {
    let config = text(&object("ConfigMap", "commontrip-redis")["data"]["redis.conf"]);
    let here = folder.display().to_string();
    let config = config.replace("/run/secrets/commontrip", &here);
    let path = folder.join("redis.conf");
    fs::write(&path, config.replace("/data", &here)).unwrap();
    fs::write(folder.join("users.acl"), users).unwrap();
    let program = support::tool("redis-server", "redis-server").unwrap();
    (program.display().to_string(), path)
}

#[tokio::test]
async fn redis_starts_as_configured_and_its_user_shares_circuits() {
    let folder = folder("kubernetes");
    let users = text(&object("Secret", "commontrip")["stringData"]["users.acl"]);
    let users = users.replace("#REPLACE-ME", &format!("#{SECRET}"));
    let (program, config) = configuration(&folder, &users);
    let port = support::free_port().unwrap().to_string();
    let _redis = Watchdog::new(
        Command::new("sh")
            .args(["-c", WATCHDOG, "sh", &program])
            .arg(&config)
            .args(["--bind", "127.0.0.1", "--port", &port]),
    )
    .unwrap();
    let url = format!("redis://127.0.0.1:{port}/");
    let store = |password: &str| {
        let user = &object("ConfigMap", "commontrip")["data"]["COMMONTRIP_REDIS_USERNAME"];
        let store = RedisStore::builder().timeout(Duration::from_secs(5));
        store
            .username(text(user))
            .password(password)
            .open(&url)
            .unwrap()
    };
    until("Redis listens", async || {
        let port = port.parse().unwrap();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
    })
    .await;
    Operator::new(store("secret")).ping().await.unwrap();
    assert!(Operator::new(store("another")).ping().await.is_err());
    let nobody = RedisStore::builder().open(&url).unwrap();
    assert!(Operator::new(nobody).ping().await.is_err());
    let circuits = Commontrip::builder().store(store("secret"));
    let circuits = circuits
        .store_timeout(Duration::from_secs(5))
        .build()
        .unwrap();
    let breaker = circuits.circuit("payments", Policy::default()).unwrap();
    breaker.acquire().await.unwrap().success();
    circuits.flush().await;
    assert_eq!(breaker.snapshot().await.unwrap().calls, 1);
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn placeholders_start_nothing() {
    let secret = &object("Secret", "commontrip")["stringData"];
    let token = text(&secret["admin-token"]);
    assert!(admin::Options::new().token(token).is_err());
    let folder = folder("placeholders");
    let (program, config) = configuration(&folder, text(&secret["users.acl"]));
    let port = support::free_port().unwrap().to_string();
    let mut command = Command::new("timeout");
    let command = command.args(["30", &program]).arg(config);
    let output = command.args(["--port", &port]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("ACL errors"), "{}", said(&output));
    fs::remove_dir_all(&folder).unwrap();
}
