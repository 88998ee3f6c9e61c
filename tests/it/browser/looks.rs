//! The look of the dashboard: its content at every width, and its wording.

use commontrip::{LatencyRecording, Policy};
use serde_json::{Value, json};

use super::{choose, driver::Browser};
use crate::{
    admin::site::{Site, redis, with_token},
    support::OwnServer,
    wait::until,
};

/// Changes the answers that the page reads: `change(path, data)`.
fn intercept(change: &str) -> String {
    format!(
        "const asked = window.fetch; window.fetch = async (path, given) => {{ \
           const reply = await asked(path, given); \
           if (!reply.ok || String(path).endsWith('events')) return reply; \
           const data = await reply.json(); \
           ((path, data) => {{ {change} }})(String(path), data); \
           return new Response(JSON.stringify(data), {{ status: reply.status }}); }};"
    )
}

async fn circuit_says(page: &Browser, words: &str) {
    until(&format!("the circuit's page says {words:?}"), async || {
        let text = page
            .run("return document.querySelector('#circuit').innerText")
            .await;
        text.as_str().is_some_and(|text| text.contains(words))
    })
    .await;
}

/// The visible text of a row's cell; empty if it is hidden.
async fn cell(page: &Browser, name: &str, cell: &str) -> String {
    let script = format!(
        "return document.querySelector('[data-name=\"{name}\"] [data-testid=\"{cell}\"]').innerText"
    );
    page.run(&script).await.as_str().unwrap().replace('\n', " ")
}

#[tokio::test]
async fn the_words_of_the_page_are_plain() {
    let site = Site::start().await;
    let page = site.get("/").await.text;
    for words in [
        "The store is unavailable",
        "time in a row`",
        "Calls below which",
        "Each further wait",
        "A decision is good for",
        "until ended",
        "Store other settings",
        "Seen by ",
        "Take it away",
        "goes out",
        "is to be had",
    ] {
        assert!(!page.contains(words), "{words}");
    }
    for words in [
        "Redis is unreachable.",
        "trip since it was last stable",
        "Minimum calls before rates count",
        "Backoff multiplier",
        "Decision cache time",
        "until reset",
        "\"Override settings\"",
        "Triggered by replica ",
    ] {
        assert!(page.contains(words), "{words}");
    }
}

#[tokio::test]
async fn an_event_says_which_replica_caused_it_and_how_long_it_holds() {
    let site = Site::start().await;
    site.tripped("payments").await;
    let page = Browser::open(&format!("{}/#/c/payments", site.base)).await;
    circuit_says(
        &page,
        "50.0% of 2 calls failed. Open for at most 1 min. Triggered by replica",
    )
    .await;
    page.end().await;
}

#[tokio::test]
async fn traffic_and_what_each_number_is_are_shown_at_every_width() {
    let site = Site::start().await;
    let payments = site.tripped("payments").await;
    let measured = Policy::builder().latency_recording(LatencyRecording::EveryCall);
    let calm = site.circuit("calm", measured.build().unwrap()).await;
    let page = Browser::open(&site.base).await;
    page.until_state("payments", "open").await;
    let call = async || {
        calm.call(|| async { Ok::<_, ()>(()) }).await.unwrap();
        for _ in 0..3 {
            assert!(payments.call(|| async { Ok::<_, ()>(()) }).await.is_err());
        }
        site.circuits.flush().await;
    };
    for width in [360, 700, 1000, 1280, 1920] {
        page.resize(width).await;
        until(
            &format!("traffic and its shares at {width} px"),
            async || {
                call().await;
                let traffic = cell(&page, "payments", "row-traffic").await;
                let rejected = cell(&page, "payments", "row-rejected").await;
                let (traffic, rejected) = (traffic.trim(), rejected.trim());
                traffic.contains("/s") && traffic.contains('%') && rejected.contains("100.0%")
            },
        )
        .await;
        let heads = page.run("const head = document.querySelector('.row-head'); return head.offsetHeight > 10 ? head.innerText : ''").await;
        let heads = heads.as_str().unwrap();
        let labelled = [
            ("payments", "row-ends", "Ends in", "ends in 0:"),
            ("payments", "row-failures", "Failure rate", "failed"),
            ("payments", "row-traffic", "Traffic", "traffic"),
            ("payments", "row-rejected", "Rejected", "rejected"),
            ("calm", "row-latency", "p50/p95/p99", "p50/p95/p99"),
        ];
        for (name, part, head, label) in labelled {
            let text = cell(&page, name, part).await;
            assert_eq!(
                heads.contains(head),
                width == 1920,
                "{width} px: {head} in {heads:?}"
            );
            assert_eq!(
                text.contains(label),
                width != 1920,
                "{width} px: {label:?} in {text:?}"
            );
        }
        let wide = page
            .run("return document.documentElement.scrollWidth")
            .await;
        assert!(
            wide.as_u64().unwrap() <= u64::from(width),
            "{width} px: scrolls to {wide}"
        );
    }
    page.end().await;
}

