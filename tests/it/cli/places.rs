//! Commands that change something report the Redis and the prefix.

use super::Service;
use crate::support::redis_url;

#[tokio::test]
async fn every_command_that_changes_something_says_where() {
    let service = Service::new("cli-places");
    service.circuit("payments", 5, 0).await;
    for command in [
        &["force-open", "payments", "--for", "5m"][..],
        &["reset", "payments"],
        &["policy", "set", "payments", "jitter=5"],
        &["policy", "unset", "payments", "jitter"],
        &["reset", "--all", "--yes"],
    ] {
        let told = service.json(command).await;
        let address = told["store"]["address"].as_str().unwrap();
        assert!(
            redis_url().contains(address.split('/').next().unwrap()),
            "{told}"
        );
        assert_eq!(told["store"]["prefix"], service.prefix.as_str());
        let ran = service
            .run(&[command, &["--color", "never"]].concat())
            .await;
        if command[0] == "policy" && command[1] == "unset" {
            // Nothing is stored any more.
            assert_eq!(ran.status, 1, "{ran:?}");
            continue;
        }
        if command[0] == "force-open" {
            assert_eq!(ran.status, 1, "{ran:?}");
            continue;
        }
        let line = ran.out.lines().find(|line| line.starts_with("store "));
        let line = line.unwrap_or_else(|| panic!("{ran:?}"));
        for words in [address, &service.prefix, "from --redis"] {
            assert!(line.contains(words), "{words}: {ran:?}");
        }
        assert!(ran.out.contains("payments"), "{ran:?}");
    }
}

#[tokio::test]
async fn what_only_looks_does_not() {
    let service = Service::new("cli-looks");
    service.circuit("payments", 5, 0).await;
    let shown = service.run(&["policy", "show", "payments"]).await;
    assert!(!shown.out.contains("from --redis"), "{shown:?}");
}
