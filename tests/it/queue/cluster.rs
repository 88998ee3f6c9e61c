//! Queues in a Redis Cluster.

use commontrip::{Policy, queue::Queue};

use super::{Ad, Service, ad, ms, until_stats, work};
use crate::{topology::cluster_servers::Cluster, wait::until};

#[tokio::test]
async fn queues_spread_over_the_masters_are_listed_and_drain() {
    let cluster = Cluster::start(3, false).await;
    let service = Service::new(&cluster.url(), "commontrip-test-cluster", Policy::default());
    let names: Vec<_> = (0..6).map(|i| format!("ads-{i}")).collect();
    let mut queues = Vec::new();
    for name in &names {
        let queue = Queue::<Ad>::builder(&service.store, name).timeout(ms(5000));
        queues.push(queue.build().unwrap());
    }
    for queue in &queues {
        for i in 0..5 {
            queue.enqueue(&ad(i)).await.unwrap();
        }
    }
    until("all are listed", async || {
        commontrip::queue::queues(&service.store).await.unwrap() == names
    })
    .await;
    let mut workings = Vec::new();
    for queue in &queues {
        workings.push(work!(
            queue.worker(&service.api, |_| async { Ok::<_, String>(()) })
        ));
    }
    for queue in &queues {
        until_stats("it drains", queue, |stats| stats.done == 5).await;
    }
    for working in workings {
        working.stop().await;
    }
}
