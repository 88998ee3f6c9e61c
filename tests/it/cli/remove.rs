//! `remove`, and circuits by names that look like folders.

use commontrip::Override;

use super::{Service, names, run_at};
use crate::support::{admin_url, redis_url};

/// Keys of a circuit.
fn keys(prefix: &str, name: &str) -> Vec<String> {
    let mut connection = redis::Client::open(admin_url())
        .unwrap()
        .get_connection()
        .unwrap();
    let pattern = format!("{prefix}:{{{name}}}*");
    redis::cmd("KEYS")
        .arg(pattern)
        .query(&mut connection)
        .unwrap()
}

#[tokio::test]
async fn a_circuit_that_replicas_use_is_removed_only_by_force_and_wholly() {
    let service = Service::new("cli-remove");
    let breaker = service.circuit("payments", 5, 30).await;
    service.circuit("pears", 1, 0).await;
    let drill = Override::because("drill").by("ana");
    breaker.disable(drill).await.unwrap();
    let replica = service.circuits.replica().to_owned();
    let ran = service.run(&["remove", "payments"]).await;
    assert_eq!((ran.status, ran.out.as_str()), (1, ""), "{ran:?}");
    assert!(
        ran.err.contains(&replica) && ran.err.contains("--force"),
        "{ran:?}"
    );
    assert!(!keys(&service.prefix, "payments").is_empty());
    service.circuits.shutdown().await;
    let told = service.json(&["remove", "payments", "--force"]).await;
    assert_eq!(told["removed"], "payments");
    assert_eq!(told["ended"]["author"], "ana");
    assert_eq!(told["store"]["prefix"], service.prefix.as_str());
    assert_eq!(keys(&service.prefix, "payments"), [""; 0]);
    assert_eq!(names(&service.json(&["list"]).await), ["pears"]);
    let again = service.run(&["remove", "payments"]).await;
    assert_eq!(again.status, 1, "{again:?}");
    assert!(again.err.contains("no circuit `payments`"), "{again:?}");
}

#[tokio::test]
async fn what_nobody_uses_any_more_is_removed() {
    let service = Service::new("cli-remove-idle");
    service.circuit("payments", 5, 0).await;
    service.circuits.shutdown().await;
    // Simulates that the replica stopped two minutes ago.
    let mut connection = redis::Client::open(admin_url())
        .unwrap()
        .get_connection()
        .unwrap();
    let key = format!("{}:{{payments}}:replicas", service.prefix);
    let seen: Vec<(String, u64)> = redis::cmd("ZRANGE")
        .arg(&key)
        .arg(0)
        .arg(-1)
        .arg("WITHSCORES")
        .query(&mut connection)
        .unwrap();
    for (replica, at) in seen {
        let mut age = redis::cmd("ZADD");
        age.arg(&key).arg(at - 120_000).arg(replica);
        let _: i64 = age.query(&mut connection).unwrap();
    }
    let ran = service.run(&["remove", "payments"]).await;
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(ran.out.starts_with("removed  payments\n"), "{ran:?}");
    assert_eq!(keys(&service.prefix, "payments"), [""; 0]);
}

#[tokio::test]
async fn names_that_look_like_folders_are_commanded() {
    let service = Service::new("cli-folders");
    for name in [".", ".."] {
        service.circuit(name, 5, 0).await;
        for command in [
            &["force-open", name, "--for", "5m"][..],
            &["reset", name],
            &["policy", "set", name, "jitter=5"],
        ] {
            let ran = run_at(redis_url(), &service.prefix, command).await;
            assert_eq!(ran.status, 0, "{command:?} {ran:?}");
        }
        let removed = service.json(&["remove", name, "--force"]).await;
        assert_eq!(removed["removed"], name);
    }
}
