//! The last good values of one process: their age, their expiry, their bounds.

use std::time::Duration;

use commontrip::fallback::{LastGood, LastGoodBuilder, LastGoodError, Source};
use commontrip::{CallError, Clock, Commontrip, Outcome, Override};
use tokio::time::sleep;

use super::{HOUR, circuit, gated::Warned};

fn speech(clock: &Clock) -> LastGoodBuilder<String> {
    let speech = LastGood::builder("speech").refresh(Duration::ZERO);
    speech.clock(clock.clone())
}

async fn good(text: &str) -> Result<String, &'static str> {
    Ok(text.to_owned())
}

async fn bad() -> Result<String, &'static str> {
    Err("down")
}

#[tokio::test]
async fn a_stale_answer_says_so_and_how_old_it_is() {
    let clock = Clock::manual();
    let breaker = circuit(&Commontrip::embedded().unwrap());
    let speech = speech(&clock).build().unwrap();
    let answer = speech.call(&breaker, "v", || good("hello")).await.unwrap();
    assert_eq!((&*answer.value, answer.stale), ("hello", false));
    assert_eq!((answer.age, answer.from), (Duration::ZERO, Source::Call));
    clock.advance(Duration::from_secs(90));
    let drill = Override::because("drill");
    for rejected in [false, true] {
        if rejected {
            breaker.force_open(drill.clone()).await.unwrap();
        }
        let answer = speech.call(&breaker, "v", bad).await.unwrap();
        assert_eq!((&*answer.value, answer.stale), ("hello", true));
        assert_eq!(answer.age, Duration::from_secs(90));
        assert_eq!(answer.from, Source::Process);
    }
    // Another key has no value, so the call's own error is returned.
    let answer = speech.call(&breaker, "w", bad).await;
    assert!(matches!(answer, Err(CallError::Rejected(_))), "{answer:?}");
    breaker.reset().await.unwrap();
    let answer = speech.call(&breaker, "w", bad).await;
    assert!(matches!(answer, Err(CallError::Failed("down"))));
    // A timeout is a failure like any other.
    breaker.store_policy("call_timeout_ms=50").await.unwrap();
    assert!(breaker.policy().call_timeout().is_some());
    let hang = || async {
        sleep(HOUR).await;
        good("late").await
    };
    assert!(speech.call(&breaker, "v", hang).await.unwrap().stale);
}

#[tokio::test]
async fn what_is_older_than_its_time_is_not_served() {
    let clock = Clock::manual();
    let breaker = circuit(&Commontrip::embedded().unwrap());
    let speech = speech(&clock).ttl(Duration::from_secs(60)).build().unwrap();
    speech.call(&breaker, "v", || good("hello")).await.unwrap();
    clock.advance(Duration::from_secs(60));
    assert!(speech.call(&breaker, "v", bad).await.unwrap().stale);
    clock.advance(Duration::from_millis(1));
    assert!(speech.call(&breaker, "v", bad).await.is_err());
    assert!(speech.recall("v").await.is_none());
}

#[tokio::test]
async fn only_so_many_keys_are_kept_and_only_so_large_values() {
    let breaker = circuit(&Commontrip::embedded().unwrap());
    let speech = speech(&Clock::manual()).max_entries(10);
    let speech = speech.max_entry_bytes(100).build().unwrap();
    for i in 0..200 {
        speech.keep(&i.to_string(), &"hello".to_owned());
    }
    assert_eq!(known(&speech, 200).await, Vec::from_iter(190..200));
    // A value that is too large leaves the old one in place.
    speech.call(&breaker, "v", || good("small")).await.unwrap();
    let large = "x".repeat(100);
    speech.call(&breaker, "v", || good(&large)).await.unwrap();
    let answer = speech.call(&breaker, "v", bad).await.unwrap();
    assert_eq!(answer.value, "small");
}

/// Which of the first `keys` keys have a value.
async fn known(speech: &LastGood<String>, keys: usize) -> Vec<usize> {
    let mut known = Vec::new();
    for i in 0..keys {
        if speech.recall(&i.to_string()).await.is_some() {
            known.push(i);
        }
    }
    known
}

#[tokio::test]
async fn all_values_together_have_no_more_than_their_bytes() {
    let speech = speech(&Clock::manual()).max_bytes(1000).build().unwrap();
    for i in 0..10 {
        speech.keep(&i.to_string(), &"x".repeat(200));
    }
    assert_eq!(known(&speech, 10).await, [6, 7, 8, 9]);
    // The most recently used value stays.
    assert!(speech.recall("6").await.is_some());
    speech.keep("10", &"x".repeat(200));
    assert_eq!(known(&speech, 11).await, [6, 8, 9, 10]);
}

