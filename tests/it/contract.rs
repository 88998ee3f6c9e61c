//! What every store must do: one suite, run on each of them.

use std::sync::Arc;

use commontrip::model::Name;
use commontrip::store::{MemoryStore, RedisStore};

use crate::support::{redis_url, unique};
use crate::transitions::{self, Subject};

fn memory() -> Subject {
    let store = MemoryStore::default();
    let kept = store.clone();
    Subject {
        store: Arc::new(store),
        // Each case has a circuit of its own, and cases run one after the other.
        lose: Box::new(move |_: &Name| kept.clear()),
    }
}

fn redis() -> Subject {
    let prefix = unique("contract");
    let store = RedisStore::builder()
        .prefix(&prefix)
        .timeout(std::time::Duration::from_secs(10))
        .open(redis_url())
        .unwrap();
    let lose = move |name: &Name| {
        let client = ::redis::Client::open(redis_url()).unwrap();
        let mut connection = client.get_connection().unwrap();
        let mut delete = ::redis::cmd("DEL");
        delete.arg(format!("{prefix}:{{{name}}}"));
        for part in ["window", "probes", "replicas", "seq", "events"] {
            delete.arg(format!("{prefix}:{{{name}}}:{part}"));
        }
        delete.query::<()>(&mut connection).unwrap();
    };
    Subject {
        store: Arc::new(store),
        lose: Box::new(lose),
    }
}

/// One test for each table on each store.
macro_rules! tables {
    ($($topic:ident)+) => {
        mod memory_table {
            $(#[tokio::test]
            async fn $topic() {
                let table = include_str!(concat!("transitions/", stringify!($topic), ".txt"));
                super::transitions::run(&super::memory(), stringify!($topic), table).await;
            })+
        }
        mod redis_table {
            $(#[tokio::test]
            async fn $topic() {
                let table = include_str!(concat!("transitions/", stringify!($topic), ".txt"));
                super::transitions::run(&super::redis(), stringify!($topic), table).await;
            })+
        }
    };
}

tables! { closed_to_open window open half_open overrides generations adoption policy }
