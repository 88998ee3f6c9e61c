//! Timeouts that tolerate a slow process.
//!
//! Owns the distinction between a slow store and a slow process: a process that gets no CPU time
//! finds its deadline past while the answer is in the socket, unread.

use std::{future::Future, pin::pin, time::Duration};

use tokio::time::{Instant, timeout_at};

/// Waits for an answer until the deadline, which is `timeout` after the request; `None` if there is
/// none.
///
/// If this process wakes up late, it waits that much longer, for a second `timeout` at most.
pub(crate) async fn answer_by<T>(
    deadline: Instant,
    timeout: Duration,
    answer: impl Future<Output = T>,
) -> Option<T> {
    let mut answer = pin!(answer);
    let last = deadline + timeout;
    let mut until = deadline;
    loop {
        if let Ok(answer) = timeout_at(until, &mut answer).await {
            return Some(answer);
        }
        let now = Instant::now();
        let late = now - until;
        if late < timeout / 10 || now >= last {
            return None;
        }
        until = (now + late).min(last);
    }
}
