//! `policy show`, `set`, `unset`.

use super::Service;

#[tokio::test]
async fn settings_are_stored_beside_those_that_are_and_counts_are_kept() {
    let service = Service::new("cli-policy");
    let breaker = service.circuit("payments", 10, 5).await;
    let shown = service.json(&["policy", "show", "payments"]).await;
    assert_eq!(
        (&shown["name"], &shown["version"]),
        (&"payments".into(), &0.into())
    );
    assert_eq!(shown["code"]["failure_rate_threshold"], 50);
    let set = &[
        "policy",
        "set",
        "payments",
        "failure_rate_threshold=30%",
        "wait_duration_in_open_state_ms=1m30s",
    ];
    let told = service.json(set).await;
    assert_eq!(told["version"], 1);
    assert_eq!(
        told["stored"],
        serde_json::json!({ "failure_rate_threshold": 30, "wait_duration_in_open_state_ms": 90_000 })
    );
    let told = service
        .json(&[
            "policy",
            "set",
            "payments",
            "jitter=5%",
            "failure-rate-threshold=40",
        ])
        .await;
    assert_eq!(
        (
            &told["version"],
            &told["in_force"]["failure_rate_threshold"]
        ),
        (&2.into(), &40.into())
    );
    assert_eq!(told["stored"].as_object().unwrap().len(), 3);
    let seen = breaker.snapshot().await.unwrap();
    assert_eq!((seen.calls, seen.failures, seen.generation), (15, 5, 0));
    let text = service.run(&["policy", "show", "payments"]).await.out;
    assert!(
        text.starts_with("payments  version 2: 3 settings stored\n"),
        "{text}"
    );
    let row = text
        .lines()
        .find(|line| line.starts_with("wait_duration_in_open"))
        .unwrap();
    assert_eq!(
        row.split_whitespace().collect::<Vec<_>>()[1..],
        ["1m30s", "1m30s", "30s"]
    );
    let shown = service.run(&["show", "payments"]).await.out;
    assert!(
        shown.contains("failure_rate_threshold 40% (code: 50%)"),
        "{shown}"
    );

    let told = service
        .json(&["policy", "unset", "payments", "jitter", "--reason", "calm"])
        .await;
    assert_eq!(
        (&told["version"], told["stored"].as_object().unwrap().len()),
        (&3.into(), 2)
    );
    let missing = service
        .run(&["policy", "unset", "payments", "jitter"])
        .await;
    assert_eq!(missing.status, 1);
    assert!(
        missing.err.contains("jitter is not stored with `payments`"),
        "{missing:?}"
    );
    let told = service
        .json(&["policy", "unset", "payments", "--all"])
        .await;
    assert_eq!(
        (&told["version"], &told["stored"]),
        (&4.into(), &serde_json::json!({}))
    );
    let last = service
        .run(&["events", "payments", "--limit", "2"])
        .await
        .out;
    assert!(
        last.contains("policy") && last.contains("nothing is stored any more"),
        "{last}"
    );
    assert!(last.contains(": calm"), "{last}");
}

#[tokio::test]
async fn what_is_not_valid_is_refused_with_what_would_be() {
    let service = Service::new("cli-invalid");
    let breaker = service.circuit("payments", 1, 0).await;
    let none = [
        "failure_rate_threshold=0",
        "consecutive_failures_threshold=0",
    ];
    for command in [&["policy", "set"][..], &["simulate"]] {
        let ran = service.run(&[command, &["payments"], &none].concat()).await;
        assert_eq!((ran.status, ran.out.as_str()), (2, ""));
        assert!(ran.err.contains("no trip condition"), "{ran:?}");
    }
    for (pair, said) in [
        (
            "failure_rate_threshold=140%",
            "must be from 0 to 100 percent",
        ),
        (
            "failure_rate_treshold=40",
            "did you mean `failure_rate_threshold`?",
        ),
        ("wait_duration_in_open_state_ms=soon", "such as 30s"),
        ("quorum=2s", "without a unit"),
        (
            "call_timeout_ms=45s",
            "probe_lease_ms is 30000, but call_timeout_ms is 45000",
        ),
        ("failure_rate_threshold", "has no value"),
    ] {
        for command in [&["policy", "set"][..], &["simulate"]] {
            let ran = service.run(&[command, &["payments", pair]].concat()).await;
            assert_eq!((ran.status, ran.out.as_str()), (2, ""), "{pair}");
            assert!(ran.err.contains(said), "{pair}: {ran:?}");
        }
    }
    let ran = service.run(&["policy", "unset", "payments", "jiter"]).await;
    assert_eq!(ran.status, 2, "{ran:?}");
    assert_eq!(breaker.snapshot().await.unwrap().policy_version, 0);
}

#[tokio::test]
async fn what_is_unwise_is_taken_and_said() {
    let service = Service::new("cli-unwise");
    service.circuit("payments", 1, 0).await;
    for arguments in [
        &["policy", "set", "payments", "slow_call_rate_threshold=50%"][..],
        &["policy", "show", "payments"],
    ] {
        let ran = service.run(arguments).await;
        let said = "warning: slow_call_rate_threshold is 50, but no call counts as slow without";
        assert_eq!(ran.status, 0, "{ran:?}");
        assert!(ran.out.contains(said), "{ran:?}");
    }
    let calm = service.run(&["policy", "unset", "payments", "--all"]).await;
    assert!(!calm.out.contains("warning"), "{calm:?}");
}

#[tokio::test]
async fn of_several_who_set_at_once_none_is_lost() {
    let service = Service::new("cli-at-once");
    let breaker = service.circuit("payments", 1, 0).await;
    let set = |pair: &'static str| {
        let service = &service;
        async move { service.run(&["policy", "set", "payments", pair]).await }
    };
    let (a, b, c, d) = tokio::join!(
        set("jitter=5"),
        set("failure_rate_threshold=30"),
        set("success_threshold=4"),
        set("quorum=2")
    );
    for ran in [a, b, c, d] {
        assert_eq!(ran.status, 0, "{ran:?}");
    }
    let seen = breaker.snapshot().await.unwrap();
    let mut stored: Vec<_> = seen.policy.split(' ').collect();
    stored.sort_unstable();
    assert_eq!(
        stored,
        [
            "failure_rate_threshold=30",
            "jitter=5",
            "quorum=2",
            "success_threshold=4"
        ]
    );
    assert_eq!(seen.policy_version, 4);
}
