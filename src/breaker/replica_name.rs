//! The default name of a registry.
//!
//! Invariant: a restarted process has the same names if `HOSTNAME` identifies it; two registries of
//! one process never share a name.

use std::{
    env,
    sync::atomic::{AtomicU64, Ordering},
};

/// `HOSTNAME`, which containers set, or else the host name and the process id. From the second
/// registry of the process on, a number is appended.
pub(crate) fn replica_name() -> String {
    static REGISTRIES: AtomicU64 = AtomicU64::new(1);
    let name = match env::var("HOSTNAME").map(|told| printable(&told)) {
        Ok(told) if !told.is_empty() => told,
        _ => {
            let host = printable(&host_name());
            let host = if host.is_empty() { "host" } else { &host };
            format!("{host}-{}", std::process::id())
        }
    };
    match REGISTRIES.fetch_add(1, Ordering::Relaxed) {
        1 => name,
        number => format!("{name}-{number}"),
    }
}

fn printable(name: &str) -> String {
    let kept = |c: &char| c.is_ascii_alphanumeric() || "-_.".contains(*c);
    name.chars().filter(kept).take(60).collect()
}

#[cfg(target_os = "linux")]
fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

#[cfg(not(target_os = "linux"))]
fn host_name() -> String {
    String::new()
}
