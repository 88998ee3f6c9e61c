//! The contract of every store, as one suite that runs on each.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use commontrip::model::{
    Acquire, Command, Control, Counts, Grant, Head, Kind, Name, Permission, Reason, Release,
    Report, Rules, Settled, Snapshot, State,
};
use commontrip::store::{MemoryStore, Notice, RedisStore, Store, StoreError};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::{OwnServer, admin_url, redis_url, unique, unique_prefix};
use crate::transitions::{self, Subject};
use crate::wait::until;

/// The timeout of each step, on a busy machine.
const LONG: Duration = Duration::from_secs(20);
/// How many callers ask at the same time.
const CROWD: u64 = 32;

fn memory() -> Subject {
    let store = MemoryStore::default();
    let kept = store.clone();
    Subject {
        store: Arc::new(store),
        // Each case has its own circuit, and cases run one after the other.
        lose: Box::new(move |_: &Name| kept.clear()),
    }
}

fn redis() -> Subject {
    let prefix = unique_prefix("contract");
    let store = RedisStore::builder()
        .prefix(&prefix)
        .timeout(LONG)
        .open(redis_url())
        .unwrap();
    let lose = move |name: &Name| {
        let client = ::redis::Client::open(admin_url()).unwrap();
        let mut connection = client.get_connection().unwrap();
        let mut delete = ::redis::cmd("DEL");
        delete.arg(format!("{prefix}:{{{name}}}"));
        for part in [
            "window", "probes", "replicas", "seq", "events", "failing", "alone", "latency",
            "history", "code", "kinds",
        ] {
            delete.arg(format!("{prefix}:{{{name}}}:{part}"));
        }
        delete.query::<()>(&mut connection).unwrap();
    };
    Subject {
        store: Arc::new(store),
        lose: Box::new(lose),
    }
}

/// Defines a test for each table on each store.
macro_rules! tables {
    ($($topic:ident)+) => {
        mod memory_table {
            $(#[tokio::test]
            async fn $topic() {
                let table = include_str!(concat!("transitions/", stringify!($topic), ".txt"));
                super::transitions::run(&super::memory(), stringify!($topic), table).await;
            })+
        }
        mod redis_table {
            $(#[tokio::test]
            async fn $topic() {
                let table = include_str!(concat!("transitions/", stringify!($topic), ".txt"));
                super::transitions::run(&super::redis(), stringify!($topic), table).await;
            })+
        }
    };
}

tables! { default closed_to_open window mixed open half_open overrides generations adoption clock policy quorum latency kinds abandoned }

/// Defines a test for each fact on each store.
macro_rules! facts {
    ($($fact:ident)+) => {
        mod memory_store {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $fact() {
                super::$fact(super::memory().store).await;
            })+
        }
        mod redis_store {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $fact() {
                super::$fact(super::redis().store).await;
            })+
        }
    };
}

facts! {
    an_unknown_circuit_reads_as_closed
    acquiring_again_gives_the_same_permit
    a_batch_of_reports_has_its_results_in_order
    an_empty_batch_has_no_results
    events_are_the_newest_256_oldest_first
    circuits_that_were_used_are_listed
    circuits_do_not_touch_each_other
    a_listener_hears_the_circuits_that_it_follows
    a_listener_ends_when_nobody_takes_the_news
    a_crowd_gets_no_more_probes_than_permitted
    a_crowd_reporting_failures_opens_once
    a_crowd_settling_probes_closes_once
    a_crowd_repeating_a_report_counts_once
    a_crowd_below_the_quorum_opens_nothing_and_at_it_once
    the_stores_clock_ends_waits
    a_ping_is_answered
}

fn named(name: &str) -> Name {
    Name::new(&unique(name)).unwrap()
}

fn head(replica: &str, rules: Rules) -> Head {
    Head {
        replica: replica.to_owned(),
        policy: rules,
        ..Head::default()
    }
}

fn short_wait() -> Rules {
    let mut rules = Rules::default();
    rules.wait_duration_in_open_state_ms = 1;
    rules
}

fn failures(seq: u64, generation: u64, failures: u64, head: Head) -> Report {
    Report {
        head,
        seq,
        generation,
        counts: Counts {
            failures,
            ..Counts::default()
        },
        ..Report::default()
    }
}

async fn file(store: &Arc<dyn Store>, name: &Name, report: Report) -> Snapshot {
    let batch = [(name.clone(), report)];
    let mut answers = store.report(&batch).await.unwrap();
    assert_eq!(answers.len(), 1);
    answers.remove(0).unwrap()
}

