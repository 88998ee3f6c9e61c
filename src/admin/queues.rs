//! Fleet-wide metrics of queues, for Prometheus.
//!
//! Owns the metric names.

use futures_util::{StreamExt, stream};
use prometheus::{GaugeVec, IntGaugeVec, Opts, Registry};

use crate::{
    RedisStore,
    queue::{JobState, Queue, QueueStats, queues},
};

/// Queues read concurrently.
const AT_ONCE: usize = 16;

/// The queues and their statistics, without queues that cannot be read.
pub(super) async fn read(store: &RedisStore) -> Vec<(String, QueueStats)> {
    let names = queues(store).await.unwrap_or_default();
    let reads = names.into_iter().map(|name| async move {
        let queue = Queue::<()>::builder(store, &name).build().ok()?;
        Some((name, queue.stats().await.ok()?))
    });
    let read = stream::iter(reads).buffered(AT_ONCE);
    read.filter_map(async |read| read).collect().await
}

pub(super) fn tell(registry: &Registry, queues: &[(String, QueueStats)]) -> prometheus::Result<()> {
    let jobs = Opts::new("queue_fleet_jobs", "Jobs of the queue, by state.");
    let jobs = IntGaugeVec::new(jobs, &["queue", "state"])?;
    registry.register(Box::new(jobs.clone()))?;
    let oldest = Opts::new(
        "queue_fleet_oldest_seconds",
        "How long the oldest due job has waited for a worker; 0 when none is due.",
    );
    let oldest = GaugeVec::new(oldest, &["queue"])?;
    registry.register(Box::new(oldest.clone()))?;
    for (name, stats) in queues {
        for state in JobState::ALL {
            let of = jobs.with_label_values(&[name.as_str(), state.as_str()]);
            of.set(i64::try_from(stats.in_state(state)).unwrap_or(i64::MAX));
        }
        let waits = stats.oldest_waits().unwrap_or_default();
        oldest
            .with_label_values(&[name.as_str()])
            .set(waits.as_secs_f64());
    }
    Ok(())
}
