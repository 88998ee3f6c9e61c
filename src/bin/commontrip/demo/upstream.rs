//! The flaky upstream: a TCP server on loopback.
//!
//! Each call is one line, `pay REPLICA NUMBER GENERATION`, answered with `ok` or `error`. The
//! server sees every call that passes the circuit, so its record shows how many probes were in
//! flight. Whether a call fails and how long it takes depends only on the seed, the replica and the
//! call's number, not on the order of arrival.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use commontrip::Clock;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use super::plan::ERROR_PERCENT;

/// How long a call takes, ms.
const LATENCY_MS: std::ops::Range<u64> = 15..60;
/// The maximum length of a line.
const LONGEST_LINE: u64 = 100;

/// One call that the upstream has answered.
#[derive(Clone, Copy, Debug)]
pub struct Served {
    pub replica: usize,
    /// The circuit's generation that the caller knew when it made the call.
    pub generation: u64,
    pub arrived_ms: u64,
    pub answered_ms: u64,
    /// The same two times by a finer clock, to order calls.
    pub arrived_ns: u64,
    pub answered_ns: u64,
    /// Calls in flight when it had arrived, including this one.
    pub in_flight: usize,
    pub ok: bool,
}

/// The server; it ends with the runtime.
pub struct Upstream {
    pub address: SocketAddr,
    pub served: mpsc::UnboundedReceiver<Served>,
    state: Arc<State>,
}

struct State {
    seed: u64,
    failing: AtomicBool,
    in_flight: AtomicUsize,
    clock: Clock,
    served: mpsc::UnboundedSender<Served>,
}

impl Upstream {
    pub async fn start(seed: u64, clock: Clock) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (to, served) = mpsc::unbounded_channel();
        let state = Arc::new(State {
            seed,
            failing: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            clock,
            served: to,
        });
        let address = listener.local_addr()?;
        tokio::spawn(accept(listener, Arc::clone(&state)));
        Ok(Self {
            address,
            served,
            state,
        })
    }

    pub fn set_failing(&self, failing: bool) {
        self.state.failing.store(failing, Ordering::SeqCst);
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let state = Arc::clone(&state);
                tokio::spawn(async move {
                    // A caller may hang up.
                    let _ = serve(stream, &state).await;
                });
            }
            // Most likely out of file descriptors; some will be free again.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn serve(stream: TcpStream, state: &State) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        (&mut stream)
            .take(LONGEST_LINE)
            .read_line(&mut line)
            .await?;
        let Some((replica, number, generation)) = parse(&line) else {
            return Ok(());
        };
        let (arrived_ms, arrived_ns) = (state.clock.unix_ms(), state.clock.precise_ns());
        let flight = Flight::begin(state);
        let in_flight = flight.1;
        let mut dice = fastrand::Rng::with_seed(mix(state.seed, replica as u64, number));
        let unlucky = dice.u64(0..100) < ERROR_PERCENT;
        tokio::time::sleep(Duration::from_millis(dice.u64(LATENCY_MS))).await;
        let ok = !(unlucky && state.failing.load(Ordering::SeqCst));
        // Ends the flight before the answer leaves, because the caller may then call again at once.
        drop(flight);
        // An error means that the show is over.
        let _ = state.served.send(Served {
            replica,
            generation,
            arrived_ms,
            answered_ms: state.clock.unix_ms(),
            arrived_ns,
            answered_ns: state.clock.precise_ns(),
            in_flight,
            ok,
        });
        let answer = if ok { "ok\n" } else { "error\n" };
        stream.write_all(answer.as_bytes()).await?;
    }
}

/// A call in flight, and how many were in flight when it began.
struct Flight<'a>(&'a AtomicUsize, usize);

impl<'a> Flight<'a> {
    fn begin(state: &'a State) -> Self {
        let before = state.in_flight.fetch_add(1, Ordering::SeqCst);
        Self(&state.in_flight, before + 1)
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn parse(line: &str) -> Option<(usize, u64, u64)> {
    let mut words = line.strip_suffix('\n')?.strip_prefix("pay ")?.split(' ');
    let parsed = (
        words.next()?.parse().ok()?,
        words.next()?.parse().ok()?,
        words.next()?.parse().ok()?,
    );
    words.next().is_none().then_some(parsed)
}

/// Mixes three numbers into one (the finalizer of `SplitMix64`).
pub fn mix(seed: u64, a: u64, b: u64) -> u64 {
    let mut z = seed
        .wrapping_add(a.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .wrapping_add(b.wrapping_mul(0xd1b5_4a32_d192_ed03));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_whole_or_not_at_all() {
        assert_eq!(parse("pay 3 17 2\n"), Some((3, 17, 2)));
        for bad in [
            "",
            "pay 3 17 2",
            "pay 3 17\n",
            "pay 3 17 2 1\n",
            "get 3 17 2\n",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