async fn acquire(store: &Arc<dyn Store>, name: &Name, token: &str, rules: Rules) -> Grant {
    let request = Acquire {
        head: head("r1", rules),
        token: token.to_owned(),
    };
    store.acquire(name, &request).await.unwrap()
}

async fn command(store: &Arc<dyn Store>, name: &Name, command: Command) -> Snapshot {
    let request = Control {
        head: head("r1", Rules::default()),
        command,
        author: "ann".into(),
        reason: "because".into(),
        ..Control::default()
    };
    store.control(name, &request).await.unwrap()
}

/// Opens a circuit whose wait ends at once.
async fn open_for_a_moment(store: &Arc<dyn Store>, name: &Name, rules: Rules) {
    let mut trip = failures(1, 0, 1, head("r0", rules));
    trip.trips = 1;
    assert_eq!(file(store, name, trip).await.state, State::Open);
    tokio::time::sleep(Duration::from_millis(20)).await;
}

async fn an_unknown_circuit_reads_as_closed(store: Arc<dyn Store>) {
    let name = named("unknown");
    let head = head("r1", Rules::default());
    let seen = store.snapshot(&name, &head).await.unwrap();
    assert_eq!((seen.state, seen.generation), (State::Closed, 0));
    assert_eq!((seen.reason, seen.calls), (Reason::Created, 0));
    assert!(seen.now_ms > 0);
    assert!(store.events(&name, 0).await.unwrap().is_empty());
    let listed = store.circuits().await.unwrap();
    assert!(!listed.contains(&name.to_string()), "reading is no use");
}

async fn acquiring_again_gives_the_same_permit(store: Arc<dyn Store>) {
    let (name, mut rules) = (named("again"), short_wait());
    rules.permitted_number_of_calls_in_half_open_state = 1;
    open_for_a_moment(&store, &name, rules).await;
    for _ in 0..3 {
        let grant = acquire(&store, &name, "a", rules).await;
        assert_eq!(grant.permission, Permission::Probe);
        assert_eq!(grant.snapshot.probes, 1);
    }
    let other = acquire(&store, &name, "b", rules).await;
    assert_eq!(other.permission, Permission::Rejected);
    let request = Release {
        head: head("r1", rules),
        token: "a".into(),
    };
    for _ in 0..2 {
        assert_eq!(store.release(&name, &request).await.unwrap().probes, 0);
    }
    let other = acquire(&store, &name, "b", rules).await;
    assert_eq!(other.permission, Permission::Probe);
}

async fn a_batch_of_reports_has_its_results_in_order(store: Arc<dyn Store>) {
    let names: Vec<_> = (0..7).map(|n| named(&format!("batch{n}"))).collect();
    let of = |n: u64| failures(1, 0, n, head("r1", Rules::default()));
    let batch: Vec<_> = names.iter().cloned().zip((1..).map(of)).collect();
    let answers = store.report(&batch).await.unwrap();
    let seen: Vec<_> = answers.into_iter().map(|a| a.unwrap().failures).collect();
    assert_eq!(seen, [1, 2, 3, 4, 5, 6, 7]);
    let again = store.report(&batch).await.unwrap();
    let seen: Vec<_> = again.into_iter().map(|a| a.unwrap().failures).collect();
    assert_eq!(seen, [1, 2, 3, 4, 5, 6, 7], "sent again and not counted");
    let twice = [(names[0].clone(), of(1)), (names[0].clone(), of(9))];
    let answers = store.report(&twice).await.unwrap();
    assert_eq!(answers.len(), 2, "one result each, also for one circuit");
}

async fn an_empty_batch_has_no_results(store: Arc<dyn Store>) {
    assert!(store.report(&[]).await.unwrap().is_empty());
}

async fn events_are_the_newest_256_oldest_first(store: Arc<dyn Store>) {
    let name = named("events");
    for _ in 0..260 {
        command(&store, &name, Command::Reset).await;
    }
    let after = command(&store, &name, Command::Disable).await;
    assert_eq!(after.generation, 261);
    let events = store.events(&name, 0).await.unwrap();
    let generations: Vec<_> = events.iter().map(|e| e.generation).collect();
    assert_eq!(generations, (6..=261).collect::<Vec<_>>());
    let newer = store.events(&name, 259).await.unwrap();
    let generations: Vec<_> = newer.iter().map(|e| e.generation).collect();
    assert_eq!(generations, [260, 261]);
    let last = &newer[1];
    assert_eq!((last.from, last.to), (State::Closed, State::Disabled));
    assert_eq!(last.reason, Reason::Override);
    assert_eq!((last.by.as_str(), last.note.as_str()), ("ann", "because"));
    assert_eq!(last.at_ms, after.since_ms);
    assert!(store.events(&name, 261).await.unwrap().is_empty());
}

