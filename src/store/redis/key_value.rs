//! Bytes and leases in Redis.
//!
//! Owns the commands; [`key_value`] defines what may be kept.

use redis::from_redis_value;
use tokio::time::Instant;

use super::{Inner, only, scripts::Run, wire};
use crate::store::{StoreError, key_value};

impl Inner {
    pub(super) async fn keep(
        &self,
        key: &str,
        value: &[u8],
        for_ms: u64,
    ) -> Result<(), StoreError> {
        let key = self.prefix.kept(key_value::key(key)?);
        let value = key_value::value(value)?;
        if for_ms == 0 {
            let mut forget = redis::cmd("DEL");
            forget.arg(key);
            return self.command(forget).await;
        }
        let mut set = redis::cmd("SET");
        set.arg(key).arg(value);
        set.arg("PX").arg(key_value::bounded(for_ms));
        self.command(set).await
    }

    pub(super) async fn keep_leased(
        &self,
        key: &str,
        owner: &str,
        value: &[u8],
        for_ms: u64,
    ) -> Result<bool, StoreError> {
        let key = key_value::key(key)?;
        let keys = [self.prefix.lease(key), self.prefix.kept(key)];
        let request = (key_value::owner(owner)?, key_value::bounded_leased(for_ms)?);
        let arguments = [wire::encode(&request)?, key_value::value(value)?.to_vec()];
        self.held(self.scripts.keep(keys, arguments)).await
    }

    pub(super) async fn kept(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let mut get = redis::cmd("GET");
        get.arg(self.prefix.kept(key_value::key(key)?));
        self.command(get).await
    }

    pub(super) async fn lease(
        &self,
        key: &str,
        owner: &str,
        for_ms: u64,
    ) -> Result<bool, StoreError> {
        let key = self.prefix.lease(key_value::key(key)?);
        let request = (key_value::owner(owner)?, key_value::bounded(for_ms));
        let run = self.scripts.lease(key, wire::encode(&request)?);
        self.held(run).await
    }

    /// Whether the caller had the lease.
    async fn held(&self, run: Run<'_>) -> Result<bool, StoreError> {
        let deadline = Instant::now() + self.timeout;
        let answer = only(self.evaluate(&[run], true, deadline).await?)?;
        let read = from_redis_value(answer.map_err(wire::error)?);
        read.map_err(|e| StoreError::Unreadable(e.to_string()))
    }
}
