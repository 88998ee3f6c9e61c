//! Requests of other rooms over the store's connection.
//!
//! Owns the prefix of their keys, and sends the text of a script that Redis does not have; knows no
//! script.

use std::time::Duration;

use redis::{FromRedisValue, from_redis_value};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::{RedisStore, only, scripts::Run, wire};
use crate::{
    model::{FOREVER, Name},
    store::{StoreError, Text},
};

impl RedisStore {
    /// Runs a script on the keys of a queue and decodes its MessagePack answer; `None` for nil.
    ///
    /// Waits for `patience` (a year at most), or for the store's timeout if that is longer.
    pub(crate) async fn ask_queue<T: DeserializeOwned>(
        &self,
        script: &Text,
        queue: &Name,
        arguments: Vec<Vec<u8>>,
        patience: Duration,
    ) -> Result<Option<T>, StoreError> {
        let answer = self.tell_queue(script, queue, arguments, patience);
        let bytes: Option<Vec<u8>> = answer.await?;
        let read = bytes.map(|bytes| rmp_serde::from_slice(&bytes)).transpose();
        read.map_err(|e| StoreError::Unreadable(e.to_string()))
    }

    /// Like [`ask_queue`](Self::ask_queue), for a script that answers with an integer or a text.
    pub(crate) async fn tell_queue<T: FromRedisValue>(
        &self,
        script: &Text,
        queue: &Name,
        arguments: Vec<Vec<u8>>,
        patience: Duration,
    ) -> Result<T, StoreError> {
        let run = Run::of(script, self.0.prefix.queue(queue), arguments);
        let repeatable = run.is_repeatable();
        let deadline = Instant::now() + patience.min(FOREVER).max(self.0.timeout);
        let answers = self.0.evaluate(&[run], repeatable, deadline).await?;
        let read = from_redis_value(only(answers)?.map_err(wire::error)?);
        read.map_err(|e| StoreError::Unreadable(e.to_string()))
    }

    /// Adds a queue to the index of queues.
    ///
    /// The index is in another slot, so the scripts cannot write to it.
    pub(crate) async fn enter_queue(&self, queue: &Name, now_ms: u64) -> Result<(), StoreError> {
        let mut add = redis::cmd("ZADD");
        add.arg(self.0.prefix.queues()).arg(now_ms);
        self.0.command(add.arg(queue.as_str()).to_owned()).await
    }

    /// All queues that were ever used, sorted.
    pub(crate) async fn queues(&self) -> Result<Vec<Name>, StoreError> {
        let mut read = redis::cmd("ZRANGE");
        read.arg(self.0.prefix.queues()).arg(0).arg(-1);
        let members: Vec<Vec<u8>> = self.0.command(read).await?;
        // A member that is not a valid name was not written by this crate.
        let names = members
            .into_iter()
            .filter_map(|m| Name::new(&String::from_utf8(m).ok()?).ok());
        let mut names: Vec<_> = names.collect();
        names.sort();
        Ok(names)
    }
}
