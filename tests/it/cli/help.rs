//! `--help`, `help`, `man`: what a new user reads.

use std::process::Command;

use super::{Ran, program};

fn run(arguments: &[&str]) -> Ran {
    program(arguments).output().unwrap().into()
}

const COMMANDS: [&[&str]; 24] = [
    &["list"],
    &["show"],
    &["watch"],
    &["events"],
    &["replicas"],
    &["checks"],
    &["force-open"],
    &["disable"],
    &["metrics-only"],
    &["reset"],
    &["remove"],
    &["policy", "show"],
    &["policy", "set"],
    &["policy", "unset"],
    &["queue", "list"],
    &["queue", "show"],
    &["queue", "retry"],
    &["queue", "drop"],
    &["serve"],
    &["token"],
    &["simulate"],
    &["doctor"],
    &["demo"],
    &["man"],
];

#[test]
fn every_command_has_an_example_and_help_finds_it() {
    for command in COMMANDS {
        let help = run(&[command, &["--help"]].concat());
        assert_eq!((help.status, help.err.as_str()), (0, ""), "{help:?}");
        let example = format!("  commontrip {}", command.join(" "));
        let (_, examples) = help.out.split_once("\nExamples:\n").unwrap_or_else(|| {
            panic!("{command:?} has no examples:\n{}", help.out);
        });
        assert!(examples.contains(&example), "{command:?}:\n{examples}");
        let asked = run(&[&["help"], command].concat());
        assert_eq!(asked.status, 0, "{asked:?}");
        assert_eq!(asked.out, help.out, "{command:?}");
    }
    let all = run(&["help"]);
    assert_eq!(all.status, 0, "{all:?}");
    assert!(
        all.out.contains("force-open") && !all.out.contains("\n  replica "),
        "{all:?}"
    );
}

/// The options below a heading.
fn under<'a>(help: &'a str, head: &str) -> &'a str {
    let (_, rest) = help.split_once(&format!("\n{head}:\n")).unwrap_or_else(|| {
        panic!("no {head} in:\n{help}");
    });
    // A heading starts at the beginning of its line.
    let end = rest.match_indices('\n').find(|(at, _)| {
        let next = rest[at + 1..].chars().next();
        next.is_some_and(|c| !c.is_whitespace())
    });
    &rest[..end.map_or(rest.len(), |(at, _)| at)]
}

#[test]
fn options_stand_under_the_head_that_fits() {
    let serve = run(&["serve", "--help"]).out;
    for (head, options) in [
        ("Options", &["--listen", "--token-file", "--allow-host"][..]),
        ("Connection", &["--redis", "--prefix", "--tls-ca"]),
    ] {
        let found = under(&serve, head);
        assert!(options.iter().all(|o| found.contains(o)), "{head}: {serve}");
    }
    assert!(!under(&serve, "Connection").contains("--listen"), "{serve}");
    let demo = run(&["demo", "--help"]).out;
    for (head, options) in [
        (
            "Options",
            &["--replicas", "--for", "--redis", "--circuit"][..],
        ),
        ("Dashboard", &["--serve", "--listen", "--allow-host"]),
        ("Output", &["--json", "--color"]),
    ] {
        let found = under(&demo, head);
        assert!(options.iter().all(|o| found.contains(o)), "{head}: {demo}");
    }
    assert!(!demo.contains("--utc"), "{demo}");
    let list = run(&["list", "--help"]).out;
    assert!(
        under(&list, "Output").contains("--utc") || !list.contains("--utc"),
        "{list}"
    );
    let connection = under(&list, "Connection").split_whitespace();
    let connection = connection.collect::<Vec<_>>().join(" ");
    assert!(
        connection.contains("[default: redis://127.0.0.1:6379/]"),
        "{list}"
    );
    assert!(connection.contains("[default: commontrip]"), "{list}");
}

#[test]
fn the_usage_of_reset_has_both_forms() {
    let help = run(&["reset", "--help"]).out;
    assert!(help.contains("Usage: commontrip reset"), "{help}");
    assert!(help.contains("commontrip reset --all"), "{help}");
}

#[test]
fn the_man_page_is_there_and_renders() {
    let page = run(&["man"]);
    assert_eq!(page.status, 0, "{page:?}");
    assert!(page.out.contains(".TH commontrip 1"), "{}", page.out);
    for words in [
        "force\\-open",
        "until\\-reset",
        "COMMONTRIP_REDIS_URL",
        "EXAMPLES",
    ] {
        assert!(page.out.contains(words), "no {words} in\n{}", page.out);
    }
    let path = std::env::temp_dir().join(format!("commontrip-{}.1", std::process::id()));
    std::fs::write(&path, &page.out).unwrap();
    let man = Command::new("man")
        .arg("-l")
        .arg(&path)
        .env("MANPAGER", "cat")
        .output();
    std::fs::remove_file(&path).unwrap();
    // The test above covers machines without `man`.
    if let Ok(man) = man {
        let text = String::from_utf8_lossy(&man.stdout);
        assert!(man.status.success(), "{man:?}");
        assert!(
            text.contains("until-reset") || text.contains("minimized"),
            "{text}"
        );
    }
}
