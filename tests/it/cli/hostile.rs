//! Names and texts that try to be more than text.

use commontrip::Override;

use super::{Service, names};
use crate::{support::admin_url, wait::until};

const NAMES: [&str; 6] = [
    "--all",
    "a\u{202e}stnemyap",
    "$(reboot); `ls` 'x\" \\n",
    "支付 🚀 ünï",
    "../../etc*?[",
    "a\u{61c}b\u{ad}c\u{e0041}d\u{feff}",
];

/// Whether a terminal would act on a character, or show nothing.
fn acts(c: char) -> bool {
    let acts = "\u{61c}\u{ad}\u{e0041}\u{feff}\u{202e}";
    c.is_control() && c != '\n' || acts.contains(c)
}

#[tokio::test]
async fn any_name_can_be_asked_for_and_none_disturbs_the_terminal() {
    let service = Service::new("cli-names");
    for name in NAMES {
        let breaker = service.circuit(name, 5, 30).await;
        let words = Override::because("\u{1b}[2J\r\nroot:\u{202e}\u{7f}").by("ana\u{7}\u{9b}31m");
        breaker.force_open(words).await.unwrap();
        for command in ["show", "events", "replicas", "list", "simulate"] {
            let ran = service.run(&[command, "--json", "--", name]).await;
            // `simulate` may report that the record does not suffice.
            let done = ran.status < 2 || command == "simulate" && ran.status == 4;
            assert!(done, "{command:?} {name:?} {ran:?}");
            assert!(!ran.out.contains(acts), "{command:?} {name:?} {ran:?}");
            if command == "show" {
                let said = ran.json()["circuit"]["override_reason"].to_string();
                assert!(said.contains('\u{202e}'), "{said}");
            }
        }
        for command in [
            &["show"][..],
            &["events"],
            &["replicas"],
            &["list"],
            &["policy", "show"],
            &["simulate"],
            &["disable", "--until-reset", "--replace"],
            &["reset"],
        ] {
            let ran = service.run(&[command, &["--", name]].concat()).await;
            let done = ran.status < 2 || command == ["simulate"] && ran.status == 4;
            assert!(done, "{command:?} {name:?} {ran:?}");
            let said = format!("{}{}", ran.out, ran.err);
            assert!(!said.is_empty(), "{command:?} {name:?} {ran:?}");
            assert!(!said.contains(acts), "{command:?} {name:?} {ran:?}");
        }
        breaker.force_open(Override::because("x")).await.unwrap();
    }
    let mut expected = NAMES.to_vec();
    expected.sort_unstable();
    let listed = service.json(&["list", "--sort", "name"]).await;
    assert_eq!(names(&listed), expected);
    let done = service.json(&["reset", "--all", "--yes"]).await;
    assert_eq!(done["reset"].as_array().unwrap().len(), NAMES.len());
}

