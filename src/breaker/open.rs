//! Calls that are not over with their result: the permit stays with it.

use super::{CallError, CircuitBreaker, Permit};
use crate::model::Outcome;

impl CircuitBreaker {
    /// Makes a call and keeps its permit if the result is `Ok`; `failed` decides what an error
    /// means. `call_timeout` ends only the wait for the result.
    pub(crate) async fn open<C, F, Fut, T, E>(
        &self,
        failed: C,
        open: F,
    ) -> Result<(T, Permit), CallError<E>>
    where
        C: FnOnce(&E) -> Outcome,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let permit = self.acquire().await?;
        let result = match permit.call_timeout() {
            None => open().await,
            Some(limit) => match tokio::time::timeout(limit, open()).await {
                Ok(result) => result,
                Err(_) => {
                    permit.timed_out();
                    return Err(CallError::TimedOut(limit));
                }
            },
        };
        match result {
            Ok(answer) => Ok((answer, permit)),
            Err(error) => {
                permit.record(failed(&error));
                Err(CallError::Failed(error))
            }
        }
    }
}
