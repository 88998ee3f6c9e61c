//! The files in `ops/`: alerts and dashboard query a real Prometheus with real exports.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use commontrip::{Outcome, Override, RedisStore, admin, operator::Operator};
use serde_json::Value;

use crate::{
    metrics::{Replica, ms, promtool, told},
    support::{self, Watchdog},
    wait::until,
};

const NEEDED: &str = "this test starts a Prometheus, which is in Debian's package: \
    apt-get install --no-install-recommends prometheus";

/// The server ends with this process, because standard input closes.
const WATCHDOG: &str = r#"
trap '' HUP INT TERM
folder=$1
shift
"$@" >"$folder/log" 2>&1 </dev/null & pid=$!
read -r order
kill -s KILL "$pid" && wait "$pid"
rm -rf "$folder"
"#;

fn ops(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("ops").join(file)
}

/// Serves a text over HTTP as long as this process lives.
fn serve(text: impl Fn() -> String + Send + 'static) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            // A scrape is one small packet; Prometheus repeats a failed one.
            let _ = stream.read(&mut request);
            let text = text();
            let head = "HTTP/1.0 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n";
            let _ = write!(stream, "{head}Content-Length: {}\r\n\r\n{text}", text.len());
        }
    });
    port
}

struct Prometheus {
    port: u16,
    folder: PathBuf,
    _watchdog: Watchdog,
}

impl Prometheus {
    /// Scrapes these ports, with the alerts of `ops/`.
    fn start(targets: &[u16]) -> Prometheus {
        let program = support::tool("prometheus", "prometheus");
        let program = program.unwrap_or_else(|why| panic!("{NEEDED}\n{why}"));
        let port = support::free_port().unwrap();
        let folder = std::env::temp_dir().join(support::unique("commontrip-prometheus"));
        fs::create_dir(&folder).unwrap();
        let targets: Vec<_> = targets.iter().map(|p| format!("127.0.0.1:{p}")).collect();
        let config = serde_json::json!({
            "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
            "rule_files": [ops("prometheus/alerts.yml")],
            "scrape_configs": [{"job_name": "test", "static_configs": [{"targets": targets}]}],
        });
        // JSON is valid YAML.
        fs::write(folder.join("config.yml"), config.to_string()).unwrap();
        let path = |name: &str| folder.join(name).display().to_string();
        let watchdog = Watchdog::new(
            Command::new("sh")
                .args(["-c", WATCHDOG, "sh"])
                .arg(&folder)
                .arg(program)
                .arg(format!("--config.file={}", path("config.yml")))
                .arg(format!("--storage.tsdb.path={}", path("data")))
                .arg(format!("--web.listen-address=127.0.0.1:{port}"))
                .arg("--log.level=warn"),
        );
        Prometheus {
            port,
            folder,
            _watchdog: watchdog.unwrap(),
        }
    }

    /// The `data` of an answer; an error's text, or that there was no answer.
    fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, String> {
        let mut url = url::Url::parse("http://any").unwrap();
        url.set_path(path);
        url.query_pairs_mut().extend_pairs(query);
        let target = &url[url::Position::BeforePath..];
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(30)))?;
            write!(stream, "GET {target} HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let log = || fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let answer = ask().map_err(|error| format!("{error}; it said: {}", log()))?;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let answer: Value = serde_json::from_str(body).map_err(|e| format!("{e}: {answer}"))?;
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"].clone()),
            _ => Err(answer.to_string()),
        }
    }

    /// The current series of an expression.
    fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        let data = self.get("/api/v1/query", &[("query", expression)])?;
        Ok(data["result"].as_array().cloned().unwrap_or_default())
    }
}