#[tokio::test]
async fn the_graph_begins_where_the_data_begins_and_marks_hide_no_bars() {
    let site = Site::start().await;
    site.tripped("payments").await;
    let page = Browser::open(&format!("{}/#/c/payments", site.base)).await;
    circuit_says(&page, "when the data begins: 2 calls").await;
    for minutes in [5, 15, 60] {
        let choice = format!(".ranges label:has([data-testid=\"range-{minutes}\"])");
        page.click(&choice).await;
        circuit_says(&page, "when the data begins: 2 calls").await;
        let drawn = page
            .run(
                "const svg = document.querySelector('[data-testid=\"large-graph\"]'); \
                 const bands = [...svg.querySelectorAll('.band')]; \
                 const left = Math.min(...bands.map((band) => Number(band.getAttribute('x')))); \
                 const mark = svg.querySelector('.moved'), bar = svg.querySelector('.bar-failed'); \
                 return { part: (svg.clientWidth - left) / svg.clientWidth, states: bands.map((band) => band.dataset.state), \
                          behind: Boolean(mark.compareDocumentPosition(bar) & Node.DOCUMENT_POSITION_FOLLOWING) }",
            )
            .await;
        // The graph shows at least a minute, and the circuit is some seconds old.
        assert!(drawn["part"].as_f64().unwrap() < 0.97, "{drawn}");
        assert!(
            drawn["states"].as_array().unwrap().contains(&json!("open")),
            "{drawn}"
        );
        assert_eq!(drawn["behind"], true, "{drawn}");
    }
    page.end().await;
}

#[tokio::test]
async fn replicas_that_are_gone_are_folded_below_live_ones() {
    let site = Site::start().await;
    let breaker = site.circuit("payments", Policy::default()).await;
    let page = Browser::open(&site.base).await;
    page.until_state("payments", "closed").await;
    page.run(&intercept(
        "if (data.replicas) data.replicas.unshift({ ...data.replicas[0], name: 'a-gone-one', seen_ms: data.now_ms - 60000 });",
    ))
    .await;
    page.run("location.hash = '#/c/payments'").await;
    until("the gone one is folded", async || {
        breaker.call(|| async { Ok::<_, ()>(()) }).await.unwrap();
        site.circuits.flush().await;
        let parts = page
            .run(
                "const box = document.querySelector('[data-testid=\"replicas\"]'); \
                 const gone = box?.querySelector('[data-testid=\"replicas-gone\"]'); \
                 return gone && { first: box.firstElementChild.innerText, open: gone.open, text: gone.textContent }",
            )
            .await;
        let text = |key: &str| parts[key].as_str().unwrap_or_default().to_owned();
        text("first").contains("reported")
            && !text("first").contains("a-gone-one")
            && text("text").contains("1 without a report for 15 s")
            && text("text").contains("a-gone-one")
            && parts["open"] == false
    })
    .await;
    page.end().await;
}

