//! Writes figures as tables for people and as JSON for programs.

use std::{fs::File, io, io::Write};

use serde_json::{Value, json};

/// One figure, in the table of its case and the line of its breaker.
pub struct Figure {
    pub case: String,
    pub breaker: &'static str,
    pub value: f64,
}

/// The unit of the figures.
pub struct Unit {
    /// Its key in JSON.
    pub key: &'static str,
    /// Its name in the table's heading.
    pub head: &'static str,
}

/// Prints Markdown tables with a line for each breaker and a column for each case. Each field has
/// the figure and its ratio to the figure of `ours`. Cases whose names have equally many parts
/// share a table.
pub fn print(figures: &[Figure], unit: &Unit, ours: &str) {
    let parts = |figure: &Figure| figure.case.split('/').count();
    let mut tables: Vec<usize> = figures.iter().map(parts).collect();
    tables.sort_unstable();
    tables.dedup();
    for table in tables {
        let figures: Vec<_> = figures.iter().filter(|f| parts(f) == table).collect();
        let cases = distinct(figures.iter().map(|figure| figure.case.as_str()));
        println!("\n{} (x {ours})\n\n| | {} |", unit.head, cases.join(" | "));
        println!("|---|{}", "---:|".repeat(cases.len()));
        for breaker in distinct(figures.iter().map(|figure| figure.breaker)) {
            let cells = cases.iter().map(|case| {
                let of = |breaker| {
                    figures
                        .iter()
                        .find(|f| f.case == *case && f.breaker == breaker)
                };
                match (of(breaker), of(ours)) {
                    (Some(one), Some(base)) => {
                        format!("{:.1} ({:.2})", one.value, one.value / base.value)
                    }
                    (Some(one), None) => format!("{:.1}", one.value),
                    (None, _) => String::new(),
                }
            });
            println!("| {breaker} | {} |", cells.collect::<Vec<_>>().join(" | "));
        }
    }
}

/// Removes duplicates; keeps the order of first occurrences.
fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut all = Vec::new();
    for name in names {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

/// Writes an array of `{"case": ..., "breaker": ..., <the unit's key>: ...}`.
///
/// # Errors
/// When the file cannot be written.
pub fn write(mut file: &File, figures: &[Figure], unit: &Unit) -> io::Result<()> {
    let object = |figure: &Figure| -> Value {
        let value = (figure.value * 100.0).round() / 100.0;
        json!({ "case": figure.case, "breaker": figure.breaker, (unit.key): value })
    };
    let all: Vec<Value> = figures.iter().map(object).collect();
    serde_json::to_writer_pretty(file, &all)?;
    writeln!(file)
}
