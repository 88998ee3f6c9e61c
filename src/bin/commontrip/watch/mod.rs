//! `commontrip watch`: the circuits as they change.
//!
//! Owns the way of news and keys to the [`Board`](board::Board), and that the terminal is as it was afterwards, also
//! after a panic. Without a terminal each piece of news is a line of JSON.

mod board;
mod draw;
mod lines;
#[cfg(test)]
mod tests;

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use clap::Args;
use commontrip::{
    Event, Name,
    operator::{Operator, Tidings},
};
use crossterm::event::{Event as Input, EventStream, KeyEventKind};
use futures_util::StreamExt;
use ratatui::DefaultTerminal;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval},
};

use self::board::{Board, Wish};
use crate::{
    Common, known,
    out::{Done, When, is_plain},
};

/// How often the screen is drawn anew though nothing came, for what ages.
const REDRAW: Duration = Duration::from_millis(500);

/// What `commontrip watch` can be told.
#[derive(Args, Debug)]
pub struct Options {
    /// Only this circuit
    name: Option<String>,

    #[command(flatten)]
    common: Common,
}

/// Watches, until somebody leaves.
pub async fn run(options: &Options) -> Done {
    let operator = options.common.connection.operator()?;
    let only = match &options.name {
        Some(name) => match operator.circuit(name).await {
            Ok(view) => Some(view.name),
            Err(error) => return Err(known::failure(&operator, error).await),
        },
        None => {
            operator.ping().await?;
            None
        }
    };
    let out = &options.common.output;
    let tidings = operator.live().subscribe();
    if out.json || !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return lines::write(tidings, only).await;
    }
    let colour = out.color != When::Never && (out.color == When::Always || !is_plain());
    // Puts the terminal back also when there is a panic.
    let mut terminal = ratatui::try_init()?;
    let mut screen = Screen::new(operator, Board::new(only, colour));
    let watched = screen.watch(&mut terminal, tidings).await;
    ratatui::restore();
    watched
}

/// What is watched, and who is asked for more of it.
struct Screen {
    operator: Operator,
    board: Board,
    /// Events that were asked for.
    past: mpsc::UnboundedSender<(Name, Vec<Event>)>,
    pasts: mpsc::UnboundedReceiver<(Name, Vec<Event>)>,
}

impl Screen {
    fn new(operator: Operator, board: Board) -> Self {
        let (past, pasts) = mpsc::unbounded_channel();
        Self {
            operator,
            board,
            past,
            pasts,
        }
    }

    async fn watch(&mut self, terminal: &mut DefaultTerminal, mut tidings: Tidings) -> Done {
        let mut inputs = EventStream::new();
        let mut redraw = interval(REDRAW);
        redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ended = Box::pin(ended());
        self.ask();
        loop {
            self.board.now = Some(Instant::now());
            terminal.draw(|frame| draw::draw(frame, &self.board))?;
            tokio::select! {
                input = inputs.next() => match input {
                    Some(Ok(Input::Key(key))) if key.kind != KeyEventKind::Release => {
                        match self.board.key(key) {
                            Wish::Leave => return Ok(()),
                            Wish::Past => self.ask(),
                            Wish::None => {}
                        }
                    }
                    // A resize is drawn.
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error.into()),
                    None => return Ok(()),
                },
                news = tidings.next() => {
                    self.board.take(news, Instant::now());
                }
                Some((name, events)) = self.pasts.recv() => self.board.past(name, events),
                _ = redraw.tick() => {}
                () = &mut ended => return Ok(()),
            }
        }
    }

    /// Asks for the events of the circuit that is shown; the screen does not wait for them.
    fn ask(&self) {
        let Some(name) = self.board.shown().cloned() else {
            return;
        };
        let (operator, past) = (self.operator.clone(), self.past.clone());
        tokio::spawn(async move {
            // What comes later is news; a store that is away is said.
            if let Ok(events) = operator.events(name.as_str()).await {
                let _ = past.send((name, events));
            }
        });
    }
}

/// When the process is told to end.
#[cfg(unix)]
async fn ended() {
    use tokio::signal::unix::{SignalKind, signal};
    let signals =
        signal(SignalKind::terminate()).and_then(|term| Ok((term, signal(SignalKind::hangup())?)));
    match signals {
        Ok((mut term, mut hangup)) => {
            tokio::select! {
                _ = term.recv() => {}
                _ = hangup.recv() => {}
            }
        }
        Err(_) => std::future::pending().await,
    }
}

#[cfg(not(unix))]
async fn ended() {
    std::future::pending().await
}
