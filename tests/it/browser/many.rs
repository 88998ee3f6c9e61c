//! More circuits than fit onto a screen.

use serde_json::json;

use super::driver::Browser;
use crate::{
    admin::{
        many::filled,
        site::{Site, redis, with_token},
    },
    support,
    wait::until,
};

#[tokio::test]
async fn rows_are_made_as_they_are_needed_and_all_can_be_found() {
    const ALL: usize = 250;
    let store = redis(support::redis_url());
    filled(&store, ALL).await;
    let site = Site::on(store, with_token()).await;
    let page = Browser::open(&site.base).await;
    page.until_text("shown", "250 circuits").await;
    let rows = "return document.querySelectorAll('[data-testid=\"circuit-row\"]').length";
    assert_eq!(page.run(rows).await, 100);
    page.until_text("more-line", "100 of 250 shown, worst first.")
        .await;
    // A circuit without a row is found by its name.
    page.fill("filter", "c00249").await;
    page.until_state("c00249", "closed").await;
    page.until_text("shown", "1 of 250 circuits").await;
    page.run("document.getElementById('filter').value = ''; document.getElementById('filter').dispatchEvent(new Event('input'))").await;
    // With the keyboard, the button moves the focus to the first of the new rows.
    page.run("document.querySelector('[data-testid=\"more\"]').click()")
        .await;
    let at = "return document.activeElement.closest('[data-testid=\"circuit-row\"]')?.dataset.name";
    assert_eq!(page.run(at).await, "c00100");
    until("scrolling shows the rest", async || {
        page.run("scrollTo(0, document.body.scrollHeight)").await;
        page.run(rows).await == json!(ALL)
    })
    .await;
    assert!(!page.is_shown("more-line").await);
    page.end().await;
}
