//! Authentication of the page: logging in, named tokens, and the page behind a proxy.

use commontrip::{
    Policy,
    admin::{Options, Role},
};
use serde_json::json;

use super::{choose, driver::Browser};
use crate::{
    admin::{
        proxied::{Nginx, STRIPPED, Served, WHOLE},
        site::{Site, TOKEN, redis},
        tokens::{Tokens, token},
    },
    support,
    wait::until,
};

async fn log_in(page: &Browser, token: &str) {
    until("it asks", async || page.is_shown("login-token").await).await;
    page.fill("login-token", token).await;
    page.press("login-confirm").await;
}

/// Closes the browser; fails if it complained of anything except answers without a token.
async fn end(page: Browser) {
    let complaints = page.complaints().await;
    assert!(
        complaints.iter().all(|said| said.contains("401")),
        "{complaints:?}"
    );
    page.client.close().await.unwrap();
}

#[tokio::test]
async fn where_reading_needs_a_token_the_page_asks_for_it() {
    let (ana, eyes) = (token("ana", Role::Command), token("eyes", Role::Read));
    let file = Tokens::of(&[&ana, &eyes]);
    let options = Options::new().tokens_from_file(&file.path).unwrap();
    let site = Site::on(redis(support::redis_url()), options.require_token()).await;
    site.circuit("payments", Policy::default()).await;
    let page = Browser::open(&format!("{}/#/c/payments", site.base)).await;
    until("it asks", async || page.is_shown("login-token").await).await;
    log_in(&page, "a-token-that-is-wrong").await;
    page.until_text("login-error", "token is wrong").await;
    log_in(&page, eyes.secret()).await;
    // It continues where it was, with the role of a reader.
    until("the circuit is shown", async || {
        page.is_shown("circuit-page").await
    })
    .await;
    page.until_text("you", "eyes (read)").await;
    page.until_text("link", "updates: live").await;
    until("it says why it is read-only", async || {
        page.is_shown("banner-read-only").await
    })
    .await;
    page.until_text("banner-read-only", "need a token with the role command")
        .await;
    assert!(!page.part("act-reset").await.is_enabled().await.unwrap());
    let shows_events = async || {
        let events = "document.querySelector('[data-testid=\"events\"]')";
        page.run(&format!("return Boolean({events}?.offsetParent)"))
            .await
            == json!(true)
    };
    until("the events are shown", shows_events).await;
    page.press("log-out").await;
    until("it asks again", async || page.is_shown("login-token").await).await;
    assert!(!page.text("circuits").await.contains("payments") || !page.is_shown("circuits").await);
    assert!(!shows_events().await);
    log_in(&page, ana.secret()).await;
    page.until_text("you", "ana (command)").await;
    // The author is known, so a reason suffices.
    until("it can command", async || {
        let act = page.part("act-force-open").await;
        act.is_displayed().await.unwrap() && act.is_enabled().await.unwrap()
    })
    .await;
    page.press("act-force-open").await;
    assert!(!page.is_shown("dialog-author").await && !page.is_shown("dialog-token").await);
    page.fill("dialog-reason", "upgrade").await;
    page.press("dialog-confirm").await;
    page.until_text("events", "By ana").await;
    // Removing the token ends the view.
    file.write(&[&eyes]);
    until("it asks once more", async || {
        page.is_shown("login-token").await
    })
    .await;
    end(page).await;
}

#[tokio::test]
async fn a_token_of_a_name_needs_no_name_beside_it() {
    let (ana, eyes) = (token("ana", Role::Command), token("eyes", Role::Read));
    let file = Tokens::of(&[&ana, &eyes]);
    let options = Options::new().tokens_from_file(&file.path).unwrap();
    let site = Site::on(redis(support::redis_url()), options.token(TOKEN).unwrap()).await;
    site.circuit("payments", Policy::default()).await;
    let page = Browser::open(&site.base).await;
    page.until_state("payments", "closed").await;
    choose(&page, "payments", "disable").await;
    page.fill("dialog-reason", "noise").await;
    page.fill("dialog-token", eyes.secret()).await;
    page.press("dialog-confirm").await;
    page.until_text("dialog-error", "needs the role command")
        .await;
    page.fill("dialog-token", TOKEN).await;
    page.press("dialog-confirm").await;
    page.until_text("dialog-error", "Give your name").await;
    page.fill("dialog-token", ana.secret()).await;
    page.press("dialog-confirm").await;
    page.until_state("payments", "disabled").await;
    let circuit = site.get("/circuits/payments").await.good()["circuit"].clone();
    assert_eq!(circuit["override_author"], "ana");
    page.end().await;
}

