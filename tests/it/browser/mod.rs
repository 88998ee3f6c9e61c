//! The dashboard in a browser: what an operator on call sees and does.

mod driver;
mod looks;
mod many;
#[cfg(feature = "cli")]
mod tokens;

use std::time::Duration;

use commontrip::{FailureKind, Policy, State};
use serde_json::{Value, json};

use self::driver::Browser;
use crate::{
    admin::site::{Site, TOKEN, redis, tripping, with_token},
    support,
    wait::until,
};

/// Only a page that hangs takes longer than this, ms; the machine may be busy. The time taken is
/// printed.
const AT_MOST_MS: u64 = 15_000;

/// Records in the page when the news of the trip came, and when the row showed it.
const WATCH: &str = r#"
window.seen = {};
const source = new EventSource(`${location.pathname.replace(/\/?$/, "/")}events`);
source.addEventListener("circuits", () => { window.seen.ready = true; });
source.addEventListener("circuit", (event) => {
  const circuit = JSON.parse(event.data);
  if (circuit.state === "open") window.seen.told ??= { at: Date.now(), since: circuit.since_ms };
});
const row = document.querySelector('[data-name="payments"]');
new MutationObserver(() => {
  if (row.dataset.state === "open") requestAnimationFrame(() => { window.seen.shown ??= Date.now(); });
}).observe(row, { attributes: true, attributeFilter: ["data-state"] });
"#;

#[tokio::test]
async fn a_trip_is_shown_as_it_happens() {
    let site = Site::start().await;
    site.circuit("calm", Policy::default()).await;
    let payments = site.circuit("payments", tripping()).await;
    let page = Browser::open(&site.base).await;
    page.until_state("payments", "closed").await;
    page.run(WATCH).await;
    until("the page watches", async || {
        page.run("return window.seen.ready").await == json!(true)
    })
    .await;
    site.trip(&payments).await;
    page.until_state("payments", "open").await;
    until("both were noted", async || {
        page.run("return Boolean(window.seen.told && window.seen.shown)")
            .await
            == json!(true)
    })
    .await;
    let seen: Value = page.run("return window.seen").await;
    let (told, shown) = (
        seen["told"]["at"].as_u64().unwrap(),
        seen["shown"].as_u64().unwrap(),
    );
    let tripped = seen["told"]["since"].as_u64().unwrap();
    support::say(&format!(
        "a trip in the browser: told {} ms after it, shown {} ms after it",
        told.saturating_sub(tripped),
        shown.saturating_sub(tripped)
    ));
    assert!(shown.saturating_sub(told) < AT_MOST_MS, "{seen}");
    assert!(shown.saturating_sub(tripped) < AT_MOST_MS, "{seen}");
    // Worst first; the title shows it even if the tab is hidden.
    until("it is on top", async || {
        let first = "return document.querySelector('[data-testid=\"circuit-row\"]').dataset.name";
        page.run(first).await == "payments"
    })
    .await;
    assert!(page.client.title().await.unwrap().contains("1 open"));
    assert_eq!(page.state("calm").await.as_deref(), Some("closed"));
    page.end().await;
}

#[tokio::test]
async fn dropped_calls_are_shown_as_they_are_counted() {
    let site = Site::start().await;
    let payments = site.circuit("payments", Policy::default()).await;
    let page = Browser::open(&site.base).await;
    page.until_state("payments", "closed").await;
    page.run("location.hash = '#/c/payments'").await;
    let shows = async |words: &str| {
        let text = page
            .run("return document.querySelector('#circuit').innerText")
            .await;
        text.as_str().is_some_and(|text| text.contains(words))
    };
    until("the page is whole", async || {
        shows("minimum_number_of_calls").await && shows("0 abandoned").await
    })
    .await;
    for _ in 0..3 {
        drop(payments.acquire().await.unwrap());
    }
    until("they are in the window", async || {
        shows("1 (0 failed, 0 slow) and 3 abandoned").await
    })
    .await;
    assert!(shows("1 succeeded, 0 failed, 0 slow, 3 abandoned, 0 ignored").await);
    // Calls since the page was opened are part of the hour's numbers.
    page.run("document.querySelector('details.numbers').open = true")
        .await;
    let hour = r#"
        const head = [...document.querySelectorAll('details.numbers thead th')];
        const at = head.findIndex((th) => th.textContent === 'Abandoned');
        const rows = [...document.querySelectorAll('details.numbers tbody tr')];
        return rows.map((row) => Number(row.children[at].textContent)).reduce((a, b) => a + b, 0)"#;
    until("they are in the hour", async || {
        page.run(hour).await == json!(3)
    })
    .await;
    page.end().await;
}

