//! The server is healthy, but its network is not.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::netns::Netns;
use crate::processes::ms;
use crate::proxy::{Mode, Proxy};
use crate::support::OwnServer;

use super::{
    quiet,
    trial::{Trial, Way},
};

/// Every answer is delayed by this time.
async fn delayed(fault: &'static str, delay: Duration, away: std::ops::RangeInclusive<u64>) {
    let _quiet = quiet().await;
    let server = OwnServer::start();
    let proxy = Proxy::start(Ipv4Addr::LOCALHOST, server.port()).await;
    let trial = Trial::start(fault, &server, &proxy.url()).await;
    let mut trial = trial.unavailable(away);
    trial.begin().await;
    proxy.set(Mode::Delay(delay));
    trial.hold(ms(1500)).await;
    proxy.set(Mode::Pass);
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_late_by_20_ms_are_waited_for_by_no_call() {
    delayed("answers 20 ms late", ms(20), 0..=0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_later_than_store_timeout_are_survived() {
    delayed("answers 80 ms late", ms(80), 1..=1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_hang_are_survived() {
    let _quiet = quiet().await;
    let server = OwnServer::start();
    let proxy = Proxy::start(Ipv4Addr::LOCALHOST, server.port()).await;
    let mut trial = Trial::start("hung connections", &server, &proxy.url()).await;
    trial.begin().await;
    proxy.set(Mode::Hang);
    trial.hold(ms(1500)).await;
    proxy.set(Mode::Pass);
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_hang_hold_calls_up_once_where_nothing_is_pushed() {
    let _quiet = quiet().await;
    let server = OwnServer::start();
    let proxy = Proxy::start(Ipv4Addr::LOCALHOST, server.port()).await;
    let way = Way::without_push(&server, proxy.port()).await;
    let mut trial = Trial::start_as("hung connections, without push", &server, way).await;
    trial.begin().await;
    proxy.set(Mode::Hang);
    trial.hold(ms(1500)).await;
    proxy.set(Mode::Pass);
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_and_refused_connections_are_survived() {
    let _quiet = quiet().await;
    let server = OwnServer::start();
    let mut proxy = Proxy::start(Ipv4Addr::LOCALHOST, server.port()).await;
    let mut trial = Trial::start("cut and refused", &server, &proxy.url()).await;
    trial.begin().await;
    proxy.refuse().await;
    trial.hold(ms(1000)).await;
    proxy.admit();
    trial.end().await;
}

/// Processes on the far side of a link, and the near side's proxy.
async fn linked(fault: &'static str, server: &OwnServer) -> (Trial, Proxy, Netns) {
    let netns = Netns::new();
    let proxy = Proxy::start(netns.here, server.port()).await;
    let way = Way::by(&proxy.url()).started_with(vec![netns.inside()]);
    let trial = Trial::start_as(fault, server, way).await;
    (trial, proxy, netns)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_lost_packet_in_ten_is_survived() {
    let _quiet = quiet().await;
    let server = OwnServer::start();
    let (trial, _proxy, netns) = linked("packet loss 10 %", &server).await;
    // A lost packet is sent again after 200 ms, so its answer is late.
    let mut trial = trial.unavailable(0..=20);
    trial.begin().await;
    netns.lose(0.1);
    trial.hold(ms(2500)).await;
    netns.heal();
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_is_survived() {
    let _quiet = quiet().await;
    let server = OwnServer::start();
    let (mut trial, _proxy, netns) = linked("partition", &server).await;
    trial.begin().await;
    netns.part();
    trial.hold(ms(1500)).await;
    netns.heal();
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_gone_without_a_word_is_survived() {
    let _quiet = quiet().await;
    let server = OwnServer::start();
    let (mut trial, proxy, netns) = linked("half-open connections", &server).await;
    trial.begin().await;
    netns.part();
    // Neither side is notified.
    proxy.cut();
    trial.hold(ms(1500)).await;
    netns.heal();
    trial.end().await;
}