#[tokio::test]
async fn a_late_answer_without_a_token_does_not_forget_one_that_was_given_meanwhile() {
    let site = Site::start().await;
    site.circuit("payments", Policy::default()).await;
    let page = Browser::open(&site.base).await;
    page.until_state("payments", "closed").await;
    // Holds back the answer to a status that was asked without a token.
    page.run(
        "const asked = window.fetch; window.held = []; \
         window.fetch = async (path, given = {}) => { \
           const reply = await asked(path, given); \
           const late = String(path).endsWith('status') && !given.headers?.Authorization; \
           if (late) await new Promise((go) => window.held.push(go)); \
           return reply; }; \
         dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }));",
    )
    .await;
    until("the status is asked", async || {
        page.run("return window.held.length > 0").await == json!(true)
    })
    .await;
    choose(&page, "payments", "disable").await;
    page.fill("dialog-reason", "noise").await;
    page.fill("dialog-author", "ana").await;
    page.fill("dialog-token", TOKEN).await;
    page.press("dialog-confirm").await;
    page.until_state("payments", "disabled").await;
    let stored = "return Object.values(sessionStorage)";
    until("the token is kept", async || {
        page.run(stored).await == json!([TOKEN])
    })
    .await;
    page.run("for (const go of window.held) go();").await;
    // Anything that follows the answer at once has run by then.
    page.run("window.later = false; setTimeout(() => { window.later = true; }, 500);")
        .await;
    until("the page has read it", async || {
        page.run("return window.later").await == json!(true)
    })
    .await;
    assert_eq!(page.run(stored).await, json!([TOKEN]));
    page.end().await;
}

#[tokio::test]
async fn the_page_works_under_a_path_behind_nginx() {
    let trusted = ["--trusted-proxy", "127.0.0.1", "--require-token"];
    let prefixed = [&trusted[..], &["--path-prefix", "/breakers"]].concat();
    for (location, arguments) in [(WHOLE, &prefixed[..]), (STRIPPED, &trusted)] {
        let served = Served::with(arguments).await;
        let nginx = Nginx::before(&served.base, location).await;
        // Every browser resolves this name to the loopback address.
        let page = Browser::open(&format!("http://ops.localhost:{}/breakers/", nginx.port)).await;
        log_in(&page, TOKEN).await;
        page.until_state("payments", "closed").await;
        page.until_text("link", "updates: live").await;
        choose(&page, "payments", "force-open").await;
        page.fill("dialog-reason", "upgrade").await;
        page.fill("dialog-author", "ana").await;
        page.press("dialog-confirm").await;
        page.until_state("payments", "forced_open").await;
        page.press("circuit-link").await;
        page.until_text("events", "http from 127.0.0.1").await;
        let at = page.run("return location.pathname").await;
        assert_eq!(at, json!("/breakers/"));
        end(page).await;
    }
}

#[tokio::test]
async fn a_circuit_is_removed_once_nobody_reports() {
    let site = Site::start().await;
    site.circuit("payments", Policy::default()).await;
    let page = Browser::open(&format!("{}/#/c/payments", site.base)).await;
    until("the circuit is shown", async || {
        page.is_shown("events").await
    })
    .await;
    page.press("act-remove").await;
    page.until_text("remove-about", "1 replica uses this circuit")
        .await;
    page.until_text("remove-about", site.circuits.replica())
        .await;
    assert!(
        !page
            .part("dialog-confirm")
            .await
            .is_enabled()
            .await
            .unwrap()
    );
    page.press("dialog-cancel").await;
    // Simulates an older last report.
    site.circuits.shutdown().await;
    page.run(
        "const asked = window.fetch; window.fetch = async (path, given = {}) => { \
           if (given.method === 'DELETE') return asked(`${path}?force=true`, given); \
           const reply = await asked(path, given); \
           if (!String(path).endsWith('circuits/payments') || !reply.ok) return reply; \
           const data = await reply.json(); \
           for (const replica of data.replicas) replica.seen_ms -= 120000; \
           return new Response(JSON.stringify(data)); };",
    )
    .await;
    page.press("act-remove").await;
    page.until_text("remove-about", "No replica has reported")
        .await;
    page.fill("dialog-token", TOKEN).await;
    page.press("dialog-confirm").await;
    page.until_text("result", "was removed").await;
    until("it is not listed", async || {
        page.state("payments").await.is_none()
    })
    .await;
    site.get("/circuits/payments").await.problem(404);
    page.end().await;
}

#[tokio::test]
async fn an_override_that_somebody_set_meanwhile_is_shown_and_not_replaced() {
    let site = Site::start().await;
    site.circuit("payments", Policy::default()).await;
    let page = Browser::open(&site.base).await;
    page.until_state("payments", "closed").await;
    choose(&page, "payments", "disable").await;
    page.fill("dialog-reason", "noise").await;
    page.fill("dialog-author", "ana").await;
    page.fill("dialog-token", TOKEN).await;
    let theirs = json!({"reason": "upgrade", "author": "bob"});
    site.post("/circuits/payments/force-open", theirs)
        .await
        .good();
    page.press("dialog-confirm").await;
    page.until_text("dialog-error", "forced_open by \"bob\"")
        .await;
    page.until_text("dialog-overrides", "Replaces this override:")
        .await;
    let now = site.get("/circuits/payments").await.good()["circuit"].clone();
    assert_eq!(now["override_author"], "bob");
    // Ana has seen the override and replaces it.
    page.press("dialog-confirm").await;
    page.until_state("payments", "disabled").await;
    let complaints = page.complaints().await;
    assert!(
        complaints.iter().all(|said| said.contains("409")),
        "{complaints:?}"
    );
    page.client.close().await.unwrap();
}