fn dashboard(file: &str) -> Value {
    let text = fs::read_to_string(ops("grafana").join(file)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// An expression with values for Grafana's variables.
fn filled(expression: &Value, circuit: &str) -> String {
    let expression = expression.as_str().unwrap();
    let filled = expression
        .replace("$circuit", circuit)
        .replace("$__rate_interval", "1m");
    let unknown = filled.contains('$');
    assert!(!unknown, "a variable that is not known: {expression}");
    filled
}

/// The `expr` of each panel, for one circuit.
fn panels(file: &str, circuit: &str) -> Vec<String> {
    let dashboard = dashboard(file);
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|p| p["targets"].as_array());
    let expressions: Vec<_> = targets
        .flatten()
        .map(|t| filled(&t["expr"], circuit))
        .collect();
    assert!(expressions.len() > 5);
    expressions
}

/// Runs `commontrip serve`'s router as long as this runtime lives.
async fn serve_fleet() -> u16 {
    let store = RedisStore::builder().timeout(Duration::from_secs(10));
    let operator = Operator::new(store.open(support::redis_url()).unwrap());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let router = admin::router(operator, admin::Options::new());
    tokio::spawn(admin::serve(listener, router, std::future::pending()));
    port
}

#[test]
fn prometheus_takes_the_configuration_and_the_alerts_do_what_they_say() {
    let path = |file| ops(file).display().to_string();
    promtool(&["check", "config", &path("prometheus/prometheus.yml")], "");
    promtool(&["check", "rules", &path("prometheus/alerts.yml")], "");
    promtool(&["test", "rules", &path("prometheus/alerts_test.yml")], "");
}

#[test]
fn each_alert_has_a_test() {
    let alerts = fs::read_to_string(ops("prometheus/alerts.yml")).unwrap();
    let tests = fs::read_to_string(ops("prometheus/alerts_test.yml")).unwrap();
    let names = alerts.lines().filter_map(|l| l.split_once("- alert: "));
    let names: BTreeSet<_> = names.map(|(_, name)| name).collect();
    assert!(names.len() > 5, "{names:?}");
    for name in names {
        assert!(tests.contains(&format!("alertname: {name}\n")), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_panel_and_annotation_shows_data_from_serve_alone() {
    let name = support::unique("ops");
    let policy = told()
        .wait_duration_in_open_state(Duration::from_secs(3600))
        .slow_calls(ms(5000), 100);
    let replica = Replica::start(support::redis_url(), &name, &policy);
    let prometheus = Arc::new(Prometheus::start(&[serve_fleet().await]));
    let ask = async |path: &'static str, query: Vec<(&'static str, String)>| {
        let asked = Arc::clone(&prometheus);
        let answer = tokio::task::spawn_blocking(move || {
            let query: Vec<_> = query.iter().map(|(k, v)| (*k, v.as_str())).collect();
            asked.get(path, &query)
        });
        let answer = answer.await.unwrap().map(|mut data| data["result"].take());
        answer.map(|found| found.as_array().cloned().unwrap_or_default())
    };
    let now = async |expression: &str| {
        let query = vec![("query", expression.to_owned())];
        ask("/api/v1/query", query).await
    };
    let breaker = &replica.breaker;
    breaker.acquire().await.unwrap().success();
    // An annotation marks a change, so the earlier state must have been scraped.
    let seen = format!("count_over_time(circuit_breaker_fleet_state{{name=\"{name}\"}}[5m]) > 4");
    until("it was seen while closed", async || {
        now(&seen).await.is_ok_and(|found| found.len() == 1)
    })
    .await;
    breaker.acquire().await.unwrap().record(Outcome::trip());
    until("a call is rejected", async || {
        breaker.acquire().await.is_err()
    })
    .await;

    for expression in panels("dashboard.json", &name) {
        until(&format!("there is something in {expression}"), async || {
            let answer = now(&expression).await;
            let error = |why| panic!("{expression}: {why}");
            !answer.unwrap_or_else(error).is_empty()
        })
        .await;
    }

    let dashboard = dashboard("dashboard.json");
    let annotations = dashboard["annotations"]["list"].as_array().unwrap();
    assert!(!annotations.is_empty());
    for annotation in annotations {
        let expression = filled(&annotation["expr"], &name);
        until(&format!("there is something in {expression}"), async || {
            let at = std::time::SystemTime::now();
            let at = at.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
            let query = vec![
                ("query", expression.clone()),
                ("start", (at - 300).to_string()),
                ("end", at.to_string()),
                ("step", "1".to_owned()),
            ];
            let found = ask("/api/v1/query_range", query).await;
            !found
                .unwrap_or_else(|why| panic!("{expression}: {why}"))
                .is_empty()
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alerts_and_dashboard_find_what_they_ask_for() {
    let name = support::unique("ops");
    let policy = told()
        .wait_duration_in_open_state(Duration::from_secs(3600))
        .slow_calls(ms(5000), 100);
    let replica = Replica::start(support::redis_url(), &name, &policy);
    let service = replica.scrape.clone();
    let targets = [serve(move || service.render()), serve_fleet().await];
    let prometheus = Arc::new(Prometheus::start(&targets));
    let ask = async |expression: &str| {
        let (asked, expression) = (Arc::clone(&prometheus), expression.to_owned());
        let answer = tokio::task::spawn_blocking(move || asked.query(&expression));
        answer.await.unwrap()
    };
    replica.breaker.acquire().await.unwrap().success();
    until("both are scraped", async || {
        ask("count(up == 1) == 2").await.is_ok_and(|r| r.len() == 1)
    })
    .await;
    // A counter must be scraped with two values.
    replica
        .breaker
        .acquire()
        .await
        .unwrap()
        .record(Outcome::trip());
    until("a call is rejected", async || {
        replica.breaker.acquire().await.is_err()
    })
    .await;

    for expression in panels("services.json", &name) {
        until(&format!("there is something in {expression}"), async || {
            let answer = ask(&expression).await;
            let error = |why| panic!("{expression}: {why}");
            !answer.unwrap_or_else(error).is_empty()
        })
        .await;
    }

    let open = "CircuitOpen";
    let asked = Arc::clone(&prometheus);
    let get = async |path: &'static str| {
        let asked = Arc::clone(&asked);
        let answer = tokio::task::spawn_blocking(move || asked.get(path, &[]));
        answer.await.unwrap().unwrap()
    };
    let mut rules = Value::Null;
    until("every alert was evaluated", async || {
        rules = get("/api/v1/rules").await["groups"][0]["rules"].take();
        let rules = rules.as_array().unwrap();
        rules.iter().all(|rule| rule["health"] != "unknown")
    })
    .await;
    for rule in rules.as_array().unwrap() {
        assert_eq!(rule["health"], "ok", "{rule}");
        let found = ask(rule["query"].as_str().unwrap()).await.unwrap();
        let ours = |found: &Value| found["metric"]["name"] == name.as_str();
        if rule["name"] == open {
            assert_eq!(found.iter().filter(|f| ours(f)).count(), 1, "{found:?}");
        }
    }
    until("the alert fires", async || {
        let alerts = get("/api/v1/alerts").await["alerts"].take();
        let fires = |alert: &Value| {
            let labels = &alert["labels"];
            labels["alertname"] == open && labels["name"] == name.as_str()
        };
        let alerts = alerts.as_array().unwrap().iter();
        alerts.filter(|a| fires(a)).any(|a| a["state"] == "firing")
    })
    .await;
    // One replica in another state is enough for `max by (name)`.
    replica
        .breaker
        .force_open(Override::because("test"))
        .await
        .unwrap();
    let state = format!("max by (name) (circuit_breaker_state{{name=\"{name}\"}})");
    until("forced open", async || {
        let found = ask(&state).await.unwrap();
        found.len() == 1 && found[0]["value"][1] == "3"
    })
    .await;
}
