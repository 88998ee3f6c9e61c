//! Which replica sends: the script against the model, a crowd, and a sender that is too late.

use std::sync::Arc;
use std::time::Duration;

use commontrip::Name;
use commontrip::model::{Claim, ClaimStep, Claims, Phase, Verdict};
use commontrip::store::{MemoryStore, RedisStore, Store};
use proptest::prelude::*;

use crate::stores::on_each_store;
use crate::support::{redis_url, unique, unique_prefix};

fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::default())
}

fn redis() -> Arc<dyn Store> {
    Arc::new(redis_store())
}

fn redis_store() -> RedisStore {
    let builder = RedisStore::builder().prefix(&unique_prefix("claims"));
    let builder = builder.timeout(Duration::from_secs(20));
    builder.open(redis_url()).unwrap()
}

on_each_store! {
    a_sender_whose_claim_is_anothers_says_nothing_over_it
    a_cooldown_holds_up_triggers_and_no_end
    an_episode_is_sent_once_unless_it_may_be_again
}

/// Claims of one rule of one circuit, at given times.
struct Rule {
    store: Arc<dyn Store>,
    name: Name,
}

impl Rule {
    fn of(store: Arc<dyn Store>) -> Self {
        let name = Name::new(&unique("claims")).unwrap();
        Self { store, name }
    }

    async fn claim(&self, now_ms: u64, mut claim: Claim) -> (Verdict, u64) {
        claim.now_ms = now_ms;
        let answer = self.store.claim(&self.name, &claim).await.unwrap();
        (answer.verdict, answer.wait_ms)
    }
}

fn step(episode: u64, step: ClaimStep, token: &str, for_ms: u64) -> Claim {
    Claim::new("opened", episode, step).of(token, for_ms)
}

async fn a_sender_whose_claim_is_anothers_says_nothing_over_it(store: Arc<dyn Store>) {
    use ClaimStep::{GaveUp, Resolve, Resolved, Trigger, Triggered};
    let rule = Rule::of(store);
    assert_eq!(
        rule.claim(1000, step(7, Trigger, "a", 100)).await,
        (Verdict::Granted, 0)
    );
    assert_eq!(
        rule.claim(1050, step(7, Trigger, "a", 100)).await.0,
        Verdict::Granted
    );
    assert_eq!(
        rule.claim(1100, step(7, Trigger, "b", 100)).await,
        (Verdict::Taken, 50)
    );
    assert_eq!(
        rule.claim(1150, step(7, Trigger, "b", 100)).await.0,
        Verdict::Granted
    );
    // The first sender resumes.
    assert_eq!(
        rule.claim(1160, step(7, Trigger, "a", 100)).await.0,
        Verdict::Taken
    );
    for late in [Triggered, GaveUp, Resolved] {
        assert_eq!(
            rule.claim(1160, step(7, late, "a", 9)).await.0,
            Verdict::Settled
        );
    }
    assert_eq!(
        rule.claim(1170, step(7, Triggered, "b", 0)).await.0,
        Verdict::Granted
    );
    assert_eq!(
        rule.claim(1180, step(7, Triggered, "b", 0)).await.0,
        Verdict::Settled
    );
    // The same for the resolution.
    assert_eq!(
        rule.claim(1200, step(7, Resolve, "a", 100)).await.0,
        Verdict::Granted
    );
    assert_eq!(
        rule.claim(1250, step(7, Resolve, "b", 100)).await,
        (Verdict::Taken, 50)
    );
    assert_eq!(
        rule.claim(1300, step(7, Resolve, "b", 100)).await.0,
        Verdict::Granted
    );
    assert_eq!(
        rule.claim(1301, step(7, Resolved, "a", 0)).await.0,
        Verdict::Settled
    );
    assert_eq!(
        rule.claim(1302, step(7, Resolved, "b", 0)).await.0,
        Verdict::Granted
    );
    assert_eq!(
        rule.claim(1303, step(7, Resolve, "a", 100)).await.0,
        Verdict::Settled
    );
}

