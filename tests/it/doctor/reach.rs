//! A Redis that is missing, or of another kind than expected.

use super::{Findings, examined, saying, tell};
use crate::{
    support::{self, OwnServer, free_port},
    topology::{cluster_servers::Cluster, tls::Certificates},
    wait::until,
};

/// The only finding if the connection fails.
fn locked_out(found: &Findings) -> String {
    assert_eq!(found.with("failure"), ["connection"], "{found:#?}");
    assert_eq!((found.checks.len(), found.status), (1, 1), "{found:#?}");
    found.words("connection")
}

#[test]
fn nobody_there_is_said_with_what_to_do() {
    let url = format!("redis://127.0.0.1:{}/", free_port().unwrap());
    let said = locked_out(&Findings::at(&url, &[]));
    assert!(
        said.contains("Nothing listens") && said.contains("Start Redis"),
        "{said}"
    );
    let said = locked_out(&Findings::at("redis+unix:///nowhere/redis.sock", &[]));
    assert!(said.contains("no such socket"), "{said}");
}

#[test]
fn a_server_that_hangs_is_given_up_in_time() {
    let server = OwnServer::start();
    server.pause();
    let said = locked_out(&Findings::at(&server.admin_url(), &[]));
    assert!(said.contains("It does not answer"), "{said}");
}

#[test]
fn a_wrong_password_and_none_are_told_apart() {
    let server = OwnServer::start_with(&["--requirepass", "right"]);
    let port = server.port();
    let said = locked_out(&Findings::at(
        &format!("redis://:hidden@127.0.0.1:{port}/"),
        &[],
    ));
    assert!(
        said.contains("password is wrong") && !said.contains("hidden"),
        "{said}"
    );
    let said = locked_out(&Findings::at(&format!("redis://127.0.0.1:{port}/"), &[]));
    assert!(said.contains("requires a password"), "{said}");
    let found = Findings::at(&format!("redis://:right@127.0.0.1:{port}/"), &[]);
    assert_eq!(found.status, 0, "{found:#?}");
}

#[test]
fn what_a_server_says_is_put_in_plain_words() {
    for (error, plain) in [
        (
            "-LOADING Redis is loading the dataset in memory\r\n",
            "reads its data",
        ),
        ("-BUSY Redis is busy running a script.\r\n", "keeps it busy"),
        ("-MASTERDOWN Link with MASTER is down\r\n", "is down"),
        ("-ERR unknown command 'PING'\r\n", "does not allow that"),
    ] {
        let said = locked_out(&Findings::at(&saying(error), &[]));
        assert!(said.contains(plain), "{said}");
    }
}

#[test]
fn a_server_without_scripts_is_said_to_be_one() {
    let server = OwnServer::start_as("rename-command EVALSHA \"\"\n", &[]);
    let found = Findings::at(&server.url(), &[]);
    assert_eq!(found.with("failure"), ["rights", "circuit"], "{found:#?}");
    let said = found.words("rights");
    assert!(
        said.to_lowercase().contains("evalsha") && said.contains("disable scripts"),
        "{said}"
    );
}

#[test]
fn tls_is_said_to_be_what_is_wrong_when_it_is() {
    let certificates = Certificates::new();
    let (server, port) = certificates.serve(false);
    let url = format!("rediss://localhost:{port}/");
    let ca = certificates.path("ca.pem");
    let found = Findings::at(&url, &["--tls-ca", ca.to_str().unwrap()]);
    assert_eq!(found.status, 0, "{found:#?}");
    assert!(
        found.words("connection").contains(", TLS, user default"),
        "{found:#?}"
    );
    let said = locked_out(&Findings::at(&url, &[]));
    assert!(said.contains("--tls-ca"), "{said}");
    let said = locked_out(&Findings::at(&url, &["--tls-ca", "/nowhere/ca.pem"]));
    assert!(said.contains("cannot be read"), "{said}");
    // A server without TLS where the URL expects it, and the reverse.
    let plain = format!("rediss://127.0.0.1:{}/", server.port());
    let said = locked_out(&Findings::at(&plain, &["--tls-ca", ca.to_str().unwrap()]));
    assert!(said.contains("does not speak TLS"), "{said}");
    assert!(said.contains("redis:// in place of rediss://"), "{said}");
    let said = locked_out(&Findings::at(&format!("redis://127.0.0.1:{port}/"), &[]));
    assert!(said.contains("rediss://"), "{said}");

    let (_server, port) = certificates.serve(true);
    let url = format!("rediss://127.0.0.1:{port}/");
    let said = locked_out(&Findings::at(&url, &["--tls-ca", ca.to_str().unwrap()]));
    assert!(said.contains("--tls-cert"), "{said}");
    let (certificate, key) = (
        certificates.path("client.pem"),
        certificates.path("client.key"),
    );
    let known = [
        "--tls-ca",
        ca.to_str().unwrap(),
        "--tls-cert",
        certificate.to_str().unwrap(),
        "--tls-key",
        key.to_str().unwrap(),
    ];
    let found = Findings::at(&url, &known);
    assert_eq!(found.status, 0, "{found:#?}");
}

