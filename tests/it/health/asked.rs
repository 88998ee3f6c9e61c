//! Runs on demand: on the replica that runs the check, whoever asks; an error if nobody can.

use std::time::Duration;

use commontrip::Commontrip;
use commontrip::health::{Check, CheckRunError, CheckStatus, HealthMonitor};
use commontrip::operator::Operator;

use super::{Mode, Service, asking, registry, replica, start, until_status};
use crate::support::{OwnServer, unique_prefix};
use crate::wait::until;

/// No scheduled run happens within the test.
const RARELY: Duration = Duration::from_secs(1200);

/// A check that ran once, in a fleet of two: the replica that runs it, and the other. A monitor
/// ends with its registry.
async fn rarely_run(service: &Service, prefix: &str) -> [(Commontrip, HealthMonitor); 2] {
    let check = || asking("postgres", service).interval(RARELY);
    let [one, other] = [replica(prefix), replica(prefix)];
    let first = start(&one, check());
    let report = first.check_now("postgres").await.unwrap();
    assert_eq!((report.runs, report.status), (1, CheckStatus::Healthy));
    let second = start(&other, check());
    [(one, first), (other, second)]
}

#[tokio::test]
async fn whoever_asks_one_replica_runs_the_check() {
    let (service, prefix) = (Service::start().await, unique_prefix("health-now"));
    let [(circuits, first), (_other, second)] = rarely_run(&service, &prefix).await;
    let operator = Operator::of(&circuits);
    service.set(Mode::Down);
    // On the replica that runs it, at once.
    let report = first.check_now("postgres").await.unwrap();
    assert_eq!((report.runs, report.consecutive_failures), (2, 1));
    assert_eq!(report.requested_ms, 0, "nobody else asked");
    // On another replica and by an operator, who request the run.
    let report = second.check_now("postgres").await.unwrap();
    assert_eq!((report.runs, report.consecutive_failures), (3, 2));
    let asked_ms = operator.now_ms().await.unwrap();
    let (one, two) = tokio::join!(
        operator.run_check("postgres", None),
        operator.run_check("postgres", None),
    );
    let (one, two) = (one.unwrap(), two.unwrap());
    assert!(one.requested_ms >= asked_ms && one.status == CheckStatus::Critical);
    assert!(one.runs.max(two.runs) <= 5, "one run may do for both");
    assert_eq!(service.asked().len() as u64, one.runs.max(two.runs));
    for wrong in [
        first.check_now("mysql").await,
        operator.run_check("mysql", None).await,
    ] {
        assert_eq!(
            wrong.unwrap_err().to_string(),
            "there is no check \"mysql\""
        );
    }
}

#[tokio::test]
async fn a_request_that_nobody_meets_expires() {
    let (service, prefix) = (Service::start().await, unique_prefix("health-now"));
    let [(circuits, first), (_other, second)] = rarely_run(&service, &prefix).await;
    first.stop().await;
    second.stop().await;
    let operator = Operator::of(&circuits);
    let wait = Duration::from_millis(500);
    let nobody = operator.run_check("postgres", Some(wait)).await;
    assert!(matches!(nobody, Err(CheckRunError::NotRun(time)) if time == wait));
    // A later replica does not run it because of that.
    let check = asking("postgres", &service).interval(RARELY);
    let late = start(&circuits, check);
    let report = late.check_now("postgres").await.unwrap();
    assert_eq!((report.runs, report.requested_ms), (2, 0));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(service.asked().len(), 2);
}

#[tokio::test]
async fn without_the_store_the_replica_that_is_asked_runs_it() {
    let (service, server) = (Service::start().await, OwnServer::start());
    let circuits = registry(
        &server.url(),
        &unique_prefix("health-now"),
        Duration::from_millis(500),
    );
    let monitor = start(&circuits, asking("postgres", &service).interval(RARELY));
    monitor.check_now("postgres").await.unwrap();
    server.kill();
    let report = monitor.check_now("postgres").await.unwrap();
    assert_eq!((report.runs, report.local), (2, true));
}

#[cfg(feature = "admin")]
#[tokio::test]
async fn the_admin_api_has_a_check_run_and_counts_checks_by_status() {
    use crate::admin::site::{Answer, Site};

    let (site, service) = (Site::start().await, Service::start().await);
    let none = serde_json::json!(
        {"total": 0, "unknown": 0, "healthy": 0, "warning": 0, "critical": 0}
    );
    assert_eq!(site.get("/status").await.good()["checks"], none);
    let check = asking("postgres", &service).interval(RARELY);
    let monitor = start(&site.circuits, check);
    monitor.check_now("postgres").await.unwrap();
    service.set(Mode::Down);
    let report = site
        .post("/checks/postgres/run", serde_json::json!({}))
        .await
        .good();
    assert_eq!(report["consecutive_failures"], 1);
    assert_eq!(report["status"], "warning");
    assert_eq!(report["history"].as_array().unwrap().len(), 2);
    for path in ["/status", "/health"] {
        let checks = &site.get(path).await.good()["checks"];
        assert_eq!(
            (&checks["total"], &checks["warning"]),
            (&1.into(), &1.into())
        );
    }
    let words = site
        .post("/checks/other/run", serde_json::json!({}))
        .await
        .problem(404);
    assert_eq!(words, "there is no check \"other\"");
    let stranger = site.ask(reqwest::Method::POST, "/checks/postgres/run");
    let answer = Answer::of(stranger.send().await.unwrap()).await;
    answer.problem(401);
    monitor.stop().await;
    let words = site
        .post("/checks/postgres/run", serde_json::json!({}))
        .await
        .problem(504);
    assert!(words.starts_with("no replica ran it within 9s"), "{words}");
}

