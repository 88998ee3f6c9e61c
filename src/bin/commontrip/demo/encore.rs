//! What `--serve` adds: the dashboard, and traffic with occasional outages after the show.
//!
//! Owns the dashboard's task and the traffic of the encore, which only the dashboard shows.

use std::{
    io::{self, Write},
    time::Duration,
};

use commontrip::{Commontrip, admin, operator::Operator};
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::{DemoError, Options, facts::Fact, fleet::Fleet, replica::Order, upstream::Upstream};
use crate::serve;

/// How long the upstream is healthy, and how long it fails, in lengths of a show.
const WELL: f64 = 1.5;
const ILL: f64 = 0.5;

/// The running dashboard.
pub struct Page {
    url: String,
    /// The generated token. A token from the environment is never shown.
    token: Option<String>,
    close: oneshot::Sender<()>,
    task: JoinHandle<io::Result<()>>,
}

impl Page {
    /// Starts to serve the circuits of a registry's store.
    pub async fn open(options: &Options, registry: &Commontrip) -> Result<Self, DemoError> {
        let mut token = None;
        let told = match std::env::var_os(serve::TOKEN) {
            Some(_) => admin::Options::new().token_from_env(serve::TOKEN),
            None => admin::Options::new().token(token.insert(random()?)),
        };
        let told = told.and_then(|told| serve::allow(told, &options.allow_host));
        let told = told.map_err(DemoError::cannot("serve the dashboard"))?;
        let listener = serve::listen(&options.listen).await;
        let listener = listener.map_err(DemoError::cannot("serve the dashboard"))?;
        let at = listener.local_addr();
        let at = at.map_err(DemoError::cannot("serve the dashboard"))?;
        let router = admin::router(Operator::of(registry), told);
        let (close, closed) = oneshot::channel();
        let until = async {
            // An error means that the `Page` was dropped.
            let _ = closed.await;
        };
        Ok(Self {
            url: serve::url(at),
            token,
            close,
            task: tokio::spawn(admin::serve(listener, router, until)),
        })
    }

    /// The fact that announces the dashboard's address.
    pub fn fact(&self) -> Fact {
        Fact::Serving {
            url: self.url.clone(),
            token: self.token.clone(),
        }
    }

    /// Stops the dashboard.
    pub async fn close(self) {
        let _ = self.close.send(());
        let _ = self.task.await;
    }
}

fn random() -> Result<String, DemoError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(DemoError::cannot("make a token"))?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

/// Generates traffic until Ctrl-C. The fleet has ended when this returns.
pub async fn play(options: &Options, mut upstream: Upstream, mut fleet: Fleet) {
    if !options.output.json {
        let words = "The dashboard goes on, with an outage now and then. Ctrl-C ends it.";
        let _ = writeln!(io::stdout(), "\n{words}");
    }
    fleet.order(Order::Start);
    let on = async {
        loop {
            for (failing, lengths) in [(false, WELL), (true, ILL)] {
                upstream.set_failing(failing);
                let lasts = Duration::from_secs_f64(options.seconds * lengths);
                let until = Instant::now() + lasts;
                loop {
                    tokio::select! {
                        () = sleep_until(until) => break,
                        Some(_) = upstream.served.recv() => {}
                        Some(_) = fleet.said.recv() => {}
                    }
                }
            }
        }
    };
    tokio::select! {
        () = on => {}
        () = serve::stopped() => {}
    }
    fleet.end().await;
}
