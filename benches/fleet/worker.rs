//! The replicas of one process and the upstream that they share; executes orders.
//!
//! Invariant: a worker process ends when its stdin closes, so none outlives the bench.

use std::{
    io::{BufRead, Write, stdin, stdout},
    process,
    sync::Arc,
    thread,
};

use futures_util::future::join_all;
use tokio::{runtime, sync::mpsc, task::JoinHandle, time::MissedTickBehavior};

use crate::{
    replica::Replica,
    servers::ms,
    upstream::Upstream,
    wire::{Answer, Order, Setup},
};

/// Replicas that connect at once, as in a rolling deploy. A Redis accepts only so many connections
/// before it handles other events.
const AT_ONCE: usize = 50;

pub struct Worker {
    replicas: Arc<Vec<Replica>>,
    upstream: Arc<Upstream>,
    watch: JoinHandle<()>,
}

impl Worker {
    pub async fn start(setup: &Setup) -> Worker {
        let upstream = Arc::new(Upstream::default());
        let mut replicas = Vec::new();
        for number in setup.replicas.clone() {
            replicas.push(Replica::start(setup, number, Arc::clone(&upstream)));
            if replicas.len() % AT_ONCE == 0 {
                settle(&replicas).await;
            }
        }
        let replicas = Arc::new(replicas);
        Worker {
            watch: tokio::spawn(watch(Arc::clone(&replicas))),
            replicas,
            upstream,
        }
    }

    pub async fn obey(&self, order: Order) -> Answer {
        match order {
            Order::Dead(dead) => self.upstream.set_dead(dead),
            Order::Look => return Answer::Views(self.replicas.iter().map(Replica::view).collect()),
            Order::Take => return Answer::Logs(self.replicas.iter().map(Replica::take).collect()),
            Order::Stop => {
                self.watch.abort();
                join_all(self.replicas.iter().map(Replica::stop)).await;
            }
        }
        Answer::Done
    }
}

/// Waits until all replicas receive changes, but not for long: a replica without push shows in the
/// figures.
async fn settle(replicas: &[Replica]) {
    for _ in 0..200 {
        if replicas.iter().all(|replica| replica.view().push) {
            return;
        }
        tokio::time::sleep(ms(10)).await;
    }
}

async fn watch(replicas: Arc<Vec<Replica>>) {
    let mut tick = tokio::time::interval(ms(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        replicas.iter().for_each(Replica::watch);
    }
}

/// The main function of a worker process.
pub fn process() {
    let (sender, mut lines) = mpsc::unbounded_channel::<String>();
    thread::spawn(move || {
        for line in stdin().lock().lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
        process::exit(0);
    });
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let setup = lines.recv().await.expect("the setup comes first");
        let setup = serde_json::from_str(&setup).expect("the setup is JSON");
        let worker = Worker::start(&setup).await;
        while let Some(line) = lines.recv().await {
            let order = serde_json::from_str(&line).expect("orders are JSON");
            let last = matches!(order, Order::Stop);
            let answer = worker.obey(order).await;
            let text = serde_json::to_string(&answer).expect("answers can be JSON");
            let mut out = stdout().lock();
            let written = writeln!(out, "{text}").and_then(|()| out.flush());
            if last || written.is_err() {
                return;
            }
        }
    });
}
