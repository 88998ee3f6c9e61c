//! How long a stream has kept its reader waiting.
//!
//! Invariant: only the time from a pending poll to the wake that follows it counts, so that the
//! stream is not blamed for a slow reader.

use std::{
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Measures the silence before an item.
#[derive(Debug)]
pub(super) struct Silence {
    watch: Arc<Watch>,
    waker: Waker,
    /// The silence before the latest poll.
    before: Duration,
    /// When the latest poll returned pending.
    pending_since: Option<Instant>,
}

/// Records when the stream first wakes its reader after a poll.
#[derive(Debug, Default)]
struct Watch {
    reader: AtomicWaker,
    woken: Mutex<Option<Instant>>,
}

impl Wake for Watch {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.lock().get_or_insert_with(Instant::now);
        self.reader.wake();
    }
}

impl Silence {
    pub(super) fn new() -> Self {
        let watch = Arc::<Watch>::default();
        Self {
            waker: Waker::from(Arc::clone(&watch)),
            watch,
            before: Duration::ZERO,
            pending_since: None,
        }
    }

    /// Polls the stream, and measures how long it keeps the reader waiting.
    pub(super) fn poll<T>(
        &mut self,
        reader: &Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.before = self.so_far();
        self.pending_since = None;
        *self.watch.woken.lock() = None;
        self.watch.reader.register(reader.waker());
        let polled = poll(&mut Context::from_waker(&self.waker));
        if polled.is_pending() {
            self.pending_since = Some(Instant::now());
        }
        polled
    }

    /// The silence since the last item.
    pub(super) fn so_far(&self) -> Duration {
        let Some(since) = self.pending_since else {
            return self.before;
        };
        let until = self.watch.woken.lock().unwrap_or_else(Instant::now);
        self.before + until.saturating_duration_since(since)
    }

    /// Resets the silence when an item arrives.
    pub(super) fn end(&mut self) {
        self.before = Duration::ZERO;
    }
}
