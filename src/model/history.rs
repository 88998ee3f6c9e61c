//! The past of a circuit: one hour in fine slices, the two weeks before it in slices of 10 min.
//!
//! Owns the slices, in the text form that Redis stores; knows no states.
//! Twin: `lua/lib/history.lua`, which describes the form.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use super::{Rules, snapshot::LARGEST, window::grid};

/// Duration of a block of fine slices, which later becomes one slice of the weeks, ms.
const BLOCK_MS: u64 = 600_000;
/// How many blocks are kept besides the newest.
const BLOCKS: usize = 6;
/// How many slices the weeks have.
const WEEKS: u64 = 2016;
/// The widths of slices in blocks, ms.
const FINE_MS: u64 = 1000;
const COARSE_MS: u64 = 10_000;
/// The width of the intervals that graphs show, ms.
const INTERVAL_MS: u64 = 10_000;
/// The longest entries of a block and of the weeks, bytes.
const LONGEST_BLOCK: usize = 4800;
const LONGEST_WEEKS: usize = 28_000;
/// A newest slice further ahead than this clears the history, ms.
const MOST_AHEAD_MS: u64 = 60_000;
/// The largest number in an entry.
const MOST: u64 = 999_999_999_999;

/// What the replicas of a circuit reported within ten seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Interval {
    /// When it began, Unix ms by the store's clock; a multiple of 10,000.
    pub at_ms: u64,
    /// Successes.
    pub successes: u64,
    /// Failures.
    pub failures: u64,
    /// Slow calls among both.
    pub slow: u64,
    /// Ignored outcomes.
    pub ignored: u64,
    /// Rejected calls.
    pub rejected: u64,
    /// Calls that were dropped before they ended.
    pub abandoned: u64,
}

/// What the replicas of a circuit reported within one slice of its history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Slice {
    /// How long it lasted, ms: 1,000 or 10,000 in the past hour, 600,000 before.
    pub lasted_ms: u64,
    /// When it began, and its counts.
    #[serde(flatten)]
    pub counts: Interval,
}

/// Successes, failures, slow, ignored, rejected, abandoned.
type Counted = [u64; 6];

/// Returns the slice width for a policy: short if its buckets are short.
pub(super) fn slice_ms(rules: &Rules) -> u64 {
    match rules.window_calls == 0 && grid(rules).0 <= FINE_MS {
        true => FINE_MS,
        false => COARSE_MS,
    }
}

/// Parses a number as Redis stores it.
fn number(digits: &str) -> Option<u64> {
    let number = digits.bytes().all(|b| b.is_ascii_digit());
    number.then(|| digits.parse().ok()).flatten()
}

fn totals(text: &str) -> Option<Counted> {
    let numbers: Option<Vec<_>> = text.split('/').map(number).collect();
    let counted = Counted::try_from(numbers?).ok()?;
    counted.iter().all(|n| *n <= LARGEST).then_some(counted)
}

fn start(text: &str) -> Option<u64> {
    number(text).filter(|at| *at <= LARGEST && at % BLOCK_MS == 0)
}

/// Formats the counts of a slice, without trailing zeros.
fn entry(counts: Counted) -> String {
    let counts = counts.map(|n| n.min(MOST));
    let length = counts.iter().rposition(|n| *n > 0).map_or(0, |i| i + 1);
    let digits: Vec<_> = counts[..length].iter().map(u64::to_string).collect();
    digits.join("/") + ","
}

fn between(before: Counted, after: Counted) -> Counted {
    std::array::from_fn(|i| after[i].saturating_sub(before[i]))
}

/// Parses the counts of an entry. Invalid numbers count as 0.
fn counts(entry: &str) -> Counted {
    let mut numbers = entry.split('/').map(|digits| number(digits).unwrap_or(0));
    std::array::from_fn(|_| numbers.next().unwrap_or(0).min(MOST))
}

fn entries(text: &str) -> impl Iterator<Item = &str> {
    text.split_terminator(',')
}

fn are_entries(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_digit() || b == b'/' || b == b',';
    text.bytes().all(fits)
}

