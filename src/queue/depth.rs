//! A queue's stats for exporters, read periodically.
//!
//! Owns how often Redis is asked; exporters use the last stats read. Invariant: stats older than
//! `OLD` are not exported.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{Queue, QueueStats};

/// How often Redis is asked: one script for each queue and process.
const EVERY: Duration = Duration::from_secs(5);
/// Without an answer for this long, nothing is exported.
const OLD: Duration = Duration::from_secs(30);

type Read = Arc<Mutex<Option<(QueueStats, Instant)>>>;

/// An exported queue; dropping it stops the polling.
pub(crate) struct Depth {
    pub(crate) name: String,
    read: Read,
    task: JoinHandle<()>,
}

impl<T: Send + Sync + 'static> Queue<T> {
    pub(crate) fn depth(&self) -> Depth {
        let (queue, read) = (self.clone(), Read::default());
        let shared = Arc::clone(&read);
        let task = tokio::spawn(async move {
            let mut every = interval(EVERY);
            every.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                every.tick().await;
                // Without an answer, the last stats age until they expire.
                if let Ok(stats) = queue.stats().await {
                    *shared.lock() = Some((stats, Instant::now()));
                }
            }
        });
        Depth {
            name: self.name().to_owned(),
            read,
            task,
        }
    }
}

impl Depth {
    /// Whether stats were ever read.
    #[cfg(feature = "metrics")]
    pub(crate) fn is_known(&self) -> bool {
        self.read.lock().is_some()
    }

    /// The last stats read, unless they are too old.
    pub(crate) fn stats(&self) -> Option<QueueStats> {
        let read = *self.read.lock();
        let (stats, at) = read?;
        (at.elapsed() < OLD).then_some(stats)
    }
}

impl Drop for Depth {
    fn drop(&mut self) {
        self.task.abort();
    }
}
