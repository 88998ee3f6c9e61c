//! Defines tests that run on both stores.

/// One test for each fact on each store, made by the module's `memory()` and `redis()`.
macro_rules! on_each_store {
    ($($fact:ident)+) => {
        mod on_memory {
            $(#[tokio::test]
            async fn $fact() {
                super::$fact(super::memory()).await;
            })+
        }
        mod on_redis {
            $(#[tokio::test]
            async fn $fact() {
                super::$fact(super::redis()).await;
            })+
        }
    };
}
pub(crate) use on_each_store;