async fn circuits_that_were_used_are_listed(store: Arc<dyn Store>) {
    let (reported, commanded) = (named("b-reported"), named("a-commanded ü"));
    let report = failures(1, 0, 1, head("r1", Rules::default()));
    file(&store, &reported, report).await;
    command(&store, &commanded, Command::Disable).await;
    let mut used = [commanded.to_string(), reported.to_string()];
    used.sort();
    // The store writes the index in the background.
    until("both are listed", async || {
        let listed = store.circuits().await.unwrap();
        assert!(listed.iter().all(|name| used.contains(name)), "{listed:?}");
        listed == used
    })
    .await;
}

async fn circuits_do_not_touch_each_other(store: Arc<dyn Store>) {
    let (one, other) = (named("one"), named("other"));
    command(&store, &one, Command::ForceOpen).await;
    let report = failures(1, 0, 3, head("r1", Rules::default()));
    let seen = file(&store, &other, report.clone()).await;
    assert_eq!((seen.state, seen.failures), (State::Closed, 3));
    let seen = file(&store, &one, report).await;
    assert_eq!((seen.state, seen.failures_total), (State::ForcedOpen, 3));
    assert!(store.events(&other, 0).await.unwrap().is_empty());
}

/// The next notice; fails if there is none.
async fn next(notices: &mut mpsc::UnboundedReceiver<Notice>) -> Notice {
    let notice = timeout(LONG, notices.recv()).await;
    notice.expect("news in time").expect("the listener runs")
}

async fn a_listener_hears_the_circuits_that_it_follows(store: Arc<dyn Store>) {
    let (one, two, never) = (named("one"), named("two"), named("never"));
    let (follow, followed) = watch::channel(BTreeSet::from([one.clone()]));
    let (sender, mut notices) = mpsc::unbounded_channel();
    let listener = tokio::spawn({
        let store = store.clone();
        async move { store.listen(followed, sender).await }
    });
    let listening = |notice, names: &[&Name]| match notice {
        Notice::Listening(heard) => {
            let wanted: BTreeSet<_> = names.iter().copied().cloned().collect();
            assert_eq!(heard, wanted);
        }
        other => panic!("{other:?} instead of Listening"),
    };
    let changed = |notice, name: &Name, state, generation| match notice {
        Notice::Changed(heard, snapshot) => {
            assert_eq!(&heard, name);
            assert_eq!((snapshot.state, snapshot.generation), (state, generation));
        }
        other => panic!("{other:?} instead of Changed"),
    };
    listening(next(&mut notices).await, &[&one]);
    command(&store, &never, Command::ForceOpen).await;
    command(&store, &two, Command::ForceOpen).await;
    command(&store, &one, Command::ForceOpen).await;
    changed(next(&mut notices).await, &one, State::ForcedOpen, 1);
    command(&store, &one, Command::Reset).await;
    changed(next(&mut notices).await, &one, State::Closed, 2);
    // Outcomes without a state change are not published.
    let report = failures(1, 2, 1, head("r1", Rules::default()));
    file(&store, &one, report).await;

    follow.send_modify(|names| {
        names.insert(two.clone());
    });
    listening(next(&mut notices).await, &[&one, &two]);
    command(&store, &two, Command::Reset).await;
    changed(next(&mut notices).await, &two, State::Closed, 2);
    let mut trip = failures(2, 2, 1, head("r1", Rules::default()));
    trip.trips = 1;
    file(&store, &one, trip).await;
    changed(next(&mut notices).await, &one, State::Open, 3);

    follow.send_modify(|names| {
        names.remove(&one);
    });
    listening(next(&mut notices).await, &[&two]);
    command(&store, &one, Command::Reset).await;
    command(&store, &two, Command::Disable).await;
    changed(next(&mut notices).await, &two, State::Disabled, 3);

    drop(follow);
    let ended = timeout(LONG, listener).await.expect("it ends").unwrap();
    assert!(ended.is_ok(), "{ended:?}");
}