fn interval(at_ms: u64, of: Counted) -> Interval {
    let [successes, failures, slow, ignored, rejected, abandoned] = of;
    Interval {
        at_ms,
        successes,
        failures,
        slow,
        ignored,
        rejected,
        abandoned,
    }
}

/// Ten minutes of the past hour.
#[derive(Clone, Debug)]
struct Block {
    start: u64,
    width: u64,
    /// Totals when it began.
    first: Counted,
    /// Totals when its newest slice began.
    last: Counted,
    /// The slices that have ended.
    entries: String,
}

impl Block {
    fn parse(text: &str) -> Option<Self> {
        let [at, width, first, last, entries] = text.splitn(5, ' ').collect::<Vec<_>>()[..] else {
            return None;
        };
        let fits = are_entries(entries) && text.len() <= 2 * LONGEST_BLOCK;
        let width = number(width).filter(|width| [FINE_MS, COARSE_MS].contains(width))?;
        fits.then_some(Self {
            start: start(at)?,
            width,
            first: totals(first)?,
            last: totals(last)?,
            entries: entries.to_owned(),
        })
    }

    fn text(&self) -> String {
        let totals = |of: Counted| of.map(|n| n.to_string()).join("/");
        let (first, last) = (totals(self.first), totals(self.last));
        let (start, width, entries) = (self.start, self.width, &self.entries);
        format!("{start} {width} {first} {last} {entries}")
    }

    /// Ends the newest slice, at these totals.
    fn end_slice(&mut self, totals: Counted) {
        self.entries += &entry(between(self.last, totals));
        self.last = totals;
    }

    /// Merges every ten slices into one. The remaining ones (fewer than ten) become part of the
    /// newest slice again, whose start is returned.
    fn coarsen(&mut self) -> u64 {
        let (mut groups, mut sums, mut last) = (String::new(), [0; 6], self.first);
        let mut whole = 0;
        for (i, text) in entries(&self.entries).enumerate() {
            let of = counts(text);
            sums = std::array::from_fn(|i| sums[i] + of[i]);
            if (i as u64 + 1).is_multiple_of(COARSE_MS / FINE_MS) {
                groups += &entry(sums);
                last = std::array::from_fn(|i| (last[i] + sums[i]).min(LARGEST));
                sums = [0; 6];
                whole += 1;
            }
        }
        (self.width, self.last, self.entries) = (COARSE_MS, last, groups);
        self.start + whole * COARSE_MS
    }

    /// Returns the slices that are not empty. With `totals`, these include the newest one, which
    /// has not ended, up to these totals.
    fn slices(&self, totals: Option<Counted>) -> Vec<Slice> {
        let ended = entries(&self.entries).map(|text| (!text.is_empty()).then(|| counts(text)));
        let newest = totals.map(|totals| Some(between(self.last, totals)));
        let slice = |(i, of): (usize, Option<Counted>)| {
            let at_ms = self.start + i as u64 * self.width;
            Some(Slice {
                lasted_ms: self.width,
                counts: interval(at_ms, of?),
            })
        };
        ended.chain(newest).enumerate().filter_map(slice).collect()
    }
}

/// Slices older than the blocks.
#[derive(Clone, Debug, Default)]
struct Weeks {
    from: u64,
    till: u64,
    entries: String,
}

impl Weeks {
    fn parse(text: &str) -> Option<Self> {
        let [from, till, entries] = text.splitn(3, ' ').collect::<Vec<_>>()[..] else {
            return None;
        };
        let fits = are_entries(entries) && entries.len() <= 2 * LONGEST_WEEKS;
        fits.then_some(Self {
            from: start(from)?,
            till: start(till)?,
            entries: entries.to_owned(),
        })
    }

    fn text(&self) -> String {
        format!("{} {} {}", self.from, self.till, self.entries)
    }

    /// Adds a block as one slice, after empty slices for the time since the last one.
    fn add(&mut self, block: &Block) {
        let start = block.start;
        if self.entries.is_empty() || start.saturating_sub(self.till) > WEEKS * BLOCK_MS {
            (self.from, self.till) = (start, start);
            self.entries.clear();
        }
        let idle = start.saturating_sub(self.till) / BLOCK_MS;
        self.entries += &",".repeat(idle as usize);
        self.entries += &entry(between(block.first, block.last));
        self.till = start + BLOCK_MS;
    }

