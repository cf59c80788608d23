//! Ways around the job request: none of them reaches GitLab's.

use std::sync::Arc;

use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{
    models::{is_internal, is_job_request, readings},
    support::{GitLab, ask, exchange, send, setup, status, values, world},
};
use crate::faces::tests::support::Setup;

/// A segment as it may be written.
const JOBS: [&str; 5] = ["jobs", "JOBS", "%6aobs", "%256aobs", "jobs;x"];
const REQUEST: [&str; 8] =
    ["request", "request.json", "Request", "reques%74", "request%20", "%72equest;x", "request/", "request/."];
const BETWEEN: [&str; 12] =
    ["/", "//", "/./", "/x/../", "/%2e/", "%2f", "%252f", "\\", "%5C", "/;/", "/x;/../", "//../jobs/"];
const API: [&str; 9] = [
    "/api/v4/",
    "//api//v4/",
    "/gate/api/v4/",
    "/%67ate/api/v4/",
    "/API/V4/",
    "/api/v4/projects/a%2Fb/../../",
    "/api/v4/internal/../",
    "/api/v4/x%2f..%2f",
    "/v1/../api/v4/",
];

#[tokio::test]
async fn no_spelling_of_a_job_request_is_passed_on() {
    let gitlab = GitLab::ok().await;
    let world = gitlab.world().await;
    let mut pipelined = String::new();
    for api in API {
        for jobs in JOBS {
            for between in BETWEEN {
                for request in REQUEST {
                    let target = format!("{api}{jobs}{between}{request}");
                    pipelined.push_str(&format!("POST {target} HTTP/1.1\r\nhost: a\r\n\r\n"));
                }
            }
        }
    }
    let count = API.len() * JOBS.len() * BETWEEN.len() * REQUEST.len();
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let end = "GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let sending = async { writer.write_all(format!("{pipelined}{end}").as_bytes()).await.unwrap() };
    let reading = async {
        let mut all = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut all).await.unwrap();
        String::from_utf8(all).unwrap()
    };
    let ((), answers) = tokio::join!(sending, reading);
    let refused = answers.matches("HTTP/1.1 503 ").count() + answers.matches("HTTP/1.1 400 ").count();
    assert_eq!(refused, count);
    assert_eq!(gitlab.seen(), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_passed_on_is_no_job_request_to_any_server() {
    let gitlab = GitLab::ok().await;
    let world = gitlab.world().await;
    for target in [
        "/api/v4/jobs/request/x",
        "/api/v4/jobs/requests",
        "/api/v4/jobs/%c0%afrequest",
        "/api/v4/jobs/request%c2%a0",
        "/api/v4/jobs/%ef%bd%92equest",
        "/api/v4/jobs/7?/../request",
        "/api/v4/x?path=/api/v4/jobs/request",
        "/api/v4/jobs?request",
        "/api/v4/projects/1/jobs/request",
        "/api/v4/jobs%2520/request2",
        "/api/v4/jobs/reques\u{0167}",
    ] {
        ask(&world, "POST", target, "").await;
    }
    for target in ["/api/v4/internal/x", "//api/v4/%69nternal%2Fx", "/api/v4/INTERNAL", "/api/v4/y/../internal/ci/x"] {
        assert_eq!(status(&ask(&world, "POST", target, "gitlab-kas-api-request: x\r\n").await), 404, "{target}");
    }
    let seen = gitlab.seen();
    assert!(seen.len() > 8, "{seen:?}");
    for request in seen {
        let target = request.split(' ').nth(1).unwrap();
        for reading in readings(target.split('?').next().unwrap()) {
            assert!(!is_job_request(&reading) && !is_internal(&reading), "{target}");
        }
    }
}

#[tokio::test]
async fn no_method_no_header_and_no_form_of_the_target_gets_around() {
    let gitlab = GitLab::ok().await;
    let world = gitlab.world().await;
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "post", "LINK"] {
        for target in [
            "/api/v4/jobs/request",
            "/api/v4/jobs/request?x=%2f..",
            "/api/v4/jobs/request#x",
            "http://gitlab/api/v4/jobs/request",
            "HTTPS://u:p@gitlab:1//api/v4/jobs/request/",
            "http://gitlab/gate/api/v4/jobs/request",
        ] {
            let code = status(&ask(&world, method, target, "").await);
            assert!([503, 400, 405].contains(&code), "{method} {target}: {code}");
        }
    }
    assert!(gitlab.seen().is_empty());
    for header in [
        "x-http-method-override: POST",
        "x-original-url: /api/v4/jobs/request",
        "x-rewrite-url: /api/v4/jobs/request",
        "x-forwarded-prefix: /api/v4/jobs",
        "x-original_url: /api/v4/jobs/request",
        "connection: x-forwarded-for, host",
    ] {
        ask(&world, "GET", "/api/v4/version", &format!("{header}\r\n")).await;
        let seen = gitlab.seen().pop().unwrap();
        assert!(seen.starts_with("GET /api/v4/version HTTP/1.1\r\n") && !seen.contains("jobs"), "{seen}");
        assert_eq!(values(&seen, "x-forwarded-for"), ["127.0.0.1"]);
    }
}

