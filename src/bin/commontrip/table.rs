//! Tables for people.
//!
//! Owns widths: numbers are aligned to the right, and the last column takes the remaining width of
//! the terminal. If that is too narrow, less important columns are left out and the first one is
//! cut. The input is already escaped.

use std::{
    borrow::Cow,
    io::{self, IsTerminal},
};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::{
    out::{DIM, Output},
    words::wrap,
};

/// The gap between columns.
const GAP: &str = "  ";
/// The minimum width of the last column beside the others.
const LEAST: usize = 24;
/// The minimum width of the first column.
const FIRST: usize = 20;

/// A cell of a row, and its colour.
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

/// A coloured cell.
pub fn coloured(code: &'static str, text: impl Into<String>) -> Cell {
    let text = text.into();
    let code = Some(code);
    Cell { text, code }
}

/// Columns by their headings. A heading that begins with `>` aligns its cells to the right. One
/// that begins with `?` (before `>`) may be left out if the terminal is too narrow.
pub struct Table {
    heads: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub const fn new(heads: Vec<&'static str>) -> Self {
        let rows = Vec::new();
        Self { heads, rows }
    }

    /// A table without headings, with as many columns as the rows have.
    pub const fn headless() -> Self {
        Self::new(Vec::new())
    }

    pub fn row(&mut self, row: Vec<Cell>) {
        self.rows.push(row);
    }

    /// Renders the table, headings first.
    pub fn text(&self, out: &Output) -> String {
        self.laid_out(terminal_width(), |code, text| out.paint(code, text))
    }

    fn laid_out(&self, width: Option<usize>, paint: impl Fn(&str, &str) -> String) -> String {
        let columns = self.rows.iter().map(Vec::len).chain([self.heads.len()]);
        let last = columns.max().unwrap_or(0).saturating_sub(1);
        let widths = self.fitted((0..last).map(|column| (column, self.width(column))), width);
        let before = widths
            .iter()
            .map(|(_, width)| width + GAP.len())
            .sum::<usize>();
        let left = width.map(|width| width.saturating_sub(before));
        let is_wide = |row: &Vec<Cell>| {
            let tail = row.get(last).map_or(0, |cell| cell.text.width());
            left.is_some_and(|left| left < LEAST && tail > left)
        };
        let heads = self.heads.iter();
        let mut heads: Vec<Cell> = heads
            .map(|head| coloured(DIM, head.trim_start_matches(['?', '>'])))
            .collect();
        if self.rows.iter().any(is_wide) {
            // A last column that is written on lines of its own has no heading.
            heads.truncate(last);
        }
        let heads = std::iter::once(&heads).filter(|heads| !heads.is_empty());
        let mut text = String::new();
        for row in heads.chain(&self.rows) {
            let mut line = self.line(row, &widths, &paint);
            let (mut indent, mut room) = (before, left.unwrap_or(usize::MAX));
            if is_wide(row) {
                text += line.trim_end();
                text.push('\n');
                indent = 4;
                room = width.unwrap_or(0).saturating_sub(indent).max(LEAST);
                line = " ".repeat(indent);
            }
            let tail = row.get(last);
            let words = tail.map_or("", |cell| &cell.text);
            let rows = match words.width() > room {
                true => wrap(words, room),
                false => vec![words.to_owned()],
            };
            let rows = rows
                .iter()
                .map(|words| match tail.and_then(|cell| cell.code) {
                    Some(code) if !words.is_empty() => paint(code, words),
                    _ => words.clone(),
                });
            let rows: Vec<_> = rows.collect();
            line += &rows.join(&format!("\n{}", " ".repeat(indent)));
            text += line.trim_end();
            text.push('\n');
        }
        text
    }

    /// All cells of a row except the last.
    fn line(
        &self,
        row: &[Cell],
        widths: &[(usize, usize)],
        paint: impl Fn(&str, &str) -> String,
    ) -> String {
        let mut line = String::new();
        for (column, width) in widths {
            let cell = row.get(*column);
            let field = &*cut(cell.map_or("", |cell| &cell.text), *width);
            let pad = " ".repeat(width.saturating_sub(field.width()));
            let field = match cell.and_then(|cell| cell.code) {
                Some(code) => paint(code, field),
                None => field.to_owned(),
            };
            line += &match self.head(*column).starts_with('>') {
                true => format!("{pad}{field}{GAP}"),
                false => format!("{field}{pad}{GAP}"),
            };
        }
        line
    }

    fn width(&self, column: usize) -> usize {
        let fields = self.rows.iter().filter_map(|row| row.get(column));
        let widths = fields.map(|cell| cell.text.width());
        let head = self.head(column).trim_start_matches('>').width();
        widths.max().unwrap_or(0).max(head)
    }

    fn head(&self, column: usize) -> &'static str {
        let head = self.heads.get(column).copied().unwrap_or("");
        head.trim_start_matches('?')
    }

    /// All columns except the last, and widths that fit.
    fn fitted(
        &self,
        columns: impl Iterator<Item = (usize, usize)>,
        width: Option<usize>,
    ) -> Vec<(usize, usize)> {
        let mut widths: Vec<_> = columns.collect();
        let Some(room) = width else {
            return widths;
        };
        let sum = |widths: &[(usize, usize)]| -> usize {
            widths.iter().map(|(_, width)| width + GAP.len()).sum()
        };
        let optional = |(column, _): &(usize, usize)| {
            self.heads
                .get(*column)
                .is_some_and(|head| head.starts_with('?'))
        };
        while sum(&widths) > room && (sum(&widths) - room) + FIRST > widths[0].1 {
            match widths.iter().rposition(optional) {
                Some(at) => widths.remove(at),
                None => break,
            };
        }
        let beyond = sum(&widths).saturating_sub(room);
        if let Some((_, first)) = widths.first_mut().filter(|_| beyond > 0) {
            *first = first.saturating_sub(beyond).max(FIRST.min(*first));
        }
        widths
    }
}

/// Cuts text to a width; text that was cut ends in an ellipsis.
fn cut(text: &str, width: usize) -> Cow<'_, str> {
    if text.width() <= width {
        return Cow::Borrowed(text);
    }
    let mut cut = String::new();
    for c in text.chars() {
        if cut.width() + c.width().unwrap_or(0) >= width {
            break;
        }
        cut.push(c);
    }
    Cow::Owned(cut + "…")
}

/// The width of the terminal, if there is one; at least 40 columns.
pub fn terminal_width() -> Option<usize> {
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
    fn what_is_less_needed_is_left_out_and_long_names_are_cut() {
        let mut table = Table::new(vec!["name", "?>calls", ">left", "why"]);
        let name = "a very long name of a circuit that goes on";
        table.row(vec![
            name.into(),
            "5".into(),
            "27s".into(),
            "one two".into(),
        ]);
        let laid_out = |width| table.laid_out(Some(width), |_, text| text.to_owned());
        assert!(
            laid_out(70).contains("calls  left  why\n"),
            "{}",
            laid_out(70)
        );
        let narrow = laid_out(40);
        assert!(
            narrow.contains("a very long name of a ci…      5   27s\n    one two\n"),
            "{narrow}"
        );
        assert!(!narrow.contains("why"), "{narrow}");
        let narrow = laid_out(28);
        assert!(narrow.contains("a very long name of…   27s\n"), "{narrow}");
        assert!(!narrow.contains("calls"), "{narrow}");
        assert!(
            laid_out(1).starts_with("name                  left\n"),
            "{}",
            laid_out(1)
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
