//! The state of the terminal view: circuits, their history, the store, the selection.
//!
//! Owns how updates and keys change that; draws nothing and asks nobody. Time is an argument.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use commontrip::{
    Event, Name, Snapshot, State,
    model::Interval,
    operator::{News, View},
};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use tokio::time::Instant;

use crate::{out::in_words, zone::Zone};

/// The width of a column of a graph, ms: that of the store's slices.
pub const SLICE_MS: u64 = 10_000;
/// How many columns are kept.
const SLICES: usize = 360;
/// How many events of the shown circuit are kept.
const EVENTS: usize = 256;
/// Data is considered old when the store has not been heard for this long.
const OLD: Duration = Duration::from_secs(3);

/// One column of a graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Column {
    pub at_ms: u64,
    pub successes: u64,
    pub failures: u64,
    pub rejected: u64,
}

/// A circuit and its graph.
pub struct Row {
    pub view: View,
    /// Columns with reported calls, oldest first.
    pub columns: VecDeque<Column>,
}

/// What a key requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    None,
    /// The events of the shown circuit.
    Past,
    Leave,
}

/// The state of the view.
pub struct Board {
    pub rows: BTreeMap<Name, Row>,
    /// The circuit at the cursor.
    pub selected: Option<Name>,
    /// Whether one circuit is shown instead of the list.
    pub one: bool,
    /// Events of the shown circuit, oldest first.
    pub events: VecDeque<Event>,
    /// Why circuits are missing that exist.
    pub unread: Option<String>,
    /// Why the store does not answer.
    pub unavailable: Option<String>,
    /// The store's time as last heard, and when it was heard.
    pub heard: Option<(u64, Instant)>,
    /// The present.
    pub now: Option<Instant>,
    pub colour: bool,
    pub zone: Zone,
    /// The only circuit to watch, if set.
    only: Option<Name>,
    events_of: Option<Name>,
    begun: bool,
}

impl Board {
    pub fn new(only: Option<Name>, colour: bool, zone: Zone) -> Self {
        Self {
            rows: BTreeMap::new(),
            one: only.is_some(),
            selected: only.clone(),
            events: VecDeque::new(),
            unread: None,
            unavailable: None,
            heard: None,
            now: None,
            colour,
            zone,
            only,
            events_of: None,
            begun: false,
        }
    }

    /// The circuit that is shown alone.
    pub fn shown(&self) -> Option<&Name> {
        self.selected.as_ref().filter(|_| self.one)
    }

    /// Whether the first full list of circuits has arrived.
    pub const fn has_begun(&self) -> bool {
        self.begun
    }

    /// The store's estimated present time, Unix ms.
    pub fn now_ms(&self) -> u64 {
        let age = self.age().unwrap_or_default();
        let heard = self.heard.map_or(0, |(ms, _)| ms);
        heard.saturating_add(u64::try_from(age.as_millis()).unwrap_or(0))
    }

    /// How long ago the store was last heard.
    pub fn age(&self) -> Option<Duration> {
        let (_, when) = self.heard?;
        Some(
            self.now
                .map_or(Duration::ZERO, |now| now.saturating_duration_since(when)),
        )
    }

    /// Whether the displayed data is old.
    pub fn is_old(&self) -> bool {
        self.age().is_some_and(|age| age >= OLD)
    }

    /// All circuits, worst first.
    pub fn listed(&self) -> Vec<&Row> {
        let mut rows: Vec<_> = self.rows.values().collect();
        rows.sort_by(|a, b| a.view.worst_first(&b.view));
        rows
    }

    /// How many circuits are in a state.
    pub fn count(&self, state: State) -> usize {
        let states = self.rows.values().map(|row| row.view.snapshot.state);
        states.filter(|is| *is == state).count()
    }

    pub fn take(&mut self, news: News, now: Instant) {
        match news {
            News::Circuits(all) => {
                self.begun = true;
                let unreadable = all.unreadable.first().map(|(_, error)| in_words(error));
                self.unread = all.incomplete.or(unreadable);
                self.rows.clear();
                for view in all.circuits {
                    self.hear(view.snapshot.now_ms, now);
                    self.begin(view);
                }
                self.select_one();
            }
            News::Circuit(view) => {
                self.hear(view.snapshot.now_ms, now);
                self.update(View::clone(&view));
                self.select_one();
            }
            News::Gone(name) => {
                self.rows.remove(&name);
                self.select_one();
            }
            News::Entry(name, event) if self.shown() == Some(&name) => {
                self.add_event(Event::clone(&event));
            }
            News::Store(Ok(_)) => self.unavailable = None,
            News::Store(Err(why)) => self.unavailable = Some(why),
            News::Tick(ms) => {
                self.unavailable = None;
                self.heard = Some((ms, now));
            }
            _ => {}
        }
    }

