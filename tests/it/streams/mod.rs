//! Calls whose answer is a stream.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use commontrip::stream::{GuardedStream, StreamError, StreamOptions};
use commontrip::{CallError, CircuitBreaker, CircuitStats, Commontrip, Outcome, Policy};
use futures_core::Stream;
use futures_util::{FutureExt, StreamExt, stream};
use tokio::time::{Instant, sleep, timeout};

use crate::upstream::after;

mod probes;

type Item = Result<&'static str, Broken>;
type Items = Pin<Box<dyn Stream<Item = Item> + Send>>;
type Options = StreamOptions<&'static str, Broken>;

#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("broken off")]
struct Broken;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Items, each this many ms after the previous one was taken.
fn timed(items: impl IntoIterator<Item = (u64, Item)>) -> Items {
    let items: Vec<_> = items.into_iter().collect();
    let timed = stream::iter(items).then(async |(after, item)| {
        sleep(ms(after)).await;
        item
    });
    timed.boxed()
}

/// Items, each this many ms after the previous one, whether or not that was taken.
fn sent(items: impl IntoIterator<Item = (u64, Item)> + Send + 'static) -> Items
where
    <Vec<(u64, Item)> as IntoIterator>::IntoIter: Send,
{
    let items: Vec<_> = items.into_iter().collect();
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        for (after, item) in items {
            sleep(ms(after)).await;
            if sender.send(item).is_err() {
                return;
            }
        }
    });
    let received = stream::unfold(receiver, async |mut receiver| {
        Some((receiver.recv().await?, receiver))
    });
    received.boxed()
}

struct Trial {
    circuits: Commontrip,
    breaker: CircuitBreaker,
}

impl Trial {
    fn new() -> Trial {
        Trial::with(after(99))
    }

    fn with(policy: Policy) -> Trial {
        let circuits = Commontrip::embedded().unwrap();
        let breaker = circuits.circuit("model", policy).unwrap();
        Trial { circuits, breaker }
    }

    async fn open(&self, options: &Options, items: Items) -> GuardedStream<Items> {
        let open = || async { Ok::<_, Infallible>(items) };
        self.breaker.stream(options, open).await.unwrap()
    }

    fn stats(&self) -> CircuitStats {
        self.circuits.stats().remove(0)
    }

    /// Successes, failures and dropped calls so far.
    fn counted(&self) -> (u64, u64, u64) {
        let stats = self.stats();
        (
            stats.successes,
            stats.failures,
            stats.ignored + stats.abandoned,
        )
    }
}

/// All items that the reader sees.
async fn read<S: Stream + Unpin>(stream: &mut S) -> Vec<S::Item> {
    let all = async { stream.by_ref().collect().await };
    timeout(ms(60_000), all).await.expect("it ends")
}

