//! How runs end, and what is rejected before any run.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use commontrip::health::{Check, CheckStatus, HealthError, HealthMonitor};
use commontrip::{Clock, Commontrip, MemoryStore};

use super::service::{Mode, Service};
use super::{INTERVAL, asking, start, until_status};
use crate::wait::until;

fn embedded() -> Commontrip {
    Commontrip::embedded().unwrap()
}

#[tokio::test]
async fn what_takes_longer_than_the_timeout_has_failed() {
    let service = Service::start().await;
    service.set(Mode::Hung);
    let check = asking("postgres", &service).timeout(Duration::from_millis(60));
    let circuits = embedded();
    let monitor = start(&circuits, check);
    until_status(&monitor, CheckStatus::Critical).await;
    let seen = monitor.check("postgres").unwrap();
    assert!(
        seen.why.ends_with("runs failed: it took longer than 60ms"),
        "{}",
        seen.why
    );
    assert!(seen.latency_us.unwrap() >= 60_000 && seen.p95_us.is_none());
    assert_eq!((seen.uptime, seen.last_pass_ms), (Some(0.0), 0));
}

#[tokio::test]
async fn a_run_that_is_dropped_is_gone() {
    struct Gone(Arc<AtomicU32>);
    impl Drop for Gone {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let gone = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&gone);
    let check = Check::new("hung", move || {
        let gone = Gone(Arc::clone(&counted));
        async move {
            let _gone = gone;
            pending::<io::Result<()>>().await
        }
    });
    let check = check.interval(INTERVAL).timeout(Duration::from_millis(20));
    let circuits = embedded();
    let monitor = start(&circuits, check);
    until("two have ended", async || gone.load(Ordering::SeqCst) >= 2).await;
    drop(monitor);
}

#[tokio::test]
async fn a_panic_is_a_failure_wherever_it_is_and_the_next_run_comes() {
    const SAYS: [&str; 3] = [
        "it panicked: before there is a future",
        "it panicked: in mode 1",
        "it says no",
    ];
    let mode = Arc::new(AtomicU32::new(0));
    let set = Arc::clone(&mode);
    let check = Check::new("shaky", move || {
        let mode = set.load(Ordering::SeqCst);
        assert!(mode != 0, "before there is a future");
        async move {
            assert!(mode != 1, "in mode {mode}");
            match mode {
                2 => Err("it says no"),
                _ => Ok(()),
            }
        }
    });
    let circuits = embedded();
    let monitor = start(&circuits, check.interval(INTERVAL));
    for said in SAYS {
        until(said, async || {
            let seen = monitor.check("shaky").unwrap();
            seen.last_error.as_deref() == Some(said)
        })
        .await;
        mode.fetch_add(1, Ordering::SeqCst);
    }
    until_status(&monitor, CheckStatus::Healthy).await;
    let seen = monitor.check("shaky").unwrap();
    assert!(seen.failures >= 3 && seen.consecutive_failures == 0);
    assert_eq!(seen.last_error.as_deref(), Some("it says no"));
}

#[tokio::test]
async fn so_many_runs_are_remembered_as_was_said() {
    let check = Check::new("brief", || async { Ok::<_, io::Error>(()) });
    let check = check.interval(Duration::from_millis(10)).history(3);
    let circuits = embedded();
    let monitor = start(&circuits, check);
    until("it ran often", async || {
        monitor.check("brief").unwrap().runs > 5
    })
    .await;
    assert_eq!(monitor.check("brief").unwrap().history.len(), 3);
}

#[tokio::test]
async fn the_worst_check_is_the_monitors_status() {
    let ok = || async { Ok::<_, io::Error>(()) };
    let bad = || async { Err::<(), _>("no") };
    let circuits = embedded();
    let monitor = HealthMonitor::builder(&circuits)
        .check(Check::new("good", ok).interval(INTERVAL))
        .check(
            Check::new("bad", bad)
                .interval(INTERVAL)
                .failure_threshold(1),
        );
    let monitor = monitor.start().unwrap();
    until_status(&monitor, CheckStatus::Critical).await;
    until("the other", async || {
        monitor.check("good").unwrap().status == CheckStatus::Healthy
    })
    .await;
    assert!(monitor.check("other").is_none());
    let names: Vec<_> = monitor.checks().into_iter().map(|c| c.name).collect();
    assert_eq!(names, ["good", "bad"]);
}

#[tokio::test]
async fn runs_bear_the_stores_time() {
    let clock = Clock::manual();
    let store = MemoryStore::new(clock.clone());
    let circuits = Commontrip::builder().store(store).build().unwrap();
    let check = Check::new("timed", || async { Ok::<_, io::Error>(()) });
    let monitor = start(&circuits, check.interval(INTERVAL));
    until_status(&monitor, CheckStatus::Healthy).await;
    assert_eq!(monitor.check("timed").unwrap().last_run_ms, clock.unix_ms());
}

#[tokio::test]
async fn what_cannot_be_started_says_what_would_be_right() {
    let check = |name: &str| Check::new(name, || async { Ok::<_, io::Error>(()) });
    let ms = Duration::from_millis;
    let refused = |checks: Vec<Check>| {
        let circuits = embedded();
        let monitor = HealthMonitor::builder(&circuits);
        let monitor = checks.into_iter().fold(monitor, |m, check| m.check(check));
        monitor.start().unwrap_err()
    };
    for name in ["", "a{b", "a\nb", &"x".repeat(201)] {
        let error = refused(vec![check(name)]);
        assert!(matches!(error, HealthError::Name(_)), "{error}");
    }
    let error = refused(vec![check("a"), check("b"), check("a")]);
    assert_eq!(error, HealthError::Twice("a".to_owned()));
    for (wrong, what) in [
        (check("c").interval(ms(9)), "interval"),
        (check("c").interval(ms(3_600_001)), "interval"),
        (check("c").timeout(Duration::ZERO), "timeout"),
        (check("c").timeout(ms(600_001)), "timeout"),
        (check("c").history(0), "history"),
        (check("c").history(1001), "history"),
        (check("c").failure_threshold(0), "failure_threshold"),
        (check("c").latency(ms(0), ms(1)), "latency"),
        (check("c").latency(ms(2), ms(1)), "latency"),
        (check("c").error_rate(0, 10), "error_rate"),
        (check("c").error_rate(20, 10), "error_rate"),
        (check("c").error_rate(20, 101), "error_rate"),
    ] {
        let words = refused(vec![wrong]).to_string();
        let begin = format!("the {what} of the check \"c\" must be ");
        assert!(words.starts_with(&begin), "{words}");
    }
}