/// Two servers that disagree about the end of a request take the rest of it for another.
#[tokio::test]
async fn no_request_hides_in_another_ones_body() {
    let gitlab = GitLab::ok().await;
    let world = gitlab.world().await;
    let hidden = "POST /api/v4/jobs/request HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n";
    let length = hidden.len();
    for (head, body) in [
        (format!("content-length: {length}\r\ntransfer-encoding: chunked\r\n"), format!("0\r\n\r\n{hidden}")),
        (format!("transfer-encoding: chunked\r\ncontent-length: {length}\r\n"), format!("0\r\n\r\n{hidden}")),
        ("transfer-encoding: gzip, chunked\r\n".to_owned(), format!("{length:x}\r\n{hidden}\r\n0\r\n\r\n")),
        ("transfer-encoding: chunked, identity\r\n".to_owned(), format!("0\r\n\r\n{hidden}")),
        ("transfer_encoding: chunked\r\n".to_owned(), hidden.to_owned()),
        ("transfer-encoding:\tchunked\r\n".to_owned(), format!("{length:x}\r\n{hidden}\r\n0\r\n\r\n")),
        (format!("content-length: {length}\r\nconnection: content-length\r\n"), hidden.to_owned()),
        (format!("content-length: 0\r\ncontent-length: {length}\r\n"), hidden.to_owned()),
        (format!("content-length: +{length}\r\n"), hidden.to_owned()),
        (format!("content-length: {length}\r\nexpect: 100-continue\r\n"), hidden.to_owned()),
    ] {
        for method in ["GET", "POST", "DELETE"] {
            let first = format!("{method} /api/v4/version HTTP/1.1\r\nhost: a\r\n{head}\r\n{body}");
            let last = "GET /api/v4/last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
            send(&world, format!("{first}{last}")).await;
        }
    }
    for request in gitlab.seen() {
        assert!(!request.starts_with("POST /api/v4/jobs/request"), "{request}");
    }
}

#[tokio::test]
async fn discovery_tells_where_we_are() {
    for (url, told) in [
        ("https://ci.example.com:8443/gate", "grpcs://ci.example.com:8443"),
        ("http://127.0.0.1:7400", "grpc://127.0.0.1:7400"),
        ("https://ci.example.com", "grpcs://ci.example.com"),
    ] {
        let gitlab = GitLab::ok().await;
        let mut setup = setup(&format!("http://{}", gitlab.address));
        setup.config.external_url = Some(url.to_owned());
        let world = setup.start().await;
        let answer = ask(&world, "GET", "/api/v4/runners/router/discovery", "runner-token: t\r\n").await;
        assert_eq!((status(&answer), values(&answer, "content-type")), (200, vec!["application/json"]));
        assert!(answer.ends_with(&format!("\r\n\r\n{{\"server_url\":\"{told}\"}}")), "{answer}");
        assert_eq!(status(&ask(&world, "HEAD", "/api/v4/runners/router/discovery/", "").await), 200);
        assert_eq!(status(&ask(&world, "POST", "/api/v4/runners/router/discovery", "").await), 405);
        assert!(gitlab.seen().is_empty());
    }
}

