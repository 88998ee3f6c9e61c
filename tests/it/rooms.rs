//! Imports run one way: between rooms, model <- store <- breaker <- integrations <- bin; between
//! the files of a room, in no circle.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, mem,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use syn::{
    Attribute, ItemMod, ItemUse, Macro, UseTree,
    visit::{self, Visit},
};

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

/// Files that may import from each other: an owner, and what it owns.
const OWNED: [(&str, &str); 1] = [
    // `Shared` lists the circuits of the process, and each circuit wakes the tasks through it.
    ("breaker/shared", "breaker/inner"),
];

/// The path of a module, or of something in it, from the crate's root.
type Module = Vec<String>;

/// What the files of a crate import, by module.
type Files = BTreeMap<Module, Imports>;

static LIBRARY: LazyLock<Files> = LazyLock::new(|| files_of(&src()));

/// The paths that a file names, in imports, code and macros.
#[derive(Debug, Default)]
struct Imports {
    at: Module,
    is_test: bool,
    paths: BTreeSet<Module>,
    in_tests: BTreeSet<Module>,
    /// Modules in files of their own that are compiled for tests only.
    tests: Vec<Module>,
}

impl Imports {
    fn of(module: &[String], source: &str) -> Self {
        let mut imports = Self {
            at: module.to_vec(),
            ..Self::default()
        };
        imports.visit_file(&syn::parse_file(source).unwrap());
        imports
    }

    /// Notes a path that begins with `crate`, `self` or `super`. Other paths lead to another crate,
    /// or to a module below this one.
    fn note(&mut self, path: &[String]) {
        let mut full = match path.first().map(String::as_str) {
            Some("crate") => Module::new(),
            Some("self" | "super") => self.at.clone(),
            _ => return,
        };
        for segment in path {
            match segment.as_str() {
                "crate" | "self" => {}
                "super" => drop(full.pop()),
                name => full.push(name.to_owned()),
            }
        }
        match self.is_test {
            true => self.in_tests.insert(full),
            false => self.paths.insert(full),
        };
    }

    fn note_leaves(&mut self, tree: &UseTree, path: &[String]) {
        let with = |name: &syn::Ident| [path, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(branch) => self.note_leaves(&branch.tree, &with(&branch.ident)),
            UseTree::Group(group) => group.items.iter().for_each(|t| self.note_leaves(t, path)),
            UseTree::Name(leaf) => self.note(&with(&leaf.ident)),
            UseTree::Rename(leaf) => self.note(&with(&leaf.ident)),
            _ => self.note(path),
        }
    }
}

fn is_for_tests(attribute: &Attribute) -> bool {
    let word = attribute.parse_args::<syn::Ident>();
    attribute.path().is_ident("cfg") && word.is_ok_and(|word| word == "test")
}

impl Visit<'_> for Imports {
    fn visit_item_mod(&mut self, item: &ItemMod) {
        let is_test = self.is_test || item.attrs.iter().any(is_for_tests);
        self.at.push(item.ident.to_string());
        if is_test && item.content.is_none() {
            self.tests.push(self.at.clone());
        }
        let before = mem::replace(&mut self.is_test, is_test);
        visit::visit_item_mod(self, item);
        self.is_test = before;
        self.at.pop();
    }

    fn visit_item_use(&mut self, item: &ItemUse) {
        self.note_leaves(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &syn::Path) {
        let segments = path.segments.iter().map(|s| s.ident.to_string());
        self.note(&segments.collect::<Vec<_>>());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, called: &Macro) {
        let text = called.tokens.to_string().replace(" :: ", "::");
        for path in text.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':') {
            self.note(&path.split("::").map(str::to_owned).collect::<Vec<_>>());
        }
        visit::visit_macro(self, called);
    }
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The library without its binary, or the binary.
fn files_of(root: &Path) -> Files {
    let mut paths = Vec::new();
    rust_files(root, &mut paths);
    let mut files = Files::new();
    for path in paths {
        let below = path.strip_prefix(root).unwrap().with_extension("");
        if below.starts_with("bin") {
            continue;
        }
        let names = below.iter().map(|name| name.to_str().unwrap().to_owned());
        let mut module: Module = names.collect();
        module.pop_if(|name| matches!(name.as_str(), "lib" | "main" | "mod"));
        let source = fs::read_to_string(&path).unwrap();
        let imports = Imports::of(&module, &source);
        files.insert(module, imports);
    }
    files
}

/// Returns which files import from which, without tests. Imports between a file and those below it
/// are not counted, because they are one module in several files.
fn edges(files: &Files) -> BTreeMap<&Module, BTreeSet<&Module>> {
    let tests: Vec<_> = files.values().flat_map(|f| &f.tests).collect();
    let is_test = |module: &Module| tests.iter().any(|test| module.starts_with(test));
    let mut edges = BTreeMap::new();
    for (module, imports) in files.iter().filter(|(module, _)| !is_test(module)) {
        let file = |path: &Module| {
            let mut ends = (0..=path.len()).rev();
            let found = ends.find_map(|end| files.get_key_value(&path[..end]));
            found.map(|(other, _)| other)
        };
        let others = imports.paths.iter().filter_map(file);
        let apart = |other: &&Module| !other.starts_with(module) && !module.starts_with(other);
        edges.insert(module, others.filter(apart).collect());
    }
    edges
}

