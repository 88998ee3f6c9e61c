//! The service that all replicas call, as one process sees it: healthy or dead, by order.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::servers::ms;

/// How long a call takes, ms.
const LATENCY_MS: std::ops::RangeInclusive<u64> = 1..=5;
/// Calls in 100 that fail while it is healthy.
const FAILURES: u8 = 1;

#[derive(Default)]
pub struct Upstream {
    dead: AtomicBool,
}

impl Upstream {
    pub fn set_dead(&self, dead: bool) {
        self.dead.store(dead, Ordering::SeqCst);
    }

    pub async fn call(&self) -> Result<(), ()> {
        tokio::time::sleep(ms(fastrand::u64(LATENCY_MS))).await;
        if self.dead.load(Ordering::SeqCst) || fastrand::u8(..100) < FAILURES {
            return Err(());
        }
        Ok(())
    }
}