async fn a_listener_ends_when_nobody_takes_the_news(store: Arc<dyn Store>) {
    let (_follow, followed) = watch::channel(BTreeSet::from([named("one")]));
    let (sender, mut notices) = mpsc::unbounded_channel();
    let listener = tokio::spawn(async move { store.listen(followed, sender).await });
    next(&mut notices).await;
    drop(notices);
    let ended = timeout(LONG, listener).await.expect("it ends").unwrap();
    assert!(ended.is_ok(), "{ended:?}");
}

/// Runs the same work in many tasks at once.
async fn crowd<F, T>(work: impl Fn(u64) -> F) -> Vec<T>
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let start = Arc::new(tokio::sync::Barrier::new(CROWD as usize));
    let mut tasks = JoinSet::new();
    for n in 0..CROWD {
        let (start, work) = (start.clone(), work(n));
        tasks.spawn(async move {
            start.wait().await;
            work.await
        });
    }
    timeout(LONG, tasks.join_all())
        .await
        .expect("all come back")
}

async fn a_crowd_gets_no_more_probes_than_permitted(store: Arc<dyn Store>) {
    for round in 0..5 {
        let (name, mut rules) = (named("crowd"), short_wait());
        rules.permitted_number_of_calls_in_half_open_state = 1 + round;
        open_for_a_moment(&store, &name, rules).await;
        let permissions = crowd(|n| {
            let (store, name) = (store.clone(), name.clone());
            async move {
                let grant = acquire(&store, &name, &format!("t{n}"), rules).await;
                assert!(grant.snapshot.probes <= 1 + round);
                grant.permission
            }
        })
        .await;
        let probes = permissions.iter().filter(|p| **p == Permission::Probe);
        assert_eq!(probes.count() as u64, 1 + round);
        let rejected = permissions.iter().filter(|p| **p == Permission::Rejected);
        assert_eq!(rejected.count() as u64, CROWD - 1 - round);
        let events = store.events(&name, 0).await.unwrap();
        assert_eq!(events.len(), 2, "one of them began half-open: {events:?}");
    }
}

async fn a_crowd_reporting_failures_opens_once(store: Arc<dyn Store>) {
    let (name, mut rules) = (named("trip"), Rules::default());
    rules.failure_count_threshold = 3;
    let states = crowd(|n| {
        let (store, name) = (store.clone(), name.clone());
        async move {
            let report = failures(1, 0, 1, head(&format!("r{n}"), rules));
            file(&store, &name, report).await.state
        }
    })
    .await;
    let closed = states.iter().filter(|s| **s == State::Closed);
    assert_eq!(closed.count(), 2, "the third opens");
    let events = store.events(&name, 0).await.unwrap();
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!((events[0].to, events[0].failures), (State::Open, 3));
    let seen = store.snapshot(&name, &head("r1", rules)).await.unwrap();
    assert_eq!((seen.failures, seen.failures_total), (3, CROWD));
}

async fn a_crowd_below_the_quorum_opens_nothing_and_at_it_once(store: Arc<dyn Store>) {
    let (name, mut rules) = (named("quorum"), Rules::default());
    rules.failure_count_threshold = 1;
    rules.quorum = CROWD;
    let reporter = |n: u64| format!("crowd-{n}");
    // All replicas report, and none has failed.
    for n in 1..=CROWD {
        let here = failures(1, 0, 0, head(&reporter(n), rules));
        assert_eq!(file(&store, &name, here).await.failing, 0);
    }
    let all_but_one = |n: u64, store: Arc<dyn Store>, name: Name| async move {
        let mut report = failures(2, 0, 9, head(&reporter(n), rules));
        (report.trips, report.alone_ms) = (1, 60_000);
        file(&store, &name, report).await
    };
    let mut crowd = JoinSet::new();
    for n in 1..CROWD {
        crowd.spawn(all_but_one(n, store.clone(), name.clone()));
    }
    while let Some(seen) = crowd.join_next().await {
        assert_eq!(seen.unwrap().state, State::Closed);
    }
    let seen = store.snapshot(&name, &head("r", rules)).await.unwrap();
    let shown = (seen.state, seen.replicas, seen.failing, seen.alone);
    assert_eq!(shown, (State::Closed, CROWD, CROWD - 1, CROWD - 1));

    let last = failures(2, 0, 1, head(&reporter(CROWD), rules));
    let more = failures(3, 0, 1, head(&reporter(1), rules));
    let both = [last, more].map(|report| {
        let (store, name) = (store.clone(), name.clone());
        tokio::spawn(async move { file(&store, &name, report).await })
    });
    for seen in both {
        seen.await.unwrap();
    }
    let seen = store.snapshot(&name, &head("r", rules)).await.unwrap();
    let shown = (seen.state, seen.generation, seen.failing);
    assert_eq!(shown, (State::Open, 1, CROWD));
    assert_eq!(store.events(&name, 0).await.unwrap().len(), 1);
}

