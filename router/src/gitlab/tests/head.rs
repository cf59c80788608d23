//! Lines and headers, both ways.

use super::support::{GitLab, ask, send, status, values, world};

#[tokio::test]
async fn the_target_goes_on_byte_for_byte() {
    let gitlab = GitLab::ok().await;
    let world = gitlab.world().await;
    for target in [
        "/api/v4/version",
        "/api/v4/projects/group%2Fproject/jobs/7?a=b&a=%2f%2F+%20&&=;?/../x",
        "/api/v4/projects/1/repository/files/caf%e9%C3%A9%25.md/raw?",
        "/api/v4/projects/1/{\"odd\"}|~'!$&()*,=:@[]^_",
        "//api/v4//projects/1/",
        "/api/v4/jobs/7/trace?debug_trace=false",
        "/API/v4/x.json",
    ] {
        assert_eq!(status(&ask(&world, "GET", target, "").await), 200, "{target}");
        let seen = gitlab.seen().pop().unwrap();
        assert_eq!(seen.lines().next().unwrap(), format!("GET {target} HTTP/1.1"));
        assert_eq!(values(&seen, "host"), [gitlab.address.to_string()]);
    }
    // Absolute, and a fragment, which is not for servers.
    ask(&world, "GET", "http://elsewhere.example/api/v4/x?q#f", "").await;
    let seen = gitlab.seen().pop().unwrap();
    assert_eq!(seen.lines().next().unwrap(), "GET /api/v4/x?q HTTP/1.1");
    assert_eq!(values(&seen, "host"), [gitlab.address.to_string()]);
}

#[tokio::test]
async fn our_prefix_is_cut_off_and_gitlabs_put_before() {
    let gitlab = GitLab::ok().await;
    let world = world(&format!("http://{}/sub/gitlab", gitlab.address)).await;
    for target in ["/gate/api/v4/x%2Fy?q=%2F", "/api/v4/x%2Fy?q=%2F"] {
        ask(&world, "GET", target, "").await;
        let seen = gitlab.seen().pop().unwrap();
        assert_eq!(seen.lines().next().unwrap(), "GET /sub/gitlab/api/v4/x%2Fy?q=%2F HTTP/1.1");
    }
    for target in ["/gate/v1/jobs", "/gates/api/v4/x", "/sub/gitlab/api/v4/x", "/other"] {
        let answer = ask(&world, "GET", target, "").await;
        assert!([401, 404].contains(&status(&answer)), "{answer}");
    }
    assert_eq!(gitlab.seen().len(), 2);
}

#[tokio::test]
async fn what_is_for_one_connection_or_for_proxies_to_say_does_not_reach_gitlab() {
    let gitlab = GitLab::ok().await;
    let world = gitlab.world().await;
    let dropped = [
        "Connection: keep-alive, X-Named, close",
        "Connection: X-Named-Too",
        "X-Named: 1",
        "X-Named-Too: 1",
        "Keep-Alive: timeout=5",
        "Proxy-Authorization: Basic abc",
        "Proxy-Connection: close",
        "TE: trailers",
        "Trailer: x",
        "Upgrade: websocket",
        "HTTP2-Settings: AAMAAABk",
        "X-Forwarded-For: 6.6.6.6",
        "X-Forwarded-For: 7.7.7.7",
        "X_Forwarded_For: 8.8.8.8",
        "X-Forwarded-Host: evil.example",
        "X-Forwarded-Proto: https",
        "Forwarded: for=6.6.6.6",
        "X-Real-IP: 6.6.6.6",
        "Client-IP: 6.6.6.6",
        "Gitlab-Workhorse: 1",
        "Gitlab-Kas-Api-Request: ey",
        "Gitlab_Shell_Api_Request: ey",
        "X-GitLab-RateLimit-Bypass: 1",
        "X-HTTP-Method-Override: POST",
        "X-Original-URL: /api/v4/jobs/request",
        "X-Rewrite-URL: /api/v4/jobs/request",
        "X-Sendfile-Type: X-Accel-Redirect",
        "X-Accel-Mapping: /=/",
        "Content_Length: 7",
    ];
    let headers = format!("{}\r\nJob-Token: t\r\nX-GitLab-Last-Update: u\r\nAccept: a\r\n", dropped.join("\r\n"));
    ask(&world, "GET", "/api/v4/x", &headers).await;
    let seen = gitlab.one();
    let mut names: Vec<_> = seen.lines().skip(1).filter_map(|line| Some(line.split_once(": ")?.0)).collect();
    names.sort_unstable();
    assert_eq!(names, ["accept", "host", "job-token", "x-forwarded-for", "x-gitlab-last-update"], "{seen}");
    assert_eq!(values(&seen, "x-forwarded-for"), ["127.0.0.1"]);
}

