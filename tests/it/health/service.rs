//! The checked service: a TCP service that answers or not, and records who called it.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Up,
    /// Accepts the request and hangs up.
    Down,
    /// Accepts the request and never answers.
    Hung,
}

struct State {
    mode: Mode,
    /// The numbers of the callers, in order.
    asked: Vec<u32>,
    hanging: Vec<TcpStream>,
}

pub struct Service {
    pub port: u16,
    state: Arc<Mutex<State>>,
    serves: JoinHandle<()>,
}

impl Service {
    pub async fn start() -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State {
            mode: Mode::Up,
            asked: Vec::new(),
            hanging: Vec::new(),
        }));
        let shared = Arc::clone(&state);
        let serves = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&shared)));
            }
        });
        Service {
            port,
            state,
            serves,
        }
    }

    pub fn set(&self, mode: Mode) {
        self.state.lock().mode = mode;
    }

    pub fn asked(&self) -> Vec<u32> {
        self.state.lock().asked.clone()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.serves.abort();
    }
}

async fn answer(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    // An error means that the caller was killed.
    let Ok(who) = stream.read_u32().await else {
        return;
    };
    let mode = {
        let mut state = state.lock();
        state.asked.push(who);
        state.mode
    };
    match mode {
        Mode::Up => {
            let _ = stream.write_u8(1).await;
        }
        Mode::Down => {}
        Mode::Hung => state.lock().hanging.push(stream),
    }
}

/// Calls the service with the caller's number.
pub async fn ask(port: u16, who: u32) -> io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_u32(who).await?;
    stream.read_u8().await.map(|_| ())
}