#[tokio::test]
async fn gitlabs_paths_need_no_token_of_ours_and_ours_still_do() {
    let gitlab = GitLab::ok().await;
    let world = gitlab.world().await;
    for target in ["/api/v4/x", "//api/v4/x", "/gate/api/v4/x"] {
        assert_eq!(status(&ask(&world, "GET", target, "").await), 200, "{target}");
    }
    for target in ["/v1/jobs", "//v1/jobs", "/v1/decisions?/api/v4/x", "/v1/jobs/api/v4/x", "/gate/v1/jobs"] {
        assert_eq!(status(&ask(&world, "GET", target, "").await), 401, "{target}");
    }
    for target in ["/api/v4/../../v1/jobs", "/v1/jobs/../../api/v4/x", "/v1/jobs/%zz"] {
        assert_eq!(status(&ask(&world, "GET", target, "").await), 400, "{target}");
    }
    assert_eq!(gitlab.seen().len(), 3);
}

#[tokio::test]
async fn trial_mode_still_refuses_pages_and_foreign_hosts() {
    let gitlab = GitLab::ok().await;
    let mut setup = Setup::trial();
    setup.config.gitlab = Some(Arc::new(super::support::gitlab(&format!("http://{}", gitlab.address))));
    let world = setup.start().await;
    let own = format!("host: {}\r\nconnection: close\r\n", world.address);
    for target in ["/api/v4/x", "//api/v4/x", "/api/v4/runners/router/discovery", "/api/v4/jobs/request"] {
        let foreign = send(&world, format!("GET {target} HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n"));
        // Not 403: that would put a runner out whose proxy writes another host.
        assert_eq!(status(&foreign.await), 503, "{target}");
        let page = send(&world, format!("GET {target} HTTP/1.1\r\n{own}origin: http://evil.example\r\n\r\n"));
        assert_eq!(status(&page.await), 503, "{target}");
    }
    assert!(gitlab.seen().is_empty());
    assert_eq!(status(&send(&world, format!("GET //api/v4/x HTTP/1.1\r\n{own}\r\n")).await), 200);
}

#[tokio::test]
async fn without_a_gitlab_its_paths_are_not_served() {
    let world = Setup::guarded().start().await;
    assert_eq!(status(&ask(&world, "POST", "/api/v4/jobs/request", "").await), 501);
    assert_eq!(status(&ask(&world, "GET", "/api/v4/runners/router/discovery", "").await), 501);
    assert_eq!(status(&ask(&world, "GET", "//api/v4/x", "").await), 401);
}

#[tokio::test]
async fn a_connection_goes_on_after_what_was_refused() {
    let gitlab = GitLab::ok().await;
    let world = world(&format!("http://{}", gitlab.address)).await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let requests = "GET /api/v4/%zz HTTP/1.1\r\nhost: a\r\n\r\nGET /api/v4/a HTTP/1.1\r\nhost: a\r\n\r\n\
                    GET /api/v4/internal/x HTTP/1.1\r\nhost: a\r\n\r\nGET /api/v4/b HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let answers = exchange(&mut stream, requests).await;
    let codes: Vec<_> = answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(codes, ["400", "200", "404", "200"], "{answers}");
    assert!(answers.contains("{\"message\":\"the path of this request cannot be read in one way"), "{answers}");
}