#[tokio::test]
async fn a_stream_that_ends_is_a_success_and_nothing_before() {
    let trial = Trial::new();
    let mut items = trial
        .open(&Options::new(), timed([(1, Ok("a")), (1, Ok("b"))]))
        .await;
    assert_eq!(items.next().await, Some(Ok("a")));
    assert_eq!(trial.counted(), (0, 0, 0));
    assert_eq!(read(&mut items).await, [Ok("b")]);
    assert_eq!(trial.counted(), (1, 0, 0));
    drop(items);
    assert_eq!(trial.counted(), (1, 0, 0), "once");
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_a_first_item_fails_in_time_and_is_let_go() {
    let trial = Trial::new();
    let options = Options::new()
        .first_item_within(ms(500))
        .items_within(ms(50));
    let held = Arc::new(());
    let holds = Arc::clone(&held);
    let silent = stream::pending().map(move |item: Item| {
        let _ = &holds;
        item
    });
    let mut items = trial.open(&options, silent.boxed()).await;
    let began = Instant::now();
    let timed_out = Some(Err(StreamError::FirstItemTimeout(ms(500))));
    assert_eq!(items.next().await, timed_out);
    assert_eq!(
        began.elapsed().as_millis() / 10,
        50,
        "{:?}",
        began.elapsed()
    );
    assert_eq!(Arc::strong_count(&held), 1, "the stream inside is dropped");
    assert_eq!(items.next().await, None);
    assert_eq!(items.next().await, None);
    assert_eq!(trial.counted(), (0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_stalls_fails_and_one_that_is_slow_in_all_does_not() {
    let trial = Trial::new();
    let options = Options::new()
        .first_item_within(ms(500))
        .items_within(ms(50));
    let slow = (0..40).map(|_| (40, Ok("a")));
    let mut items = trial.open(&options, timed(slow)).await;
    assert_eq!(read(&mut items).await.len(), 40);
    assert_eq!(trial.counted(), (1, 0, 0));

    let stalls = timed([(400, Ok("a")), (40, Ok("b")), (51, Ok("c"))]);
    let mut items = trial.open(&options, stalls).await;
    let seen = read(&mut items).await;
    assert_eq!(seen, [Ok("a"), Ok("b"), Err(StreamError::Stalled(ms(50)))]);
    assert_eq!(trial.counted(), (1, 1, 0));

    // A stream that does not end stalls as well.
    let mut items = trial
        .open(
            &options,
            stream::iter([Ok("a")]).chain(stream::pending()).boxed(),
        )
        .await;
    let seen = read(&mut items).await;
    assert_eq!(seen, [Ok("a"), Err(StreamError::Stalled(ms(50)))]);
    assert_eq!(trial.counted(), (1, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_wakes_its_reader_for_nothing_stalls_as_well() {
    let trial = Trial::new();
    let options = Options::new().first_item_within(ms(50));
    let keeps_alive = sent((0..1000).map(|_| (20, Ok("")))).filter(|item| {
        let is_item = *item != Ok("");
        async move { is_item }
    });
    let mut items = trial.open(&options, keeps_alive.boxed()).await;
    let seen = read(&mut items).await;
    assert_eq!(seen, [Err(StreamError::FirstItemTimeout(ms(50)))]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_not_the_streams_fault() {
    let trial = Trial::new();
    let options = Options::new()
        .first_item_within(ms(50))
        .items_within(ms(50));
    // A stream with regular items, and one that has more work each time it is woken.
    let two_steps = sent((0..4).map(|_| (20, Ok("a")))).then(async |item| {
        sleep(ms(20)).await;
        sleep(ms(20)).await;
        item
    });
    for items in [sent((0..4).map(|_| (20, Ok("a")))), two_steps.boxed()] {
        let mut items = trial.open(&options, items).await;
        sleep(ms(1000)).await;
        let mut seen = 0;
        loop {
            // The reader begins to wait, and then does something else.
            let next = tokio::select! {
                biased;
                next = items.next() => next,
                () = sleep(ms(1)) => {
                    sleep(ms(1000)).await;
                    continue;
                }
            };
            match next {
                Some(item) => assert_eq!(item, Ok("a")),
                None => break,
            }
            seen += 1;
            sleep(ms(1000)).await;
        }
        assert_eq!(seen, 4);
    }
    assert_eq!(trial.counted(), (2, 0, 0));
}

#[tokio::test]
async fn an_error_is_a_failure_and_the_last_item() {
    let trial = Trial::new();
    let breaks = timed([(0, Ok("a")), (0, Err(Broken)), (0, Ok("b"))]);
    let mut items = trial.open(&Options::new(), breaks).await;
    let seen = read(&mut items).await;
    assert_eq!(seen, [Ok("a"), Err(StreamError::Failed(Broken))]);
    assert_eq!(trial.counted(), (0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_complete_with_its_last_item_and_not_before() {
    let trial = Trial::new();
    let options = Options::new()
        .items_within(ms(50))
        .ends_with(|item| *item == "[DONE]");
    let early: [&[_]; 2] = [&[], &[(0, Ok("a"))]];
    for (n, items) in early.into_iter().enumerate() {
        let mut items = trial.open(&options, timed(items.to_vec())).await;
        let seen = read(&mut items).await;
        assert_eq!(seen.last(), Some(&Err(StreamError::Incomplete)));
        assert_eq!(trial.counted(), (0, n as u64 + 1, 0));
    }
    let done = [(0, Ok("a")), (0, Ok("[DONE]")), (0, Ok("usage"))];
    let mut items = trial.open(&options, timed(done)).await;
    items.next().await;
    assert_eq!(items.next().await, Some(Ok("[DONE]")));
    assert_eq!(trial.counted(), (1, 2, 0), "its reader may leave");
    assert_eq!(read(&mut items).await, [Ok("usage")]);

    // Nothing has to follow the last item.
    let done = timed(done[..2].to_vec()).chain(stream::pending()).boxed();
    let mut items = trial.open(&options, done).await;
    assert_eq!(read(&mut items).await, [Ok("a"), Ok("[DONE]")]);
    drop(items);
    assert_eq!(trial.counted(), (2, 2, 0));
}

#[tokio::test]
async fn a_classifier_says_what_an_end_means() {
    let trial = Trial::new();
    let options = Options::new().classify(|end| match end.error {
        Some(StreamError::Failed(Broken)) => Outcome::Ignored,
        _ if end.items == 0 => Outcome::failure(),
        _ => Outcome::Success,
    });
    for (items, expected) in [
        (vec![], (0, 1, 0)),
        (vec![(0, Ok("a"))], (1, 1, 0)),
        (vec![(0, Ok("a")), (0, Err(Broken))], (1, 1, 1)),
    ] {
        let mut items = trial.open(&options, timed(items)).await;
        read(&mut items).await;
        assert_eq!(trial.counted(), expected);
    }
}

#[tokio::test]
async fn a_reader_that_leaves_says_nothing_and_neither_does_one_that_panics() {
    let trial = Trial::new();
    let two = || timed([(0, Ok("a")), (0, Ok("b"))]);
    drop(trial.open(&Options::new(), two()).await);
    assert_eq!(trial.counted(), (0, 0, 1), "before the first item");
    let mut items = trial.open(&Options::new(), two()).await;
    items.next().await.unwrap().unwrap();
    drop(items);
    assert_eq!(trial.counted(), (0, 0, 2), "after it");
    let mut items = trial.open(&Options::new(), two()).await;
    let reading = async move {
        items.next().await.unwrap().unwrap();
        panic!("as asked");
    };
    assert!(AssertUnwindSafe(reading).catch_unwind().await.is_err());
    assert_eq!(trial.counted(), (0, 0, 3), "by a panic");
}

#[tokio::test]
async fn a_reader_that_leaves_a_silent_stream_has_seen_it_fail_and_one_that_was_slow_itself_has_not()
 {
    let limit = Policy::builder().call_timeout(ms(150)).build().unwrap();
    let trial = Trial::with(limit);
    let silent = |first| timed([(first, Ok("a"))]).chain(stream::pending()).boxed();
    // Failures, and dropped calls.
    let so_far = || (trial.stats().failures, trial.stats().abandoned);

    let mut items = trial.open(&Options::new(), silent(0)).await;
    items.next().await.unwrap().unwrap();
    sleep(ms(200)).await;
    drop(items);
    assert_eq!(so_far(), (0, 1), "it was busy, and did not ask");

    let healthy = timed((0..10).map(|_| (30, Ok("a"))));
    let mut items = trial.open(&Options::new(), healthy).await;
    for _ in 0..9 {
        items.next().await.unwrap().unwrap();
    }
    drop(items);
    assert_eq!(so_far(), (0, 2), "it had enough of a long stream");

    for (first, when) in [(0, "after the first item"), (60_000, "before it")] {
        let (failures, dropped) = so_far();
        let mut items = trial.open(&Options::new(), silent(first)).await;
        let waits = async { while items.next().await.is_some() {} };
        assert!(timeout(ms(200), waits).await.is_err());
        drop(items);
        assert_eq!(so_far(), (failures + 1, dropped + 1), "{when}");
    }
}

#[tokio::test]
async fn a_stream_that_panics_has_failed_whoever_catches_it() {
    let trial = Trial::new();
    let panics = stream::iter([1, 2]).map(|n| match n {
        1 => Ok("a"),
        _ => panic!("as asked"),
    });
    let mut items = trial.open(&Options::new(), panics.boxed()).await;
    items.next().await.unwrap().unwrap();
    let caught = AssertUnwindSafe(items.next()).catch_unwind().await;
    assert!(caught.is_err());
    drop(items);
    assert_eq!(trial.counted(), (0, 1, 0));
}

#[tokio::test]
async fn a_stream_that_does_not_open_has_failed_or_what_its_error_means() {
    let limit = ms(20);
    let policy = Policy::builder().call_timeout(limit).build().unwrap();
    let trial = Trial::with(policy);
    let options = Options::new();
    let fails = || async { Err::<Items, _>(Broken) };
    let error = trial.breaker.stream(&options, fails).await.unwrap_err();
    assert!(matches!(error, CallError::Failed(Broken)));
    assert_eq!(trial.counted(), (0, 1, 0));
    let mine = |_: &Broken| Outcome::Ignored;
    let error = trial
        .breaker
        .stream_with(&options, mine, fails)
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::Failed(Broken)));
    assert_eq!(trial.counted(), (0, 1, 1));
    let hangs = std::future::pending::<Result<Items, Broken>>;
    let error = trial.breaker.stream(&options, hangs).await.unwrap_err();
    assert!(matches!(error, CallError::TimedOut(after) if after == limit));
    assert_eq!((trial.counted(), trial.stats().timeouts), ((0, 2, 1), 1));

    // The limit does not apply to a stream that has opened.
    let mut items = trial.open(&options, timed([(50, Ok("a"))])).await;
    assert_eq!(read(&mut items).await, [Ok("a")]);
    assert_eq!(trial.counted(), (1, 2, 1));

    trial.breaker.force_open(Default::default()).await.unwrap();
    let opened = AtomicBool::new(false);
    let open = || async {
        opened.store(true, Ordering::SeqCst);
        Err::<Items, _>(Broken)
    };
    let error = trial.breaker.stream(&options, open).await.unwrap_err();
    assert!(error.rejection().is_some());
    assert!(!opened.load(Ordering::SeqCst));
}

#[tokio::test]
async fn latency_is_the_time_to_the_first_item_and_slow_is_what_takes_long_for_that() {
    let slow = |threshold| {
        let policy = Policy::builder().slow_calls(threshold, 100);
        Trial::with(policy.build().unwrap())
    };
    let trial = slow(ms(100));
    let open = || async {
        sleep(ms(20)).await;
        let items = (0..8).map(|n| (if n == 0 { 20 } else { 30 }, Ok("a")));
        Ok::<_, Infallible>(timed(items))
    };
    let mut items = trial.breaker.stream(&Options::new(), open).await.unwrap();
    // The reader's time does not count.
    sleep(ms(100)).await;
    assert_eq!(read(&mut items).await.len(), 8);
    let stats = trial.stats();
    let latency = stats.latencies.percentile(50.0).unwrap();
    assert!(latency >= ms(38) && latency < ms(100), "{latency:?}");
    assert_eq!((stats.successes, stats.slow), (1, 0));

    let trial = slow(ms(30));
    let mut items = trial.breaker.stream(&Options::new(), open).await.unwrap();
    read(&mut items).await;
    assert_eq!((trial.stats().successes, trial.stats().slow), (1, 1));
}
