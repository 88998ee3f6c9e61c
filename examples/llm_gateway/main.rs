//! A gateway to several model providers. All of its replicas share one circuit for each provider.
//!
//! `cargo run --example llm_gateway --features admin,failover,health,metrics,stream` plays a story
//! and checks it: providers fail, others stand in, circuits open for both replicas, and everything
//! recovers. With `--serve [ADDR]` the gateway keeps running, so that you can try it with curl. The
//! providers are stubs in this process that use the real shapes of requests and answers. Circuits
//! are kept in memory, or in the Redis of `COMMONTRIP_REDIS_URL`.

mod caller;
mod chain;
mod chat;
pub(crate) mod embeddings;
mod gateway;
pub(crate) mod lab;
pub(crate) mod local;
mod meter;
mod problem;
pub(crate) mod provider;
mod service;
mod sse;
pub(crate) mod story;
mod streaming;
pub(crate) mod stubs;
mod upstream;
pub(crate) mod verdict;

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use lab::{Error, Lab, Setup};

const USAGE: &str =
    "usage: llm_gateway [--serve [ADDR]]     (ADDR is 127.0.0.1:8080 when it is not given)";

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let redis = std::env::var("COMMONTRIP_REDIS_URL").ok();
    let setup = Setup {
        redis: redis.map(|url| (url, "commontrip".to_owned())),
        ..Setup::default()
    };
    let done = match args[..] {
        [] => story::play(&setup).await,
        ["--serve"] => serve(setup, "127.0.0.1:8080").await,
        ["--serve", addr] => serve(setup, addr).await,
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("{error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprint!(": {error}");
                cause = error.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

/// Serves until Ctrl-C.
async fn serve(setup: Setup, addr: &str) -> Result<(), Error> {
    let listen: SocketAddr = addr.parse().map_err(|_| USAGE)?;
    let open_for = Duration::from_secs(30);
    let lab = Lab::start(&Setup {
        listen,
        open_for,
        ..setup
    })
    .await?;
    for replica in &lab.replicas {
        println!("{} serves {}", replica.gateway.name(), replica.url("/"));
    }
    println!(
        "break a provider: curl -X POST {}",
        lab.replicas[0].url("/stubs/openai/fail")
    );
    println!(
        "modes: ok, fail, rate-limit, overloaded, hang, refuse; of streams: no-token, stall, end-early, cut, error-event; Ctrl-C ends all"
    );
    tokio::signal::ctrl_c().await?;
    lab.end().await;
    Ok(())
}
