//! Processes of this program, each a part of the fleet.
//!
//! Owns starting, killing and replacing them, and their messages. Invariant: none outlives its
//! [`Fleet`].

use std::{
    env,
    ffi::OsString,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};

use super::wire::{Answer, Line, Order, ROLE, Seen, Setup, unix_ms};
use crate::histories::record::{Record, Tick};

/// A timeout far beyond what a busy machine needs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A process, and when it lived.
#[derive(Clone, Debug)]
pub struct Life {
    pub process: u32,
    pub ready_ms: u64,
    pub killed_ms: Option<u64>,
    pub seen: Vec<Seen>,
    pub did: Vec<Record>,
    pub ticks: Vec<Tick>,
    /// Its output on stderr.
    pub complaints: String,
}

pub struct Fleet {
    setup: Setup,
    /// The order for processes that replace others: `None` until the fleet serves.
    serving: Mutex<Option<u8>>,
    slots: tokio::sync::Mutex<Vec<Arc<tokio::sync::Mutex<Replica>>>>,
    lives: Arc<Mutex<Vec<Life>>>,
    kills: AtomicU64,
    starts: AtomicU64,
    listeners: Mutex<Vec<JoinHandle<()>>>,
}

struct Replica {
    process: Child,
    id: u32,
    orders: ChildStdin,
    answers: mpsc::UnboundedReceiver<Answer>,
}

impl Fleet {
    pub fn new(setup: Setup) -> Fleet {
        Fleet {
            setup,
            serving: Mutex::new(None),
            slots: tokio::sync::Mutex::default(),
            lives: Arc::default(),
            kills: AtomicU64::new(0),
            starts: AtomicU64::new(0),
            listeners: Mutex::default(),
        }
    }

    pub async fn start(setup: Setup, processes: usize) -> Fleet {
        let fleet = Fleet::new(setup);
        fleet.grow(processes).await;
        fleet
    }

    /// Starts more processes in parallel.
    pub async fn grow(&self, processes: usize) {
        let started =
            futures_util::future::join_all((0..processes).map(|_| self.start_one())).await;
        let started = started
            .into_iter()
            .map(|replica| Arc::new(tokio::sync::Mutex::new(replica)));
        self.slots.lock().await.extend(started);
    }

    pub fn lives(&self) -> Vec<Life> {
        self.lives.lock().clone()
    }

    /// Reads the messages so far without a copy.
    pub fn look<T>(&self, look: impl FnOnce(&[Life]) -> T) -> T {
        look(&self.lives.lock())
    }

    pub fn kills(&self) -> u64 {
        self.kills.load(Ordering::Relaxed)
    }

    /// Sends an order to one process and waits for the answer.
    pub async fn order(&self, slot: usize, order: Order) -> Answer {
        let replica = Arc::clone(&self.slots.lock().await[slot]);
        replica.lock().await.order(&order).await
    }

    /// Sends an order to all processes at once; returns the answers in their order.
    pub async fn order_all(&self, order: impl Fn() -> Order) -> Vec<Answer> {
        let slots = self.slots.lock().await.clone();
        let answers = slots.iter().map(|replica| {
            let order = order();
            async move { replica.lock().await.order(&order).await }
        });
        futures_util::future::join_all(answers).await
    }

    /// All processes, including later ones, make calls without end; `failures` in 100 fail.
    pub async fn serve(&self, failures: u8) {
        *self.serving.lock() = Some(failures);
        self.order_all(|| Order::Serve { failures }).await;
    }

    /// Kills a process (SIGKILL) and starts another in its place; `false` if it is gone already.
    pub async fn replace(&self, process: u32) -> bool {
        for slot in self.slots.lock().await.clone() {
            let mut replica = slot.lock().await;
            if replica.id == process {
                // Before the signal, because others may rely on everything until now.
                let now = unix_ms();
                replica.process.kill().await.expect("it runs");
                for life in self.lives.lock().iter_mut() {
                    if life.process == process && life.killed_ms.is_none() {
                        life.killed_ms = Some(now);
                    }
                }
                self.kills.fetch_add(1, Ordering::Relaxed);
                *replica = self.start_one().await;
                return true;
            }
        }
        false
    }

