//! A circuit's transitions as a stream.
//!
//! Invariant: transitions come in order of generation and without gaps, as long as fewer than 256
//! pile up while the store is unavailable. The stream reads the circuit's own record of them; news
//! of a change is only the signal to read on.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::Duration,
};

use futures_core::Stream;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    inner::CircuitInner,
    shared::{Hook, Life, stopped},
};
use crate::model::{Event, millis};

/// How many transitions are buffered for a slow reader before the stream stops reading.
const WAITING: usize = 64;
/// How long to wait after the store did not answer.
const AGAIN: Duration = Duration::from_millis(100);
/// How often to look without any news: for a replica without calls and without push.
const LOOK: Duration = Duration::from_secs(5);

/// Calls a hook with a circuit's transitions from now on.
pub(super) fn call(hook: Hook, inner: &Arc<CircuitInner>) {
    let name = inner.name.clone();
    let mut received = follow(inner, Start::now(inner));
    inner.shared.spawn(async move {
        while let Some(event) = received.recv().await {
            hook(name.as_str(), &event);
        }
    });
}

/// The transitions of a circuit from the moment of subscription on.
///
/// Ends when the registry is shut down. Returned by
/// [`CircuitBreaker::events`](crate::CircuitBreaker::events).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// let mut events = payments.events().await?;
/// # payments.force_open(Default::default()).await?;
/// while let Some(event) = events.next().await {
///     println!("{} -> {}: {}", event.from, event.to, event.reason);
///     # break;
/// }
/// # Ok(()) }
/// ```
#[must_use = "a stream does nothing until it is polled"]
pub struct Events {
    received: mpsc::Receiver<Event>,
    /// Keeps the circuit from being removed.
    inner: Arc<CircuitInner>,
    _life: Arc<Life>,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events")
            .field("circuit", &self.inner.name)
            .finish_non_exhaustive()
    }
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
    pub(super) fn after(generation: u64, inner: Arc<CircuitInner>, life: Arc<Life>) -> Self {
        Self {
            received: follow(&inner, Start::After(generation)),
            inner,
            _life: life,
        }
    }
}

/// Where a reader of transitions starts.
#[derive(Clone, Copy)]
enum Start {
    /// After a generation.
    After(u64),
    /// At a moment, in coarse ms and on the monotonic clock: the store has not said yet which
    /// generation that was.
    At(u64, Instant),
}

impl Start {
    fn now(inner: &CircuitInner) -> Self {
        match inner.confirmed_generation() {
            Some(generation) => Self::After(generation),
            None => Self::At(inner.now(), Instant::now()),
        }
    }
}

fn follow(inner: &Arc<CircuitInner>, start: Start) -> mpsc::Receiver<Event> {
    let (sender, received) = mpsc::channel(WAITING);
    let reader = Reader {
        newest: inner.generation.subscribe(),
        inner: Arc::downgrade(inner),
        start,
    };
    let stop = inner.shared.stop.subscribe();
    inner.shared.spawn(reader.run(sender, stop));
    received
}

/// Reads a circuit's record of transitions; holds the circuit only while reading.
struct Reader {
    inner: Weak<CircuitInner>,
    newest: watch::Receiver<u64>,
    start: Start,
}

impl Reader {
    /// Ends when nobody listens, when the circuit is removed, and when the registry ends.
    async fn run(mut self, sender: mpsc::Sender<Event>, mut stop: watch::Receiver<bool>) {
        while let Some(inner) = self.inner.upgrade() {
            // Every change known by now is in the record, or the record was lost.
            let known = *self.newest.borrow_and_update();
            let events = self.read(&inner).await;
            drop(inner);
            let Some((before, events)) = events else {
                tokio::select! {
                    () = tokio::time::sleep(AGAIN) => continue,
                    () = sender.closed() => return,
                    () = stopped(&mut stop) => return,
                }
            };
            let mut generation = known.max(before);
            for event in events {
                generation = generation.max(event.generation);
                if sender.send(event).await.is_err() {
                    return;
                }
            }
            self.start = Start::After(generation);
            tokio::select! {
                _ = self.newest.wait_for(|newest| *newest > generation) => {}
                () = tokio::time::sleep(LOOK) => {}
                () = sender.closed() => return,
                () = stopped(&mut stop) => return,
            }
        }
    }

    /// The transitions since the start, and a generation up to which none is missing; `None` if the
    /// store does not answer.
    async fn read(&self, inner: &CircuitInner) -> Option<(u64, Vec<Event>)> {
        // While the store is unavailable, only one task asks it, and not this one.
        if inner.is_unavailable() {
            return None;
        }
        let _turn = inner.shared.reading.acquire().await;
        let store = &inner.shared.store;
        let (after, before, since_ms) = match self.start {
            Start::After(generation) => (generation, generation, 0),
            Start::At(coarse_ms, at) => {
                let seen = store.snapshot(&inner.name, &inner.head()).await.ok()?;
                // The answer is no older than the start, so this is the start or slightly earlier.
                let passed_ms = inner
                    .now()
                    .saturating_sub(coarse_ms)
                    .max(millis(at.elapsed()));
                (0, seen.generation, seen.now_ms.saturating_sub(passed_ms))
            }
        };
        let mut events = store.events(&inner.name, after).await.ok()?;
        events.retain(|event| event.is_transition() && event.at_ms >= since_ms);
        Some((before, events))
    }
}