#[cfg(feature = "cli")]
#[tokio::test]
async fn the_command_line_has_a_check_run() {
    use crate::cli::run_at;
    use crate::support::redis_url;

    let (service, prefix) = (Service::start().await, unique_prefix("health-now"));
    let run = async |arguments: &[&str]| run_at(redis_url(), &prefix, arguments).await;
    let [(_one, first), (_other, second)] = rarely_run(&service, &prefix).await;
    let text = run(&["checks", "run", "postgres"]).await;
    assert_eq!((text.status, text.err.as_str()), (0, ""), "{text:?}");
    assert!(text.out.contains("postgres  healthy"), "{text:?}");
    service.set(Mode::Down);
    let json = run(&["checks", "run", "postgres", "--json"]).await;
    assert_eq!((json.status, json.err.as_str()), (1, ""), "{json:?}");
    assert_eq!(json.json()["runs"], 3);
    let wrong = run(&["checks", "run", "postgre"]).await;
    assert_eq!(wrong.status, 1);
    assert!(
        wrong
            .err
            .contains("there is no check \"postgre\": did you mean postgres?"),
        "{wrong:?}"
    );
    first.stop().await;
    second.stop().await;
    let nobody = run(&["checks", "run", "postgres", "--wait", "500ms"]).await;
    assert_eq!(nobody.status, 1);
    assert!(
        nobody.err.contains("no replica ran it within 500ms"),
        "{nobody:?}"
    );
}

#[tokio::test]
async fn a_port_is_checked_in_a_line() {
    let service = Service::start().await;
    let circuits = replica(&unique_prefix("health-tcp"));
    let address = format!("127.0.0.1:{}", service.port);
    let free = crate::support::free_port().unwrap();
    let monitor = HealthMonitor::builder(&circuits)
        .check(Check::tcp("up", &address))
        .check(Check::tcp("down", &format!("127.0.0.1:{free}")));
    let monitor = monitor.start().unwrap();
    let up = monitor.check_now("up").await.unwrap();
    assert_eq!(up.status, CheckStatus::Healthy);
    let down = monitor.check_now("down").await.unwrap();
    assert!(down.why.contains("Connection refused"), "{}", down.why);
}

#[cfg(feature = "health-http")]
#[tokio::test]
async fn a_url_is_checked_in_a_line() {
    use axum::{Router, http::StatusCode, routing::get};

    let app = Router::new()
        .route("/healthz", get(|| async { "fine" }))
        .route("/sick", get(|| async { StatusCode::SERVICE_UNAVAILABLE }))
        .route(
            "/moved",
            get(|| async { (StatusCode::FOUND, [("location", "/healthz")]) }),
        )
        .route(
            "/hung",
            get(|| async { std::future::pending::<()>().await }),
        );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://user:secret@{}", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, app).await });
    let free = crate::support::free_port().unwrap();
    let circuits = replica(&unique_prefix("health-http"));
    let mut monitor = HealthMonitor::builder(&circuits);
    let checks = [
        ("up", format!("{base}/healthz"), 200, ""),
        (
            "sick",
            format!("{base}/sick"),
            200,
            "it answered 503 Service Unavailable, and not 200",
        ),
        ("sick as expected", format!("{base}/sick"), 503, ""),
        (
            "moved",
            format!("{base}/moved"),
            200,
            "it answered 302 Found, and not 200",
        ),
        (
            "hung",
            format!("{base}/hung"),
            200,
            "it took longer than 300ms",
        ),
        (
            "down",
            format!("http://u:secret@127.0.0.1:{free}/"),
            200,
            "Connection refused",
        ),
        (
            "no url",
            "orders.internal/healthz".to_owned(),
            200,
            "relative URL without a base",
        ),
    ];
    for (name, url, status, _) in &checks {
        let check = Check::http(name, url, *status);
        monitor = monitor.check(check.timeout(Duration::from_millis(300)));
    }
    let monitor = monitor.start().unwrap();
    for (name, _, _, why) in checks {
        let report = monitor.check_now(name).await.unwrap();
        assert!(report.why.contains(why), "{name}: {}", report.why);
        assert_eq!(
            report.why.is_empty(),
            why.is_empty(),
            "{name}: {}",
            report.why
        );
        assert!(!report.why.contains("secret"), "{}", report.why);
    }
}

#[tokio::test]
async fn a_check_that_is_bound_moves_its_circuit_also_on_demand() {
    let (service, circuits) = (
        Service::start().await,
        replica(&unique_prefix("health-now")),
    );
    let breaker = circuits.circuit("postgres", Default::default()).unwrap();
    let check = asking("postgres", &service).interval(RARELY);
    let monitor = start(&circuits, check.failure_threshold(1).circuit(&breaker));
    service.set(Mode::Down);
    monitor.check_now("postgres").await.unwrap();
    until_status(&monitor, CheckStatus::Critical).await;
    until("it is open", async || breaker.acquire().await.is_err()).await;
}
