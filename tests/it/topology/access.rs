//! Connecting: TLS, passwords, users, protocols, databases.

use std::{env, fs};

use commontrip::{Commontrip, RedisStore, RedisStoreBuilder, State, Store};

use super::{call, ms, policy, tell, trip};
use crate::{
    support::{self, OwnServer},
    wait::until,
};

pub fn builder() -> RedisStoreBuilder {
    RedisStore::builder().timeout(ms(2000))
}

/// Checks that two replicas on separate stores share a circuit, by commands and by push.
pub async fn is_shared(store: impl Fn() -> RedisStore) {
    let replicas = [0, 1].map(|_| {
        let builder = Commontrip::builder().store(store());
        builder.store_timeout(ms(2000)).build().unwrap()
    });
    let name = support::unique("access");
    let [a, b] = replicas
        .each_ref()
        .map(|r| r.circuit(&name, policy()).unwrap());
    call(&a, true).await.unwrap();
    call(&b, true).await.unwrap();
    for registry in &replicas {
        assert_eq!(
            registry.health().times_unavailable,
            0,
            "{:?}",
            registry.health()
        );
        until("push is heard", async || registry.health().push).await;
    }
    trip(&a).await;
    until("the other hears of it", async || b.state() == State::Open).await;
    for registry in replicas {
        assert_eq!(
            registry.health().times_unavailable,
            0,
            "{:?}",
            registry.health()
        );
        registry.shutdown().await;
    }
}

/// The error of a store that does not answer, with its causes.
pub async fn error_of(store: RedisStore) -> String {
    let mut error: Box<dyn std::error::Error> = Box::new(store.ping().await.unwrap_err());
    let mut words = error.to_string();
    while let Some(cause) = error.source() {
        words = format!("{words}: {cause}");
        error = cause.to_string().into();
    }
    words
}

#[tokio::test]
async fn a_password_comes_from_the_url_the_builder_or_a_file_that_may_change() {
    let server = OwnServer::start();
    let user = "ACL SETUSER ana on >first ~* &* +@all";
    let () = tell(server.port(), user).await;
    let () = tell(
        server.port(),
        "ACL SETUSER default resetkeys nocommands +auth +acl",
    )
    .await;
    let port = server.port();
    let plain = format!("redis://127.0.0.1:{port}/");
    is_shared(|| {
        builder()
            .open(&format!("redis://ana:first@127.0.0.1:{port}/"))
            .unwrap()
    })
    .await;
    is_shared(|| {
        builder()
            .username("ana")
            .password("first")
            .open(&plain)
            .unwrap()
    })
    .await;
    let file = env::temp_dir().join(support::unique("commontrip-password"));
    fs::write(&file, "first\n").unwrap();
    let from_file = || builder().username("ana").password_file(&file);
    is_shared(|| from_file().open(&plain).unwrap()).await;

    // After a rotation, an existing connection stays, and the next one uses the new password.
    let store = from_file().open(&plain).unwrap();
    store.ping().await.unwrap();
    let () = tell(port, "ACL SETUSER ana resetpass >second").await;
    fs::write(&file, "second").unwrap();
    store.ping().await.unwrap();
    from_file().open(&plain).unwrap().ping().await.unwrap();
    for store in [
        builder().username("ana").password("first").open(&plain),
        builder().open(&format!("redis://ana:first@127.0.0.1:{port}/")),
    ] {
        let store = store.unwrap();
        let debug = format!("{store:?}");
        let said = error_of(store).await;
        assert!(
            said.contains("WRONGPASS") || said.contains("uthentication"),
            "{said}"
        );
        assert!(
            !said.contains("first") && !debug.contains("first"),
            "{said} {debug}"
        );
    }
    fs::remove_file(&file).unwrap();
    let said = error_of(from_file().open(&plain).unwrap()).await;
    assert!(said.contains("the password cannot be read from"), "{said}");
}

#[tokio::test]
async fn resp3_a_database_and_a_prefix_are_what_the_url_and_the_builder_say() {
    let server = OwnServer::start();
    let url = format!("{}3?protocol=resp3", server.url());
    is_shared(|| builder().prefix("commontrip-test-shop").open(&url).unwrap()).await;
    let client = redis::Client::open(format!("redis://127.0.0.1:{}/3", server.port())).unwrap();
    let mut database = client.get_multiplexed_async_connection().await.unwrap();
    let keys: Vec<String> = redis::cmd("KEYS")
        .arg("*")
        .query_async(&mut database)
        .await
        .unwrap();
    assert!(
        !keys.is_empty()
            && keys
                .iter()
                .all(|key| key.starts_with("commontrip-test-shop:")),
        "{keys:?}"
    );
    let elsewhere: u64 = tell(server.port(), "DBSIZE").await;
    assert_eq!(elsewhere, 0);
}

#[tokio::test]
async fn a_cluster_by_a_plain_url_is_told_what_it_needs() {
    let cluster = super::cluster_servers::Cluster::start(3, false).await;
    let store = builder().open(&cluster.nodes[0].url()).unwrap();
    let mut said = String::new();
    for i in 0..20 {
        let name = commontrip::Name::new(&format!("circuit-{i}")).unwrap();
        if let Err(error) = store
            .snapshot(&name, &commontrip::model::Head::default())
            .await
        {
            said = error.to_string();
        }
    }
    assert!(said.contains("redis-cluster://"), "{said}");
}
