//! The index of circuits after Redis has lost all data.

use std::time::Duration;

use commontrip::{Commontrip, Policy, operator::Operator};

use crate::{support::OwnServer, wait::until};

const LONG: Duration = Duration::from_secs(20);

fn replica(server: &OwnServer) -> Commontrip {
    let builder = Commontrip::builder().redis(&server.url());
    builder.store_timeout(LONG).build().unwrap()
}

async fn listed(operator: &Operator) -> Vec<String> {
    let views = operator.circuits(0).await.unwrap_or_default();
    let mut names: Vec<_> = views.iter().map(|view| view.name.to_string()).collect();
    names.sort();
    names
}

/// The regular index update would take up to a minute; `until` waits for half a minute.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn circuits_are_listed_again_at_once_when_redis_has_lost_everything() {
    let server = OwnServer::start();
    let fleet = [replica(&server), replica(&server)];
    let policy = || {
        let policy = Policy::builder()
            .failure_rate_threshold(50)
            .minimum_number_of_calls(5);
        policy
            .wait_duration_in_open_state(Duration::from_secs(120))
            .build()
            .unwrap()
    };
    let all = ["busy", "idle", "open"];
    let circuits: Vec<_> = fleet
        .iter()
        .map(|replica| all.map(|name| replica.circuit(name, policy()).unwrap()))
        .collect();
    for [busy, idle, open] in &circuits {
        for _ in 0..10 {
            let _ = busy.call(|| async { Ok::<_, ()>(()) }).await;
            let _ = idle.call(|| async { Ok::<_, ()>(()) }).await;
            let _ = open.call(|| async { Err::<(), _>(()) }).await;
        }
    }
    for replica in &fleet {
        replica.flush().await;
    }
    let operator = Operator::of(&fleet[0]);
    until("all are listed", async || listed(&operator).await == all).await;
    // The open one is called too: a rejected caller's replica reports the rejection.
    let calls = circuits.iter().map(|[busy, _, open]| {
        let (busy, open) = (busy.clone(), open.clone());
        tokio::spawn(async move {
            loop {
                let _ = busy.call(|| async { Ok::<_, ()>(()) }).await;
                let _ = open.call(|| async { Err::<(), _>(()) }).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    });
    let calls: Vec<_> = calls.collect();
    for _ in 0..2 {
        let mut connection = redis::Client::open(server.admin_url())
            .unwrap()
            .get_connection()
            .unwrap();
        let () = redis::cmd("FLUSHALL").query(&mut connection).unwrap();
        until("those in use are listed again", async || {
            let listed = listed(&operator).await;
            ["busy", "open"]
                .iter()
                .all(|name| listed.iter().any(|l| l == name))
        })
        .await;
        // Nobody has used the idle one since. Its next report finds that it was lost.
        let _ = circuits[0][1].call(|| async { Ok::<_, ()>(()) }).await;
        until("all are listed again", async || {
            listed(&operator).await == all
        })
        .await;
    }
    calls.iter().for_each(tokio::task::JoinHandle::abort);
}
