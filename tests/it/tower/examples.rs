//! The examples run unchanged and print what they promise.
//!
//! `cargo test` builds them. Before `cargo test --test it`, run `cargo build --examples` with the
//! same features.

use std::env;
use std::process::Command;

/// The output of an example.
fn run(name: &str) -> String {
    let tests = env::current_exe().unwrap();
    let folder = tests.parent().and_then(|deps| deps.parent()).unwrap();
    let program = folder.join("examples").join(name);
    let output = Command::new(&program).output().unwrap_or_else(|error| {
        let how = "cargo build --all-features --examples";
        panic!("{}: {error}; {how} makes it", program.display())
    });
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

#[test]
fn hyper() {
    let said = run("hyper");
    assert_eq!(said.matches("answered 502").count(), 3, "{said}");
    assert_eq!(said.matches("was not asked").count(), 1, "{said}");
    assert_eq!(said.matches("answered 200").count(), 1, "{said}");
}

#[test]
fn axum() {
    let said = run("axum");
    assert_eq!(said.matches("/reports: 500").count(), 3, "{said}");
    assert_eq!(said.matches("/reports: 503").count(), 1, "{said}");
    assert!(
        said.contains("retry after") && said.contains("/users/42: 200"),
        "{said}"
    );
}

#[test]
fn tonic() {
    let said = run("tonic");
    assert_eq!(
        said.matches("asked: the database is unavailable").count(),
        3,
        "{said}"
    );
    assert_eq!(
        said.matches("not asked: call rejected").count(),
        2,
        "{said}"
    );
}