#[tokio::test]
async fn what_failed_is_shown_as_it_is_counted() {
    let site = Site::start().await;
    let payments = site.circuit("payments", Policy::default()).await;
    let page = Browser::open(&site.base).await;
    page.until_state("payments", "closed").await;
    page.run("location.hash = '#/c/payments'").await;
    let rows = async || {
        let cells = r#"return [...document.querySelectorAll('[data-testid="failed-kind"]')]
            .map((row) => [...row.children].map((cell) => cell.textContent))"#;
        page.run(cells).await
    };
    until("there are none", async || {
        let text = r#"return document.querySelector('[data-testid="failed"]')?.textContent"#;
        page.run(text).await == json!("No failure of the past day has a kind.")
    })
    .await;
    let database = FailureKind::of("database").with_detail("<b>SQLSTATE 40P01</b>");
    payments.acquire().await.unwrap().failure_of(database);
    for _ in 0..2 {
        payments.acquire().await.unwrap().failure_of("timeout");
    }
    until("both are there", async || {
        let rows = rows().await;
        let without_time = |row: &Value| json!([row[0], row[1], row[2], row[4]]);
        let shown: Vec<_> = rows.as_array().unwrap().iter().map(without_time).collect();
        shown
            == [
                json!(["timeout", "2", "2", "–"]),
                json!(["database", "1", "1", "<b>SQLSTATE 40P01</b>"]),
            ]
    })
    .await;
    page.end().await;
}

/// Opens the dialog of a circuit and chooses an action.
async fn choose(page: &Browser, name: &str, kind: &str) {
    let row = format!(
        "[data-testid=\"circuit-row\"][data-name=\"{name}\"] [data-testid=\"open-dialog\"]"
    );
    page.click(&row).await;
    let kind = format!("[data-testid=\"dialog-kinds\"] label:has(input[value=\"{kind}\"])");
    page.click(&kind).await;
}

#[tokio::test]
async fn a_circuit_is_forced_open_and_reset_by_hand() {
    let site = Site::start().await;
    let breaker = site.circuit("payments", Policy::default()).await;
    let page = Browser::open(&site.base).await;
    page.until_state("payments", "closed").await;
    choose(&page, "payments", "force-open").await;
    assert_eq!(page.text("dialog-name").await, "payments");
    page.fill("dialog-reason", "database upgrade").await;
    page.fill("dialog-author", "ana").await;
    page.fill("dialog-token", TOKEN).await;
    page.press("dialog-confirm").await;
    page.until_state("payments", "forced_open").await;
    page.until_text("result", "payments").await;
    until("the replica rejects", async || {
        breaker.state() == State::ForcedOpen
    })
    .await;
    let now = site.get("/circuits/payments").await.good()["circuit"].clone();
    assert_eq!(
        (&now["override_author"], &now["override_reason"]),
        (&json!("ana"), &json!("database upgrade"))
    );
    let left = now["left_ms"].as_u64().unwrap();
    assert!(
        (1..=900_000).contains(&left),
        "a quarter of an hour unless said otherwise: {now}"
    );

    // The page remembers the token and the name.
    choose(&page, "payments", "reset").await;
    assert!(!page.is_shown("dialog-token").await);
    page.fill("dialog-reason", "done").await;
    page.press("dialog-confirm").await;
    page.until_state("payments", "closed").await;
    until("the replica admits", async || {
        breaker.state() == State::Closed
    })
    .await;
    let events = site.get("/circuits/payments").await.good()["events"].clone();
    let last = events.as_array().unwrap().last().unwrap();
    assert_eq!(
        (&last["reason"], &last["by"], &last["note"]),
        (&json!("reset"), &json!("ana"), &json!("done"))
    );
    page.end().await;
}

#[tokio::test]
async fn a_wrong_token_is_refused_in_words_and_the_right_one_taken_then() {
    let site = Site::start().await;
    site.circuit("payments", Policy::default()).await;
    let page = Browser::open(&site.base).await;
    page.until_state("payments", "closed").await;
    choose(&page, "payments", "disable").await;
    page.fill("dialog-reason", "noise").await;
    page.fill("dialog-author", "ana").await;
    page.fill("dialog-token", "a-wrong-token-for-the-tests")
        .await;
    page.press("dialog-confirm").await;
    page.until_text("dialog-error", "The token is wrong.").await;
    assert!(page.is_shown("dialog").await, "what was typed is not lost");
    assert_eq!(
        site.get("/circuits/payments").await.good()["circuit"]["state"],
        "closed"
    );
    let kept = page
        .run("return Object.values(sessionStorage).join()")
        .await;
    assert_eq!(kept, "", "a token that was refused is forgotten");
    page.fill("dialog-token", TOKEN).await;
    page.press("dialog-confirm").await;
    page.until_state("payments", "disabled").await;
    let complaints = page.complaints().await;
    assert!(
        complaints.iter().all(|said| said.contains("401")),
        "{complaints:?}"
    );
    page.end().await;
}