#[test]
fn a_service_that_no_sentinel_knows_and_a_sentinel_by_a_plain_url_are_said_so() {
    let master = OwnServer::start();
    let config = format!("sentinel monitor main 127.0.0.1 {} 1\n", master.port());
    let sentinel = OwnServer::start_as(&config, &["--sentinel"]);
    let port = sentinel.port();
    let url = format!("redis-sentinel://127.0.0.1:{port}?sentinelServiceName=mian");
    let said = locked_out(&Findings::at(&url, &[]));
    assert!(
        said.contains("sentinelServiceName") && said.contains("mian"),
        "{said}"
    );
    let found = Findings::at(&sentinel.url(), &[]);
    assert!(
        found.words("server").contains("redis-sentinel://"),
        "{found:#?}"
    );
    assert_eq!(found.status, 1);
}

#[tokio::test]
async fn a_replica_takes_no_writes_and_says_so() {
    let (master, replica) = (OwnServer::start(), OwnServer::start());
    let () = tell(&replica, &format!("REPLICAOF 127.0.0.1 {}", master.port()));
    until("it replicates", async || {
        let info: String = tell(&replica, "INFO replication");
        info.contains("master_link_status:up")
    })
    .await;
    let found = examined(&replica.url(), &[]).await;
    assert_eq!(found.with("failure"), ["server", "circuit"], "{found:#?}");
    assert!(
        found.words("server").contains("redis-sentinel://"),
        "{found:#?}"
    );
    assert!(
        found.words("circuit").contains("takes no writes"),
        "{found:#?}"
    );
}

#[tokio::test]
async fn a_cluster_is_looked_at_as_a_whole() {
    let cluster = Cluster::start(3, false).await;
    let found = examined(&cluster.url(), &[]).await;
    assert_eq!(found.status, 0, "{found:#?}");
    assert_eq!(found.verdict("cluster"), "note", "{found:#?}");
    assert!(
        found
            .words("cluster")
            .contains("3 masters, all slots served"),
        "{found:#?}"
    );
    for node in &cluster.nodes {
        assert_eq!(super::keys(node), [""; 0]);
    }

    // One node of a Cluster, addressed as a single server.
    let found = examined(&cluster.nodes[0].url(), &[]).await;
    assert!(
        found.words("server").contains("redis-cluster://"),
        "{found:#?}"
    );
    assert_eq!(found.status, 1);
    // A single server, addressed as a Cluster.
    let alone = OwnServer::start();
    let url = format!(
        "redis-cluster://{}@127.0.0.1:{}",
        support::userinfo(),
        alone.port()
    );
    let said = locked_out(&examined(&url, &[]).await);
    assert!(said.contains("in place of redis-cluster://"), "{said}");

    let with_database = cluster.url().replacen('?', "/3?", 1);
    let found = examined(&with_database, &[]).await;
    // Redis rejects `SELECT`. Valkey 9 has as many databases as configured, by default one.
    let said = locked_out(&found);
    assert!(
        said.contains("number") && said.contains("URL's end"),
        "{said}"
    );

    // Each node believes its slot table until another node claims the slot.
    for node in &cluster.nodes {
        let () = tell(node, "CLUSTER DELSLOTS 7");
    }
    let found = examined(&cluster.url(), &[]).await;
    assert_eq!(found.with("failure"), ["cluster"], "{found:#?}");
    assert!(
        found.words("cluster").contains("1 of 16384 slots"),
        "{found:#?}"
    );
    let () = tell(&cluster.nodes[0], "CLUSTER ADDSLOTS 7");

    // The client begins with one of the two nodes in the URL; this is the third.
    cluster.nodes[2].kill();
    let found = examined(&cluster.url(), &[]).await;
    let dead = format!("127.0.0.1:{}", cluster.nodes[2].port());
    assert!(found.with("failure").contains(&"cluster"), "{found:#?}");
    let said = found.words("cluster");
    assert!(
        said.contains(&dead) || said.contains("slots are not served"),
        "{said}"
    );
}
