//! The router within another app.

use axum::{Router, routing::get};
use commontrip::{Commontrip, Policy, admin, operator::Operator};
use serde_json::json;

use super::site::{Answer, Site, with_token};

async fn mounted() -> Site {
    let circuits = Commontrip::embedded().unwrap();
    let admin = admin::router(Operator::of(&circuits), with_token());
    let app = Router::new()
        .route("/", get(|| async { "the shop" }))
        .nest_service("/ops/breakers", admin)
        .fallback(|| async {
            (
                axum::http::StatusCode::NOT_FOUND,
                "the shop has no such page",
            )
        });
    let site = Site::serving(circuits, app).await;
    site.circuit("payments", Policy::default()).await;
    site
}

#[tokio::test]
async fn the_page_is_at_its_path_with_and_without_a_slash() {
    let site = mounted().await;
    for path in ["/ops/breakers", "/ops/breakers/"] {
        let page = site.get(path).await;
        assert_eq!(page.status.as_u16(), 200, "{path}");
        assert_eq!(page.kind(), "text/html; charset=utf-8");
        assert!(page.header("content-security-policy").contains("nonce-"));
        let head = site.ask(reqwest::Method::HEAD, path).send().await.unwrap();
        assert_eq!(head.status(), 200);
    }
}

#[tokio::test]
async fn it_can_be_nested_and_merged_too() {
    let circuits = || Commontrip::embedded().unwrap();
    let admin = |circuits: &Commontrip| admin::router(Operator::of(circuits), with_token());
    let one = circuits();
    let app = Router::new().nest("/breakers", admin(&one));
    let site = Site::serving(one, app).await;
    assert_eq!(site.get("/breakers").await.status.as_u16(), 200);
    site.get("/breakers/health").await.good();
    site.get("/breakers/nothing").await.problem(404);
    let two = circuits();
    let app = Router::new().route("/shop", get(|| async { "the shop" }));
    let app = app.merge(admin(&two));
    let site = Site::serving(two, app).await;
    assert_eq!(site.get("/").await.status.as_u16(), 200);
    assert_eq!(site.get("/shop").await.text, "the shop");
}

#[tokio::test]
async fn the_routes_are_below_it_and_nowhere_else() {
    let site = mounted().await;
    site.get("/ops/breakers/circuits").await.good();
    site.get("/ops/breakers/circuits/payments").await.good();
    site.get("/ops/breakers/openapi.json").await.good();
    let now = site
        .post("/ops/breakers/circuits/payments/force-open", json!({}))
        .await;
    assert_eq!(now.good()["state"], "forced_open");
    let mut stream = site.stream("/ops/breakers/events").await;
    stream.first("circuits").await;
    site.get("/ops/breakers/nothing").await.problem(404);
    let posted = site
        .command(reqwest::Method::POST, "/ops/breakers/")
        .send()
        .await
        .unwrap();
    assert!(posted.status().is_client_error());
    // The app's own routes do not change.
    let shop = site.get("/").await;
    assert_eq!(
        (shop.text.as_str(), shop.header("cache-control")),
        ("the shop", "")
    );
    let sent = site
        .ask(reqwest::Method::GET, "/")
        .header("host", "shop.example.com");
    assert_eq!(
        Answer::of(sent.send().await.unwrap()).await.text,
        "the shop"
    );
    let missing = site.get("/circuits").await;
    assert_eq!(missing.text, "the shop has no such page");
}

#[tokio::test]
async fn streams_end_with_the_registry_and_a_server_that_waits_for_them_too() {
    let circuits = Commontrip::embedded().unwrap();
    let operator = Operator::of(&circuits).from("the night shift");
    let app = admin::router(operator, with_token());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let served = axum::serve(listener, app).with_graceful_shutdown(async {
        let _ = stopped.await;
    });
    let served = tokio::spawn(async { served.await });
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut news = client.get(format!("{base}/events")).send().await.unwrap();
    assert!(news.chunk().await.unwrap().is_some());
    circuits.shutdown().await;
    drop(stop);
    let ends = async { while news.chunk().await.unwrap().is_some() {} };
    let limit = std::time::Duration::from_secs(20);
    tokio::time::timeout(limit, ends).await.unwrap();
    let served = tokio::time::timeout(limit, served).await.unwrap();
    served.unwrap().unwrap();
}

#[tokio::test]
async fn without_an_address_of_the_peer_the_operator_says_from_where() {
    let circuits = Commontrip::embedded().unwrap();
    let breaker = circuits.circuit("payments", Policy::default()).unwrap();
    breaker.call(|| async { Ok::<_, ()>(()) }).await.unwrap();
    circuits.flush().await;
    let operator = Operator::of(&circuits).from("the night shift");
    let router = admin::router(operator.clone(), with_token());
    let request = axum::http::Request::post("/circuits/payments/reset")
        .header("host", "localhost")
        .header("authorization", format!("Bearer {}", super::site::TOKEN))
        .header("content-type", "application/json")
        .body(axum::body::Body::from("{}"))
        .unwrap();
    let answer = tower::ServiceExt::oneshot(router, request).await.unwrap();
    assert_eq!(answer.status(), 200);
    let events = operator.events("payments").await.unwrap();
    assert_eq!(events.last().unwrap().origin, "the night shift");
}