    fn hear(&mut self, ms: u64, now: Instant) {
        if self.heard.is_none_or(|(heard, _)| heard < ms) {
            self.heard = Some((ms, now));
        }
    }

    fn is_wanted(&self, name: &Name) -> bool {
        self.only.as_ref().is_none_or(|only| only == name)
    }

    fn begin(&mut self, mut view: View) {
        if !self.is_wanted(&view.name) {
            return;
        }
        let history = std::mem::take(&mut view.history);
        let columns = history.iter().map(column).collect();
        self.rows.insert(view.name.clone(), Row { view, columns });
    }

    /// Adds the counts since the last update to the present column.
    fn update(&mut self, view: View) {
        if !self.is_wanted(&view.name) {
            return;
        }
        let Some(row) = self.rows.get_mut(&view.name) else {
            let columns = VecDeque::new();
            self.rows.insert(view.name.clone(), Row { view, columns });
            return;
        };
        let (was, is) = (&row.view.snapshot, &view.snapshot);
        let more = |of: fn(&Snapshot) -> u64| of(is).saturating_sub(of(was));
        let new = Column {
            at_ms: is.now_ms - is.now_ms % SLICE_MS,
            successes: more(|seen| seen.successes_total),
            failures: more(|seen| seen.failures_total),
            rejected: more(|seen| seen.rejected_total),
        };
        if (new.successes, new.failures, new.rejected) != (0, 0, 0) {
            match row.columns.back_mut() {
                Some(last) if last.at_ms >= new.at_ms => {
                    last.successes += new.successes;
                    last.failures += new.failures;
                    last.rejected += new.rejected;
                }
                _ => row.columns.push_back(new),
            }
            if row.columns.len() > SLICES {
                row.columns.pop_front();
            }
        }
        row.view = view;
    }

    fn select_one(&mut self) {
        let is_there = self
            .selected
            .as_ref()
            .is_some_and(|name| self.rows.contains_key(name));
        if !is_there && !self.one {
            self.selected = self.listed().first().map(|row| row.view.name.clone());
        }
    }

    /// Takes the recorded events of a circuit.
    pub fn past(&mut self, name: Name, events: Vec<Event>) {
        if self.shown() == Some(&name) {
            self.events = events.into();
            self.events_of = Some(name);
        }
    }

    /// Whether the recorded events of the shown circuit have arrived.
    pub fn has_past(&self) -> bool {
        self.shown().is_some() && self.shown() == self.events_of.as_ref()
    }

    fn add_event(&mut self, event: Event) {
        if !self.events.contains(&event) {
            self.events.push_back(event);
        }
        if self.events.len() > EVENTS {
            self.events.pop_front();
        }
    }

    pub fn key(&mut self, key: KeyEvent) -> Wish {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c' | 'd') if control => return Wish::Leave,
            KeyCode::Char('q') => return Wish::Leave,
            KeyCode::Esc | KeyCode::Backspace | KeyCode::Left
                if self.one && self.only.is_none() =>
            {
                self.one = false;
                self.select_one();
            }
            KeyCode::Esc => return Wish::Leave,
            KeyCode::Enter | KeyCode::Right if !self.one && self.selected.is_some() => {
                self.one = true;
                self.forget_past();
                return Wish::Past;
            }
            KeyCode::Up | KeyCode::Char('k') => return self.step(-1),
            KeyCode::Down | KeyCode::Char('j') => return self.step(1),
            KeyCode::PageUp => return self.step(-10),
            KeyCode::PageDown => return self.step(10),
            KeyCode::Home | KeyCode::Char('g') => return self.step(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => return self.step(isize::MAX),
            _ => {}
        }
        Wish::None
    }

    /// Moves the cursor. If one circuit is shown, moves to the next one.
    fn step(&mut self, by: isize) -> Wish {
        let rows = self.listed();
        let Some(last) = rows.len().checked_sub(1) else {
            return Wish::None;
        };
        let at = rows
            .iter()
            .position(|row| Some(&row.view.name) == self.selected.as_ref());
        let to = at.map_or(0, |at| at.saturating_add_signed(by).min(last));
        let name = rows[to].view.name.clone();
        let moved = self.selected.as_ref() != Some(&name);
        self.selected = Some(name);
        match self.one && moved {
            true => {
                self.forget_past();
                Wish::Past
            }
            false => Wish::None,
        }
    }

    fn forget_past(&mut self) {
        self.events.clear();
        self.events_of = None;
    }
}

fn column(slice: &Interval) -> Column {
    Column {
        at_ms: slice.at_ms,
        successes: slice.successes,
        failures: slice.failures,
        rejected: slice.rejected,
    }
}
