//! The line format of the tables.
//!
//! ```text
//! # a comment
//! case what must be true
//! policy failure_rate_threshold=30 window_calls=4      the policy in code from here on
//! @0 report r1 s=10 f=10 -> open generation=1          at ms after the base: verb, words, key=value -> expectation
//! ```

use std::{collections::BTreeMap, str::FromStr};

/// One line with a step.
#[derive(Debug)]
pub struct Line<'t> {
    pub number: usize,
    pub at: u64,
    pub verb: &'t str,
    pub args: Args<'t>,
    pub expected: Args<'t>,
}

/// Words and `key=value` pairs, each of which is taken once.
#[derive(Debug, Default)]
pub struct Args<'t> {
    words: Vec<&'t str>,
    pairs: BTreeMap<&'t str, &'t str>,
}

impl<'t> Args<'t> {
    pub fn of(text: &'t str) -> Result<Self, String> {
        let mut args = Self::default();
        for part in text.split_whitespace() {
            match part.split_once('=') {
                None => args.words.push(part),
                Some((key, value)) => {
                    if args.pairs.insert(key, value).is_some() {
                        return Err(format!("{key} is there twice"));
                    }
                }
            }
        }
        Ok(args)
    }

    /// The next word.
    pub fn word(&mut self, what: &str) -> Result<&'t str, String> {
        if self.words.is_empty() {
            return Err(format!("a {what} is missing"));
        }
        Ok(self.words.remove(0))
    }

    pub fn words(&mut self) -> Vec<&'t str> {
        std::mem::take(&mut self.words)
    }

    pub fn text(&mut self, key: &str) -> Option<&'t str> {
        self.pairs.remove(key)
    }

    pub fn number<T: FromStr>(&mut self, key: &str) -> Result<Option<T>, String> {
        let Some(text) = self.pairs.remove(key) else {
            return Ok(None);
        };
        let number = text.parse();
        number
            .map(Some)
            .map_err(|_| format!("{key}={text} is not a number"))
    }

    pub fn count(&mut self, key: &str) -> Result<u64, String> {
        Ok(self.number(key)?.unwrap_or(0))
    }

    pub fn pairs(&mut self) -> BTreeMap<&'t str, &'t str> {
        std::mem::take(&mut self.pairs)
    }

    /// Rejects unused words and pairs, so that a misspelt key cannot pass.
    pub fn end(&self) -> Result<(), String> {
        if self.words.is_empty() && self.pairs.is_empty() {
            return Ok(());
        }
        Err(format!("not understood: {:?} {:?}", self.words, self.pairs))
    }
}

/// The cases of a table: name, line number, steps.
pub type Case<'t> = (&'t str, usize, Vec<Line<'t>>);

/// Parses a table.
///
/// # Errors
/// The line number, and what is wrong with the line.
pub fn cases(table: &str) -> Result<Vec<Case<'_>>, (usize, String)> {
    let mut cases: Vec<Case<'_>> = Vec::new();
    for (i, text) in table.lines().enumerate() {
        let (number, text) = (i + 1, text.trim());
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        if let Some(name) = text.strip_prefix("case ") {
            cases.push((name, number, Vec::new()));
            continue;
        }
        let read = line(number, text).map_err(|wrong| (number, wrong))?;
        let Some((_, _, lines)) = cases.last_mut() else {
            return Err((number, "a line before the first case".into()));
        };
        lines.push(read);
    }
    Ok(cases)
}

fn line(number: usize, text: &str) -> Result<Line<'_>, String> {
    let (text, expected) = text.split_once("->").unwrap_or((text, ""));
    let (at, text) = match text.strip_prefix('@') {
        None => (0, text),
        Some(timed) => {
            let (at, rest) = timed.split_once(' ').ok_or("nothing after the time")?;
            (at.parse().map_err(|_| format!("@{at} is no time"))?, rest)
        }
    };
    let (verb, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    Ok(Line {
        number,
        at,
        verb,
        args: Args::of(rest)?,
        expected: Args::of(expected)?,
    })
}
