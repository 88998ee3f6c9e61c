//! Words that the project's prose avoids: archaic, literary, or not the field's.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A phrase may continue on the next line, after the comment's mark.
const NOWHERE: [&str; 35] = [
    "amid",
    "anew",
    "aught",
    "behold",
    "betwixt",
    "for else",
    "for want of",
    "heed",
    "hence",
    "hereby",
    "hither",
    "hitherto",
    "is had",
    "is held to be",
    "lest",
    "naught",
    "nigh",
    "no leave",
    "nought",
    "of yours",
    "oft",
    "thereof",
    "thither",
    "thrice",
    "to be had",
    "unto",
    "whence",
    "wherefore",
    "wherein",
    "whereof",
    "whereupon",
    "whilst",
    "whither",
    "withal",
    "yonder",
];

/// Collects the files of these kinds below a path, or the path itself if it is a file.
fn files(path: &Path, kinds: &[&str], found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            files(&entry.unwrap().path(), kinds, found);
        }
    } else if path
        .extension()
        .is_some_and(|e| kinds.iter().any(|kind| e == *kind))
    {
        found.push(path.to_owned());
    }
}

/// A text's words in lower case, each with its line number, without punctuation.
fn words(text: &str) -> Vec<(usize, String)> {
    let of_line = |(i, line): (usize, &str)| {
        let words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
        let words = words.filter(|word| !word.is_empty());
        words
            .map(|word| (i + 1, word.to_lowercase()))
            .collect::<Vec<_>>()
    };
    text.lines().enumerate().flat_map(of_line).collect()
}

/// A `line: phrase` for each phrase in a text.
fn phrases_found(text: &str, phrases: &[&str]) -> Vec<String> {
    let words = words(text);
    let mut found = Vec::new();
    for phrase in phrases {
        let phrase_words: Vec<_> = phrase.split(' ').collect();
        for at in words.windows(phrase_words.len()) {
            if at.iter().map(|(_, word)| word).eq(phrase_words.iter()) {
                found.push(format!("{}: {phrase}", at[0].0));
            }
        }
    }
    found
}

fn check(paths: &[&str], kinds: &[&str], phrases: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for path in paths {
        let mut all = Vec::new();
        files(&root.join(path), kinds, &mut all);
        assert!(!all.is_empty(), "{path} has moved");
        for file in all {
            let text = fs::read_to_string(&file).unwrap();
            let file = file.strip_prefix(root).unwrap().display();
            let here = phrases_found(&text, phrases);
            found.extend(here.into_iter().map(|line| format!("{file}:{line}")));
        }
    }
    assert!(
        found.is_empty(),
        "say it in plainer words:\n{}",
        found.join("\n")
    );
}

const SOURCES: [&str; 3] = ["src", "lua", "examples"];
const SOURCE_KINDS: [&str; 5] = ["rs", "lua", "js", "html", "json"];
const PAGES: [&str; 5] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs",
];

#[test]
fn sources_are_in_plain_words() {
    check(&SOURCES, &SOURCE_KINDS, &NOWHERE);
}

#[test]
fn pages_are_in_plain_words() {
    check(&PAGES, &["md"], &NOWHERE);
}

#[test]
fn every_page_is_in_the_guide() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = fs::read_to_string(root.join("src/guide/mod.rs")).unwrap();
    let mut pages = Vec::new();
    files(&root.join("docs"), &["md"], &mut pages);
    assert!(!pages.is_empty());
    for page in pages {
        let name = page.file_stem().unwrap().to_str().unwrap();
        if name == "README" {
            continue; // the list of pages; the guide has its own
        }
        let line = format!("{} = {name:?};", name.replace('-', "_"));
        assert!(guide.contains(&line), "src/guide/mod.rs lacks {line}");
    }
}

#[test]
fn a_phrase_is_found_across_lines_and_only_as_whole_words() {
    let text = "/// Boxed, for\n/// else every call is large.\nLest we forget: `unheeded`, rest.";
    assert_eq!(
        phrases_found(text, &["for else", "lest", "heed", "est"]),
        ["1: for else", "3: lest"]
    );
}
