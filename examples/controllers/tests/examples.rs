//! The examples do what their first lines say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code, unreachable_pub, missing_docs)]

#[path = "../src/bin/ask_http.rs"]
mod ask_http;
#[path = "../src/bin/image_rules.rs"]
mod image_rules;
#[path = "../src/bin/quota.rs"]
mod quota;

use std::time::Duration;

use jobgate_sdk::{
    Controller, Verdict, serve,
    testing::{self, conformance},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

fn rule(verdict: &Verdict) -> Option<&str> {
    verdict.rejection()?.rule()
}

async fn conforms(controller: impl Controller) {
    let listening = serve(controller).listen("127.0.0.1:0").bind().await.unwrap();
    let target = conformance::Target::new(listening.local_addr().to_string());
    tokio::spawn(listening.into_future());
    let report = conformance::run(target).await;
    assert!(report.conforms(), "{report}");
}

#[tokio::test]
async fn image_rules() {
    let controller = image_rules::ImageRules { registry: "registry.acme.example".into() };
    let ask = async |request: testing::RequestBuilder| testing::ask(&controller, &request.build()).await;
    let job = || testing::request().image("registry.acme.example/build:1");
    assert!(ask(job()).await.is_admitted());
    assert!(ask(testing::request().no_image()).await.is_admitted());
    assert_eq!(rule(&ask(testing::request().image("alpine:3")).await), Some("own-registry"));
    assert_eq!(rule(&ask(job().service("redis")).await), Some("own-registry"));
    assert_eq!(rule(&ask(testing::request().image("registry.acme.example/build")).await), Some("pinned"));
    assert_eq!(rule(&ask(testing::request().image("registry.acme.example/$IMAGE")).await), Some("resolved"));
    conforms(controller).await;
}

#[tokio::test]
async fn quota() {
    let controller = quota::Quota::new(2);
    let ask = async |request: testing::RequestBuilder| testing::ask(&controller, &request.build()).await;
    let first = testing::request();
    assert!(ask(first.clone()).await.is_admitted());
    assert!(ask(testing::request()).await.is_admitted());
    let third = testing::request();
    assert_eq!(rule(&ask(third.clone()).await), Some("quota"));
    assert!(ask(first).await.is_admitted(), "asked again, it gets the same answer");
    assert!(ask(testing::request().project("acme/other")).await.is_admitted());
    let later = third.clone().build().time() + Duration::from_secs(3600);
    assert!(ask(third.at(later)).await.is_admitted());
    conforms(quota::Quota::new(2)).await;
}

#[tokio::test]
async fn ask_http() {
    let base = freezes().await;
    let controller = ask_http::Freezes::new(base.parse().unwrap());
    let ask = async |request: testing::RequestBuilder| testing::ask(&controller, &request.build()).await;
    assert!(ask(testing::request().project("acme/app")).await.is_admitted());
    let frozen = ask(testing::request().project("acme/frozen")).await;
    assert_eq!(frozen.rejection().unwrap().reason().as_str(), "the project is frozen: release");
    let gone = ask(testing::request().project("acme/gone")).await;
    assert!(gone.failure().unwrap().message().contains("404"), "{gone:?}");
    let silent = ask(testing::request().project("acme/silent").time_left(Duration::from_millis(200))).await;
    assert!(silent.failure().unwrap().message().contains("no word about freezes"), "{silent:?}");
    conforms(controller).await;
}

/// A service that knows about freezes: just enough HTTP for one.
async fn freezes() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let read = stream.read(&mut request).await.unwrap();
                let (status, body) = match std::str::from_utf8(&request[..read]).unwrap() {
                    line if line.starts_with("GET /projects/acme%2Ffrozen ") => {
                        ("200 OK", r#"{"frozen": true, "reason": "release"}"#)
                    }
                    line if line.starts_with("GET /projects/acme%2Fapp ") => ("200 OK", r#"{"frozen": false}"#),
                    line if line.starts_with("GET /projects/acme%2Fsilent ") => std::future::pending().await,
                    _ => ("404 Not Found", "{}"),
                };
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                stream.write_all((head + body).as_bytes()).await.unwrap();
            });
        }
    });
    base
}