#[tokio::test]
async fn what_can_be_no_name_is_said_safely() {
    let service = Service::new("cli-no-names");
    let long = "x".repeat(201);
    for name in ["", "a{b}", "\u{1b}[2J", &long] {
        for command in [
            &["show"][..],
            &["reset"],
            &["simulate"],
            &["events"],
            &["watch"],
        ] {
            let ran = service.run(&[command, &[name]].concat()).await;
            assert_eq!(
                (ran.status, ran.out.as_str()),
                (2, ""),
                "{command:?} {name:?} {ran:?}"
            );
            assert!(
                ran.err.contains("is not a valid circuit name") && !ran.err.contains('\u{1b}'),
                "{ran:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_circuit_that_somebody_wrote_over_does_not_hide_the_others() {
    let service = Service::new("cli-broken");
    service.circuit("payments", 5, 0).await;
    service.circuit("pears", 5, 0).await;
    let mut connection = redis::Client::open(admin_url())
        .unwrap()
        .get_connection()
        .unwrap();
    let key = format!("{}:{{pears}}", service.prefix);
    let written = redis::cmd("SET")
        .arg(key)
        .arg("a text")
        .query(&mut connection);
    let () = written.unwrap();
    for command in [
        &["list", "--json"][..],
        &["replicas", "--json"],
        &["events"],
        &["reset", "--all", "--yes"],
    ] {
        let ran = service.run(command).await;
        assert_eq!(ran.status, 1, "{command:?} {ran:?}");
        assert!(
            ran.err.contains("circuit `pears` cannot be read: "),
            "{command:?} {ran:?}"
        );
        let key = format!("the key {}:{{pears}} is not a hash", service.prefix);
        assert!(ran.err.contains(&key), "{command:?} {ran:?}");
        assert!(
            ran.err.ends_with("1 circuit left out\n"),
            "{command:?} {ran:?}"
        );
        let of_others = ran.out.contains("payments") || ran.out.contains("nothing has happened");
        assert!(of_others, "{command:?} {ran:?}");
    }
}

#[tokio::test]
async fn circuits_that_cannot_be_read_are_not_said_to_be_missing() {
    let service = Service::new("cli-all-broken");
    service.circuit("pears", 5, 0).await;
    let mut connection = redis::Client::open(admin_url())
        .unwrap()
        .get_connection()
        .unwrap();
    let mut write = redis::cmd("SET");
    let write = write.arg(format!("{}:{{pears}}", service.prefix));
    write.arg("a text").exec(&mut connection).unwrap();
    for command in [
        &["list"][..],
        &["list", "pears"],
        &["list", "--state", "open"],
        &["reset", "--all", "--yes"],
        &["reset", "--all"],
    ] {
        let ran = service.run(command).await;
        assert_eq!(ran.status, 1, "{command:?} {ran:?}");
        let said = format!("{}{}", ran.out, ran.err);
        assert!(!said.contains("no circuit"), "{command:?} {said}");
        assert!(said.ends_with("1 circuit left out\n"), "{command:?} {said}");
    }
}

/// Any key of a circuit may hold somebody else's data.
#[tokio::test]
async fn the_doctor_and_every_error_name_the_key_that_somebody_wrote_over() {
    let service = Service::new("cli-wrong-keys");
    let mut connection = redis::Client::open(admin_url())
        .unwrap()
        .get_connection()
        .unwrap();
    let kinds = [
        ("", "hash"),
        (":window", "hash or a string"),
        (":probes", "sorted set"),
        (":replicas", "sorted set"),
        (":events", "stream"),
        (":history", "hash"),
        (":code", "hash"),
        (":kinds", "hash"),
    ];
    let mut keys = Vec::new();
    for (i, (part, kind)) in kinds.iter().enumerate() {
        let name = format!("c{i}");
        service.circuit(&name, 5, 0).await;
        let key = format!("{}:{{{name}}}{part}", service.prefix);
        let mut write = redis::pipe();
        let write = write.del(&key).cmd("SADD").arg(&key).arg("x");
        let () = write.query(&mut connection).unwrap();
        keys.push(format!("the key {key} is not a {kind}"));
    }
    // The window is read while some of its buckets have passed.
    until("the window is read", async || {
        let ran = service.run(&["show", "c1"]).await;
        ran.status == 3 && ran.err.contains(&keys[1])
    })
    .await;
    for (i, key) in keys.iter().enumerate() {
        if i == 1 {
            continue;
        }
        let ran = service.run(&["show", &format!("c{i}")]).await;
        // This command does not read the history.
        if i == 5 {
            assert_eq!(ran.status, 0, "{ran:?}");
            continue;
        }
        assert_eq!(ran.status, 3, "{ran:?}");
        assert!(ran.err.contains(key), "{key} {ran:?}");
    }
    let doctor = service.run(&["doctor", "--json"]).await.json();
    let checks = doctor["checks"].as_array().unwrap();
    let check = checks
        .iter()
        .find(|check| check["name"] == "circuits")
        .unwrap();
    assert_eq!(check["verdict"], "warning", "{check}");
    let found = check["found"].as_str().unwrap();
    let more = ["and 5 more", "and 6 more"];
    assert!(
        more.iter().any(|n| found.contains(n)) && found.contains(&keys[0]),
        "{found}"
    );
    // Other circuits' policies are still checked.
    let policies = checks
        .iter()
        .find(|check| check["name"] == "policies")
        .unwrap();
    assert_eq!(policies["verdict"], "ok", "{policies}");
}
