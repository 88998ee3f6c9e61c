//! The protected call, a no-op that the compiler cannot see through, and a minimal executor.

use std::{
    future::Future,
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
};

/// The error of an upstream that is down.
#[derive(Debug, thiserror::Error)]
#[error("refused")]
pub struct Refused;

pub fn upstream() -> Result<u64, Refused> {
    Ok(black_box(1))
}

pub async fn upstream_async() -> Result<u64, Refused> {
    upstream()
}

/// A failing call, to trip breakers.
pub fn refuse() -> Result<u64, Refused> {
    Err(Refused)
}

pub async fn refuse_async() -> Result<u64, Refused> {
    refuse()
}

/// Polls a future on this thread until it is ready: the least that an executor can cost.
pub fn drive<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        std::thread::yield_now();
    }
}
