//! Neither a call of a closed circuit nor a rejection allocates.
//!
//! A separate binary beside `tests/it`, because its counting allocator would slow down every other
//! test. It counts for each thread. While a thread's calls are counted, the registry's tasks stand
//! still, and so does the clock, so that no decision becomes stale.

#![allow(missing_docs, clippy::unwrap_used)]

use std::time::Duration;

use allocation_counter::measure;
use commontrip::{
    CallError, CircuitBreaker, Clock, Commontrip, LatencyRecording, Outcome, Permit, Policy,
    PolicyBuilder, Rejection, State,
};
use futures_util::FutureExt;
use tokio::runtime::Runtime;

const CALLS: usize = 10_000;

struct Bench {
    runtime: Runtime,
    circuits: Commontrip,
}

impl Bench {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let entered = runtime.enter();
        let circuits = Commontrip::builder()
            .clock(Clock::manual())
            .build()
            .unwrap();
        drop(entered);
        Self { runtime, circuits }
    }

    /// A closed circuit whose decision is cached.
    fn closed(&self, policy: PolicyBuilder) -> CircuitBreaker {
        let breaker = self.circuits.circuit("c", policy.build().unwrap()).unwrap();
        self.runtime.block_on(self.circuits.flush());
        breaker
    }

    fn open(&self) -> CircuitBreaker {
        let breaker = self.closed(Policy::builder());
        let trip = |_: &Result<(), ()>| Outcome::trip();
        self.runtime.block_on(async {
            let _ = breaker.call_with(trip, async || Err(())).await;
            self.circuits.flush().await;
        });
        assert_eq!(breaker.state(), State::Open);
        breaker
    }
}

/// What a policy records in addition to the outcome.
fn policies() -> [(&'static str, PolicyBuilder); 4] {
    let second = Duration::from_secs(1);
    [
        ("the defaults", Policy::builder()),
        ("slow calls", Policy::builder().slow_calls(second, 100)),
        (
            "every latency",
            Policy::builder().latency_recording(LatencyRecording::EveryCall),
        ),
        (
            "no latency",
            Policy::builder().latency_recording(LatencyRecording::Off),
        ),
    ]
}

/// How often this thread allocates in its calls, after warm-up calls: a thread may need setup.
fn allocations(mut call: impl FnMut()) -> u64 {
    for _ in 0..10 {
        call();
    }
    measure(|| (0..CALLS).for_each(|_| call())).count_total
}

/// A call that never waits.
fn call(breaker: &CircuitBreaker) -> Result<(), CallError<()>> {
    let call = breaker.call(async || Ok(()));
    call.now_or_never().unwrap()
}

fn call_sync(breaker: &CircuitBreaker) -> Result<(), CallError<()>> {
    breaker.call_sync(|| Ok(()))
}

fn call_judged(breaker: &CircuitBreaker) -> Result<(), CallError<()>> {
    let call = breaker.call_judged(|_| Outcome::Success, async || Ok(()));
    call.now_or_never().unwrap()
}

fn permit(breaker: &CircuitBreaker) -> Result<(), Rejection> {
    breaker.try_acquire().map(Permit::success)
}

#[test]
fn a_permitted_call_allocates_nothing() {
    for (recorded, policy) in policies() {
        let bench = Bench::new();
        let breaker = bench.closed(policy);
        let counted = allocations(|| call(&breaker).unwrap());
        assert_eq!(counted, 0, "call with {recorded}");
        let counted = allocations(|| call_sync(&breaker).unwrap());
        assert_eq!(counted, 0, "call_sync with {recorded}");
        let counted = allocations(|| call_judged(&breaker).unwrap());
        assert_eq!(counted, 0, "call_judged with {recorded}");
        let counted = allocations(|| permit(&breaker).unwrap());
        assert_eq!(counted, 0, "permit with {recorded}");
    }
}

/// Without a subscriber, or with one that disables the span.
#[cfg(feature = "otel")]
#[test]
fn a_traced_call_that_nobody_wants_to_see_allocates_nothing() {
    let bench = Bench::new();
    let breaker = bench.closed(Policy::builder());
    let counted = allocations(|| {
        let call = breaker.traced().call(async || Ok::<_, ()>(()));
        call.now_or_never().unwrap().unwrap();
    });
    assert_eq!(counted, 0, "call");
    let traced = || breaker.traced().call_sync(|| Ok::<_, ()>(()));
    let counted = allocations(|| traced().unwrap());
    assert_eq!(counted, 0, "call_sync");
}

#[test]
fn a_failed_call_allocates_nothing() {
    let bench = Bench::new();
    // More failures than there are calls, so that none of them trips.
    let policy = Policy::builder()
        .no_failure_rate_threshold()
        .no_consecutive_failures_threshold()
        .failure_count_threshold(1_000_000);
    let breaker = bench.closed(policy);
    let counted = allocations(|| {
        let failed = breaker.call(async || Err::<(), ()>(())).now_or_never();
        assert!(matches!(failed, Some(Err(CallError::Failed(())))));
    });
    assert_eq!(counted, 0);
}

#[test]
fn a_rejected_call_allocates_nothing() {
    let bench = Bench::new();
    let breaker = bench.open();
    let counted = allocations(|| assert!(call(&breaker).unwrap_err().rejection().is_some()));
    assert_eq!(counted, 0, "call");
    let counted = allocations(|| assert!(call_sync(&breaker).is_err()));
    assert_eq!(counted, 0, "call_sync");
    let counted = allocations(|| assert_eq!(permit(&breaker).unwrap_err().state, State::Open));
    assert_eq!(counted, 0, "permit");
}

#[test]
fn a_second_thread_allocates_nothing_either() {
    let bench = Bench::new();
    let breaker = bench.closed(Policy::builder());
    let counted = std::thread::scope(|scope| {
        let theirs = scope.spawn(|| allocations(|| call(&breaker).unwrap()));
        let mine = allocations(|| call(&breaker).unwrap());
        [mine, theirs.join().unwrap()]
    });
    assert_eq!(counted, [0, 0]);
}

/// The cost of a stream's waker does not depend on the number of items.
#[cfg(feature = "stream")]
#[test]
fn a_stream_allocates_once_and_a_rejected_one_not_at_all() {
    use commontrip::stream::StreamOptions;
    use futures_util::{StreamExt, stream};

    let options = StreamOptions::new()
        .first_item_within(Duration::from_secs(1))
        .ends_with(|item: &usize| *item == 9);
    let read = |breaker: &CircuitBreaker| {
        let open = async || Ok::<_, ()>(stream::iter((0..10).map(Ok::<_, ()>)));
        let reading = async {
            let items = breaker.stream(&options, open).await?;
            Ok::<_, CallError<()>>(items.count().await)
        };
        reading.now_or_never().unwrap()
    };
    let bench = Bench::new();
    let breaker = bench.closed(Policy::builder());
    let counted = allocations(|| assert_eq!(read(&breaker).unwrap(), 10));
    assert_eq!(counted, CALLS as u64);
    let breaker = bench.open();
    let counted = allocations(|| assert!(read(&breaker).is_err()));
    assert_eq!(counted, 0, "rejected");
}
