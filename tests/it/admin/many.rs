//! More circuits than fit into one answer of the store.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use commontrip::{
    Commontrip, MemoryStore, Name, RedisStore, Snapshot, Store, StoreError,
    admin::{self, Options},
    model::{Counts, Head, Report},
    operator::{Ask, Interval, News, Operator},
    store::Answer,
};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::site::{Site, with_token};
use crate::{
    support::{OwnServer, unique_prefix},
    wait::until,
};

const LONG: Duration = Duration::from_secs(20);

/// Writes this many circuits with one success each.
pub async fn filled(store: &impl Store, circuits: usize) {
    let report = |i: usize| {
        let counts = Counts {
            successes: 1,
            ..Counts::default()
        };
        let head = Head {
            replica: "r1".to_owned(),
            ..Head::default()
        };
        let report = Report {
            head,
            seq: 1,
            counts,
            ..Report::default()
        };
        (Name::new(&format!("c{i:05}")).unwrap(), report)
    };
    let all: Vec<_> = (0..circuits).map(report).collect();
    for piece in all.chunks(100) {
        for answer in store.report(piece).await.unwrap() {
            answer.unwrap();
        }
    }
    until("all are listed", async || {
        store.circuits().await.unwrap().len() == circuits
    })
    .await;
}

fn names(answer: &Value) -> Vec<String> {
    let circuits = answer["circuits"].as_array().unwrap().iter();
    circuits
        .map(|circuit| circuit["name"].as_str().unwrap().to_owned())
        .collect()
}

