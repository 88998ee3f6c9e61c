//! Behaviour when the store does not answer, or nobody reads the output.

use std::{io::Read, process::Stdio, time::Duration};

use super::{Ran, Service, program, run_at};
use crate::support::{OwnServer, redis_url};

const COMMANDS: [&[&str]; 14] = [
    &["list"],
    &["show", "payments"],
    &["watch"],
    &["watch", "payments", "--json"],
    &["events"],
    &["events", "--follow"],
    &["replicas"],
    &["checks"],
    &["force-open", "payments", "--for", "5m"],
    &["reset", "payments"],
    &["reset", "--all", "--yes"],
    &["policy", "show", "payments"],
    &["policy", "set", "payments", "jitter=5"],
    &["simulate", "payments"],
];

#[tokio::test]
async fn a_store_that_is_not_there_is_status_3_in_every_command() {
    let server = OwnServer::start();
    let url = server.admin_url();
    server.kill();
    for command in COMMANDS {
        let ran = run_at(&url, "shop", command).await;
        assert_eq!(
            (ran.status, ran.out.as_str()),
            (3, ""),
            "{command:?} {ran:?}"
        );
        assert!(
            ran.err.starts_with("commontrip: the store"),
            "{command:?} {ran:?}"
        );
        let whence = format!("Redis is 127.0.0.1:{} (from --redis)", server.port());
        assert!(ran.err.contains(&whence), "{command:?} {ran:?}");
    }
}

#[tokio::test]
async fn an_error_says_which_redis_was_asked_and_who_said_so() {
    let server = OwnServer::start();
    let (url, port) = (server.admin_url(), server.port());
    server.kill();
    let ran = async |variable: Option<&str>| {
        let mut command = program(&["list"]);
        command.envs(variable.map(|url| ("COMMONTRIP_REDIS_URL", url)));
        let output = tokio::task::spawn_blocking(move || command.output());
        Ran::from(output.await.unwrap().unwrap())
    };
    let said = ran(Some(&url)).await;
    let whence = format!("Redis is 127.0.0.1:{port} (from COMMONTRIP_REDIS_URL)");
    assert!(said.err.contains(&whence), "{said:?}");
    assert!(
        said.err.contains(&format!("reached: 127.0.0.1:{port}: ")),
        "{said:?}"
    );
    let said = ran(None).await;
    let whence = "127.0.0.1:6379 (the default: no --redis, and COMMONTRIP_REDIS_URL is not set)";
    assert!(said.status == 0 || said.err.contains(whence), "{said:?}");
}

#[tokio::test]
async fn a_server_that_wants_a_password_and_one_that_is_no_redis_are_told() {
    let server = OwnServer::start();
    let guarded = format!("redis://127.0.0.1:{}/", server.port());
    let admin = redis::Client::open(server.admin_url()).unwrap();
    let mut admin = admin.get_multiplexed_async_connection().await.unwrap();
    let mut wants = redis::cmd("CONFIG");
    wants.arg("SET").arg("requirepass").arg("secret");
    let () = wants.query_async(&mut admin).await.unwrap();
    let ran = run_at(&guarded, "shop", &["list"]).await;
    assert_eq!(ran.status, 3, "{ran:?}");
    let said = "it asks for a password, and none was given";
    assert!(ran.err.contains(said), "{ran:?}");
    let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}/", other.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = other.accept().await {
            let answer = b"HTTP/1.1 400 Bad Request\r\n\r\n";
            let _ = tokio::io::AsyncWriteExt::write_all(&mut client, answer).await;
        }
    });
    let ran = run_at(&url, "shop", &["list"]).await;
    assert_eq!(ran.status, 3, "{ran:?}");
    assert!(ran.err.contains("does not answer like Redis"), "{ran:?}");
    assert!(!ran.err.contains("Unexpected"), "{ran:?}");
}

#[tokio::test]
async fn a_store_that_hangs_is_waited_for_as_long_as_was_said() {
    let server = OwnServer::start();
    let url = server.admin_url();
    server.pause();
    let mut command = program(&["list", "--redis", &url, "--timeout", "200"]);
    let ran: Ran = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap()
        .into();
    server.resume();
    assert_eq!(ran.status, 3, "{ran:?}");
    assert!(ran.err.contains("the store"), "{ran:?}");
}

#[tokio::test]
async fn a_user_who_may_not_is_told_so() {
    let server = OwnServer::start();
    let url = format!("redis://nobody:wrong-word@127.0.0.1:{}/", server.port());
    let ran = run_at(&url, "shop", &["list"]).await;
    assert_eq!(ran.status, 3, "{ran:?}");
    assert!(!ran.err.contains("wrong-word"), "{ran:?}");
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_error() {
    let service = Service::new("cli-pipe");
    service.circuit("payments", 1, 0).await;
    for command in [&["list"][..], &["watch"], &["events", "--follow"]] {
        let mut command = program(command);
        command.args([
            "--redis",
            redis_url(),
            "--prefix",
            &service.prefix,
            "--timeout",
            "20000",
        ]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        // Updates give the program something to write.
        for i in 0..1000 {
            if child.try_wait().unwrap().is_some() {
                break;
            }
            let name = format!("c{i}");
            let breaker = service
                .circuits
                .circuit(&name, commontrip::Policy::default())
                .unwrap();
            breaker.reset().await.unwrap();
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        let status = child.wait().unwrap();
        let mut said = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert_eq!((status.code(), said.as_str()), (Some(0), ""), "{command:?}");
    }
}
