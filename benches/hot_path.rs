//! What the breaker adds to a call, in nanoseconds: the bare call beside the protected one.
//!
//! `group/case`: `closed` and `open`, on one thread and on two threads that share one circuit.
//! The registry's tasks run meanwhile, as they do in a service.

#![allow(missing_docs, clippy::expect_used, clippy::disallowed_methods)]

use std::{
    convert::Infallible,
    future::Future,
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use commontrip::{CircuitBreaker, Commontrip, Override, Permit, Policy, PolicyBuilder};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

/// Drives a future that never has to wait.
fn drive<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        std::thread::yield_now();
    }
}

/// The time that `threads` threads need to do the same, all at once.
fn elapsed(threads: usize, work: impl Fn() + Sync) -> Duration {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(&work);
        }
        work();
    });
    start.elapsed()
}

async fn upstream() -> Result<u64, Infallible> {
    Ok(black_box(1))
}

/// Makes so many calls.
type Work<'a> = &'a (dyn Fn(u64) + Sync);

#[inline(never)]
fn bare(calls: u64) {
    drive(async {
        for _ in 0..calls {
            let _ = black_box(upstream().await);
        }
    });
}

#[inline(never)]
fn protected(breaker: &CircuitBreaker, calls: u64) {
    drive(async {
        for _ in 0..calls {
            let _ = black_box(breaker.call(upstream).await);
        }
    });
}

#[inline(never)]
fn permits(breaker: &CircuitBreaker, calls: u64) {
    for _ in 0..calls {
        let _ = black_box(breaker.try_acquire().map(Permit::success));
    }
}

fn circuit(circuits: &Commontrip, name: &str, policy: PolicyBuilder) -> CircuitBreaker {
    let policy = policy.build().expect("the policy is valid");
    circuits.circuit(name, policy).expect("the name is valid")
}

fn hot_path(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let _entered = runtime.enter();
    let circuits = Commontrip::embedded().expect("an embedded store");
    let closed = circuit(&circuits, "closed", Policy::builder());
    let timed = circuit(
        &circuits,
        "timed",
        Policy::builder().slow_calls(Duration::from_secs(1), 100),
    );
    let open = circuit(&circuits, "open", Policy::builder());
    runtime.block_on(async {
        closed.acquire().await.expect("closed").success();
        timed.acquire().await.expect("closed").success();
        open.force_open(Override::because("bench"))
            .await
            .expect("an embedded store");
    });

    for threads in [1, 2] {
        let cases: [(&str, &str, Work); 5] = [
            ("bare", "call", &bare),
            ("closed", "call", &|n| protected(&closed, n)),
            ("closed", "call_timed", &|n| protected(&timed, n)),
            ("closed", "permit", &|n| permits(&closed, n)),
            ("open", "call", &|n| protected(&open, n)),
        ];
        for (state, case, work) in cases {
            let mut group = criterion.benchmark_group(state);
            group.bench_function(BenchmarkId::new(case, threads), |b| {
                b.iter_custom(|n| elapsed(threads, || work(n)));
            });
            group.finish();
        }
    }
    runtime.block_on(circuits.shutdown());
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2));
    targets = hot_path
}
criterion_main!(benches);