async fn all_are_shown(circuits: usize) {
    let server = OwnServer::start();
    let prefix = unique_prefix("many");
    let store = || RedisStore::builder().prefix(&prefix);
    filled(
        &store().timeout(LONG).open(&server.url()).unwrap(),
        circuits,
    )
    .await;
    // The registry's callers wait for 50 ms, which is the default.
    let registry = Commontrip::builder()
        .store(store().open(&server.url()).unwrap())
        .build()
        .unwrap();
    let operator = Operator::of(&registry).timeout(LONG);
    let site = Site::serving(registry, admin::router(operator, Options::new())).await;
    let all = site.get("/circuits").await.good();
    assert_eq!(
        (names(&all).len(), &all["incomplete"]),
        (circuits, &Value::Null)
    );
    assert_eq!(all["next"], Value::Null);
    let metrics = site.get("/metrics").await;
    assert_eq!(metrics.status.as_u16(), 200);
    let lines = |start: &str| {
        metrics
            .text
            .lines()
            .filter(|l| l.starts_with(start))
            .count()
    };
    assert_eq!(lines("circuit_breaker_fleet_state{"), circuits);
    assert_eq!(lines("circuit_breaker_fleet_incomplete 0"), 1);
    let health = site.get("/health").await.good();
    assert_eq!(
        (&health["total"], &health["incomplete"]),
        (&json!(circuits), &Value::Null)
    );

    let (mut cursor, mut paged) = (String::new(), Vec::new());
    loop {
        let page = site
            .get(&format!("/circuits?limit=300&history=60&cursor={cursor}"))
            .await
            .good();
        let names = names(&page);
        assert!(!names.is_empty() && names.len() <= 300);
        paged.extend(names);
        match page["next"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(paged.len(), circuits);
    assert!(paged.is_sorted());
    assert_eq!(paged.iter().collect::<BTreeSet<_>>().len(), circuits);
    let found = site
        .get("/circuits?limit=5&q=C0009&state=closed")
        .await
        .good();
    assert_eq!(
        names(&found),
        ["c00090", "c00091", "c00092", "c00093", "c00094"]
    );
    assert_eq!(found["next"], "c00094");
    for bad in ["limit=0", "limit=1001", "limit=x"] {
        site.get(&format!("/circuits?{bad}")).await.problem(400);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_circuits_are_all_shown() {
    all_are_shown(1000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_circuits_are_all_shown() {
    all_are_shown(5000).await;
}

#[tokio::test]
async fn an_operator_does_not_wait_for_only_as_long_as_a_caller() {
    let server = OwnServer::start();
    let builder = Commontrip::builder().redis(&server.url());
    let registry = builder.prefix(&unique_prefix("patient")).build().unwrap();
    let router = admin::router(Operator::of(&registry).timeout(LONG), with_token());
    let site = Site::serving(registry, router).await;
    site.circuit("payments", commontrip::Policy::default())
        .await;
    let mut connection = redis::Client::open(server.admin_url())
        .unwrap()
        .get_connection()
        .unwrap();
    for ask in ["open", "read"] {
        let mut pause = redis::cmd("CLIENT");
        pause.arg("PAUSE").arg(500).arg("ALL");
        pause.exec(&mut connection).unwrap();
        match ask {
            "open" => {
                let forced = site.post("/circuits/payments/force-open", json!({})).await;
                assert_eq!(forced.good()["state"], "forced_open");
            }
            _ => assert_eq!(names(&site.get("/circuits").await.good()), ["payments"]),
        }
    }
}

/// A store that is unavailable for some circuits, or for all.
#[derive(Debug)]
struct Partly {
    inner: MemoryStore,
    unavailable_from: Arc<Mutex<&'static str>>,
}

/// A store with 150 circuits, unavailable for those from this name on.
async fn partly(unavailable_from: &'static str) -> Partly {
    let inner = MemoryStore::default();
    filled(&inner, 150).await;
    let unavailable_from = Arc::new(Mutex::new(unavailable_from));
    Partly {
        inner,
        unavailable_from,
    }
}

impl Store for Partly {
    crate::delegate::to_inner! { acquire release control snapshot events circuits report listen ping }

    fn snapshots<'a>(
        &'a self,
        circuits: &'a [Name],
        head: &'a Head,
    ) -> Answer<'a, Vec<Result<Snapshot, StoreError>>> {
        let from = *self.unavailable_from.lock();
        if circuits.iter().any(|name| name.as_str() >= from) {
            return Box::pin(async { Err(StoreError::Timeout(Duration::from_millis(1))) });
        }
        self.inner.snapshots(circuits, head)
    }

    fn history<'a>(&'a self, circuits: &'a [Name], most: usize) -> Answer<'a, Vec<Vec<Interval>>> {
        self.inner.history(circuits, most)
    }
}

#[tokio::test]
async fn what_is_incomplete_says_so_and_what_is_nothing_is_an_error() {
    let site = Site::on(partly("c00120").await, Options::new()).await;
    let part = site.get("/circuits").await.good();
    assert_eq!(names(&part).len(), 100);
    let words = part["incomplete"].as_str().unwrap();
    assert!(
        words.starts_with("50 of 150 circuits were not read: "),
        "{words}"
    );
    let page = site.get("/circuits?limit=120").await.good();
    assert!(
        page["incomplete"].is_string() && page["next"] == "c00099",
        "{page}"
    );
    let metrics = site.get("/metrics").await;
    assert_eq!(metrics.status.as_u16(), 200);
    assert!(
        metrics
            .text
            .contains("circuit_breaker_fleet_incomplete 1\n")
    );
    for path in ["/health", "/status"] {
        assert!(
            site.get(path).await.good()["incomplete"].is_string(),
            "{path}"
        );
    }

    let site = Site::on(partly("").await, Options::new()).await;
    site.get("/circuits").await.problem(503);
    let metrics = site.get("/metrics").await;
    assert_eq!(metrics.status.as_u16(), 503);
    assert!(metrics.text.contains("circuit_breaker_fleet_store_up 0\n"));
}

/// A store with more circuits than it lists, some of which have expired.
#[derive(Debug)]
struct Crowded {
    inner: MemoryStore,
}

impl Store for Crowded {
    crate::delegate::to_inner! { acquire release control snapshot events circuits report listen ping }

    fn index(&self, _most: usize) -> Answer<'_, (Vec<String>, bool)> {
        let names = ["c00000", "c00001", "expired"].map(str::to_owned);
        Box::pin(async move { Ok((names.to_vec(), true)) })
    }
}

#[tokio::test]
async fn a_reset_of_all_says_when_it_left_out_some() {
    let inner = MemoryStore::default();
    filled(&inner, 2).await;
    let store = Crowded { inner };
    let site = Site::on(store, with_token()).await;
    let done = site
        .post("/reset-all", json!({"confirm": "reset-all"}))
        .await;
    let done = done.good();
    assert_eq!(done["reset"], json!(["c00000", "c00001"]));
    assert_eq!(
        done["failed"],
        json!([]),
        "an expired circuit needs no reset"
    );
    let words = done["incomplete"].as_str().unwrap();
    assert!(words.contains("more than 20000 names"), "{words}");
}

#[tokio::test]
async fn what_was_not_read_in_time_is_said_and_not_gone() {
    let operator = Operator::new(partly("c00120").await);
    let survey = operator.survey(&Ask::default()).await.unwrap();
    assert_eq!(survey.circuits.len(), 100);
    assert!(survey.incomplete.is_some());
}

#[tokio::test]
async fn a_subscriber_gets_later_what_was_not_read_at_first() {
    let store = partly("c00120").await;
    let unavailable_from = Arc::clone(&store.unavailable_from);
    let mut news = Operator::new(store).live().subscribe();
    let mut others = 0;
    let mut all = async || loop {
        match news.next().await {
            News::Circuits(all) => break all,
            News::Entry(name, entry) => panic!("its past is not news: {name} {entry:?}"),
            _ => others += 1,
        }
    };
    let first = all().await;
    assert_eq!(first.circuits.len(), 100);
    let words = first.incomplete.unwrap();
    assert!(words.starts_with("50 of 150 circuits were not read"));
    *unavailable_from.lock() = "d";
    let second = all().await;
    assert_eq!((second.circuits.len(), second.incomplete), (150, None));
    assert!(others > 0, "it gets the rest meanwhile");
}
