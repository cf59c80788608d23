//! Bodies as they are framed, and clients of every kind.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::support::{GitLab, ask, exchange, read_head, send, setup, status, values};

const HEAD: &str = "HTTP/1.1\r\nhost: a\r\nconnection: close\r\n";

#[tokio::test]
async fn a_length_stays_a_length_and_a_stream_a_stream() {
    let gitlab = GitLab::ok().await;
    let world = gitlab.world().await;
    for method in ["POST", "PUT", "PATCH", "DELETE", "GET"] {
        let target = "/api/v4/jobs/7/trace";
        send(&world, format!("{method} {target} {HEAD}content-length: 4\r\ncontent-range: 0-3\r\n\r\nnull")).await;
        let seen = gitlab.seen().pop().unwrap();
        assert_eq!((values(&seen, "content-length"), values(&seen, "content-range")), (vec!["4"], vec!["0-3"]));
        assert!(values(&seen, "transfer-encoding").is_empty() && seen.ends_with("\r\n\r\nnull"), "{seen}");

        send(
            &world,
            format!("{method} {target} {HEAD}transfer-encoding: chunked\r\n\r\n2\r\nnu\r\n2\r\nll\r\n0\r\n\r\n"),
        )
        .await;
        let seen = gitlab.seen().pop().unwrap();
        assert_eq!(values(&seen, "transfer-encoding"), ["chunked"], "{seen}");
        assert!(values(&seen, "content-length").is_empty() && seen.ends_with("\r\n0\r\n\r\n"), "{seen}");

        send(&world, format!("{method} {target} {HEAD}content-length: 0\r\n\r\n")).await;
        let seen = gitlab.seen().pop().unwrap();
        assert_eq!(values(&seen, "content-length"), ["0"], "{seen}");
        ask(&world, method, target, "").await;
        let seen = gitlab.seen().pop().unwrap();
        assert!(values(&seen, "content-length").is_empty() && values(&seen, "transfer-encoding").is_empty(), "{seen}");
    }
}

