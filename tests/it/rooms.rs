//! Imports run one way: model <- store <- breaker <- integrations <- bin.

use std::{fs, path::Path};

/// Rooms, innermost first.
const ROOMS: [&str; 22] = [
    "model",
    "store",
    "breaker",
    "operator",
    "health",
    "alerts",
    "queue",
    "series",
    "metrics",
    "otel",
    "keyed",
    "retry",
    "failover",
    "fallback",
    "balance",
    "config",
    "http",
    "stream",
    "tower",
    "reqwest",
    "admin",
    "test_util",
];

fn rust_files(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Rooms that a file names with `crate::`, in imports (including braced ones) and in paths.
fn rooms_named(source: &str) -> Vec<&'static str> {
    let named = |room: &&str| {
        let path = format!("crate::{room}");
        let braced = source
            .split("use crate::{")
            .skip(1)
            .filter_map(|rest| rest.split(';').next())
            .any(|list| {
                list.split([',', '{', '\n', ' '])
                    .any(|word| word.split("::").next() == Some(room))
            });
        source.contains(&path) || braced
    };
    ROOMS.into_iter().filter(named).collect()
}

#[test]
fn no_room_imports_from_a_room_further_out() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (i, room) in ROOMS.iter().enumerate() {
        let mut files = Vec::new();
        let file = root.join(room).with_extension("rs");
        if file.exists() {
            files.push(file);
        } else {
            rust_files(&root.join(room), &mut files);
            assert!(files.len() > 1, "{room} has moved");
        }
        for file in files {
            let named = rooms_named(&fs::read_to_string(&file).unwrap());
            let outward: Vec<_> = named
                .iter()
                .filter(|n| ROOMS[i + 1..].contains(n))
                .collect();
            assert!(
                outward.is_empty(),
                "{} imports from {outward:?}",
                file.display()
            );
        }
    }
}

#[test]
fn the_binary_uses_the_public_api_only() {
    let mut files = Vec::new();
    rust_files(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin"),
        &mut files,
    );
    assert!(!files.is_empty());
    for file in files {
        let source = fs::read_to_string(&file).unwrap();
        assert!(
            !source.contains("#[path"),
            "{} includes a library file",
            file.display()
        );
    }
}

#[test]
fn an_import_that_runs_back_is_seen() {
    assert_eq!(rooms_named("use crate::breaker::Permit;"), ["breaker"]);
    assert_eq!(
        rooms_named("use crate::{\n    model::{Name},\n    store::Clock,\n};"),
        ["model", "store"]
    );
    assert_eq!(rooms_named("use super::Rules;"), Vec::<&str>::new());
}
