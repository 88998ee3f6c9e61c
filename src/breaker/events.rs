//! A circuit's transitions as a stream.
//!
//! Invariant: transitions come in order of generation and none is left out, as long as fewer than
//! 256 pile up while the store is away: the stream reads the circuit's own record of them, and
//! news of a change is only the signal to read on.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_core::Stream;
use tokio::sync::mpsc;

use super::{
    cell::Cell,
    registry::{Commontrip, Life, stopped},
};
use crate::model::Event;

/// How many transitions wait for a slow reader before the stream stops reading on.
const WAITING: usize = 64;
/// When to ask again after the store did not answer.
const AGAIN: Duration = Duration::from_millis(100);
/// When to look even though nothing was heard: a replica without calls and without push.
const LOOK: Duration = Duration::from_secs(5);

impl Commontrip {
    /// Calls `hook` with the name of the circuit and each transition of any circuit of this registry, also
    /// of those that it gets later: each once, in order, from now on (for a later circuit, from then on).
    ///
    /// Every replica's hooks are called; for what is to happen once in the fleet there are alerts (feature
    /// `alerts`).
    /// A hook runs in the registry's tasks and must not block; one that panics is not called again for
    /// that circuit.
    pub fn on_event(&self, hook: impl Fn(&str, &Event) + Send + Sync + 'static) {
        let hook: Hook = Arc::new(hook);
        let shared = self.shared();
        shared.hooks.lock().push(Arc::clone(&hook));
        for cell in shared.cells() {
            call(Arc::clone(&hook), cell);
        }
    }
}

/// What is called with each transition.
pub(super) type Hook = Arc<dyn Fn(&str, &Event) + Send + Sync>;

/// Calls a hook with a circuit's transitions from now on.
pub(super) fn call(hook: Hook, cell: Arc<Cell>) {
    let shared = Arc::clone(&cell.shared);
    shared.spawn(async move {
        let Some(generation) = present(&cell).await else {
            return;
        };
        let (sender, mut received) = mpsc::channel(WAITING);
        cell.shared
            .spawn(read_on(Arc::clone(&cell), generation, sender));
        while let Some(event) = received.recv().await {
            hook(cell.name.as_str(), &event);
        }
    });
}

/// The generation that a circuit is in, once the store says it; `None` when the registry ends before.
async fn present(cell: &Cell) -> Option<u64> {
    let mut stop = cell.shared.stop.subscribe();
    loop {
        if !cell.is_away() {
            let _turn = cell.shared.reading.acquire().await;
            let head = cell.head();
            if let Ok(seen) = cell.shared.store.snapshot(&cell.name, &head).await {
                return Some(seen.generation);
            }
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = stopped(&mut stop) => return None,
        }
    }
}

/// The transitions of a circuit from the moment of subscription on.
///
/// Ends when the registry is shut down. Made by [`CircuitBreaker::events`](crate::CircuitBreaker::events).
#[derive(Debug)]
#[must_use = "a stream does nothing until it is polled"]
pub struct Events {
    received: mpsc::Receiver<Event>,
    _life: Arc<Life>,
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.received.poll_recv(context)
    }
}

impl Events {
    /// The next transition; `None` after the registry was shut down.
    pub async fn next(&mut self) -> Option<Event> {
        self.received.recv().await
    }

    /// Transitions after `generation`.
    pub(super) fn follow(cell: Arc<Cell>, generation: u64, life: Arc<Life>) -> Self {
        let (sender, received) = mpsc::channel(WAITING);
        let shared = Arc::clone(&cell.shared);
        shared.spawn(read_on(cell, generation, sender));
        Self {
            received,
            _life: life,
        }
    }
}

async fn read_on(cell: Arc<Cell>, mut generation: u64, sender: mpsc::Sender<Event>) {
    let mut newest = cell.generation.subscribe();
    let mut stop = cell.shared.stop.subscribe();
    loop {
        // Whatever is known by now is in the record, or the record was lost.
        let known = *newest.borrow_and_update();
        // While the store is away only one task asks it, and this is not it.
        let events = match cell.is_away() {
            true => None,
            false => {
                let _turn = cell.shared.reading.acquire().await;
                cell.shared.store.events(&cell.name, generation).await.ok()
            }
        };
        let Some(events) = events else {
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => continue,
                () = sender.closed() => return,
                () = stopped(&mut stop) => return,
            }
        };
        for event in events.into_iter().filter(Event::is_transition) {
            generation = event.generation;
            if sender.send(event).await.is_err() {
                return;
            }
        }
        generation = generation.max(known);
        tokio::select! {
            _ = newest.wait_for(|newest| *newest > generation) => {}
            () = tokio::time::sleep(LOOK) => {}
            () = sender.closed() => return,
            () = stopped(&mut stop) => return,
        }
    }
}
