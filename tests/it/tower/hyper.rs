//! A hyper client with a circuit for each host.

use std::borrow::Cow;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use commontrip::http::host;
use commontrip::keyed::KeyedCircuits;
use commontrip::tower::{CircuitBreakerLayer, CircuitBreakerService, Errors, Http, PerKey};
use commontrip::{CallError, Commontrip};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::TokioExecutor;
use tower::{Layer, ServiceExt};

use crate::support::{free_port, unique_prefix};
use crate::upstream::{Upstream, after, open, replica};

type Key = fn(&Request<Body>) -> Cow<'_, str>;
type Guarded = CircuitBreakerService<Client<HttpConnector, Body>, PerKey<Key>, Http, Errors>;

fn client(circuits: &Commontrip) -> Guarded {
    let hosts = KeyedCircuits::new(circuits, "http:", |_| after(2)).unwrap();
    let client = Client::builder(TokioExecutor::new()).build_http();
    let layer = CircuitBreakerLayer::per_key(hosts, host as Key);
    layer.classifier(Http).layer(client)
}

async fn get(
    client: &Guarded,
    url: impl AsRef<str>,
) -> Result<Response<hyper::body::Incoming>, CallError<Error>> {
    let request = Request::get(url.as_ref()).body(Body::empty()).unwrap();
    client.clone().oneshot(request).await
}

#[tokio::test]
async fn one_host_fails_and_the_fleet_leaves_it_alone_as_long_as_it_asked_and_no_other() {
    let prefix = unique_prefix("hyper");
    let (broken, well) = (Upstream::start().await, Upstream::start().await);
    let fleet = [replica(&prefix), replica(&prefix)];
    let clients = fleet.each_ref().map(client);
    for _ in 0..2 {
        let answer = get(&clients[0], format!("{}/503/7200", broken.url)).await;
        assert_eq!(answer.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    }
    for (circuits, client) in fleet.iter().zip(&clients) {
        let name = format!("http:{}", broken.host());
        let circuit = circuits.circuit(&name, after(2)).unwrap();
        open(&circuit).await;
        let Err(CallError::Rejected(rejection)) = get(client, format!("{}/200", broken.url)).await
        else {
            panic!("the circuit is open");
        };
        // The policy says an hour.
        let wait = rejection.retry_after.unwrap();
        assert!(wait > Duration::from_secs(7000), "{wait:?}");
        let answer = get(client, format!("{}/200", well.url)).await;
        assert_eq!(answer.unwrap().status(), StatusCode::OK);
    }
    assert_eq!((broken.hits(), well.hits()), (2, 2));
}

#[tokio::test]
async fn nobody_there_is_a_failure_of_that_host() {
    let prefix = unique_prefix("hyper");
    let circuits = replica(&prefix);
    let client = client(&circuits);
    let host = format!("127.0.0.1:{}", free_port().unwrap());
    for _ in 0..2 {
        let answer = get(&client, format!("http://{host}/")).await;
        assert!(matches!(answer, Err(CallError::Failed(e)) if e.is_connect()));
    }
    let circuit = circuits.circuit(&format!("http:{host}"), after(2)).unwrap();
    open(&circuit).await;
}