async fn a_crowd_settling_probes_closes_once(store: Arc<dyn Store>) {
    let (name, mut rules) = (named("settle"), short_wait());
    rules.permitted_number_of_calls_in_half_open_state = CROWD;
    rules.success_threshold = 5;
    open_for_a_moment(&store, &name, rules).await;
    crowd(|n| {
        let (store, name) = (store.clone(), name.clone());
        async move {
            let token = format!("t{n}");
            let grant = acquire(&store, &name, &token, rules).await;
            if grant.permission != Permission::Probe {
                return;
            }
            let mut report = failures(1, 0, 0, head(&format!("s{n}"), rules));
            let generation = grant.snapshot.generation;
            report.settled.push(Settled {
                token,
                generation,
                kind: Kind::Success,
                retry_after_ms: 0,
            });
            file(&store, &name, report).await;
        }
    })
    .await;
    let events = store.events(&name, 0).await.unwrap();
    let reasons: Vec<_> = events.iter().map(|e| e.reason).collect();
    let once = [Reason::Tripped, Reason::WaitElapsed, Reason::Recovered];
    assert_eq!(reasons, once);
}

async fn a_crowd_repeating_a_report_counts_once(store: Arc<dyn Store>) {
    let (name, rules) = (named("repeat"), Rules::default());
    crowd(|_| {
        let (store, name) = (store.clone(), name.clone());
        async move { file(&store, &name, failures(1, 0, 7, head("r1", rules))).await }
    })
    .await;
    let seen = store.snapshot(&name, &head("r1", rules)).await.unwrap();
    assert_eq!((seen.failures, seen.failures_total), (7, 7));
}

async fn the_stores_clock_ends_waits(store: Arc<dyn Store>) {
    let (name, mut rules) = (named("clock"), Rules::default());
    rules.wait_duration_in_open_state_ms = 400;
    let mut trip = failures(1, 0, 1, head("r1", rules));
    trip.trips = 1;
    let begun = Instant::now();
    let seen = file(&store, &name, trip).await;
    assert_eq!(seen.left_ms(), 400);
    let mut tries = 0;
    loop {
        tries += 1;
        let asked = Instant::now();
        let grant = acquire(&store, &name, "a", rules).await;
        if grant.permission == Permission::Probe {
            break;
        }
        // A rejected request was sent before the end of the wait, by a clock at the right speed.
        assert!(asked - begun < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(tries > 1 && begun.elapsed() >= Duration::from_millis(395));
}

async fn a_ping_is_answered(store: Arc<dyn Store>) {
    timeout(LONG, store.ping()).await.expect("in time").unwrap();
}

#[tokio::test]
async fn every_redis_operation_ends_when_the_server_hangs_or_is_gone() {
    let server = OwnServer::start();
    let (name, wait) = (named("hang"), Duration::from_millis(200));
    let store = RedisStore::builder().timeout(wait).open(&server.url());
    let store: Arc<dyn Store> = Arc::new(store.unwrap());
    command(&store, &name, Command::Reset).await;
    let asks = Head::default();
    let acquire = Acquire::default();
    let batch = [(name.clone(), Report::default())];
    let (release, control) = (Release::default(), Control::default());
    for broken in ["hangs", "is gone"] {
        match broken {
            "hangs" => server.pause(),
            _ => server.kill(),
        }
        // Each operation may connect within the timeout, and then write the index within another.
        let bound = wait * 2 + Duration::from_millis(500);
        macro_rules! ends {
            ($($operation:expr),+) => {$(
                let begun = Instant::now();
                let answer = timeout(LONG, $operation).await.expect("it ends").map(|_| ());
                let (took, what) = (begun.elapsed(), stringify!($operation));
                assert!(took < bound, "{what} took {took:?} when redis {broken}");
                let away = matches!(answer, Err(StoreError::Timeout(_) | StoreError::Unreachable(_)));
                assert!(away, "{what} when redis {broken}: {answer:?}");
            )+};
        }
        ends!(
            store.acquire(&name, &acquire),
            store.report(&batch),
            store.release(&name, &release),
            store.control(&name, &control),
            store.snapshot(&name, &asks),
            store.events(&name, 0),
            store.circuits(),
            store.ping()
        );
    }
    server.restart();
    timeout(LONG, async {
        while store.ping().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("it comes back by itself");
}
