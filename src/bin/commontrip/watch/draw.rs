//! The terminal view: a list of circuits with a small graph each, or one circuit with larger
//! graphs.
//!
//! Owns the layout; [`Board`] owns the content. Works at any size: what does not fit is left out.

use std::collections::HashMap;

use commontrip::{Snapshot, State};
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Cell, Paragraph, Row as TableRow, Table, TableState, Wrap},
};

use super::board::{Board, Column, Row, SLICE_MS};
use crate::{out::shown, words};

/// Bars of a graph, in eighths of a line.
const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The minimum widths of a graph in the list, and of the reasons beside it.
const GRAPH: usize = 12;
const WHY: usize = 22;

/// Draws the board.
pub fn draw(frame: &mut Frame<'_>, board: &Board) {
    let [head, body, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let brush = Brush {
        colour: board.colour,
    };
    frame.render_widget(brush.head(board), head);
    let row = board.shown().and_then(|name| board.rows.get(name));
    match (board.one, row) {
        (true, Some(row)) => brush.one(frame, body, board, row),
        (true, None) if board.has_begun() => {
            frame.render_widget("it is not listed any more", body);
        }
        _ if board.rows.is_empty() && board.has_begun() => {
            let words = match &board.unread {
                Some(why) => format!("no circuit can be read: {}", shown(why)),
                None => "no circuits here: one is listed once a service has made calls through it"
                    .to_owned(),
            };
            frame.render_widget(Paragraph::new(words).wrap(Wrap { trim: true }), body);
        }
        _ if board.rows.is_empty() => frame.render_widget("looking ...", body),
        _ => brush.list(frame, body, board),
    }
    let keys = match board.one {
        true => "up/down other circuit   esc back   q quit",
        false => "up/down select   enter one circuit   q quit",
    };
    frame.render_widget(Line::styled(keys, brush.dim()), foot);
}

struct Brush {
    colour: bool,
}

impl Brush {
    fn ink(&self, colour: Color) -> Style {
        match self.colour {
            true => Style::new().fg(colour),
            false => Style::new(),
        }
    }

    fn dim(&self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    fn state(&self, state: State) -> Style {
        let style = self.ink(match state {
            State::Open | State::ForcedOpen => Color::Red,
            State::HalfOpen => Color::Yellow,
            State::Disabled => Color::Magenta,
            State::MetricsOnly => Color::Cyan,
            _ => Color::Green,
        });
        match state {
            State::Closed => style,
            _ => style.add_modifier(Modifier::BOLD),
        }
    }

    /// Old data is dim.
    fn body(&self, board: &Board) -> Style {
        match board.is_old() {
            true => self.dim(),
            false => Style::new(),
        }
    }

    fn head(&self, board: &Board) -> Line<'static> {
        let mut spans = vec![Span::styled("commontrip", Modifier::BOLD)];
        let age = board
            .age()
            .map(|age| words::span(u64::try_from(age.as_millis()).unwrap_or(0)));
        if board.unavailable.is_some() || board.is_old() {
            let age = age.map_or(String::new(), |age| {
                format!(", these numbers are {age} old")
            });
            let why = board
                .unavailable
                .as_ref()
                .map_or(String::new(), |why| format!(": {}", shown(why)));
            let style = self.ink(Color::Red).add_modifier(Modifier::BOLD);
            let style = style.add_modifier(Modifier::REVERSED);
            let words = format!("the store does not answer{age}{why}");
            spans.extend([Span::raw("  "), Span::styled(words, style)]);
            return Line::from(spans);
        }
        for state in State::ALL {
            let n = board.count(state);
            if n > 0 {
                spans.push(Span::raw("  "));
                spans.push(Span::styled(format!("{n} {state}"), self.state(state)));
            }
        }
        if let Some((ms, _)) = board.heard {
            spans.push(Span::styled(
                format!("  {} {}", board.zone.time_of_day(ms), board.zone.name(ms)),
                self.dim(),
            ));
        }
        Line::from(spans)
    }

    fn list(&self, frame: &mut Frame<'_>, area: Rect, board: &Board) {
        let rows = board.listed();
        let now_ms = board.now_ms();
        let most = usize::from(area.width);
        let name = rows
            .iter()
            .map(|row| Span::raw(shown(row.view.name.as_str())).width());
        let name = name.max().unwrap_or(4).clamp(4, (most / 3).max(8));
        // Columns by importance: the last ones are dropped first if there is no room.
        let fixed = name + 12 + 8 + 7 + 7 + 5;
        let spare = most.saturating_sub(fixed);
        let whys: Vec<_> = rows.iter().map(|row| why(&row.view.snapshot)).collect();
        let longest = whys.iter().map(|why| Span::raw(why.as_str()).width()).max();
        let longest = longest.unwrap_or(0);
        let with_why = longest > 0 && spare >= WHY + GRAPH + 2;
        let mut left =
            spare.saturating_sub(GRAPH + if with_why { WHY.min(longest) + 2 } else { 0 });
        let [calls, rejected, replicas] = [8, 11, 9].map(|width| {
            let fits = left >= width;
            left = if fits { left - width } else { 0 };
            fits
        });
        // The remaining width goes to the reasons, then to the graphs.
        let mut why_width = WHY.min(longest);
        if with_why {
            let more = left.min(longest - why_width);
            (why_width, left) = (why_width + more, left - more);
        }
        let graph = (GRAPH.min(spare) + left).min(60);
        let right = |text: String| Cell::from(Line::from(text).right_aligned());
        let line = |(row, why): (&&Row, String)| {
            let seen = &row.view.snapshot;
            let mut cells = vec![
                Cell::from(shown(row.view.name.as_str())),
                Cell::from(Span::styled(seen.state.as_str(), self.state(seen.state))),
                right(words::span(now_ms.saturating_sub(seen.since_ms))),
                right(match seen.until_ms {
                    0 => "-".to_owned(),
                    until => words::span(until.saturating_sub(now_ms)),
                }),
                right(words::percent(row.view.failure_rate)),
            ];
            if calls {
                cells.push(right(seen.calls.to_string()));
            }
            if rejected {
                cells.push(right(seen.rejected_total.to_string()));
            }
            if replicas {
                cells.push(right(seen.replicas.to_string()));
            }
            cells.push(Cell::from(self.small_graph(row, now_ms, graph)));
            if with_why {
                cells.push(Cell::from(why));
            }
            TableRow::new(cells)
        };
        let mut heads = vec!["NAME", "STATE", "SINCE", "LEFT", "FAILING"];
        let mut widths = vec![
            Constraint::Length(u16::try_from(name).unwrap_or(u16::MAX)),
            Constraint::Length(12),
            Constraint::Length(8),
            Constraint::Length(7),
            Constraint::Length(7),
        ];
        for (is, head, width) in [
            (calls, "CALLS", 7),
            (rejected, "REJECTED", 10),
            (replicas, "REPLICAS", 8),
        ] {
            if is {
                heads.push(head);
                widths.push(Constraint::Length(width));
            }
        }
        let numbers = 2..heads.len();
        heads.push("CALLS/10 s");
        widths.push(Constraint::Length(u16::try_from(graph).unwrap_or(u16::MAX)));
        if with_why {
            heads.push("WHY");
            widths.push(Constraint::Min(u16::try_from(why_width).unwrap_or(0)));
        }
        let aligned = heads.iter().enumerate().map(|(i, head)| {
            let line = Line::from(*head);
            match numbers.contains(&i) {
                true => line.right_aligned(),
                false => line,
            }
        });
        let head = TableRow::new(aligned.map(Cell::from)).style(self.dim());
        let table = Table::new(rows.iter().zip(whys).map(line), widths)
            .header(head)
            .style(self.body(board))
            .row_highlight_style(Modifier::REVERSED);
        let at = rows
            .iter()
            .position(|row| Some(&row.view.name) == board.selected.as_ref());
        let mut state = TableState::new().with_selected(at);
        frame.render_stateful_widget(table, area, &mut state);
    }

    /// A bar for each complete 10 s, the newest last. Its height shows the number of calls, its
    /// colour their outcomes.
    fn small_graph(&self, row: &Row, now_ms: u64, width: usize) -> Line<'static> {
        let columns = columns(row, now_ms, width);
        let all = |column: &Column| column.successes + column.failures + column.rejected;
        let most = columns.iter().map(all).max().unwrap_or(0);
        let bar = |column: &Column| {
            let style = match column {
                column if column.rejected > column.successes + column.failures => {
                    self.ink(Color::Magenta)
                }
                column if column.failures * 2 >= (column.successes + column.failures).max(1) => {
                    self.ink(Color::Red)
                }
                column if column.failures > 0 => self.ink(Color::Yellow),
                _ => self.ink(Color::Green),
            };
            let height = eighths(all(column), most, 1);
            Span::styled(BARS[height].to_string(), style)
        };
        Line::from(columns.iter().map(bar).collect::<Vec<_>>())
    }

    fn one(&self, frame: &mut Frame<'_>, area: Rect, board: &Board, row: &Row) {
        let about = self.about(board, row, usize::from(area.width));
        let above = u16::try_from(about.len()).unwrap_or(u16::MAX);
        let graph = match area.height {
            0..16 => 0,
            16..30 => 3,
            _ => 6,
        };
        let [top, title, ok, failed, rejected, below] = Layout::vertical([
            Constraint::Length(above + 1),
            Constraint::Length(graph.min(1)),
            Constraint::Length(graph),
            Constraint::Length(graph),
            Constraint::Length(graph),
            Constraint::Min(2),
        ])
        .areas(area);
        frame.render_widget(Paragraph::new(about).style(self.body(board)), top);
        let columns = columns(
            row,
            board.now_ms(),
            usize::from(area.width.saturating_sub(11)),
        );
        let span = words::span(columns.len() as u64 * SLICE_MS);
        let words = format!("calls of the last {span}, a bar for each 10 s that are over");
        frame.render_widget(Line::styled(words, self.dim()), title);
        // One scale, so that the graphs can be compared.
        let most = columns
            .iter()
            .map(|c| c.successes.max(c.failures).max(c.rejected))
            .max();
        let mut graph = |area, label, of: fn(&Column) -> u64, colour| {
            let numbers: Vec<_> = columns.iter().map(of).collect();
            self.graph(frame, area, label, &numbers, most.unwrap_or(0), colour);
        };
        graph(ok, "ok", |column| column.successes, Color::Green);
        graph(failed, "failed", |column| column.failures, Color::Red);
        graph(
            rejected,
            "rejected",
            |column| column.rejected,
            Color::Magenta,
        );
        self.events(frame, below, board);
    }

    fn about(&self, board: &Board, row: &Row, width: usize) -> Vec<Line<'static>> {
        let (view, seen, now_ms) = (&row.view, &row.view.snapshot, board.now_ms());
        let name = Span::styled(shown(view.name.as_str()), Modifier::BOLD);
        let state = Span::styled(seen.state.as_str(), self.state(seen.state));
        let since = words::span(now_ms.saturating_sub(seen.since_ms));
        let left = match seen.until_ms {
            0 => String::new(),
            until => format!(", {} left", words::span(until.saturating_sub(now_ms))),
        };
        let mut lines = vec![Line::from(vec![
            name,
            Span::raw("  "),
            state,
            Span::raw(format!(" for {since}{left}")),
        ])];
        let mut say = |text: String| {
            let rows = words::wrap(&text, width.max(20));
            lines.extend(rows.into_iter().map(Line::from));
        };
        say(words::why(seen, &board.events));
        let latency = seen.latency.as_ref().map_or(String::new(), |latency| {
            let [p50, p99] = [latency.p50, latency.p99].map(|time| words::micros(time.as_micros()));
            format!("; p50 {p50}, p99 {p99}")
        });
        say(format!(
            "window: {}, {} failed ({}), {} slow ({}){latency}",
            words::count(seen.calls, "call"),
            seen.failures,
            words::percent(view.failure_rate),
            seen.slow,
            words::percent(view.slow_rate),
        ));
        let kinds = words::kinds(seen);
        if !kinds.is_empty() {
            say(format!("what failed: {kinds}"));
        }
        say(format!(
            "{}; rejected ever: {}; abandoned ever: {}; generation {}",
            words::count(seen.replicas, "replica"),
            seen.rejected_total,
            seen.abandoned_total,
            seen.generation
        ));
        if matches!(seen.state, State::Open | State::HalfOpen) {
            let (well, ill) = (seen.probe_successes, seen.probe_failures);
            say(format!(
                "probes: {} out, {well} succeeded, {ill} failed",
                seen.probes
            ));
        }
        if !seen.policy.is_empty() {
            say(format!("stored policy: {}", shown(&seen.policy)));
        }
        lines
    }

    fn graph(
        &self,
        frame: &mut Frame<'_>,
        area: Rect,
        label: &str,
        numbers: &[u64],
        most: u64,
        colour: Color,
    ) {
        if area.height == 0 {
            return;
        }
        let [left, right] =
            Layout::horizontal([Constraint::Length(10), Constraint::Min(0)]).areas(area);
        let sum: u64 = numbers.iter().sum();
        let label = vec![
            Line::from(label.to_owned()),
            Line::styled(sum.to_string(), self.dim()),
        ];
        frame.render_widget(Paragraph::new(label), left);
        let lines = usize::from(area.height);
        let rows = (0..lines).map(|line| {
            let below = (lines - 1 - line) * 8;
            let bar = |n: &u64| BARS[eighths(*n, most, lines).saturating_sub(below).min(8)];
            Line::styled(
                numbers.iter().map(bar).collect::<String>(),
                self.ink(colour),
            )
        });
        frame.render_widget(Paragraph::new(rows.collect::<Vec<_>>()), right);
    }

    fn events(&self, frame: &mut Frame<'_>, area: Rect, board: &Board) {
        let head = match board.has_past() {
            true => format!("events, newest first, {}", board.zone.name(board.now_ms())),
            false => "events: looking ...".to_owned(),
        };
        let block = Block::new().title(Line::styled(head, self.dim()));
        let inner = block.inner(area);
        frame.render_widget(block, area);
        let when = |ms| match inner.width {
            0..110 => board.zone.time_of_day(ms),
            _ => board.zone.date(ms),
        };
        let newest = board.events.iter().rev().take(usize::from(inner.height));
        let lines: Vec<_> = newest
            .map(|event| {
                let style = match event.is_transition() {
                    true => self.state(event.to),
                    false => self.ink(Color::Cyan),
                };
                Line::from(vec![
                    Span::styled(format!("{}  ", when(event.at_ms)), self.dim()),
                    Span::styled(format!("{}  ", words::change(event)), style),
                    Span::raw(words::story(event)),
                ])
            })
            .collect();
        frame.render_widget(Paragraph::new(lines), inner);
    }
}

/// How many eighths of `lines` a bar fills; at least one unless `n` is 0.
fn eighths(n: u64, most: u64, lines: usize) -> usize {
    let full = lines as u128 * 8;
    let height = u128::from(n) * full / u128::from(most.max(1));
    let height = usize::try_from(height.min(full)).unwrap_or(0);
    height.max(usize::from(n > 0))
}

/// Why a circuit is not closed.
fn why(seen: &Snapshot) -> String {
    match seen.state {
        State::Closed => String::new(),
        _ => words::why(seen, []),
    }
}

/// The newest complete columns, including gaps. The present one is not complete yet, and would look
/// as if calls had become fewer.
fn columns(row: &Row, now_ms: u64, width: usize) -> Vec<Column> {
    let known: HashMap<u64, &Column> = row
        .columns
        .iter()
        .map(|column| (column.at_ms, column))
        .collect();
    let newest = (now_ms - now_ms % SLICE_MS).saturating_sub(SLICE_MS);
    let times = (0..width as u64)
        .rev()
        .map(|back| newest.saturating_sub(back * SLICE_MS));
    times
        .map(|at| {
            known
                .get(&at)
                .map_or_else(Column::default, |column| **column)
        })
        .collect()
}
