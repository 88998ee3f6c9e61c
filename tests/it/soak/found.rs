//! Faults that a soak has found, each in a short test.

use std::{sync::mpsc, thread, time::Duration};

use commontrip::{Commontrip, Outcome, Policy, State};

use crate::{support::OwnServer, wait::until};

/// In a separate thread with a single-threaded runtime, in which a task that never waits would stop
/// everything.
#[test]
fn a_probe_given_while_redis_is_away_and_settled_when_it_is_back_keeps_nobody_busy() {
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async {
            let server = OwnServer::start();
            server.kill();
            let circuits = Commontrip::redis(&server.url()).unwrap();
            let policy = Policy::builder()
                .wait_duration_in_open_state(Duration::from_millis(50))
                .probe_lease(Duration::from_millis(50));
            let breaker = circuits.circuit("c", policy.build().unwrap()).unwrap();
            breaker.acquire().await.unwrap().record(Outcome::trip());
            until("open", async || breaker.state() == State::Open).await;
            let mut probe = None;
            until("a probe of its own", async || {
                probe = breaker.acquire().await.ok();
                probe.is_some()
            })
            .await;
            let probe = probe.unwrap();
            assert!(probe.is_probe());
            server.restart();
            until("back", async || circuits.health().unavailable_for.is_none()).await;
            circuits.flush().await;
            probe.success();
            until("it is counted", async || {
                circuits.flush().await;
                breaker
                    .snapshot()
                    .await
                    .is_ok_and(|seen| seen.successes_total == 1)
            })
            .await;
            // A few report intervals, in which nobody has work to do.
            tokio::time::sleep(Duration::from_millis(300)).await;
            circuits.shutdown().await;
        });
        done.send(()).unwrap();
    });
    is_done
        .recv_timeout(Duration::from_secs(60))
        .expect("it ends");
}
