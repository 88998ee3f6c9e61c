//! The scripts of queues, joined with what they share at compile time.

use redis::FromRedisValue;
use serde::{Serialize, de::DeserializeOwned};

use super::Shared;
use crate::{StoreError, store::Text};

// All but what they share stands in one function, as in the scripts of circuits.
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

/// One script an operation.
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

/// A request, as the scripts take it.
fn encoded(request: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    let bytes = rmp_serde::to_vec(request);
    bytes.map_err(|e| StoreError::Refused(format!("cannot be encoded: {e}")))
}

impl<T> Shared<T> {
    /// Runs a script that answers in MessagePack; `None` for nil.
    pub(super) async fn ask<R: DeserializeOwned>(
        &self,
        script: &Text,
        request: &impl Serialize,
    ) -> Result<Option<R>, StoreError> {
        let (arguments, patience) = (vec![encoded(request)?], self.settings.patience);
        let answer = self
            .store
            .ask_queue(script, &self.name, arguments, patience);
        answer.await
    }

    /// [`ask`](Self::ask) with bytes beside the request, which the scripts' MessagePack has no type for.
    pub(super) async fn ask_with<R: DeserializeOwned>(
        &self,
        script: &Text,
        request: &impl Serialize,
        bytes: Vec<u8>,
    ) -> Result<Option<R>, StoreError> {
        let (arguments, patience) = (vec![encoded(request)?, bytes], self.settings.patience);
        let answer = self
            .store
            .ask_queue(script, &self.name, arguments, patience);
        answer.await
    }

    /// Runs a script that answers with an integer or a text.
    pub(super) async fn tell<R: FromRedisValue>(
        &self,
        script: &Text,
        request: &impl Serialize,
    ) -> Result<R, StoreError> {
        let (arguments, patience) = (vec![encoded(request)?], self.settings.patience);
        let answer = self
            .store
            .tell_queue(script, &self.name, arguments, patience);
        answer.await
    }
}
