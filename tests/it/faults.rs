//! The fault matrix: everything that happens to a Redis, under traffic of several processes, measured.
//!
//! One fault a test, on a real server of its own; [`trial`] says what must hold for each. The table is in ARCHITECTURE.md.
//! The lines that a run prints are one a fault. Faults take turns: what a call costs shows on a quiet machine only.

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