#[tokio::test]
async fn repeated_headers_stay_repeated_and_in_order_both_ways() {
    let gitlab = GitLab::answering(
        "HTTP/1.1 200 OK\r\nset-cookie: b=1\r\njob-status: canceling\r\nset-cookie: a=2\r\nx-odd: é\r\n\
         x-gitlab-trace-update-interval: 3\r\nset-cookie: b=3\r\nconnection: x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=9\r\n\
         proxy-authenticate: Basic\r\ntrailer: x\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    let world = gitlab.world().await;
    let headers = "X-Many: 2\r\nJob-Status: ours\r\nX-Many: 1\r\nX-Many: 3\r\n";
    let answer = ask(&world, "GET", "/api/v4/x", headers).await;
    let seen = gitlab.one();
    assert_eq!(values(&seen, "x-many"), ["2", "1", "3"]);
    assert_eq!(values(&seen, "job-status"), ["ours"]);
    assert_eq!(values(&answer, "set-cookie"), ["b=1", "a=2", "b=3"]);
    assert_eq!(values(&answer, "job-status"), ["canceling"]);
    assert_eq!(values(&answer, "x-gitlab-trace-update-interval"), ["3"]);
    for gone in ["x-hop", "keep-alive", "proxy-authenticate", "trailer"] {
        assert!(values(&answer, gone).is_empty(), "{gone}: {answer}");
    }
    assert_eq!(values(&answer, "connection"), ["close"], "ours, as the client asked");
}

#[tokio::test]
async fn redirects_are_relayed_and_not_followed() {
    let other = GitLab::ok().await;
    for code in [301, 302, 303, 307, 308] {
        let location = format!("http://{}/api/v4/elsewhere?signature=x", other.address);
        let head = format!("HTTP/1.1 {code} Moved\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
        let world = GitLab::answering(head).await.world().await;
        let answer = ask(&world, "GET", "/api/v4/jobs/7/artifacts?direct_download=true", "").await;
        assert_eq!((status(&answer), values(&answer, "location")), (code, vec![&*location]));
    }
    assert!(other.seen().is_empty());
}

#[tokio::test]
async fn answers_without_a_body_keep_what_their_head_says() {
    for (method, head, length) in [
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 12345\r\n\r\n", vec!["12345"]),
        ("HEAD", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", vec![]),
        ("GET", "HTTP/1.1 304 Not Modified\r\netag: x\r\n\r\n", vec![]),
        ("GET", "HTTP/1.1 304 Not Modified\r\ncontent-length: 77\r\n\r\n", vec![]),
        ("DELETE", "HTTP/1.1 204 No Content\r\n\r\n", vec![]),
        ("GET", "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", vec!["0"]),
    ] {
        let world = GitLab::answering(head).await.world().await;
        let answer = ask(&world, method, "/api/v4/x", "").await;
        assert_eq!(answer.lines().next(), head.lines().next(), "{answer}");
        assert_eq!(values(&answer, "content-length"), length, "{head}");
        assert!(answer.ends_with("\r\n\r\n") && values(&answer, "transfer-encoding").is_empty(), "{answer}");
    }
}

#[tokio::test]
async fn nothing_becomes_another_protocol() {
    let gitlab =
        GitLab::answering("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nraw").await;
    let world = gitlab.world().await;
    let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
    let answer = send(&world, format!("GET /api/v4/x HTTP/1.1\r\nhost: a\r\n{upgrade}\r\nGET")).await;
    assert_eq!(status(&answer), 503, "{answer}");
    assert!(values(&gitlab.one(), "upgrade").is_empty() && values(&gitlab.one(), "connection").is_empty());
}

#[tokio::test]
async fn every_method_but_those_for_proxies_goes_on() {
    let gitlab = GitLab::ok().await;
    let world = gitlab.world().await;
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE"] {
        assert_eq!(status(&ask(&world, method, "/api/v4/x", "").await), 200, "{method}");
        assert!(gitlab.seen().pop().unwrap().starts_with(method));
    }
    let before = gitlab.seen().len();
    assert_eq!(status(&ask(&world, "TRACE", "/api/v4/x", "").await), 405);
    assert_eq!(status(&ask(&world, "CONNECT", "/api/v4/x", "").await), 405);
    assert!(status(&ask(&world, "CONNECT", "gitlab:443", "").await) >= 400);
    assert_eq!(gitlab.seen().len(), before);
}