    /// Shuts all processes down cleanly; returns their totals, and checks that they ended well.
    pub async fn stop(&self) -> Vec<Answer> {
        let answers = self.order_all(|| Order::Stop).await;
        for slot in self.slots.lock().await.drain(..) {
            let mut replica = slot.lock().await;
            let ended = timeout(PATIENCE, replica.process.wait()).await;
            let status = ended
                .expect("a stopped process ends")
                .expect("it can be waited for");
            assert!(status.success(), "a process ended with {status}");
        }
        // By now all messages have arrived, including those of killed processes.
        let listeners = std::mem::take(&mut *self.listeners.lock());
        for listener in listeners {
            let heard = timeout(PATIENCE, listener).await;
            heard.expect("a pipe ends with its process").unwrap();
        }
        for life in self.lives.lock().iter() {
            let quiet = !life.complaints.contains("panicked");
            assert!(quiet, "process {}: {}", life.process, life.complaints);
        }
        answers
    }

    fn started_with(&self) -> Vec<OsString> {
        let choice = &self.setup.started_with;
        if choice.is_empty() {
            return Vec::new();
        }
        let turn = self.starts.fetch_add(1, Ordering::Relaxed) as usize;
        let words = &choice[turn % choice.len()];
        words.iter().map(OsString::from).collect()
    }

    async fn start_one(&self) -> Replica {
        // This program again, in the test that acts as a replica if told to.
        let program = env::current_exe().expect("a test knows its program");
        let mut words = self.started_with();
        words.push(program.into_os_string());
        let mut process = Command::new(&words[0])
            .args(&words[1..])
            .args([super::CHILDS_TEST, "--exact", "--nocapture"])
            .env(ROLE, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("this program starts");
        let id = process.id().expect("it was not waited for");
        let life = {
            let mut lives = self.lives.lock();
            lives.push(Life {
                process: id,
                ready_ms: u64::MAX,
                killed_ms: None,
                seen: Vec::new(),
                did: Vec::new(),
                ticks: Vec::new(),
                complaints: String::new(),
            });
            lives.len() - 1
        };
        let (sender, answers) = mpsc::unbounded_channel();
        let said = process.stdout.take().expect("it is piped");
        let complaints = process.stderr.take().expect("it is piped");
        self.listeners.lock().extend([
            tokio::spawn(listen(said, sender, life, Arc::clone(&self.lives))),
            tokio::spawn(hear(complaints, life, Arc::clone(&self.lives))),
        ]);
        let mut replica = Replica {
            orders: process.stdin.take().expect("it is piped"),
            process,
            id,
            answers,
        };
        replica.order(&Order::Setup(self.setup.clone())).await;
        let serving = *self.serving.lock();
        if let Some(failures) = serving {
            replica.order(&Order::Serve { failures }).await;
        }
        self.lives.lock()[life].ready_ms = unix_ms();
        replica
    }
}

async fn listen(
    said: ChildStdout,
    answers: mpsc::UnboundedSender<Answer>,
    life: usize,
    lives: Arc<Mutex<Vec<Life>>>,
) {
    let mut lines = BufReader::new(said).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        // Other lines are the harness'. An unfinished line of a killed process is skipped.
        match serde_json::from_str(&line) {
            Ok(Line::Answer(answer)) => {
                let _ = answers.send(answer);
            }
            Ok(Line::Seen(seen)) => lives.lock()[life].seen.push(seen),
            Ok(Line::Did(record)) => lives.lock()[life].did.push(record),
            Ok(Line::Tick(tick)) => lives.lock()[life].ticks.push(tick),
            Err(_) => {}
        }
    }
}

/// Keeps what a process writes to stderr, and passes it on.
async fn hear(complaints: ChildStderr, life: usize, lives: Arc<Mutex<Vec<Life>>>) {
    let mut lines = BufReader::new(complaints).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        eprintln!("{line}");
        let complaints = &mut lives.lock()[life].complaints;
        complaints.push_str(&line);
        complaints.push('\n');
    }
}

impl Replica {
    async fn order(&mut self, order: &Order) -> Answer {
        let line = serde_json::to_string(order).expect("orders can be JSON");
        let sent = self.orders.write_all(format!("{line}\n").as_bytes()).await;
        sent.unwrap_or_else(|err| panic!("process {} takes no orders: {err}", self.id));
        match timeout(PATIENCE, self.answers.recv()).await {
            Ok(Some(answer)) => answer,
            Ok(None) => panic!("process {} ended instead of answering {order:?}", self.id),
            Err(_) => panic!("process {} does not answer {order:?}", self.id),
        }
    }
}
