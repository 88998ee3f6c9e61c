//! `commontrip watch`: shows the circuits as they change.
//!
//! Passes updates and keys to the [`Board`](board::Board), and restores the terminal at the end,
//! even after a panic. Without a terminal each update is a line of JSON.

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
    operator::{NewsStream, Operator},
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

/// How often the screen is redrawn without an update, because ages change.
const REDRAW: Duration = Duration::from_millis(500);

/// Arguments of `commontrip watch`.
#[derive(Args, Debug)]
pub struct Options {
    /// Only this circuit
    name: Option<String>,

    #[command(flatten)]
    common: Common,
}

/// Watches until the user leaves.
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
    let news = operator.live().subscribe();
    if out.json || !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return lines::write(news, only).await;
    }
    let colour = out.color != When::Never && (out.color == When::Always || !is_plain());
    // Restores the terminal after a panic as well.
    let mut terminal = ratatui::try_init()?;
    let mut screen = Screen::new(operator, Board::new(only, colour, out.zone()));
    let watched = screen.watch(&mut terminal, news).await;
    ratatui::restore();
    watched
}

/// The board, and the operator that provides its data.
struct Screen {
    operator: Operator,
    board: Board,
    /// Delivers requested events.
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

    async fn watch(&mut self, terminal: &mut DefaultTerminal, mut news: NewsStream) -> Done {
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
                    // The loop redraws after a resize.
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error.into()),
                    None => return Ok(()),
                },
                news = news.next() => {
                    self.board.take(news, Instant::now());
                }
                Some((name, events)) = self.pasts.recv() => self.board.past(name, events),
                _ = redraw.tick() => {}
                () = &mut ended => return Ok(()),
            }
        }
    }

    /// Requests the events of the shown circuit, without blocking the screen.
    fn ask(&self) {
        let Some(name) = self.board.shown().cloned() else {
            return;
        };
        let (operator, past) = (self.operator.clone(), self.past.clone());
        tokio::spawn(async move {
            // Later events arrive as updates, and updates also report an unavailable store.
            if let Ok(events) = operator.events(name.as_str()).await {
                let _ = past.send((name, events));
            }
        });
    }
}

/// Completes when the process is told to end.
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
