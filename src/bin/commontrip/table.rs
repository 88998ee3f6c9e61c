//! Rows for people, in columns.
//!
//! Owns widths: numbers to the right, the last column as wide as the terminal leaves it. Text that goes in is
//! already shown safely.

use std::io::{self, IsTerminal};

use unicode_width::UnicodeWidthStr;

use crate::{
    out::{DIM, Output},
    words::wrap,
};

/// Between columns.
const GAP: &str = "  ";
/// The least that is left for the last column beside the others.
const LEAST: usize = 24;

/// One field of a row, and its colour.
pub struct Cell {
    text: String,
    code: Option<&'static str>,
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        let text = text.into();
        Self { text, code: None }
    }
}

/// A field in a colour.
pub fn coloured(code: &'static str, text: impl Into<String>) -> Cell {
    let text = text.into();
    let code = Some(code);
    Cell { text, code }
}

/// Columns by their heads; one that begins with `>` has its fields to the right.
pub struct Table {
    heads: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub const fn new(heads: Vec<&'static str>) -> Self {
        let rows = Vec::new();
        Self { heads, rows }
    }

    /// Columns without heads, as many as the rows have.
    pub const fn headless() -> Self {
        Self::new(Vec::new())
    }

    pub fn row(&mut self, row: Vec<Cell>) {
        self.rows.push(row);
    }

    /// All of it, the heads first.
    pub fn text(&self, out: &Output) -> String {
        self.laid_out(terminal_width(), |code, text| out.paint(code, text))
    }

    fn laid_out(&self, width: Option<usize>, paint: impl Fn(&str, &str) -> String) -> String {
        let columns = self.rows.iter().map(Vec::len).chain([self.heads.len()]);
        let last = columns.max().unwrap_or(0).saturating_sub(1);
        let widths: Vec<_> = (0..last).map(|column| self.width(column)).collect();
        let before = widths.iter().map(|width| width + GAP.len()).sum::<usize>();
        let left = width.map(|width| width.saturating_sub(before));
        let mut text = String::new();
        let heads = self.heads.iter();
        let heads: Vec<Cell> = heads
            .map(|head| coloured(DIM, head.trim_start_matches('>')))
            .collect();
        let heads = (!heads.is_empty()).then_some(&heads);
        for row in heads.into_iter().chain(&self.rows) {
            let mut line = String::new();
            for (column, width) in widths.iter().enumerate() {
                let cell = row.get(column);
                let field = cell.map_or("", |cell| &cell.text);
                let pad = " ".repeat(width.saturating_sub(field.width()));
                let field = match cell.and_then(|cell| cell.code) {
                    Some(code) => paint(code, field),
                    None => field.to_owned(),
                };
                line += &match self.head(column).starts_with('>') {
                    true => format!("{pad}{field}{GAP}"),
                    false => format!("{field}{pad}{GAP}"),
                };
            }
            let tail = row.get(last);
            let (words, code) = tail.map_or(("", None), |cell| (&*cell.text, cell.code));
            let painted = |words: &str| match code {
                Some(code) => paint(code, words),
                None => words.to_owned(),
            };
            let (indent, rows) = match left {
                Some(left) if words.width() > left && left < LEAST => {
                    let rows = wrap(words, width.unwrap_or(80).saturating_sub(4).max(LEAST));
                    text += line.trim_end();
                    text.push('\n');
                    line = " ".repeat(4);
                    (4, rows)
                }
                Some(left) if words.width() > left => (before, wrap(words, left)),
                _ => (before, vec![words.to_owned()]),
            };
            for (i, words) in rows.iter().enumerate() {
                if i > 0 {
                    line = " ".repeat(indent);
                }
                text += format!("{line}{}", painted(words)).trim_end();
                text.push('\n');
            }
        }
        text
    }

    fn width(&self, column: usize) -> usize {
        let fields = self.rows.iter().filter_map(|row| row.get(column));
        let widths = fields.map(|cell| cell.text.width());
        let head = self.head(column).trim_start_matches('>').width();
        widths.max().unwrap_or(0).max(head)
    }

    fn head(&self, column: usize) -> &'static str {
        self.heads.get(column).copied().unwrap_or("")
    }
}

/// How wide the terminal is, if there is one.
fn terminal_width() -> Option<usize> {
    let is_terminal = io::stdout().is_terminal();
    let size = is_terminal.then(crossterm::terminal::size)?;
    size.ok().map(|(columns, _)| usize::from(columns).max(40))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(vec!["name", ">calls", "why"]);
        table.row(vec![
            "payments".into(),
            "5".into(),
            "one two three four five six".into(),
        ]);
        table.row(vec![coloured("31", "支付"), "12345".into(), "".into()]);
        table
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_field() {
        let text = table().laid_out(None, |_, text| text.to_owned());
        let expected = "\
name      calls  why
payments      5  one two three four five six
支付      12345
";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_last_column_takes_what_is_left_or_a_line_of_its_own() {
        let text = table().laid_out(Some(42), |_, text| text.to_owned());
        assert!(
            text.contains("  5  one two three four five\n                 six\n"),
            "{text}"
        );
        let text = table().laid_out(Some(40), |_, text| text.to_owned());
        assert!(
            text.contains("  5\n    one two three four five six\n"),
            "{text}"
        );
    }

    #[test]
    fn colours_take_no_room() {
        let text = table().laid_out(None, |code, text| format!("\x1b[{code}m{text}\x1b[0m"));
        assert!(
            text.contains("\x1b[31m支付\x1b[0m      12345\n"),
            "{text:?}"
        );
    }
}
