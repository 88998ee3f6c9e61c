//! A replica in a process of its own: orders on standard input, words on standard output.
//!
//! Each message is one line of JSON; the first line in is the assignment. The process ends as soon
//! as its input closes, because then its parent is gone.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use commontrip::Commontrip;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines, Stdin},
    sync::mpsc,
};

use super::{
    fleet::line,
    replica::{self, Assignment, Order},
};
use crate::out::in_words;

/// Longer than the default: dozens of processes share the cores of one machine here, and a process
/// that gets no time to run must not consider its Redis unavailable.
const ANSWERS_WITHIN: Duration = Duration::from_millis(500);

/// Returns status 0 on success, 2 on failure.
pub fn run_replica() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let lived = match runtime {
        Ok(runtime) => {
            let lived = runtime.block_on(live());
            // A read of standard input cannot be cancelled, so the runtime does not wait for it.
            runtime.shutdown_background();
            lived
        }
        Err(error) => Err(in_words(&error)),
    };
    match lived {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            let _ = writeln!(io::stderr(), "commontrip replica: {why}");
            ExitCode::from(2)
        }
    }
}

async fn live() -> Result<(), String> {
    tokio::spawn(async {
        // Ctrl-C reaches the whole process group; the parent decides what it means.
        while tokio::signal::ctrl_c().await.is_ok() {}
    });
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let first = lines.next_line().await;
    let first = first.map_err(|error| in_words(&error))?;
    let first =
        first.ok_or("expects its assignment on standard input; `commontrip demo` gives it")?;
    let me: Assignment = serde_json::from_str(&first).map_err(|error| in_words(&error))?;
    let redis = me.redis.as_deref().ok_or("expects the URL of a Redis")?;
    let registry = Commontrip::builder()
        .redis(redis)
        .replica(&me.name)
        .store_timeout(ANSWERS_WITHIN)
        .build();
    let registry = registry.map_err(|error| in_words(&error))?;

    let (give, orders) = mpsc::unbounded_channel();
    let (say, mut said) = mpsc::unbounded_channel();
    tokio::spawn(hear(lines, give));
    let tell = async {
        while let Some(said) = said.recv().await {
            let Ok(line) = line(&said) else { continue };
            let mut out = io::stdout().lock();
            if out.write_all(&line).and_then(|()| out.flush()).is_err() {
                std::process::exit(0);
            }
        }
    };
    let (lived, ()) = tokio::join!(replica::run(registry, me, orders, say), tell);
    lived.map_err(|error| in_words(&error))
}

async fn hear(mut lines: Lines<BufReader<Stdin>>, give: mpsc::UnboundedSender<Order>) {
    while let Ok(Some(line)) = lines.next_line().await {
        if let Ok(order) = serde_json::from_str(&line) {
            // An error means that the replica has stopped already.
            let _ = give.send(order);
        }
    }
    std::process::exit(0);
}
