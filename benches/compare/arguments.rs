//! What stands on the command line.

use std::{fs::File, path::PathBuf};

pub const USAGE: &str =
    "usage: cargo bench --bench NAME -- [--test] [--json FILE] [PART OF A CASE'S NAME]...";

#[derive(Default)]
pub struct Arguments {
    /// Each case once, for its working and not for its figures.
    pub test: bool,
    /// Made at once, so that a run is not for nothing.
    pub json: Option<File>,
    filters: Vec<String>,
}

impl Arguments {
    /// Reads them, without the program's own name.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn read(arguments: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut read = Self::default();
        let mut arguments = arguments.into_iter();
        // `cargo bench` says `--bench`; `cargo test --benches` does not, and wants no figures.
        let mut bench = false;
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--bench" => bench = true,
                "--test" => read.test = true,
                "--json" => {
                    let path = arguments.next().map(PathBuf::from);
                    let path = path.ok_or("--json wants the name of a file")?;
                    let file = File::create(&path);
                    let file = file.map_err(|error| format!("{}: {error}", path.display()))?;
                    read.json = Some(file);
                }
                option if option.starts_with('-') => {
                    return Err(format!("{option} is not an option"));
                }
                _ => read.filters.push(argument),
            }
        }
        read.test |= !bench;
        Ok(read)
    }

    /// Whether a case is asked for: it has one of the words in its name, or there are none.
    pub fn want(&self, case: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| case.contains(filter))
    }
}