#[tokio::test]
async fn answers_keep_their_framing() {
    let chunked = GitLab::answering("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n").await;
    let answer = ask(&chunked.world().await, "GET", "/api/v4/x", "").await;
    assert_eq!((values(&answer, "transfer-encoding"), values(&answer, "content-length").len()), (vec!["chunked"], 0));
    assert!(answer.ends_with("\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), "{answer}");
    let sized = GitLab::answering("HTTP/1.1 206 Partial Content\r\ncontent-length: 3\r\n\r\nabc").await;
    let answer = ask(&sized.world().await, "GET", "/api/v4/x", "").await;
    assert_eq!((values(&answer, "content-length"), values(&answer, "transfer-encoding").len()), (vec!["3"], 0));
}

#[tokio::test]
async fn a_client_that_asks_whether_to_go_on_is_told_by_us() {
    let gitlab = GitLab::ok().await;
    let world = gitlab.world().await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let head = format!("POST /api/v4/jobs/7/artifacts {HEAD}expect: 100-continue\r\ncontent-length: 4\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(read_head(&mut stream).await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(status(&exchange(&mut stream, "body").await), 200);
    let seen = gitlab.one();
    assert!(values(&seen, "expect").is_empty() && seen.ends_with("\r\n\r\nbody"), "{seen}");
    // What is refused is not asked for its body.
    let refused = send(&world, head.replace("jobs/7/artifacts", "internal/x")).await;
    assert!(refused.starts_with("HTTP/1.1 404 "), "{refused}");
}

#[tokio::test]
async fn the_limit_on_our_own_requests_is_not_one_on_gitlabs() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut setup = setup(&format!("http://{}", listener.local_addr().unwrap()));
    setup.limits.request = Duration::from_millis(1);
    setup.limits.submissions = 0;
    let world = setup.start().await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let head = format!("POST /api/v4/jobs/7/artifacts {HEAD}content-length: 2\r\n\r\na");
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut gitlab, _) = listener.accept().await.unwrap();
    read_head(&mut gitlab).await.unwrap();
    assert_eq!(gitlab.read_u8().await.unwrap(), b'a');
    // A request of ours runs out of time meanwhile.
    let mut ours = TcpStream::connect(world.address).await.unwrap();
    let hangs = "POST /v1/jobs HTTP/1.1\r\nhost: a\r\nconnection: close\r\nauthorization: Bearer ";
    let token = crate::faces::tests::support::ALL;
    assert_eq!(status(&exchange(&mut ours, format!("{hangs}{token}\r\ncontent-length: 2\r\n\r\n{{")).await), 408);
    stream.write_all(b"b").await.unwrap();
    assert_eq!(gitlab.read_u8().await.unwrap(), b'b');
    gitlab.write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    assert_eq!(status(&exchange(&mut stream, "").await), 201);
}

#[tokio::test]
async fn a_client_that_speaks_http2_is_passed_on_too() {
    let gitlab = GitLab::answering(
        "HTTP/1.1 200 OK\r\nconnection: keep-alive\r\njob-status: running\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    )
    .await;
    let world = gitlab.world().await;
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let uri = |target: &str| format!("http://{}{target}", world.address);
    let request = Request::patch(uri("/gate/api/v4/jobs/7%2e/trace?q=%2F")).header("job-token", "t");
    let response = client.request(request.body("0123".into()).unwrap()).await.unwrap();
    assert_eq!((response.status(), &response.headers()["job-status"]), (StatusCode::OK, &"running".parse().unwrap()));
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "abc");
    let seen = gitlab.one();
    assert_eq!(seen.lines().next().unwrap(), "PATCH /api/v4/jobs/7%2e/trace?q=%2F HTTP/1.1");
    assert_eq!(values(&seen, "host"), [gitlab.address.to_string()]);
    assert_eq!(values(&seen, "content-length"), ["4"]);
    for target in ["/api/v4/jobs/request", "//api/v4/jobs%2Frequest", "/api/v4/jobs/./request?x"] {
        let response = client.request(Request::post(uri(target)).body("{}".into()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{target}: it has no token");
    }
    assert_eq!(gitlab.seen().len(), 1);
}

#[tokio::test]
async fn an_answer_to_head_over_http2_has_no_body() {
    let gitlab = GitLab::ok().await;
    let world = gitlab.world().await;
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    for (target, status) in [
        ("/api/v4/runners/router/discovery", 200),
        ("/api/v4/jobs/request", 405),
        ("/api/v4/internal/x", 404),
        ("/api/v4/%zz", 400),
        ("/v1/jobs", 401),
        ("/healthz", 200),
    ] {
        let request = Request::head(format!("http://{}{target}", world.address)).body(Full::default()).unwrap();
        let response = client.request(request).await.unwrap();
        assert_eq!(response.status(), status, "{target}");
        let body = response.into_body().collect().await.unwrap_or_else(|error| panic!("{target}: {error}"));
        assert_eq!(body.to_bytes(), "", "{target}");
    }
}

#[tokio::test]
async fn an_http2_body_without_a_length_is_chunked_and_a_get_may_have_one() {
    let gitlab = GitLab::ok().await;
    let world = gitlab.world().await;
    let client: Client<_, Body> = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    for method in ["GET", "POST"] {
        let chunks = [Ok::<_, std::io::Error>("ab"), Ok("cd")];
        let body = Body::from_stream(futures_util::stream::iter(chunks));
        let uri = format!("http://{}/api/v4/x", world.address);
        let response = client.request(Request::builder().method(method).uri(uri).body(body).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let seen = gitlab.seen().pop().unwrap();
        assert_eq!(values(&seen, "transfer-encoding"), ["chunked"], "{seen}");
        assert!(seen.contains("ab") && seen.contains("cd") && seen.ends_with("0\r\n\r\n"), "{seen}");
    }
}

#[tokio::test]
async fn an_old_client_is_passed_on_too() {
    let chunked = GitLab::answering("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n").await;
    let world = chunked.world().await;
    let answer = send(&world, "PUT /api/v4/x HTTP/1.0\r\ncontent-length: 2\r\n\r\nhi").await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("\r\n\r\nabc"), "{answer}");
    assert!(chunked.one().starts_with("PUT /api/v4/x HTTP/1.1\r\n") && chunked.one().ends_with("\r\n\r\nhi"));
}

/// Tokens may be long (facts 7.29).
#[tokio::test]
async fn heads_of_30_kilobytes_are_taken_and_of_40_are_not() {
    let gitlab = GitLab::ok().await;
    let world = gitlab.world().await;
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    for (size, code) in [(30_000, 200), (40_000, 431)] {
        let token = "t".repeat(size);
        let answer = ask(&world, "GET", "/api/v4/x", &format!("job-token: {token}\r\n")).await;
        assert_eq!(status(&answer), code, "HTTP/1.1, {size}");
        let request = Request::get(format!("http://{}/api/v4/x", world.address)).header("job-token", &token);
        // A client that was told the limit does not even send it.
        let answer = client.request(request.body(Full::default()).unwrap()).await;
        assert_eq!(answer.map_or(431, |answer| answer.status().as_u16()), code, "HTTP/2, {size}");
    }
    assert_eq!(gitlab.seen().len(), 2);
    assert_eq!(values(&gitlab.seen()[1], "job-token"), ["t".repeat(30_000)]);
}
