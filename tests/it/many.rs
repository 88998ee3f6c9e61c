//! Many circuits in one process: their cost, the cost of an outage, and their end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use commontrip::{CircuitBreaker, Commontrip, Name, Policy, RedisStore, Store};

use crate::{
    delegate,
    leaks::is_elsewhere,
    readings::{info, memory},
    support::{self, OwnServer},
    traces,
    wait::until,
};

/// How often each circuit is called.
const PERIOD: Duration = Duration::from_millis(100);
/// Callers; each calls its share of the circuits.
const CALLERS: usize = 50;

/// A registry with a timeout that a busy machine does not exceed. Ten thousand reports in one
/// pipeline would take far longer.
fn registry(server: &OwnServer) -> Commontrip {
    let built = Commontrip::builder()
        .redis(&server.url())
        .store_timeout(Duration::from_millis(400));
    built.build().unwrap()
}

fn taken(circuits: &Commontrip, many: usize) -> Vec<CircuitBreaker> {
    let name = support::unique("many");
    let take = |n| circuits.circuit(&format!("{name}:{n}"), Policy::default());
    (0..many).map(|n| take(n).unwrap()).collect()
}

/// Calls each circuit once in each period.
async fn call_all(breakers: &[CircuitBreaker], periods: usize) {
    let calls = breakers
        .chunks(breakers.len().div_ceil(CALLERS))
        .map(|part| {
            let part = part.to_vec();
            tokio::spawn(async move {
                let mut ticks = tokio::time::interval(PERIOD);
                for _ in 0..periods {
                    ticks.tick().await;
                    for breaker in &part {
                        let _ = breaker.call(async || Ok::<_, ()>(())).await;
                    }
                }
            })
        });
    for caller in calls.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_circuits_are_busy_a_healthy_redis_is_never_unavailable() {
    for many in [300, 3_000] {
        let server = OwnServer::start();
        let circuits = registry(&server);
        let breakers = taken(&circuits, many);
        call_all(&breakers, 40).await;
        let health = circuits.health();
        assert_eq!(health.times_unavailable, 0, "{many} circuits: {health:?}");
        until("each has reported", async || {
            let stats = circuits.stats();
            stats.iter().filter(|circuit| circuit.reports > 0).count() == many
        })
        .await;
        assert_eq!(circuits.health().times_unavailable, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_script_flush_each_script_is_sent_once() {
    let server = OwnServer::start();
    let circuits = registry(&server);
    let breakers = taken(&circuits, 1_000);
    call_all(&breakers, 5).await;
    circuits.flush().await;
    let client = redis::Client::open(server.admin_url()).unwrap();
    let mut admin = client.get_connection().unwrap();
    redis::cmd("SCRIPT").arg("FLUSH").exec(&mut admin).unwrap();
    redis::cmd("CONFIG")
        .arg("RESETSTAT")
        .exec(&mut admin)
        .unwrap();
    call_all(&breakers, 10).await;
    circuits.flush().await;
    let bytes = info(&mut admin, "stats", "total_net_input_bytes");
    let stats: String = redis::cmd("INFO")
        .arg("commandstats")
        .query(&mut admin)
        .unwrap();
    let evals = stats
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_eval:calls="));
    let evals: u64 = evals.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap());
    assert_eq!(circuits.health().times_unavailable, 0);
    // The scripts of the fast path and the full path, for reports and permits.
    assert!(
        (1..=4).contains(&evals),
        "{evals} scripts sent, {bytes} bytes"
    );
}

/// Takes a millisecond and a half for each report of a batch.
#[derive(Debug)]
struct Slow {
    inner: RedisStore,
}

impl Store for Slow {
    delegate::to_inner!(acquire release control snapshot events circuits ping listen);

    fn report<'a>(
        &'a self,
        batch: &'a [(Name, commontrip::model::Report)],
    ) -> commontrip::store::Answer<'a, Vec<Result<commontrip::Snapshot, commontrip::StoreError>>>
    {
        Box::pin(async move {
            let each = Duration::from_micros(1500);
            tokio::time::sleep(each * u32::try_from(batch.len()).unwrap()).await;
            self.inner.report(batch).await
        })
    }
}

/// A full batch takes 96 ms, so it is never answered within the default timeout of 50 ms.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_shrink_until_a_slow_store_answers_them_in_time() {
    let server = OwnServer::start();
    let inner = RedisStore::builder().open(&server.url()).unwrap();
    let built = Commontrip::builder().store(Slow { inner });
    let circuits = built.build().unwrap();
    let breakers = taken(&circuits, 1_000);
    let before = breakers.len();
    let sent = || {
        let stats = circuits.stats();
        stats.iter().filter(|circuit| circuit.reports > 0).count()
    };
    until("each has reported", async || {
        call_all(&breakers, 1).await;
        sent() == before
    })
    .await;
    // At full size, one batch after the other would fail.
    let times = circuits.health().times_unavailable;
    assert!(times <= 10, "{times} times unavailable");
}

/// Counts the requests of a registry to its store.
#[derive(Debug)]
struct Counting {
    inner: RedisStore,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    reports: AtomicUsize,
    shards: AtomicUsize,
}

impl Store for Counting {
    delegate::to_inner!(acquire release control snapshot events circuits ping listen);

    fn report<'a>(
        &'a self,
        batch: &'a [(Name, commontrip::model::Report)],
    ) -> commontrip::store::Answer<'a, Vec<Result<commontrip::Snapshot, commontrip::StoreError>>>
    {
        self.counts.reports.fetch_add(batch.len(), Ordering::SeqCst);
        self.inner.report(batch)
    }

    fn shard(&self, circuit: &Name) -> u16 {
        self.counts.shards.fetch_add(1, Ordering::SeqCst);
        self.inner.shard(circuit)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_costs_work_in_proportion_to_the_circuits() {
    const MANY: usize = 2_000;
    let server = OwnServer::start();
    let counts = Arc::new(Counts::default());
    let store = Counting {
        inner: RedisStore::builder()
            .timeout(Duration::from_millis(400))
            .open(&server.url())
            .unwrap(),
        counts: Arc::clone(&counts),
    };
    let built = Commontrip::builder().store(store);
    let built = built.store_timeout(Duration::from_millis(400));
    let circuits = built.build().unwrap();
    let breakers = taken(&circuits, MANY);
    call_all(&breakers, 3).await;
    circuits.flush().await;
    let asked = || {
        let [reports, shards] = [&counts.reports, &counts.shards];
        (
            reports.load(Ordering::SeqCst),
            shards.load(Ordering::SeqCst),
        )
    };
    assert!(asked().1 <= 3 * MANY, "making them: {:?}", asked());
    let before = asked();
    server.pause();
    until("it is noticed", async || {
        call_all(&breakers, 1).await;
        circuits.health().circuits_unavailable == MANY
    })
    .await;
    call_all(&breakers, 20).await;
    let after = asked();
    let (reports, shards) = (after.0 - before.0, after.1 - before.1);
    server.resume();
    until("it is back", async || {
        circuits.health().unavailable_for.is_none()
    })
    .await;
    // One circuit at a time asks for the store, and each request in flight fails once.
    assert!(reports < MANY, "{reports} reports");
    assert!(shards < 100 * MANY, "{shards} looks at a shard");
    assert_eq!(circuits.health().times_unavailable, 1);
    until("all is sent", async || {
        circuits.health().reports_pending == 0
    })
    .await;
}

#[tokio::test]
async fn one_line_says_that_the_store_went_and_one_that_it_is_back() {
    let (log, _guard) = traces::listen();
    let server = OwnServer::start();
    let circuits = registry(&server);
    let breakers = taken(&circuits, 2_000);
    call_all(&breakers, 3).await;
    circuits.flush().await;
    let lines = || {
        let went = log.of("the store is unavailable").len();
        (went, log.of("the store is back").len())
    };
    assert_eq!(lines(), (0, 0));
    server.kill();
    until("it is noticed", async || {
        call_all(&breakers, 1).await;
        circuits.health().circuits_unavailable == breakers.len()
    })
    .await;
    call_all(&breakers, 10).await;
    assert_eq!(lines(), (1, 0));
    server.restart();
    until("it is back", async || {
        circuits.health().unavailable_for.is_none()
    })
    .await;
    call_all(&breakers, 3).await;
    circuits.flush().await;
    assert_eq!(lines(), (1, 1), "{:?}", log.of("the store is unavailable"));
    circuits.shutdown().await;
}

/// A registry whose circuits have recorded a call each that is not reported yet.
async fn unsent(server: &OwnServer, many: usize) -> (Commontrip, Vec<CircuitBreaker>) {
    let circuits = Commontrip::redis(&server.url()).unwrap();
    let breakers = taken(&circuits, many);
    call_all(&breakers, 1).await;
    circuits.flush().await;
    // These calls do not open the circuit, so they are not reported at once.
    call_all(&breakers, 2).await;
    (circuits, breakers)
}

/// Much more than three `store_timeout`s, much less than one for each circuit or batch.
const SLACK: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_that_is_given_time_sends_everything() {
    const MANY: usize = 2_000;
    let server = OwnServer::start();
    let (circuits, breakers) = unsent(&server, MANY).await;
    let lost = circuits.shutdown_timeout(Duration::from_secs(60)).await;
    assert!(lost.is_empty(), "{lost:?}");
    let reader = Commontrip::redis(&server.url()).unwrap();
    for breaker in breakers.iter().step_by(500) {
        let shared = reader.circuit(breaker.name(), Policy::default()).unwrap();
        assert_eq!(shared.snapshot().await.unwrap().successes_total, 3);
    }
    reader.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_ends_in_time_and_says_what_was_not_sent() {
    const MANY: usize = 2_000;
    let server = OwnServer::start();
    let (circuits, _breakers) = unsent(&server, MANY).await;
    server.pause();
    let began = tokio::time::Instant::now();
    let lost = circuits.shutdown().await;
    let took = began.elapsed();
    server.resume();
    assert!(took < 3 * Duration::from_millis(50) + SLACK, "{took:?}");
    // Some circuits may have reported between the calls and the pause.
    assert!(
        lost.circuits > MANY / 2 && lost.circuits <= MANY,
        "{lost:?}"
    );
    assert!(lost.outcomes >= lost.circuits as u64, "{lost:?}");
    assert_eq!(
        circuits.shutdown().await,
        lost,
        "who asks again is told the same"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_of_no_time_sends_nothing_and_says_so() {
    let server = OwnServer::start();
    let (circuits, breakers) = unsent(&server, 1_000).await;
    let pending = |breaker: &&CircuitBreaker| breaker.cached().successes_total < 3;
    let known = breakers.iter().filter(pending).count();
    let lost = circuits.shutdown_timeout(Duration::ZERO).await;
    assert!(
        lost.circuits <= known && lost.circuits > 0,
        "{lost:?} of {known}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn circuits_that_nobody_holds_or_uses_are_let_go() {
    const MANY: usize = 2_000;
    let server = OwnServer::start();
    let circuits = Commontrip::builder()
        .redis(&server.url())
        .idle_timeout(Duration::from_millis(500))
        .build()
        .unwrap();
    let held = circuits.circuit("held", Policy::default()).unwrap();
    let forced = circuits.circuit("forced", Policy::default()).unwrap();
    forced
        .force_open(commontrip::Override::because("test"))
        .await
        .unwrap();
    drop(forced);
    let breakers = taken(&circuits, MANY);
    let names: Vec<_> = breakers
        .iter()
        .map(|breaker| breaker.name().to_owned())
        .collect();
    call_all(&breakers, 2).await;
    drop(breakers);
    let left = || -> Vec<String> { circuits.stats().into_iter().map(|c| c.name).collect() };
    until("idle circuits are gone", async || {
        left() == ["forced", "held"]
    })
    .await;
    let client = redis::Client::open(server.admin_url()).unwrap();
    let mut admin = client.get_connection().unwrap();
    until("nobody listens to them", async || {
        info(&mut admin, "stats", "pubsub_channels") == 2
    })
    .await;
    // All counts were sent first, and the next use gets the same circuit.
    for name in names.iter().step_by(100) {
        let again = circuits.circuit(name, Policy::default()).unwrap();
        assert_eq!(again.snapshot().await.unwrap().successes_total, 2);
        again.call(async || Ok::<_, ()>(())).await.unwrap();
    }
    held.call(async || Ok::<_, ()>(())).await.unwrap();
    circuits.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_circuit_that_is_used_without_being_held_stays() {
    let circuits = Commontrip::builder()
        .idle_timeout(Duration::from_millis(200))
        .build()
        .unwrap();
    let used = || circuits.circuit("used", Policy::default()).unwrap();
    circuits.circuit("idle", Policy::default()).unwrap();
    for n in 1..=100 {
        used().call(async || Ok::<_, ()>(())).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        let stats = circuits.stats();
        let stats = stats.iter().find(|circuit| circuit.name == "used").unwrap();
        assert_eq!(stats.successes, n, "it was never let go");
    }
    assert_eq!(circuits.stats().len(), 1, "the idle one was");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_of_circuits_that_were_let_go_comes_back() {
    const MANY: usize = 10_000;
    if is_elsewhere("many::the_memory_of_circuits_that_were_let_go_comes_back").await {
        return;
    }
    let server = OwnServer::start();
    let circuits = Commontrip::builder()
        .redis(&server.url())
        .store_timeout(Duration::from_secs(1))
        .idle_timeout(Duration::from_millis(200))
        .build()
        .unwrap();
    let round = async || {
        let breakers = taken(&circuits, MANY);
        call_all(&breakers, 1).await;
        drop(breakers);
        // Reading the statistics of all circuits keeps them alive for a moment.
        let gone = async || {
            tokio::time::sleep(Duration::from_millis(500)).await;
            circuits.stats().is_empty()
        };
        until("all are gone", gone).await;
    };
    round().await;
    let after_one = memory();
    for _ in 0..3 {
        round().await;
    }
    let grown = memory().saturating_sub(after_one);
    // Ten thousand circuits take about 70 MB, and thirty thousand more were created here.
    assert!(grown < 50 << 10, "{} MB more", grown >> 10);
}
