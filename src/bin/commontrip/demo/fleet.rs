//! The replicas as the show sees them: it sends orders and receives messages.
//!
//! Owns tasks and processes. Invariant: no replica is left after [`Fleet::end`]. A process also
//! ends when its standard input closes, however this program ends.

use std::{io, process::Stdio, time::Duration};

use commontrip::{Commontrip, MemoryStore};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, Command},
    sync::mpsc,
    task::JoinSet,
};

use super::replica::{self, Assignment, Order, Said};
use crate::out::in_words;

/// How long a process may take to end after its standard input has closed.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

type Say = mpsc::UnboundedSender<(usize, Said)>;

/// Every replica of the show.
pub struct Fleet {
    pub said: mpsc::UnboundedReceiver<(usize, Said)>,
    orders: Vec<mpsc::UnboundedSender<Order>>,
    tasks: JoinSet<()>,
}

impl Fleet {
    /// Starts replicas in this process: one registry each, on one store.
    pub fn embedded(assignments: Vec<Assignment>, store: &MemoryStore) -> Self {
        Self::with(assignments, |me, orders, say| {
            in_process(me, store.clone(), orders, say)
        })
    }

    /// Starts each replica in a process of its own.
    pub fn processes(assignments: Vec<Assignment>) -> Self {
        Self::with(assignments, own_process)
    }

    fn with<F: Future<Output = ()> + Send + 'static>(
        assignments: Vec<Assignment>,
        live: impl Fn(Assignment, mpsc::UnboundedReceiver<Order>, Say) -> F,
    ) -> Self {
        let (say, said) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        let mut orders = Vec::new();
        for me in assignments {
            let (give, take) = mpsc::unbounded_channel();
            orders.push(give);
            tasks.spawn(live(me, take, say.clone()));
        }
        Self {
            said,
            orders,
            tasks,
        }
    }

    pub fn order(&self, order: Order) {
        for replica in &self.orders {
            // A replica that has ended has already reported so.
            let _ = replica.send(order);
        }
    }

    /// Stops every replica and waits until all have ended.
    pub async fn end(mut self) {
        self.orders.clear();
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn in_process(
    me: Assignment,
    store: MemoryStore,
    orders: mpsc::UnboundedReceiver<Order>,
    say: Say,
) {
    let index = me.index;
    let registry = Commontrip::builder().store(store).replica(&me.name).build();
    let (words, mut heard) = mpsc::unbounded_channel();
    let live = async {
        match registry {
            Ok(registry) => replica::run(registry, me, orders, words)
                .await
                .map_err(|error| in_words(&error)),
            Err(error) => Err(in_words(&error)),
        }
    };
    let pass_on = async {
        while let Some(said) = heard.recv().await {
            let _ = say.send((index, said));
        }
    };
    let (lived, ()) = tokio::join!(live, pass_on);
    let how = lived.err().unwrap_or_else(|| "ended".to_owned());
    let _ = say.send((index, Said::Gone { how }));
}

async fn own_process(me: Assignment, orders: mpsc::UnboundedReceiver<Order>, say: Say) {
    let index = me.index;
    let how = match tend(&me, orders, &say).await {
        Ok(how) => how,
        Err(error) => format!("could not be run: {error}"),
    };
    let _ = say.send((index, Said::Gone { how }));
}

/// Starts a process and relays messages both ways until it ends or is told to end.
async fn tend(
    me: &Assignment,
    mut orders: mpsc::UnboundedReceiver<Order>,
    say: &Say,
) -> io::Result<String> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("replica")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let (Some(mut to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(io::Error::other("no pipe to the process"));
    };
    // The assignment's URL may have a password, which does not belong on a command line.
    to.write_all(&line(me)?).await?;
    let mut lines = BufReader::new(from).lines();
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                // If the process has ended, its output ends too, and the loop sees that.
                Some(order) => drop(to.write_all(&line(&order)?).await),
                None => break,
            },
            said = lines.next_line() => match said? {
                Some(said) => {
                    let said = serde_json::from_str(&said).map_err(io::Error::other)?;
                    let _ = say.send((me.index, said));
                }
                None => break,
            },
        }
    }
    drop(to);
    ended(&mut child).await
}

async fn ended(child: &mut Child) -> io::Result<String> {
    let status = match tokio::time::timeout(ENDS_WITHIN, child.wait()).await {
        Ok(status) => status?,
        Err(_) => {
            child.start_kill()?;
            child.wait().await?
        }
    };
    Ok(status.to_string())
}

/// Serializes a value as a line of JSON.
pub fn line(of: &impl serde::Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(of)?;
    line.push(b'\n');
    Ok(line)
}