    fn trim(&mut self) {
        let mut cut = 0;
        while self.till - self.from > WEEKS * BLOCK_MS || self.entries.len() - cut > LONGEST_WEEKS {
            let rest = &self.entries[cut..];
            cut += rest.find(',').map_or(rest.len(), |comma| comma + 1);
            self.from += BLOCK_MS;
        }
        self.entries.drain(..cut);
    }

    fn slices(&self) -> impl Iterator<Item = Slice> {
        let slice = |(i, text): (usize, &str)| {
            let at_ms = self.from.saturating_add(i as u64 * BLOCK_MS);
            (!text.is_empty()).then(|| Slice {
                lasted_ms: BLOCK_MS,
                counts: interval(at_ms, counts(text)),
            })
        };
        entries(&self.entries).enumerate().filter_map(slice)
    }
}

/// The history of one circuit.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// When the newest slice began.
    pub(super) at: u64,
    /// The newest first.
    blocks: VecDeque<Block>,
    weeks: Weeks,
}

impl History {
    /// The fields that hold it, the newest block first.
    pub(crate) const FIELDS: [&str; 8] = ["0", "1", "2", "3", "4", "5", "6", "weeks"];
    /// Returns the fields that contain the newest `most` intervals.
    pub(crate) fn fields_of(most: usize) -> &'static [&'static str] {
        let per_block = (BLOCK_MS / INTERVAL_MS) as usize;
        &Self::FIELDS[..=most.div_ceil(per_block).min(BLOCKS)]
    }

    /// Reads the values of these fields, in this order. Invalid values are ignored.
    pub(crate) fn read<'a>(fields: impl IntoIterator<Item = Option<&'a str>>) -> Self {
        let mut history = Self::default();
        for (name, text) in Self::FIELDS.iter().zip(fields) {
            let Some(text) = text else { continue };
            if *name == "weeks" {
                history.weeks = Weeks::parse(text).unwrap_or_default();
            } else if let Some(block) = Block::parse(text) {
                let is_older = |newer: &Block| block.start < newer.start;
                if history.blocks.back().is_none_or(is_older) {
                    history.blocks.push_back(block);
                }
            }
        }
        history
    }

    /// Begins a slice if it is due. If the last one lies far ahead, the clock was set back, and the
    /// history is cleared.
    pub(super) fn begin(&mut self, rules: &Rules, now: u64, totals: Counted) {
        if rules.history == 0 {
            return *self = Self::default();
        }
        let (width, is_back) = (slice_ms(rules), now < self.at);
        let is_due = now >= self.at + width || is_back;
        // 0 means no slice.
        if !is_due || now < width || is_back && self.at - now <= MOST_AHEAD_MS {
            return;
        }
        if is_back {
            *self = Self::default();
        }
        let start = now - now % BLOCK_MS;
        if let Some(ended) = self.blocks.front_mut().filter(|block| block.start < start) {
            ended.end_slice(totals);
            self.forget(start);
        }
        let mut slice = now - now % width;
        match self.blocks.front_mut().filter(|block| block.start == start) {
            Some(block) => {
                slice = now - now % block.width;
                let begun = slice.saturating_sub(start.max(self.at)) / block.width;
                if begun == 0 {
                    return;
                }
                block.end_slice(totals);
                block.entries += &",".repeat(begun as usize - 1);
                if block.width == FINE_MS && block.entries.len() > LONGEST_BLOCK {
                    slice = block.coarsen();
                }
            }
            None => self.blocks.push_front(Block {
                start,
                width,
                first: totals,
                last: totals,
                entries: ",".repeat(((slice - start) / width) as usize),
            }),
        }
        self.at = slice;
    }

    /// Moves the blocks that are more than an hour older than `start` to the weeks.
    fn forget(&mut self, start: u64) {
        let kept = start.saturating_sub(BLOCKS as u64 * BLOCK_MS);
        while self.blocks.back().is_some_and(|block| block.start < kept) {
            if let Some(old) = self.blocks.pop_back() {
                self.weeks.add(&old);
            }
        }
        self.weeks.trim();
    }

    /// Returns the newest intervals of the past hour, oldest first. The last one lasts until these
    /// totals.
    pub(crate) fn newest(&self, most: usize, totals: Counted) -> Vec<Interval> {
        let mut newest: VecDeque<Interval> = VecDeque::new();
        // Only from the blocks that a store reads for so many intervals.
        let read = Self::fields_of(most).len();
        for (i, block) in self.blocks.iter().take(read).enumerate() {
            for slice in block.slices((i == 0).then_some(totals)).iter().rev() {
                let of = &slice.counts;
                let at_ms = of.at_ms - of.at_ms % INTERVAL_MS;
                let newer = newest.front_mut().filter(|newer| newer.at_ms == at_ms);
                if let Some(newer) = newer {
                    newer.add(of);
                } else if newest.len() < most {
                    newest.push_front(Interval { at_ms, ..*of });
                } else {
                    return newest.into();
                }
            }
        }
        newest.into()
    }

    /// Returns the whole history, oldest first. The last slice lasts until these totals.
    pub(crate) fn slices(&self, totals: Counted) -> Vec<Slice> {
        let last = self.blocks.len().saturating_sub(1);
        let blocks = self.blocks.iter().rev().enumerate();
        let fine = blocks.flat_map(|(i, block)| block.slices((i == last).then_some(totals)));
        self.weeks.slices().chain(fine).collect()
    }

    /// Returns the fields as Redis stores them.
    pub(super) fn held(&self) -> BTreeMap<String, String> {
        let texts = self.blocks.iter().map(Block::text);
        let blocks = Self::FIELDS.iter().zip(texts);
        let weeks = (!self.weeks.entries.is_empty()).then(|| self.weeks.text());
        let held = blocks.map(|(name, text)| ((*name).to_owned(), text));
        let weeks = weeks.map(|text| ("weeks".to_owned(), text));
        held.chain(weeks).collect()
    }
}