/// Returns the edges that are part of a circle, as text.
fn circles(mut edges: BTreeMap<&Module, BTreeSet<&Module>>, owned: &[(&str, &str)]) -> Vec<String> {
    for (owner, of) in owned {
        let module = |path: &str| path.split('/').map(str::to_owned).collect::<Module>();
        let (owner, of) = (module(owner), module(of));
        assert!(
            edges[&of].contains(&owner),
            "{of:?} no longer imports from {owner:?}"
        );
        let others = edges.get_mut(&owner).unwrap();
        assert!(
            others.remove(&of),
            "{owner:?} no longer imports from {of:?}"
        );
    }
    let reaches = |from: &Module, to: &Module| {
        let (mut seen, mut left) = (BTreeSet::from([from]), vec![from]);
        while let Some(at) = left.pop() {
            let others = edges.get(at).into_iter().flatten();
            left.extend(others.filter(|other| seen.insert(other)));
        }
        seen.contains(to)
    };
    let mut found = Vec::new();
    for (from, others) in &edges {
        for to in others.iter().filter(|to| reaches(to, from)) {
            found.push(format!("{} -> {}", from.join("/"), to.join("/")));
        }
    }
    found
}

/// The rooms further out than `room` that its files name.
fn outward<'a>(files: &'a Files, room: &str) -> Vec<(&'a Module, &'a Module)> {
    let at = ROOMS.iter().position(|one| *one == room).unwrap();
    let further = |path: &&Module| {
        ROOMS[at + 1..]
            .iter()
            .any(|r| path.starts_with(&[(*r).to_owned()]))
    };
    let own = files
        .iter()
        .filter(|(module, _)| module.starts_with(&[room.to_owned()]));
    let named = own.flat_map(|(module, file)| {
        let paths = file.paths.iter().chain(&file.in_tests);
        paths.map(move |path| (module, path))
    });
    named.filter(|(_, path)| further(path)).collect()
}

#[test]
fn no_room_imports_from_a_room_further_out() {
    for room in ROOMS {
        assert!(
            LIBRARY.contains_key(&[room.to_owned()][..]),
            "{room} has moved"
        );
        let outward = outward(&LIBRARY, room);
        assert!(outward.is_empty(), "{outward:#?}");
    }
}

#[test]
fn no_files_import_from_each_other_in_a_circle() {
    let found = circles(edges(&LIBRARY), &OWNED);
    assert!(found.is_empty(), "{found:#?}");
    let binary = files_of(&src().join("bin/commontrip"));
    let found = circles(edges(&binary), &[]);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_binary_uses_the_public_api_only() {
    let mut files = Vec::new();
    rust_files(&src().join("bin"), &mut files);
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

fn made(sources: &[(&str, &str)]) -> Files {
    let file = |(path, source): &(&str, &str)| {
        let names = path.split('/').map(str::to_owned);
        let module: Module = names.filter(|name| !name.is_empty()).collect();
        let imports = Imports::of(&module, source);
        (module, imports)
    };
    sources.iter().map(file).collect()
}

#[test]
fn an_import_that_runs_back_is_seen() {
    let outward_of = |source| {
        let files = made(&[("store/redis", source)]);
        let found = outward(&files, "store");
        let names = found.into_iter().map(|(_, path)| path.join("::"));
        names.collect::<Vec<_>>()
    };
    assert_eq!(
        outward_of("use crate::breaker::Permit;"),
        ["breaker::Permit"]
    );
    assert_eq!(
        outward_of("use crate::{\n    model::{Name},\n    breaker::{self, Permit as P},\n};"),
        ["breaker", "breaker::Permit"]
    );
    assert_eq!(
        outward_of("fn f() { log!(x = crate::queue::depth()) }"),
        ["queue::depth"]
    );
    assert_eq!(
        outward_of("#[cfg(test)] mod tests { use crate::otel::*; }"),
        ["otel"]
    );
    assert_eq!(
        outward_of("use super::super::keyed::Keyed;"),
        ["keyed::Keyed"]
    );
    assert!(outward_of("use super::Store; use breaker::Other;").is_empty());
}

#[test]
fn a_circle_of_files_is_seen() {
    let circle = [
        ("", "mod a; mod b; mod c; pub use a::A;"),
        (
            "a",
            "use super::b::{B, own};\n#[cfg(test)] mod tests { use crate::d::D; }",
        ),
        ("b", "mod below; fn f() -> crate::c::C { below::g() }"),
        ("b/below", "use super::B; fn g() { crate::d::h() }"),
        ("c", "fn f() { log!(\"{}\", crate::a::A) }"),
        (
            "d",
            "use crate::a; use std::fmt; use crate::A;\n#[cfg(test)] mod tests;",
        ),
        ("d/tests", "use crate::c::C;"),
    ];
    let files = made(&circle);
    let found = circles(edges(&files), &[]);
    assert_eq!(found, ["a -> b", "b -> c", "c -> a"]);
    assert!(circles(edges(&made(&circle[..4])), &[]).is_empty());
    let pair = made(&[("a", "use super::b::B;"), ("b", "use super::a::A;")]);
    assert_eq!(circles(edges(&pair), &[]), ["a -> b", "b -> a"]);
    assert!(circles(edges(&pair), &[("a", "b")]).is_empty());
}