#[tokio::test]
async fn a_server_without_a_token_lets_nobody_press() {
    let site = Site::on(
        redis(support::redis_url()),
        commontrip::admin::Options::new(),
    )
    .await;
    site.circuit("payments", Policy::default()).await;
    let page = Browser::open(&site.base).await;
    page.until_state("payments", "closed").await;
    until("it says why", async || {
        page.is_shown("banner-read-only").await
    })
    .await;
    let act = page
        .find("[data-testid=\"circuit-row\"] [data-testid=\"open-dialog\"]")
        .await;
    until("it cannot be pressed", async || {
        !act.is_enabled().await.unwrap()
    })
    .await;
    page.end().await;
}

#[tokio::test]
async fn hostile_names_are_shown_and_not_run() {
    const HOSTILE: [&str; 3] = [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(2)>\"'&amp;",
        "\u{202e}stnemyap %2F..",
    ];
    let site = Site::start().await;
    for name in HOSTILE {
        site.tripped(name).await;
    }
    let page = Browser::open(&site.base).await;
    for name in HOSTILE {
        page.until_state(name, "open").await;
    }
    let links = page.run("return [...document.querySelectorAll('[data-testid=\"circuit-link\"]')].map((a) => a.textContent)").await;
    let links = links.as_array().unwrap();
    for name in &HOSTILE[..2] {
        assert!(
            links.iter().any(|shown| shown == name),
            "{name} in {links:?}"
        );
    }
    // The circuit's own page, which the name links to.
    for name in HOSTILE {
        let go = "location.hash = '#/c/' + encodeURIComponent(arguments[0])";
        page.client.execute(go, vec![json!(name)]).await.unwrap();
        until("its page has everything", async || {
            let text = page
                .run("return document.querySelector('#circuit').textContent")
                .await;
            text.as_str().unwrap().contains("minimum_number_of_calls")
        })
        .await;
    }
    assert!(
        page.client.get_alert_text().await.is_err(),
        "nothing asked anything"
    );
    assert_eq!(
        page.run("return document.querySelectorAll('script, img, iframe').length")
            .await,
        1
    );
    page.end().await;
}

#[tokio::test]
async fn a_page_whose_server_is_gone_says_so_and_finds_it_again() {
    let circuits = commontrip::Commontrip::builder();
    let circuits = circuits.store(redis(support::redis_url())).build().unwrap();
    let router = || {
        let operator = commontrip::operator::Operator::of(&circuits);
        commontrip::admin::router(operator, with_token())
    };
    let site = Site::serving(circuits.clone(), router()).await;
    let payments = site.circuit("payments", tripping()).await;
    let at = site.base.strip_prefix("http://").unwrap().to_owned();
    let page = Browser::open(&site.base).await;
    page.until_state("payments", "closed").await;
    until("it is fresh", async || !page.is_shown("banner-stale").await).await;
    site.end().await;
    until("it says that it is old", async || {
        page.is_shown("banner-stale").await
    })
    .await;
    until("so does the title", async || {
        page.client.title().await.unwrap().contains("(old)")
    })
    .await;
    assert_eq!(
        page.state("payments").await.as_deref(),
        Some("closed"),
        "what was last known stays"
    );
    // Nothing that happens meanwhile is missed.
    let _ = payments.call(|| async { Err::<(), _>("down") }).await;
    until("it opens", async || {
        let _ = payments.call(|| async { Err::<(), _>("down") }).await;
        circuits.flush().await;
        payments.state() == State::Open
    })
    .await;
    let listener = tokio::net::TcpListener::bind(&at).await.unwrap();
    let served = tokio::spawn(commontrip::admin::serve(
        listener,
        router(),
        std::future::pending(),
    ));
    page.press("retry-now").await;
    page.until_state("payments", "open").await;
    until("it is fresh again", async || {
        !page.is_shown("banner-stale").await
    })
    .await;
    let complaints = page.complaints().await;
    assert!(
        complaints.iter().all(|said| said.contains("ERR_")),
        "{complaints:?}"
    );
    page.end().await;
    served.abort();
}

#[tokio::test]
async fn a_page_below_a_path_finds_its_server() {
    let circuits = commontrip::Commontrip::embedded().unwrap();
    let operator = commontrip::operator::Operator::of(&circuits);
    let app = axum::Router::new().nest_service(
        "/ops/breakers",
        commontrip::admin::router(operator, with_token()),
    );
    let site = Site::serving(circuits, app).await;
    site.circuit("payments", Policy::default()).await;
    let page = Browser::open(&format!("{}/ops/breakers", site.base)).await;
    page.until_state("payments", "closed").await;
    page.client
        .goto(&format!("{}/ops/breakers/", site.base))
        .await
        .unwrap();
    page.until_state("payments", "closed").await;
    tokio::time::timeout(Duration::from_secs(30), page.end())
        .await
        .unwrap();
}
