//! The scripts of queues, joined with their shared library at compile time.

use std::time::Duration;

use redis::FromRedisValue;
use serde::{Serialize, de::DeserializeOwned};

use crate::{RedisStore, StoreError, model::Name, store::Text};

// Everything except the library is in one function, as in the scripts of circuits.
macro_rules! script {
    ($file:literal) => {
        Text::new(concat!(
            include_str!("../../lua/queue/lib/jobs.lua"),
            "local function operate()\n",
            include_str!(concat!("../../lua/queue/", $file, ".lua")),
            "end\nreturn operate()\n",
        ))
    };
}

/// One script per operation.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) enqueue: Text,
    pub(super) take: Text,
    pub(super) renew: Text,
    pub(super) settle: Text,
    pub(super) steer: Text,
    pub(super) stats: Text,
    pub(super) list: Text,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            enqueue: script!("enqueue"),
            take: script!("take"),
            renew: script!("renew"),
            settle: script!("settle"),
            steer: script!("steer"),
            stats: script!("stats"),
            list: script!("list"),
        }
    }
}

/// Encodes a request in the form that the scripts read.
fn encoded(request: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    let bytes = rmp_serde::to_vec(request);
    bytes.map_err(|e| StoreError::Encoding(e.to_string()))
}

/// A queue in Redis.
pub(super) struct Redis {
    pub(super) store: RedisStore,
    pub(super) name: Name,
    pub(super) patience: Duration,
    pub(super) scripts: Scripts,
}

impl Redis {
    /// Runs a script that answers in MessagePack; `None` for nil.
    pub(super) async fn ask<R: DeserializeOwned>(
        &self,
        script: &Text,
        request: &impl Serialize,
    ) -> Result<Option<R>, StoreError> {
        let (arguments, patience) = (vec![encoded(request)?], self.patience);
        let answer = self
            .store
            .ask_queue(script, &self.name, arguments, patience);
        answer.await
    }

    /// Same as [`ask`](Self::ask), with bytes beside the request: the scripts' MessagePack has no
    /// type for them.
    pub(super) async fn ask_with<R: DeserializeOwned>(
        &self,
        script: &Text,
        request: &impl Serialize,
        bytes: Vec<u8>,
    ) -> Result<Option<R>, StoreError> {
        let (arguments, patience) = (vec![encoded(request)?, bytes], self.patience);
        let answer = self
            .store
            .ask_queue(script, &self.name, arguments, patience);
        answer.await
    }

    /// Runs a script that returns an integer or text.
    pub(super) async fn tell<R: FromRedisValue>(
        &self,
        script: &Text,
        request: &impl Serialize,
    ) -> Result<R, StoreError> {
        let (arguments, patience) = (vec![encoded(request)?], self.patience);
        let answer = self
            .store
            .tell_queue(script, &self.name, arguments, patience);
        answer.await
    }
}
