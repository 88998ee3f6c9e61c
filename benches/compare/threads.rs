//! The time of a batch, on this thread alone or on two threads that start together.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::runtime::Handle;

use crate::subject::Work;

/// The second thread. It lives as long as the bench, so that no batch pays for its start.
pub struct Partner {
    batches: mpsc::Sender<(Work, u64)>,
    line: Arc<Line>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Line {
    ready: AtomicBool,
    go: AtomicBool,
    done: AtomicBool,
}

impl Partner {
    /// Starts the thread within the runtime, because tower's services need its timers when they
    /// wait.
    pub fn start(runtime: Handle) -> Self {
        let (batches, received) = mpsc::channel::<(Work, u64)>();
        let line = Arc::new(Line::default());
        let at_line = Arc::clone(&line);
        let thread = thread::spawn(move || {
            let _entered = runtime.enter();
            for (work, calls) in received {
                at_line.ready.store(true, Ordering::Release);
                while !at_line.go.swap(false, Ordering::AcqRel) {
                    thread::yield_now();
                }
                work(calls);
                at_line.done.store(true, Ordering::Release);
            }
        });
        Self {
            batches,
            line,
            thread,
        }
    }

    fn until(&self, flag: &AtomicBool) {
        while !flag.swap(false, Ordering::AcqRel) {
            assert!(!self.thread.is_finished(), "the other thread panicked");
            thread::yield_now();
        }
    }

    /// The time from the start of both threads to the end of the later one.
    fn with_me(&self, work: &Work, calls: u64) -> Duration {
        self.batches
            .send((Arc::clone(work), calls))
            .expect("the partner runs as long as the bench");
        self.until(&self.line.ready);
        let start = Instant::now();
        self.line.go.store(true, Ordering::Release);
        work(calls);
        self.until(&self.line.done);
        start.elapsed()
    }

    /// The time in which each of `threads` threads makes this many calls.
    pub fn elapsed(&self, threads: usize, work: &Work, calls: u64) -> Duration {
        if threads == 2 {
            return self.with_me(work, calls);
        }
        let start = Instant::now();
        work(calls);
        start.elapsed()
    }
}
