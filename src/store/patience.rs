//! How long an answer is waited for.
//!
//! Owns the difference between a store that is slow and a process that is: a process without a
//! processor finds its time over while the answer lies in the socket, unread.

use std::{future::Future, pin::pin, time::Duration};

use tokio::time::{Instant, timeout_at};

/// The answer; `None` when it has not come by the deadline, which is `timeout` after the question.
///
/// By as much as this process looks at the clock too late, it waits longer, for a second `timeout`
/// at most.
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
