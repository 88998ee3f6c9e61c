//! Command-line arguments.

use std::{fs::File, path::PathBuf};

pub const USAGE: &str =
    "usage: cargo bench --bench NAME -- [--test] [--json FILE] [PART OF A CASE'S NAME]...";

#[derive(Default)]
pub struct Arguments {
    /// Run each case once, only to check that it works.
    pub test: bool,
    /// Created at the start, so that a long run does not fail at its end.
    pub json: Option<File>,
    filters: Vec<String>,
}

impl Arguments {
    /// Parses the arguments, without the program's name.
    ///
    /// # Errors
    /// When an argument is wrong, with a description.
    pub fn read(arguments: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut read = Self::default();
        let mut arguments = arguments.into_iter();
        // `cargo bench` passes `--bench`. `cargo test --benches` does not, and wants no figures.
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

    /// Whether to run a case: its name contains one of the filters, or there are no filters.
    pub fn want(&self, case: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| case.contains(filter))
    }
}
