//! The service that probes call. It counts concurrent probes, which shows the limit from outside
//! the breaker.
//!
//! Invariant: a call counts from its acceptance until its end, or until the lease of its permit
//! expires. The call of a killed process also counts until then, because its permit may not be
//! given to another caller.

use std::{
    future::Future,
    sync::{Arc, atomic::AtomicU64},
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::wire::unix_ms;

/// Redis truncates its clock to milliseconds, and the clocks may drift apart.
const CLOCK_MARGIN_MS: u64 = 5;

/// The calls so far, for one circuit.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    calls: Vec<Call>,
    pub taken: u64,
    /// Calls that arrived after the lease of their permit; not counted against the limit.
    pub late: u64,
    /// The maximum number of permits in use at once, including those of killed callers.
    pub most: usize,
    /// The maximum number of calls in flight at once.
    pub most_alive: usize,
}

#[derive(Clone, Debug)]
struct Call {
    number: u64,
    deadline_ms: u64,
    alive: bool,
}

pub struct Upstream {
    pub port: u16,
    tallies: Mutex<Vec<Tally>>,
    next: AtomicU64,
}

impl Upstream {
    /// Listens. `kill` decides for every accepted call whether to kill the caller, given by its
    /// process id, and returns whether it did.
    pub async fn start<K, F>(circuits: usize, kill: K) -> Arc<Upstream>
    where
        K: Fn(u32) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = bool> + Send,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let upstream = Arc::new(Upstream {
            port: listener.local_addr().expect("it is bound").port(),
            tallies: Mutex::new(vec![Tally::default(); circuits]),
            next: AtomicU64::new(0),
        });
        tokio::spawn({
            let upstream = Arc::clone(&upstream);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (upstream, kill) = (Arc::clone(&upstream), kill.clone());
                    tokio::spawn(async move {
                        // An error means that the caller was killed.
                        let _ = upstream.take(stream, kill).await;
                    });
                }
            }
        });
        upstream
    }

    pub fn tallies(&self) -> Vec<Tally> {
        self.tallies.lock().clone()
    }

    async fn take<K, F>(&self, mut stream: TcpStream, kill: K) -> std::io::Result<()>
    where
        K: Fn(u32) -> F,
        F: Future<Output = bool>,
    {
        let process = stream.read_u64().await? as u32;
        let circuit = stream.read_u64().await? as usize;
        let deadline_ms = stream.read_u64().await? - CLOCK_MARGIN_MS;
        let number = self.begin(circuit, deadline_ms);
        let ended = async {
            if !kill(process).await {
                stream.write_u8(0).await?;
            }
            stream.read_u8().await
        };
        let ended = ended.await;
        self.end(circuit, number, ended.is_ok());
        ended?;
        stream.write_u8(0).await
    }

    fn begin(&self, circuit: usize, deadline_ms: u64) -> u64 {
        let number = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let tally = &mut self.tallies.lock()[circuit];
        let now = unix_ms();
        tally.taken += 1;
        tally.calls.retain(|call| now < call.deadline_ms);
        if now >= deadline_ms {
            tally.late += 1;
            return number;
        }
        tally.calls.push(Call {
            number,
            deadline_ms,
            alive: true,
        });
        tally.most = tally.most.max(tally.calls.len());
        let alive = tally.calls.iter().filter(|call| call.alive).count();
        tally.most_alive = tally.most_alive.max(alive);
        number
    }

    fn end(&self, circuit: usize, number: u64, in_good_order: bool) {
        let tally = &mut self.tallies.lock()[circuit];
        if in_good_order {
            tally.calls.retain(|call| call.number != number);
        } else if let Some(call) = tally.calls.iter_mut().find(|call| call.number == number) {
            call.alive = false;
        }
    }
}
