//! The faults of Redis and their order.
//!
//! Owns the list and the execution; judges nothing. Invariant: the schedule depends only on the
//! seed, and Redis is intact again after a fault.

use std::{fs, net::Ipv4Addr, path::PathBuf, time::Duration};

use redis::aio::MultiplexedConnection;
use tokio::task::block_in_place;

use crate::{
    histories::{record::now_ns, witness::connect},
    processes::ms,
    proxy::{Mode, Proxy},
    support::{OwnServer, user},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL; returns without its data.
    KilledAndEmptied,
    /// SIGKILL; returns with its data.
    Killed,
    /// SIGKILL; does not return while a service fails.
    GoneInAnOutage,
    /// SIGSTOP.
    Frozen,
    ClientPause,
    ClientKillNormal,
    ClientKillPubsub,
    ScriptFlush,
    FlushAll,
    /// `-OOM`.
    OutOfMemory,
    /// `-BUSY`.
    Busy,
    /// `-LOADING`.
    Loading,
    /// `-READONLY`.
    ReadOnly,
    /// `-NOPERM`.
    Denied,
    ProxyDelays,
    ProxyHangs,
    ProxyCuts,
}

impl Fault {
    pub const ALL: [Fault; 17] = [
        Fault::KilledAndEmptied,
        Fault::Killed,
        Fault::GoneInAnOutage,
        Fault::Frozen,
        Fault::ClientPause,
        Fault::ClientKillNormal,
        Fault::ClientKillPubsub,
        Fault::ScriptFlush,
        Fault::FlushAll,
        Fault::OutOfMemory,
        Fault::Busy,
        Fault::Loading,
        Fault::ReadOnly,
        Fault::Denied,
        Fault::ProxyDelays,
        Fault::ProxyHangs,
        Fault::ProxyCuts,
    ];

    /// Whether Redis is empty afterwards.
    pub fn empties(self) -> bool {
        matches!(self, Fault::KilledAndEmptied | Fault::FlushAll)
    }
}

/// Each kind once in random order, then again.
pub struct Schedule {
    random: fastrand::Rng,
    left: Vec<Fault>,
}

/// A fault, its duration, and the calm time after it.
#[derive(Clone, Copy, Debug)]
pub struct Planned {
    pub fault: Fault,
    pub lasts: Duration,
    pub delay: Duration,
    pub pause: Duration,
}

impl Schedule {
    pub fn new(seed: u64) -> Schedule {
        Schedule {
            random: fastrand::Rng::with_seed(seed),
            left: Vec::new(),
        }
    }

    pub fn next(&mut self) -> Planned {
        if self.left.is_empty() {
            self.left.extend(Fault::ALL);
            self.random.shuffle(&mut self.left);
        }
        Planned {
            fault: self.left.pop().expect("it was filled"),
            lasts: ms(self.random.u64(200..2000)),
            delay: ms(self.random.u64(5..250)),
            pause: ms(self.random.u64(300..2000)),
        }
    }
}

/// The Redis of the soak, and the connection to it.
pub struct Stage {
    pub server: OwnServer,
    pub proxy: Proxy,
    folder: PathBuf,
}

impl Stage {
    pub async fn set() -> Stage {
        let server = OwnServer::start_with(&[
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
            "--busy-reply-threshold",
            "50",
            "--enable-debug-command",
            "yes",
        ]);
        let mut redis = connect(&server.admin_url()).await;
        let mut folder = redis::cmd("CONFIG");
        folder.arg("GET").arg("dir");
        let folder: (String, String) = folder.query_async(&mut redis).await.expect("a folder");
        Stage {
            proxy: Proxy::start(Ipv4Addr::LOCALHOST, server.port()).await,
            server,
            folder: folder.1.into(),
        }
    }

    /// The URL of the proxy, for processes that experience the faults.
    pub fn url(&self) -> String {
        self.proxy.url()
    }

