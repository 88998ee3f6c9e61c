//! The fault matrix: every fault of a Redis, measured under traffic of several processes.
//!
//! One fault for each test, on its own real server; [`trial`] states what must hold for each.
//! ARCHITECTURE.md has the table. A run prints one line for each fault. Faults run one after the
//! other, because the cost of a call shows only on a quiet machine.

mod clocks;
mod dying;
mod network;
mod probes;
mod refusing;
mod trial;

use tokio::sync::{Mutex, MutexGuard};

async fn quiet() -> MutexGuard<'static, ()> {
    static QUIET: Mutex<()> = Mutex::const_new(());
    QUIET.lock().await
}