async fn a_cooldown_holds_up_triggers_and_no_end(store: Arc<dyn Store>) {
    use ClaimStep::{Resolve, Resolved, Trigger, Triggered};
    let rule = Rule::of(store);
    assert_eq!(
        rule.claim(1000, step(1, Trigger, "a", 100)).await.0,
        Verdict::Granted
    );
    assert_eq!(
        rule.claim(1000, step(1, Triggered, "a", 500)).await.0,
        Verdict::Granted
    );
    assert_eq!(
        rule.claim(1100, step(3, Trigger, "b", 100)).await,
        (Verdict::Cooling, 400)
    );
    assert_eq!(
        rule.claim(1100, step(1, Resolve, "b", 100)).await.0,
        Verdict::Granted
    );
    assert_eq!(
        rule.claim(1100, step(1, Resolved, "b", 0)).await.0,
        Verdict::Granted
    );
    assert_eq!(
        rule.claim(1400, step(3, Trigger, "b", 100)).await,
        (Verdict::Cooling, 100)
    );
    assert_eq!(
        rule.claim(1500, step(3, Trigger, "b", 100)).await.0,
        Verdict::Granted
    );
}

async fn an_episode_is_sent_once_unless_it_may_be_again(store: Arc<dyn Store>) {
    use ClaimStep::{Resolve, Trigger, Triggered};
    let rule = Rule::of(store);
    // The caller may resolve an alert that the store does not know.
    assert_eq!(
        rule.claim(1000, step(5, Resolve, "a", 10)).await.0,
        Verdict::Granted
    );
    assert_eq!(
        rule.claim(1010, step(6, Trigger, "a", 10)).await.0,
        Verdict::Granted
    );
    assert_eq!(
        rule.claim(1010, step(6, Triggered, "a", 100)).await.0,
        Verdict::Granted
    );
    let mut again = step(6, Trigger, "b", 10);
    assert_eq!(rule.claim(2000, again.clone()).await.0, Verdict::Settled);
    again.again = true;
    assert_eq!(
        rule.claim(1050, again.clone()).await,
        (Verdict::Cooling, 60)
    );
    assert_eq!(rule.claim(1110, again).await.0, Verdict::Granted);
    assert_eq!(
        rule.claim(2000, step(5, Trigger, "c", 10)).await.0,
        Verdict::Settled
    );
    let look = step(0, ClaimStep::Look, "", 0);
    let look = rule.store.claim(&rule.name, &look).await.unwrap();
    assert_eq!((look.episode, look.phase), (6, Phase::Triggering));
}

fn claims() -> impl Strategy<Value = Vec<Claim>> {
    let claim = (
        0..40_u64,
        0..2_usize,
        0..3_u64,
        0..6_usize,
        0..30_u64,
        0..3_usize,
        any::<bool>(),
    );
    let claim = claim.prop_map(|(after, rule, episode, step, for_ms, token, again)| {
        use ClaimStep::{GaveUp, Look, Resolve, Resolved, Trigger, Triggered};
        let step = [Look, Trigger, Resolve, Triggered, Resolved, GaveUp][step];
        let rule = ["opened", "flapping:3:9"][rule];
        let mut claim = Claim::new(rule, episode, step).of(["", "a1", "B2"][token], for_ms);
        (claim.now_ms, claim.again) = (after, again);
        claim
    });
    prop::collection::vec(claim, 1..40)
}

#[test]
fn the_script_claims_as_the_model_does() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let store = runtime.block_on(async { redis_store() });
    let config = proptest::test_runner::Config {
        cases: 150,
        failure_persistence: None,
        ..Default::default()
    };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let ran = runner.run(&claims(), |claims| {
        let name = Name::new(&unique("claims")).unwrap();
        let (mut model, mut now) = (Claims::default(), 1_735_689_600_000);
        for mut claim in claims {
            now += claim.now_ms;
            claim.now_ms = now;
            let ours = model.claim(&claim, now);
            let redis = runtime.block_on(store.claim(&name, &claim)).unwrap();
            prop_assert_eq!(redis, ours, "{:?}", claim);
        }
        Ok(())
    });
    ran.unwrap_or_else(|difference| panic!("{difference}"));
}

#[tokio::test]
async fn of_a_crowd_that_claims_at_once_one_sends() {
    let store = redis_store();
    let mut crowd = tokio::task::JoinSet::new();
    for i in 0..32 {
        let store = store.clone();
        crowd.spawn(async move {
            let name = Name::new("payments").unwrap();
            let claim = step(7, ClaimStep::Trigger, &format!("t{i}"), 60_000);
            store.claim(&name, &claim).await.unwrap().verdict
        });
    }
    let answers = crowd.join_all().await;
    let granted = |verdict: &&Verdict| **verdict == Verdict::Granted;
    assert_eq!(answers.iter().filter(granted).count(), 1);
}
