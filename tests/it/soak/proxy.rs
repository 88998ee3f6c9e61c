//! A TCP proxy that behaves like a bad network: it delays, hangs or cuts connections.
//!
//! Owns the way between a port and a server's. Invariant: bytes arrive in order or the connection is cut; what was held
//! up while it hung arrives afterwards.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::watch,
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// How long each piece of data is held.
    pub delay: Duration,
    /// Nothing arrives at all.
    pub hangs: bool,
    /// Connections made under an earlier number are cut.
    pub cuts: u64,
}

pub struct Proxy {
    pub port: u16,
    way: watch::Sender<Way>,
}

impl Proxy {
    pub async fn start(to: u16) -> Arc<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let proxy = Arc::new(Proxy {
            port: listener.local_addr().expect("it is bound").port(),
            way: watch::channel(Way::default()).0,
        });
        let way = proxy.way.subscribe();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, to, way.clone()));
            }
        });
        proxy
    }

    pub fn set(&self, delay: Duration, hangs: bool) {
        self.way.send_modify(|way| {
            way.delay = delay;
            way.hangs = hangs;
        });
    }

    pub fn cut(&self) {
        self.way.send_modify(|way| way.cuts += 1);
    }
}

/// Carries both directions until one ends or the connection is cut; either way both are closed.
async fn pass(client: TcpStream, to: u16, mut way: watch::Receiver<Way>) {
    let cuts = way.borrow_and_update().cuts;
    let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else {
        return;
    };
    for stream in [&client, &server] {
        let _ = stream.set_nodelay(true);
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = carry(from_client, to_server, way.clone()) => {}
        () = carry(from_server, to_client, way.clone()) => {}
        _ = way.wait_for(|way| way.cuts != cuts) => {}
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut way: watch::Receiver<Way>) {
    let mut piece = [0; 16 * 1024];
    while let Ok(read) = from.read(&mut piece).await {
        let delay = way.borrow_and_update().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let free = way.wait_for(|way| !way.hangs).await.is_ok();
        if read == 0 || !free || to.write_all(&piece[..read]).await.is_err() {
            return;
        }
    }
}