#[tokio::test]
async fn audio_clips_are_kept_by_default_however_large_the_store_takes_them() {
    let speech = speech(&Clock::manual()).build().unwrap();
    for length in [100_000, 1 << 20, 5 << 20] {
        let clip = "x".repeat(length);
        speech.keep("v", &clip);
        assert!(speech.recall("v").await.unwrap().value == clip, "{length}");
    }
}

#[tokio::test]
async fn a_value_that_is_too_large_is_warned_of_once_a_key() {
    let warned = Warned::default();
    let _logging = warned.listen();
    let small = speech(&Clock::manual()).max_bytes(1000).build().unwrap();
    for key in ["a", "b", "a", "b", "a"] {
        small.keep(key, &"x".repeat(1000));
        assert!(small.recall(key).await.is_none());
    }
    assert_eq!(warned.count("too large to be kept"), 2);
    // The store accepts at most 1 MiB; larger values stay in this process.
    let circuits = Commontrip::embedded().unwrap();
    for bound in [64 << 20, 1000] {
        let shared = speech(&Clock::manual()).max_shared_bytes(bound);
        let shared = shared.shared(&circuits).build().unwrap();
        for _ in 0..3 {
            shared.keep("v", &"x".repeat(2 << 20));
            let own = shared.recall("v").await.unwrap();
            assert_eq!(own.from, Source::Process);
        }
    }
    assert_eq!(warned.count("in this process only"), 2);
}

#[tokio::test]
async fn a_value_is_kept_anew_once_in_a_while_only() {
    let clock = Clock::manual();
    let speech = speech(&clock).refresh(Duration::from_secs(1));
    let speech = speech.build().unwrap();
    let kept = async || speech.recall("v").await.unwrap().value;
    speech.keep("v", &"first".to_owned());
    clock.advance(Duration::from_millis(999));
    speech.keep("v", &"second".to_owned());
    assert_eq!(kept().await, "first");
    clock.advance(Duration::from_millis(1));
    speech.keep("v", &"third".to_owned());
    assert_eq!(kept().await, "third");
}

#[tokio::test]
async fn what_a_result_counts_as_says_whether_it_is_kept_or_replaced() {
    let breaker = circuit(&Commontrip::embedded().unwrap());
    let speech = speech(&Clock::manual()).build().unwrap();
    let call = async |outcome, result: Result<&str, &'static str>| {
        let call = async || result.map(str::to_owned);
        speech.call_with(&breaker, "v", |_: &_| outcome, call).await
    };
    for outcome in [Outcome::failure(), Outcome::Ignored] {
        let answer = call(outcome.clone(), Ok("odd")).await.unwrap();
        assert_eq!((&*answer.value, answer.stale), ("odd", false));
        assert!(speech.recall("v").await.is_none(), "{outcome:?}");
    }
    call(Outcome::Success, Ok("good")).await.unwrap();
    // The caller's own mistake is still returned as an error.
    for outcome in [Outcome::Success, Outcome::Ignored] {
        let answer = call(outcome, Err("no such voice")).await;
        assert!(matches!(answer, Err(CallError::Failed("no such voice"))));
    }
    let answer = call(Outcome::failure(), Err("down")).await.unwrap();
    assert_eq!((&*answer.value, answer.stale), ("good", true));
    let answer = call(Outcome::trip(), Err("down")).await.unwrap();
    assert_eq!((&*answer.value, answer.stale), ("good", true));
}

#[tokio::test]
async fn what_is_out_of_range_is_told() {
    let refused = |builder: LastGoodBuilder<String>| builder.build().unwrap_err();
    let fine = || speech(&Clock::manual());
    for name in ["", "a:b", "a{b", "a\nb", &"x".repeat(101)] {
        let error = refused(LastGood::builder(name));
        assert_eq!(error, LastGoodError::Name(name.to_owned()));
    }
    let ttl = refused(fine().ttl(Duration::ZERO));
    assert_eq!(ttl, LastGoodError::Ttl(Duration::ZERO));
    let ttl = refused(fine().ttl(Duration::MAX));
    assert_eq!(ttl, LastGoodError::Ttl(Duration::MAX));
    assert_eq!(refused(fine().max_entries(0)), LastGoodError::MaxEntries);
    let bytes = refused(fine().max_entry_bytes(0));
    assert_eq!(bytes, LastGoodError::MaxEntryBytes(0));
    for (builder, setting) in [
        (fine().max_bytes(0), "max_bytes"),
        (fine().max_waiting_bytes(0), "max_waiting_bytes"),
        (fine().max_shared_bytes(0), "max_shared_bytes"),
    ] {
        assert_eq!(refused(builder), LastGoodError::MaxBytes(setting));
    }
    let longest = fine().ttl(365 * 24 * HOUR).refresh(Duration::MAX);
    longest.build().unwrap().keep("v", &String::new());
}
