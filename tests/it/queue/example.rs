//! The example runs unchanged, and checks itself.

#[allow(dead_code)]
#[path = "../../../examples/ad_publisher.rs"]
mod ad_publisher;

use crate::support::redis_url;

#[tokio::test]
async fn the_ad_publisher_loses_nothing_on_a_redis_that_is_there() {
    ad_publisher::run(Some(redis_url().to_owned()))
        .await
        .unwrap();
}

#[tokio::test]
async fn the_ad_publisher_starts_a_redis_of_its_own() {
    // Makes sure that the program is installed.
    redis_url();
    if crate::support::on_path("redis-server").is_some() {
        ad_publisher::run(None).await.unwrap();
    }
}