#[tokio::test]
async fn a_slow_redis_is_amber() {
    let site = Site::start().await;
    let page = Browser::open(&site.base).await;
    page.until_text("store", "Redis: answers").await;
    for (us, is, words) in [
        (50_000, "good", "Redis: answers in 50 ms"),
        (50_001, "slow", "Redis: answers in 50 ms (slow)"),
    ] {
        let change = format!("if (data.store) data.store.answered_in_us = {us};");
        page.run(&intercept(&change)).await;
        until(words, async || {
            page.run("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))").await;
            let shown = "const store = document.querySelector('[data-testid=\"store\"]'); return [store.dataset.is, store.textContent]";
            page.run(shown).await == json!([is, words])
        })
        .await;
    }
    page.end().await;
}

#[tokio::test]
async fn one_cause_has_one_banner() {
    let server = OwnServer::start();
    let site = Site::on(redis(&server.url()), with_token()).await;
    site.circuit("payments", Policy::default()).await;
    let page = Browser::open(&site.base).await;
    page.until_state("payments", "closed").await;
    let shown = "return [...document.querySelectorAll('.banner')].filter((banner) => !banner.hidden).map((banner) => banner.id)";
    server.kill();
    until("Redis' banner is shown", async || {
        page.is_shown("banner-store").await
    })
    .await;
    page.until_text("store", "Redis: unreachable").await;
    page.until_text("link", "updates: none").await;
    // By now the stream has been silent for longer than a page waits.
    for _ in 0..20 {
        assert_eq!(page.run(shown).await, json!(["banner-store"]));
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
    // The circuit's own page does not repeat it.
    page.run("location.hash = '#/c/payments'").await;
    circuit_says(&page, "Calls in the window").await;
    for _ in 0..10 {
        assert!(!page.is_shown("circuit-problem").await);
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
    assert!(
        !page.is_shown("events").await,
        "what was never read is not shown as empty"
    );
    site.end().await;
    until("the server's banner is the only one", async || {
        page.run(shown).await == json!(["banner-stale"])
    })
    .await;
    page.until_text("banner-stale", "The server is unreachable.")
        .await;
    page.client.close().await.unwrap();
}

#[tokio::test]
async fn a_command_that_ends_an_override_shows_whose_it_is() {
    let site = Site::start().await;
    site.circuit("payments", Policy::default()).await;
    site.circuit("calm", Policy::default()).await;
    let body = json!({"for_ms": 900_000, "reason": "database upgrade", "author": "ana"});
    site.post("/circuits/payments/force-open", body)
        .await
        .good();
    let page = Browser::open(&site.base).await;
    page.until_state("payments", "forced_open").await;
    for (kind, verb) in [
        ("reset", "Ends this override:"),
        ("disable", "Replaces this override:"),
    ] {
        choose(&page, "payments", kind).await;
        page.until_text("dialog-overrides", verb).await;
        let text = page.text("dialog-overrides").await;
        assert!(
            text.contains("Forced open by ana: database upgrade. It ends in 14:"),
            "{text}"
        );
        page.press("dialog-cancel").await;
    }
    choose(&page, "calm", "reset").await;
    assert!(
        !page.is_shown("dialog-overrides").await,
        "there is nothing to end"
    );
    page.press("dialog-cancel").await;
    page.press("open-reset-all").await;
    page.until_text(
        "dialog-overrides",
        "payments – Forced open by ana: database upgrade.",
    )
    .await;
    page.press("dialog-cancel").await;

    // With the keyboard, from the row to the command; nothing is sent on the way.
    let keys: Value = page
        .run("document.querySelector('[data-name=\"payments\"] [data-testid=\"open-dialog\"]').focus(); return document.activeElement.dataset.testid")
        .await;
    assert_eq!(keys, "open-dialog");
    let at = async || page.client.active_element().await.unwrap();
    at().await.send_keys("\u{e007}").await.unwrap();
    until("the dialog is open", async || page.is_shown("dialog").await).await;
    // The first action has the focus; the arrow key moves through them to the last, `reset`.
    for _ in 0..3 {
        at().await.send_keys("\u{e015}").await.unwrap();
    }
    page.until_text("dialog-overrides", "Ends this override:")
        .await;
    at().await.send_keys("\u{e00c}").await.unwrap();
    until("Escape closes it", async || !page.is_shown("dialog").await).await;
    assert_eq!(
        site.get("/circuits/payments").await.good()["circuit"]["state"],
        "forced_open"
    );
    page.end().await;
}