impl Interval {
    fn add(&mut self, other: &Self) {
        self.successes += other.successes;
        self.failures += other.failures;
        self.slow += other.slow;
        self.ignored += other.ignored;
        self.rejected += other.rejected;
        self.abandoned += other.abandoned;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn entries_omit_trailing_zeros_and_come_back() {
        for (of, text) in [
            ([0; 6], ","),
            ([7, 0, 0, 0, 0, 0], "7,"),
            ([0, 0, 0, 0, 5, 0], "0/0/0/0/5,"),
            ([u64::MAX, 1, 2, 3, 4, 5], "999999999999/1/2/3/4/5,"),
        ] {
            assert_eq!(entry(of), text);
            assert_eq!(counts(text.trim_end_matches(',')), of.map(|n| n.min(MOST)));
        }
    }

    #[test]
    fn a_graph_reads_no_more_blocks_than_it_shows() {
        assert_eq!(History::fields_of(1), ["0", "1"]);
        assert_eq!(History::fields_of(60), ["0", "1"]);
        assert_eq!(History::fields_of(360).len(), 7);
        assert_eq!(History::fields_of(100_000).len(), 7);
    }

    proptest! {
        #[test]
        fn any_text_is_a_past_or_none(
            texts in prop::collection::vec("[0-9/, x]{0,40}", 8), at in 0..4_u64, width in 0..3_usize,
            entries in "[0-9/,]{0,60}",
        ) {
            let width = [1000, 10_000, 7][width];
            let block = format!("{} {width} 1/2/3/4/5/6 2/2/2/2/2/2 {entries}", at * BLOCK_MS);
            let weeks = format!("{} {} {entries}", at * BLOCK_MS, (at + 2) * BLOCK_MS);
            for (i, text) in [(0, block), (7, weeks)] {
                let mut texts = texts.clone();
                texts[i] = text;
                let history = History::read(texts.iter().map(|text| Some(text.as_str())));
                let most = [9_u64; 6];
                let _ = (history.slices(most), history.newest(360, most), history.held());
            }
        }
    }
}
