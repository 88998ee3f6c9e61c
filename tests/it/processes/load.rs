//! Calls from several threads, each timed: what the breaker adds to a call, and how calls end.
//!
//! Owns the threads and their measurements; knows nothing of Redis and faults. The same loop makes
//! an equal call on a circuit without Redis, which shows the machine's share. Invariant: the time
//! for which a thread waited to be scheduled is not counted, the time for which it slept is.

use std::{
    fs::File,
    future::Future,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use commontrip::{CallError, CircuitBreaker, Commontrip, Policy};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::wire::{LONG_NS, Measured, Times, Told, View};

/// Concurrent calls in one process.
pub const THREADS: usize = 2;
/// With three circuits about 20 000 calls a second in a process, which leaves time for the rest on
/// a machine with two cores.
pub const ROUNDS: usize = 18;
const PAUSE: Duration = Duration::from_millis(5);

pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// The registry of the circuit that calls are compared with.
    _control: Commontrip,
}

struct Shared {
    breakers: Vec<CircuitBreaker>,
    control: CircuitBreaker,
    /// One bit for each circuit.
    failing: AtomicU64,
    /// The same for circuits whose last call was rejected.
    rejects: AtomicU64,
    stop: AtomicBool,
    /// One entry for each thread.
    samples: Vec<Mutex<Samples>>,
}

#[derive(Default)]
struct Samples {
    told: Vec<Told>,
    breaker: Vec<u64>,
    control: Vec<u64>,
}

impl Load {
    pub fn start(breakers: &[CircuitBreaker]) -> Load {
        let embedded = Commontrip::embedded().expect("there is a runtime");
        let control = embedded.circuit("control", Policy::default());
        let shared = Arc::new(Shared {
            breakers: breakers.to_vec(),
            control: control.expect("a name"),
            failing: AtomicU64::new(0),
            rejects: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            samples: (0..THREADS)
                .map(|_| Mutex::new(Samples::of(breakers)))
                .collect(),
        });
        let thread = |number| {
            let (shared, runtime) = (Arc::clone(&shared), Handle::current());
            // Separate threads, because the breaker's background work runs on the runtime's only
            // thread.
            thread::spawn(move || runtime.block_on(shared.call_until_stopped(number)))
        };
        Load {
            threads: (0..THREADS).map(thread).collect(),
            shared,
            _control: embedded,
        }
    }

    /// From now on the calls of these circuits fail; returns the earlier measurements.
    pub fn change(&self, failing: &[usize]) -> Measured {
        let bits = failing.iter().fold(0, |bits, circuit| bits | 1 << circuit);
        self.shared.failing.store(bits, Ordering::Relaxed);
        let mut all = Samples::of(&self.shared.breakers);
        for samples in &self.shared.samples {
            all.take(std::mem::replace(
                &mut *samples.lock(),
                Samples::of(&self.shared.breakers),
            ));
        }
        Measured {
            told: all.told,
            breaker: times(all.breaker),
            control: times(all.control),
        }
    }

    pub fn views(&self) -> Vec<View> {
        let rejects = self.shared.rejects.load(Ordering::Relaxed);
        let view = |(circuit, breaker): (usize, &CircuitBreaker)| {
            let seen = breaker.cached();
            View {
                state: seen.state,
                generation: seen.generation,
                rejects: rejects & 1 << circuit != 0,
            }
        };
        self.shared.breakers.iter().enumerate().map(view).collect()
    }

    pub async fn stop(self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            // Their last calls may need the runtime, which runs on this thread.
            let ended = tokio::task::spawn_blocking(|| thread.join()).await;
            assert!(matches!(ended, Ok(Ok(()))), "no call panics");
        }
    }
}

impl Shared {
    async fn call_until_stopped(self: Arc<Self>, number: usize) {
        let mut timer = Timer::new();
        while !self.stop.load(Ordering::Relaxed) {
            timer.look();
            let mut new = Samples::of(&self.breakers);
            for _ in 0..ROUNDS {
                for (circuit, breaker) in self.breakers.iter().enumerate() {
                    let fails = self.failing.load(Ordering::Relaxed) & 1 << circuit != 0;
                    let call = async || if fails { Err(()) } else { Ok(()) };
                    let (answer, ns) = timer.time(breaker.call(call)).await;
                    new.breaker.push(ns);
                    self.tell(circuit, &mut new.told[circuit], &answer);
                }
                let call = async || Ok::<(), ()>(());
                let (answer, ns) = timer.time(self.control.call(call)).await;
                answer.expect("the control has no reason to open");
                new.control.push(ns);
            }
            self.samples[number].lock().take(new);
            // Nothing else runs on this thread.
            thread::sleep(PAUSE);
        }
    }

    fn tell(&self, circuit: usize, told: &mut Told, answer: &Result<(), CallError<()>>) {
        match answer {
            Ok(()) => told.ok += 1,
            Err(CallError::Failed(())) => told.failed += 1,
            Err(CallError::Rejected(_)) => told.rejected += 1,
            Err(_) => told.other += 1,
        }
        let bit = 1 << circuit;
        if matches!(answer, Err(CallError::Rejected(_))) {
            self.rejects.fetch_or(bit, Ordering::Relaxed);
        } else {
            self.rejects.fetch_and(!bit, Ordering::Relaxed);
        }
    }
}

impl Samples {
    fn of(breakers: &[CircuitBreaker]) -> Samples {
        Samples {
            told: vec![Told::default(); breakers.len()],
            ..Samples::default()
        }
    }

    fn take(&mut self, new: Samples) {
        for (sum, told) in self.told.iter_mut().zip(new.told) {
            *sum += told;
        }
        self.breaker.extend(new.breaker);
        self.control.extend(new.control);
    }
}

/// Measures what one thread does, and for how long it was not scheduled.
struct Timer {
    /// Time on the CPU, then time waiting for it, both in nanoseconds.
    schedstat: File,
    waited_ns: u64,
}

impl Timer {
    fn new() -> Timer {
        Timer {
            schedstat: File::open("/proc/thread-self/schedstat").expect("Linux has it"),
            waited_ns: 0,
        }
    }

    /// How long this thread was not scheduled since the last call.
    fn look(&mut self) -> u64 {
        let mut text = [0; 80];
        let length = self.schedstat.read_at(&mut text, 0).expect("it is read");
        let text = std::str::from_utf8(&text[..length]).expect("it is text");
        let waited_ns = text.split(' ').nth(1).and_then(|ns| ns.parse().ok());
        let before = self.waited_ns;
        self.waited_ns = waited_ns.expect("its second number");
        self.waited_ns - before
    }

    async fn time<T>(&mut self, call: impl Future<Output = T>) -> (T, u64) {
        let start = Instant::now();
        let answer = call.await;
        let mut ns = start.elapsed().as_nanos() as u64;
        if ns > LONG_NS {
            ns = ns.saturating_sub(self.look());
        }
        (answer, ns)
    }
}

fn times(mut ns: Vec<u64>) -> Times {
    ns.sort_unstable();
    let at = |per_mille: usize| ns.get(ns.len() * per_mille / 1000).copied();
    Times {
        calls: ns.len() as u64,
        p50_ns: at(500).unwrap_or_default(),
        p999_ns: at(999).unwrap_or_default(),
        long_ns: ns[ns.partition_point(|ns| *ns <= LONG_NS)..].to_vec(),
    }
}
