//! Bytes and leases in Redis.
//!
//! Owns the commands; what may be kept, [`keeping`] says.

use redis::from_redis_value;
use tokio::time::Instant;

use super::{Inner, only, wire};
use crate::store::{StoreError, keeping};

impl Inner {
    pub(super) async fn keep(
        &self,
        key: &str,
        value: &[u8],
        for_ms: u64,
    ) -> Result<(), StoreError> {
        let key = self.prefix.kept(keeping::key(key)?);
        let value = keeping::value(value)?;
        if for_ms == 0 {
            let mut forget = redis::cmd("DEL");
            forget.arg(key);
            return self.command(forget).await;
        }
        let mut set = redis::cmd("SET");
        set.arg(key).arg(value);
        set.arg("PX").arg(keeping::bounded(for_ms));
        self.command(set).await
    }

    pub(super) async fn kept(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let mut get = redis::cmd("GET");
        get.arg(self.prefix.kept(keeping::key(key)?));
        self.command(get).await
    }

    pub(super) async fn lease(
        &self,
        key: &str,
        owner: &str,
        for_ms: u64,
    ) -> Result<bool, StoreError> {
        let key = self.prefix.lease(keeping::key(key)?);
        let request = (keeping::owner(owner)?, keeping::bounded(for_ms));
        let run = [self.scripts.lease(key, wire::encode(&request)?)];
        let deadline = Instant::now() + self.timeout;
        let answer = only(self.evaluate(&run, true, deadline).await?)?;
        let read = from_redis_value(answer.map_err(wire::error)?);
        read.map_err(|e| StoreError::Unreadable(e.to_string()))
    }
}
