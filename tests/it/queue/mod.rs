//! The retry queue on a real Redis: what is stored, what runs, what is rejected, and what happens
//! to jobs when workers die.

mod call;
#[cfg(feature = "cli")]
mod cli;
mod cluster;
mod crash;
mod depth;
mod embedded;
mod enqueue;
mod example;
mod fence;
mod gate;
mod redis_unavailable;
mod steer;
mod worker;

use std::{sync::Arc, time::Duration};

use commontrip::{
    CircuitBreaker, Commontrip, Policy, RedisStore,
    queue::{Job, Queue, QueueBuilder, QueueStats},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::{
    support::{redis_url, unique_prefix},
    wait::until,
};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Ad {
    id: u64,
    title: String,
}

fn ad(id: u64) -> Ad {
    let title = format!("ad {id}");
    Ad { id, title }
}

/// One process: a store, its circuits, and the circuit of the ads' API.
struct Service {
    store: RedisStore,
    circuits: Commontrip,
    api: CircuitBreaker,
}

impl Service {
    fn new(url: &str, prefix: &str, policy: Policy) -> Self {
        // A timeout that a busy machine does not exceed.
        let store = RedisStore::builder().prefix(prefix).timeout(ms(2000));
        let store = store.open(url).unwrap();
        let circuits = Commontrip::builder().store(store.clone());
        let circuits = circuits.store_timeout(ms(2000)).build().unwrap();
        let api = circuits.circuit("api", policy).unwrap();
        Self {
            store,
            circuits,
            api,
        }
    }

    fn plain() -> Self {
        Self::new(redis_url(), &unique_prefix("queue"), Policy::default())
    }

    fn builder(&self) -> QueueBuilder<Ad> {
        Queue::builder(&self.store, "ads").timeout(ms(5000))
    }

    fn ads(&self) -> Queue<Ad> {
        self.builder().build().unwrap()
    }
}

/// The jobs that a worker's handler received.
type Seen = Arc<Mutex<Vec<Job<Ad>>>>;

/// A worker that is stopped cleanly.
struct Working {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Working {
    async fn stop(self) {
        let _ = self.stop.send(());
        self.task.await.unwrap();
    }
}

macro_rules! work {
    ($worker:expr) => {{
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let task = tokio::spawn($worker.run(stopped));
        crate::queue::Working { stop, task }
    }};
}
use work;

async fn until_stats<T>(
    what: &str,
    queue: &Queue<T>,
    holds: impl Fn(&QueueStats) -> bool,
) -> QueueStats {
    let mut seen = None;
    until(what, async || {
        let stats = queue.stats().await.unwrap();
        seen = Some(stats);
        holds(&stats)
    })
    .await;
    seen.unwrap()
}