    /// Executes a fault and repairs it. Returns when Redis lost all data: between which moments.
    ///
    /// `at_the_worst` runs while the fault lasts.
    pub async fn suffer(
        &self,
        planned: Planned,
        at_the_worst: impl Future<Output = ()>,
    ) -> Option<(u64, u64)> {
        let Planned {
            fault,
            lasts,
            delay,
            ..
        } = planned;
        let began_ns = now_ns();
        let lasting = async {
            // Late, but before a fault that ends on its own has begun to recover.
            tokio::time::sleep(lasts * 3 / 4).await;
            at_the_worst.await;
            tokio::time::sleep(lasts / 4).await;
        };
        match fault {
            Fault::KilledAndEmptied => {
                block_in_place(|| self.server.kill());
                fs::remove_dir_all(self.folder.join("appendonlydir")).expect("it keeps its data");
                lasting.await;
                block_in_place(|| self.server.restart());
            }
            Fault::Killed | Fault::GoneInAnOutage => {
                block_in_place(|| self.server.kill());
                lasting.await;
                block_in_place(|| self.server.restart());
            }
            Fault::Frozen => {
                self.server.pause();
                lasting.await;
                self.server.resume();
            }
            Fault::ClientPause => {
                let pause = lasts.as_millis() + 100;
                self.tell(&["CLIENT", "PAUSE", &pause.to_string(), "ALL"])
                    .await;
                lasting.await;
                tokio::time::sleep(ms(100)).await;
            }
            Fault::ClientKillNormal => self.kill_clients("normal", lasting).await,
            Fault::ClientKillPubsub => self.kill_clients("pubsub", lasting).await,
            Fault::ScriptFlush => {
                self.tell(&["SCRIPT", "FLUSH"]).await;
                lasting.await;
            }
            Fault::FlushAll => self.tell(&["FLUSHALL"]).await,
            Fault::OutOfMemory => {
                self.tell(&["CONFIG", "SET", "maxmemory", "1"]).await;
                lasting.await;
                self.tell(&["CONFIG", "SET", "maxmemory", "0"]).await;
            }
            Fault::Busy => {
                let mut killer = connect(&self.server.admin_url()).await;
                let mut looping = connect(&self.server.admin_url()).await;
                let looping = tokio::spawn(async move {
                    let mut endless = redis::cmd("EVAL");
                    endless.arg("while true do end").arg(0);
                    // It is killed, so it ends with an error.
                    let _ = endless.query_async::<()>(&mut looping).await;
                });
                lasting.await;
                let mut kill = redis::cmd("SCRIPT");
                kill.arg("KILL");
                while !looping.is_finished() {
                    // An error if the script has not begun, or has ended.
                    let _ = kill.query_async::<()>(&mut killer).await;
                    tokio::time::sleep(ms(10)).await;
                }
            }
            Fault::Loading => self.reload(lasts, lasting).await,
            Fault::ReadOnly => {
                // A master that cannot be reached, so the data stays.
                self.tell(&["REPLICAOF", "127.0.0.1", "1"]).await;
                lasting.await;
                self.tell(&["REPLICAOF", "NO", "ONE"]).await;
            }
            Fault::Denied => {
                self.tell(&["ACL", "SETUSER", user::USER, "-evalsha"]).await;
                lasting.await;
                self.tell(&["ACL", "SETUSER", user::USER, "+evalsha"]).await;
            }
            Fault::ProxyDelays => {
                self.proxy.set(Mode::Delay(delay));
                lasting.await;
                self.proxy.set(Mode::Pass);
            }
            Fault::ProxyHangs => {
                self.proxy.set(Mode::Hang);
                lasting.await;
                self.proxy.set(Mode::Pass);
            }
            Fault::ProxyCuts => {
                for _ in 0..3 {
                    self.proxy.cut();
                    tokio::time::sleep(lasts / 3).await;
                }
            }
        }
        fault.empties().then(|| (began_ns, now_ns()))
    }

    async fn tell(&self, words: &[&str]) {
        let mut redis = connect(&self.server.admin_url()).await;
        said(&mut redis, words).await;
    }

    async fn kill_clients(&self, kind: &str, lasting: impl Future<Output = ()>) {
        let again = async {
            loop {
                self.tell(&["CLIENT", "KILL", "TYPE", kind]).await;
                tokio::time::sleep(ms(150)).await;
            }
        };
        tokio::select! {
            () = again => {}
            () = lasting => {}
        }
    }

    /// Makes Redis load all its data slowly: additional keys, at 2 ms each.
    async fn reload(&self, lasts: Duration, lasting: impl Future<Output = ()>) {
        let mut redis = connect(&self.server.admin_url()).await;
        let keys = (lasts.as_millis() / 2).to_string();
        let fill =
            "for i = 1, ARGV[1] do redis.call('SET', 'filler:' .. i, string.rep('x', 2000)) end";
        said(&mut redis, &["EVAL", fill, "0", &keys]).await;
        said(&mut redis, &["CONFIG", "SET", "key-load-delay", "2000"]).await;
        let interval = "loading-process-events-interval-bytes";
        said(&mut redis, &["CONFIG", "SET", interval, "1024"]).await;
        let reload = async {
            said(&mut redis, &["DEBUG", "RELOAD"]).await;
        };
        tokio::join!(reload, lasting);
        self.tell(&["CONFIG", "SET", "key-load-delay", "0"]).await;
        let clear = "for i = 1, ARGV[1] do redis.call('DEL', 'filler:' .. i) end";
        self.tell(&["EVAL", clear, "0", &keys]).await;
    }
}

async fn said(redis: &mut MultiplexedConnection, words: &[&str]) {
    let mut command = redis::cmd(words[0]);
    for word in &words[1..] {
        command.arg(word);
    }
    let answer = command.query_async::<redis::Value>(redis).await;
    answer.unwrap_or_else(|err| panic!("{words:?}: {err}"));
}
