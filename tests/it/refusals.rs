//! A store that serves only some circuits: those that it fails continue locally, the others
//! normally.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use commontrip::{
    CallError, CircuitBreaker, Commontrip, MemoryStore, Name, Policy, Snapshot, State, Store,
    StoreError,
    model::{Acquire, Grant, Report},
    store::Answer,
};
use parking_lot::Mutex;

use crate::{delegate::to_inner, wait::until};

/// A store with two shards, `a…` and the rest, that fails circuits with given errors.
#[derive(Clone, Debug, Default)]
struct Picky {
    inner: MemoryStore,
    errors: Arc<Mutex<BTreeMap<String, StoreError>>>,
}

impl Picky {
    fn fail(&self, circuit: &str, error: StoreError) {
        self.errors.lock().insert(circuit.to_owned(), error);
    }

    fn serve(&self, circuit: &str) {
        self.errors.lock().remove(circuit);
    }

    fn error(&self, circuit: &Name) -> Result<(), StoreError> {
        match self.errors.lock().get(circuit.as_str()) {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }
}

impl Store for Picky {
    to_inner! { release control snapshot events circuits ping listen }

    fn acquire<'a>(&'a self, circuit: &'a Name, request: &'a Acquire) -> Answer<'a, Grant> {
        Box::pin(async move {
            self.error(circuit)?;
            self.inner.acquire(circuit, request).await
        })
    }

    fn report<'a>(
        &'a self,
        batch: &'a [(Name, Report)],
    ) -> Answer<'a, Vec<Result<Snapshot, StoreError>>> {
        Box::pin(async move {
            let mut answers = Vec::new();
            for one in batch {
                let answer = match self.error(&one.0) {
                    // Only a report with a failure is invalid here.
                    Err(StoreError::Invalid(_)) if one.1.counts.failures == 0 => Ok(()),
                    answer => answer,
                };
                answers.push(match answer {
                    Ok(()) => self
                        .inner
                        .report(std::slice::from_ref(one))
                        .await?
                        .remove(0),
                    Err(error) => Err(error),
                });
            }
            Ok(answers)
        })
    }

    fn shard(&self, circuit: &Name) -> u16 {
        u16::from(circuit.as_str().starts_with('a'))
    }
}

struct Service {
    store: Picky,
    circuits: Commontrip,
}

impl Service {
    fn start() -> Service {
        let store = Picky::default();
        let circuits = Commontrip::builder()
            .store(store.clone())
            .store_timeout(Duration::from_secs(60));
        Service {
            circuits: circuits.build().unwrap(),
            store,
        }
    }

    async fn circuit(&self, name: &str) -> CircuitBreaker {
        let policy = Policy::builder()
            .minimum_number_of_calls(10)
            .report_interval(Duration::from_millis(10));
        let breaker = self.circuits.circuit(name, policy.build().unwrap());
        let breaker = breaker.unwrap();
        call(&breaker, true).await.unwrap();
        self.circuits.flush().await;
        breaker
    }

    fn unavailable(&self) -> usize {
        self.circuits.health().circuits_unavailable
    }
}

async fn call(breaker: &CircuitBreaker, ok: bool) -> Result<(), CallError<()>> {
    let answer = if ok { Ok(()) } else { Err(()) };
    breaker.call(|| async { answer }).await
}

#[tokio::test]
async fn a_shard_that_is_away_takes_its_own_circuits_and_no_others() {
    let service = Service::start();
    let [a1, a2, b] = ["a1", "a2", "b"].map(|name| service.circuit(name));
    let (a1, a2, b) = (a1.await, a2.await, b.await);
    for name in ["a1", "a2"] {
        let unable = StoreError::Unable("LOADING".to_owned());
        service.store.fail(name, unable);
    }
    call(&a1, true).await.unwrap();
    until("it is unavailable", async || service.unavailable() > 0).await;
    assert_eq!(service.unavailable(), 2, "its shard, and no other");
    // A circuit created while its shard is unavailable sends no requests either.
    let late = service.circuits.circuit("a3", Policy::default()).unwrap();
    call(&late, true).await.unwrap();
    assert_eq!(service.unavailable(), 3);
    until("it opens for itself", async || {
        let _ = call(&a2, false).await;
        a2.state() == State::Open
    })
    .await;
    call(&b, true).await.unwrap();
    service.circuits.flush().await;
    assert_eq!(b.snapshot().await.unwrap().successes_total, 2);
    assert_eq!(service.unavailable(), 3);

    service.store.serve("a1");
    service.store.serve("a2");
    until("all are back", async || service.unavailable() == 0).await;
    assert!(service.circuits.health().unavailable_for.is_none());
    service.circuits.flush().await;
    assert_eq!(a1.snapshot().await.unwrap().successes_total, 2);
    service.circuits.shutdown().await;
}

#[tokio::test]
async fn a_circuit_that_the_store_refuses_goes_on_alone_and_loses_nothing() {
    let service = Service::start();
    let (a1, a2) = (service.circuit("a1").await, service.circuit("a2").await);
    let refused = StoreError::Refused("WRONGTYPE".to_owned());
    service.store.fail("a1", refused);
    for _ in 0..50 {
        call(&a1, true).await.unwrap();
        call(&a2, true).await.unwrap();
    }
    until("it is unavailable", async || service.unavailable() == 1).await;
    let said = service.circuits.health().last_error.unwrap();
    assert!(said.contains("WRONGTYPE"), "{said}");
    // The shard's other circuits are still asked.
    service.circuits.flush().await;
    assert_eq!(a2.snapshot().await.unwrap().successes_total, 51);
    for _ in 0..50 {
        call(&a1, true).await.unwrap();
    }
    assert_eq!(service.unavailable(), 1);
    service.store.serve("a1");
    until("it is back, and all is counted", async || {
        service.circuits.flush().await;
        service.unavailable() == 0 && a1.snapshot().await.unwrap().successes_total == 101
    })
    .await;
    service.circuits.shutdown().await;
}

#[tokio::test]
async fn a_report_that_is_wrong_in_itself_keeps_no_later_one_from_being_filed() {
    let service = Service::start();
    let breaker = service.circuit("b").await;
    let invalid = StoreError::Invalid("EREQUEST".to_owned());
    service.store.fail("b", invalid);
    let _ = call(&breaker, false).await;
    service.circuits.flush().await;
    call(&breaker, true).await.unwrap();
    service.circuits.flush().await;
    let seen = breaker.snapshot().await.unwrap();
    assert_eq!((seen.successes_total, seen.failures_total), (2, 0));
    assert_eq!(service.circuits.health().times_unavailable, 0);
    service.circuits.shutdown().await;
}
