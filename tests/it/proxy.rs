//! A TCP proxy that simulates network faults.
//!
//! Owns the connections and their faults; does not interpret bytes. Invariant: bytes are never lost
//! in the middle of a connection, as on a real network. A connection that was hung is closed when
//! the proxy passes again.

use std::sync::atomic::{AtomicU16, Ordering};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use crate::support::userinfo;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// The server's bytes are delayed by this time.
    Delay(Duration),
    /// Connections are accepted, and their bytes are discarded.
    Hang,
}

#[derive(Clone, Copy)]
struct Law {
    mode: Mode,
    /// Connections from an earlier epoch are closed.
    epoch: u64,
}

pub struct Proxy {
    address: SocketAddr,
    server: Arc<AtomicU16>,
    law: watch::Sender<Law>,
    accepting: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Listens on an address of this machine and forwards to a port of 127.0.0.1.
    pub async fn start(on: Ipv4Addr, server: u16) -> Proxy {
        let listener = TcpListener::bind((on, 0)).await.expect("a port");
        let law = Law {
            mode: Mode::Pass,
            epoch: 0,
        };
        let mut proxy = Proxy {
            address: listener.local_addr().expect("it is bound"),
            server: Arc::new(AtomicU16::new(server)),
            law: watch::channel(law).0,
            accepting: None,
        };
        proxy.accept(listener);
        proxy
    }

    /// The URL for the crate, like [`OwnServer::url`](crate::support::OwnServer::url).
    pub fn url(&self) -> String {
        format!("redis://{}@{}/", userinfo(), self.address)
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Changes the treatment of bytes, on existing and new connections.
    pub fn set(&self, mode: Mode) {
        self.law.send_modify(|law| {
            if law.mode == Mode::Hang {
                law.epoch += 1;
            }
            law.mode = mode;
        });
    }

    /// Closes all existing connections.
    pub fn cut(&self) {
        self.law.send_modify(|law| law.epoch += 1);
    }

    /// Closes all connections and refuses new ones.
    pub async fn refuse(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            // The port is closed once the task has ended.
            let _ = accepting.await;
        }
        self.cut();
    }

    /// Forwards new connections to another server.
    pub fn turn_to(&self, server: u16) {
        self.server.store(server, Ordering::SeqCst);
        self.cut();
    }

    /// Accepts connections again, on the same port.
    pub fn admit(&mut self) {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("it is a TCP socket");
        socket.bind(self.address).expect("the port is ours");
        self.accept(socket.listen(128).expect("it is bound"));
    }

    fn accept(&mut self, listener: TcpListener) {
        let (law, server) = (Arc::new(self.law.clone()), Arc::clone(&self.server));
        self.accepting = Some(tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // Read now, so that a later cut also closes this connection.
                let (law, epoch) = (law.subscribe(), law.borrow().epoch);
                let server = server.load(Ordering::SeqCst);
                tokio::spawn(async move {
                    let to = (Ipv4Addr::LOCALHOST, server);
                    // If the server is down, the client is disconnected.
                    if let Ok(server) = TcpStream::connect(to).await {
                        connect(client, server, law, epoch).await;
                    }
                });
            }
        }));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
        }
    }
}

/// Forwards until a side closes or the epoch ends.
async fn connect(client: TcpStream, server: TcpStream, mut law: watch::Receiver<Law>, epoch: u64) {
    for stream in [&client, &server] {
        stream.set_nodelay(true).expect("it is a TCP stream");
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let there = pass(from_client, to_server, law.clone(), |_| Duration::ZERO);
    let back = pass(from_server, to_client, law.clone(), |mode| match mode {
        Mode::Delay(delay) => delay,
        Mode::Pass | Mode::Hang => Duration::ZERO,
    });
    tokio::select! {
        () = there => {}
        () = back => {}
        _ = law.wait_for(|law| law.epoch != epoch) => {}
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    law: watch::Receiver<Law>,
    delay: impl Fn(Mode) -> Duration,
) {
    let (sender, mut waiting) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let read = async {
        let mut bytes = vec![0; 16 * 1024];
        loop {
            match from.read(&mut bytes).await {
                Ok(0) | Err(_) => return,
                Ok(n) => {
                    let mode = law.borrow().mode;
                    let due = Instant::now() + delay(mode);
                    if mode != Mode::Hang && sender.send((due, bytes[..n].to_vec())).is_err() {
                        return;
                    }
                }
            }
        }
    };
    let write = async {
        while let Some((due, bytes)) = waiting.recv().await {
            sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = write => {}
    }
}
