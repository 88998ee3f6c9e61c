//! Bytes in groups of bounded size, in Redis.
//!
//! Owns the commands; [`key_value`] and [`group`](crate::store::group) define what may be kept. All
//! of a group is in one slot of a Cluster.

use redis::from_redis_value;
use tokio::time::Instant;

use super::{Inner, only, wire};
use crate::store::{StoreError, group, key_value};

impl Inner {
    pub(super) async fn keep_in(
        &self,
        name: &str,
        (key, value): (&str, &[u8]),
        for_ms: u64,
        most: u64,
    ) -> Result<(), StoreError> {
        let (name, key) = (group::name(name)?, key_value::key(key)?);
        let (value, for_ms) = (key_value::value(value)?, key_value::bounded(for_ms));
        let (value, most) = match for_ms {
            0 => (&[][..], 0),
            _ => (value, group::bound(key, value, most)?),
        };
        let request = wire::encode(&(key, for_ms, most))?;
        let arguments = [request, value.to_vec()];
        let run = [self.scripts.group(self.prefix.group(name), arguments)];
        let deadline = Instant::now() + self.timeout;
        loop {
            let answer = only(self.evaluate(&run, true, deadline).await?)?;
            let read: Result<u8, _> = from_redis_value(answer.map_err(wire::error)?);
            match read.map_err(|e| StoreError::Unreadable(e.to_string()))? {
                // The script made room, but not enough yet.
                0 if Instant::now() < deadline => {}
                0 => return Err(StoreError::Timeout(self.timeout)),
                _ => return Ok(()),
            }
        }
    }

    pub(super) async fn kept_in(
        &self,
        name: &str,
        key: &str,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let [values, _] = self.prefix.group(group::name(name)?);
        let mut get = redis::cmd("HGET");
        get.arg(values).arg(format!("v{}", key_value::key(key)?));
        self.command(get).await
    }
}
