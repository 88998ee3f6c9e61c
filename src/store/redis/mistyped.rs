//! Finds which key of a circuit has the wrong type, because Redis only says that one has.
//!
//! Owns the types of the keys, as in `lua/lib/prelude.lua`; sends only commands that the scripts
//! need anyway.

use redis::{Cmd, RedisResult, Value};
use tokio::time::Instant;

use super::{Inner, StoreError};
use crate::model::Name;

/// The code of such an error.
pub(super) const CODE: &str = "WRONGTYPE";
/// The commands that test each key, in the order of [`Prefix::all`](super::keys::Prefix::all), and
/// its expected type. A window is a hash or a string.
const KINDS: [(&[&[&str]], &str); 12] = [
    (&[HASH], "hash"),
    (&[HASH, STRING], "hash or a string"),
    (&[SORTED], "sorted set"),
    (&[SORTED], "sorted set"),
    (&[HASH], "hash"),
    (&[STREAM], "stream"),
    (&[SORTED], "sorted set"),
    (&[SORTED], "sorted set"),
    (&[HASH], "hash"),
    (&[HASH], "hash"),
    (&[HASH], "hash"),
    (&[HASH], "hash"),
];
const HASH: &[&str] = &["HLEN"];
const STRING: &[&str] = &["GETRANGE", "0", "0"];
const SORTED: &[&str] = &["ZCARD"];
const STREAM: &[&str] = &["XREVRANGE", "+", "-", "COUNT", "1"];

impl Inner {
    /// Adds the name of the key to an error about a key's type. Other errors are returned
    /// unchanged.
    pub(super) async fn explained(&self, name: &Name, error: StoreError) -> StoreError {
        let StoreError::Refused(words) = &error else {
            return error;
        };
        if !words.contains(CODE) {
            return error;
        }
        let names = [name.clone()];
        let found = self.mistyped(&names, Instant::now() + self.timeout).await;
        match found.unwrap_or_default().first() {
            Some(what) => StoreError::Refused(format!("{what}: {words}")),
            None => error,
        }
    }

    /// Describes each key of these circuits that has the wrong type, and the type that it should
    /// have.
    pub(super) async fn mistyped(
        &self,
        names: &[Name],
        deadline: Instant,
    ) -> Result<Vec<String>, StoreError> {
        let keys: Vec<_> = names
            .iter()
            .flat_map(|name| self.prefix.all(name))
            .collect();
        let kinds = || keys.iter().zip(KINDS.iter().cycle());
        let commands: Vec<_> = kinds()
            .flat_map(|(key, (asked, _))| asked.iter().map(|words| command(words, key)))
            .collect();
        let mut answers = self.send(&commands, true, deadline).await?.into_iter();
        let wrong = |(key, (asked, kind)): (&String, &(&[&[&str]], &str))| {
            // A key that may have two types is wrong only if both commands fail.
            let answers: Vec<_> = answers.by_ref().take(asked.len()).collect();
            let is_wrong = !answers.is_empty() && answers.iter().all(is_of_the_type);
            is_wrong.then(|| format!("the key {key} is not a {kind}"))
        };
        Ok(kinds().filter_map(wrong).collect())
    }
}

fn command(words: &[&str], key: &str) -> Cmd {
    let mut words = words.iter();
    let mut command = redis::cmd(words.next().copied().unwrap_or_default());
    command.arg(key);
    for word in words {
        command.arg(*word);
    }
    command
}

fn is_of_the_type(answer: &RedisResult<Value>) -> bool {
    answer
        .as_ref()
        .is_err_and(|error| error.code() == Some(CODE))
}
