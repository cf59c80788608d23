use jobgate_proto::{
    admission::v1::admission_tunnel_client::AdmissionTunnelClient,
    job::v1::{GetRequest, ListRequest, jobs_client::JobsClient},
    runner::v1::runner_gateway_client::RunnerGatewayClient,
};
use tonic::{Code, transport::Endpoint};

use super::{
    log::Log,
    support::{ACME, ALL, CONTROLLER, READER, RUNNER, Setup, document, token, with_token},
};

const WRONG: &str = "token-that-nobody-has-0123456789";

#[tokio::test]
async fn every_path_but_the_open_ones_needs_a_token_and_a_wrong_one_is_told_nothing() {
    let log = Log::start();
    let world = Setup::guarded().start().await;
    for path in
        ["/v1/jobs", "/v1/jobs/x", "/v1/decisions", "/v1/controllers", "/v1/runners", "/v1/queue", "/v1/nothing", "/"]
    {
        for token in ["", WRONG] {
            let answer = world.get(path, token).await;
            assert_eq!((answer.status, answer.code().as_str()), (401, "unauthenticated"), "{path} {token:?}");
            assert_eq!(answer.headers["www-authenticate"], "Bearer realm=\"jobgate\"");
            assert!(!answer.body.contains("nobody-has"), "{answer:?}");
        }
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(world.get(path, "").await.status, 200, "{path}");
    }
    assert!(
        world.get("/metrics", "").await.body.contains("jobgate_refused_requests_total{reason=\"wrong_token\"} 8\n")
    );
    assert!(log.text().contains("a wrong token was refused"));
    assert!(!log.text().contains("nobody-has"), "{}", log.text());
    assert_eq!(log.text().matches("a wrong token was refused").count(), 1, "the log is not flooded");
}

#[tokio::test]
async fn a_token_is_a_bearer_token_and_one() {
    let world = Setup::guarded().start().await;
    let status = async |headers: String| world.http("GET", "/v1/jobs", "", &headers, "").await.status;
    assert_eq!(status(format!("authorization: bearer {ALL}\r\n")).await, 200);
    assert_eq!(status(format!("authorization: Basic {ALL}\r\n")).await, 401);
    assert_eq!(status(format!("authorization: {ALL}\r\n")).await, 401);
    assert_eq!(status(format!("authorization: Bearer {ALL}\r\nauthorization: Bearer {ALL}\r\n")).await, 401);
    assert_eq!(status(format!("authorization: Bearer {}\r\n", &ALL[..ALL.len() - 1])).await, 401);
    assert_eq!(status("authorization: Bearer \r\n".to_owned()).await, 401);
}

#[tokio::test]
async fn a_token_does_what_it_may_and_no_more() {
    let world = Setup::guarded().start().await;
    let id = world.submit(ALL, "acme/api").await;
    let refused = world.post("/v1/jobs", READER, &document("acme/api")).await;
    assert_eq!((refused.status, refused.code().as_str()), (403, "permission_denied"));
    assert_eq!(world.http("POST", &format!("/v1/jobs/{id}/cancel"), READER, "", "").await.status, 403);
    assert_eq!(world.get(&format!("/v1/jobs/{id}"), READER).await.status, 200);
    assert_eq!(world.get("/v1/queue", READER).await.status, 200);
    for foreign in [RUNNER, CONTROLLER] {
        assert_eq!(world.get("/v1/jobs", foreign).await.status, 403);
    }
}

#[tokio::test]
async fn a_token_of_some_projects_sees_no_others() {
    let world = Setup::guarded().start().await;
    let (own, other) = (world.submit(ACME, "ACME/api").await, world.submit(ALL, "acme-evil/x").await);

    let refused = world.post("/v1/jobs", ACME, &format!("[{},{}]", document("acme/a"), document("acme-evil/x"))).await;
    assert_eq!(refused.status, 403);
    assert_eq!(refused.json()["error"]["faults"][0], "document 2: project `acme-evil/x`");

    let hidden = world.get(&format!("/v1/jobs/{other}"), ACME).await;
    let absent = world.get("/v1/jobs/0123", ACME).await;
    assert_eq!((hidden.status, absent.status), (404, 404));
    assert_eq!(hidden.body.replace(&other, ""), absent.body.replace("0123", ""), "the same words for both");
    assert_eq!(world.http("POST", &format!("/v1/jobs/{other}/cancel"), ACME, "", "").await.status, 404);
    assert_eq!(world.get(&format!("/v1/decisions?job={other}"), ACME).await.status, 404);

    let listed = world.get("/v1/jobs", ACME).await.json();
    assert_eq!(listed["jobs"].as_array().unwrap().len(), 1);
    assert_eq!(listed["jobs"][0]["id"], own.as_str());
    assert_eq!(world.get("/v1/jobs?project=acme-evil/x", ACME).await.json()["jobs"].as_array().unwrap().len(), 0);
    let decisions = world.get("/v1/decisions", ACME).await.json();
    assert!(decisions["decisions"].as_array().unwrap().iter().all(|one| one["project"] == "ACME/api"));
    for path in ["/v1/queue", "/v1/runners", "/v1/controllers"] {
        assert_eq!(world.get(path, ACME).await.status, 403, "{path}");
    }
    let mut client = JobsClient::new(world.channel().await);
    let status = client.get(with_token(GetRequest { id: other }, ACME)).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn pages_of_a_token_of_some_projects_lose_nothing() {
    let world = Setup::guarded().start().await;
    let mut own = Vec::new();
    for number in 0..7 {
        own.push(world.submit(ALL, "acme/api").await);
        if number % 2 == 0 {
            world.submit(ALL, "other/x").await;
        }
    }
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    loop {
        let page = world.get(&format!("/v1/jobs?limit=2&page_token={page_token}"), ACME).await.json();
        seen.extend(page["jobs"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned()));
        page_token = page["next_page_token"].as_str().unwrap().to_owned();
        if page_token.is_empty() {
            break;
        }
    }
    seen.reverse();
    assert_eq!(seen, own);
}

#[tokio::test]
async fn grpc_asks_for_the_same_tokens() {
    let world = Setup::guarded().start().await;
    let channel = world.channel().await;
    let list = async |token: &str| {
        let request = with_token(ListRequest::default(), token);
        JobsClient::new(channel.clone()).list(request).await.map_or_else(|status| status.code(), |_| Code::Ok)
    };
    assert_eq!(list("").await, Code::Unauthenticated);
    assert_eq!(list(WRONG).await, Code::Unauthenticated);
    assert_eq!(list(RUNNER).await, Code::PermissionDenied);
    assert_eq!(list(READER).await, Code::Ok);

    let attach = async |token: &str| {
        let request = with_token(tokio_stream::empty(), token);
        RunnerGatewayClient::new(channel.clone())
            .attach(request)
            .await
            .map_or_else(|status| status.code(), |_| Code::Ok)
    };
    assert_eq!(attach("").await, Code::Unauthenticated);
    assert_eq!(attach(WRONG).await, Code::Unauthenticated);
    assert_eq!(attach(ALL).await, Code::PermissionDenied);
    assert_eq!(attach(RUNNER).await, Code::Ok);

    let tunnel = async |token: &str| {
        let request = with_token(tokio_stream::empty(), token);
        AdmissionTunnelClient::new(channel.clone()).attach(request).await.unwrap_err().code()
    };
    assert_eq!(tunnel("").await, Code::Unauthenticated);
    assert_eq!(tunnel(RUNNER).await, Code::PermissionDenied);
    // Past the door, where these tests have no such service.
    assert_eq!(tunnel(CONTROLLER).await, Code::Unimplemented);
}

#[tokio::test]
async fn replaced_tokens_hold_at_once() {
    let world = Setup::guarded().start().await;
    let mut config = Setup::guarded().config;
    config.tokens = vec![token("new", WRONG, "r", &[])];
    world.auth.replace(&config).unwrap();
    assert_eq!(world.get("/v1/jobs", ALL).await.status, 401);
    assert_eq!(world.get("/v1/jobs", WRONG).await.status, 200);
    config.tokens = vec![token("bad", ALL, "r", &["[acme]"])];
    let error = world.auth.replace(&config).unwrap_err().to_string();
    assert!(error.starts_with("token `bad`: `[acme]`"), "{error}");
    assert_eq!(world.get("/v1/jobs", WRONG).await.status, 200);
}

#[tokio::test]
async fn trial_mode_answers_no_web_page_and_no_foreign_host() {
    let world = Setup::trial().start().await;
    let port = world.address.port();
    for path in ["/v1/jobs", "/healthz", "/metrics", "/grpc.health.v1.Health/Check"] {
        for headers in [
            format!("host: localhost:{port}\r\norigin: http://localhost:{port}\r\n"),
            format!("host: localhost:{port}\r\norigin: null\r\n"),
            format!("host: evil.example:{port}\r\n"),
            "host: evil.example\r\n".to_owned(),
            String::new(),
        ] {
            let request = format!("GET {path} HTTP/1.1\r\nconnection: close\r\n{headers}\r\n");
            let answer = world.raw(request.as_bytes()).await;
            assert_eq!((answer.status, answer.code().as_str()), (403, "permission_denied"), "{path} {headers}");
        }
    }
    assert_eq!(world.get("/v1/jobs", "").await.status, 200);
    // A token that is not needed does no harm.
    assert_eq!(world.get("/v1/jobs", ALL).await.status, 200);
    world.submit("", "any/project").await;
}

#[tokio::test]
async fn trial_mode_looks_at_the_authority_of_grpc_too() {
    let world = Setup::trial().start().await;
    let list = async |authority: &str| {
        let endpoint = Endpoint::from_shared(format!("http://{}", world.address)).unwrap();
        let channel = endpoint.origin(format!("http://{authority}").parse().unwrap()).connect().await.unwrap();
        let list = JobsClient::new(channel).list(ListRequest::default()).await;
        list.map_or_else(|status| status.code(), |_| Code::Ok)
    };
    assert_eq!(list(&format!("localhost:{}", world.address.port())).await, Code::Ok);
    assert_eq!(list(&format!("evil.example:{}", world.address.port())).await, Code::PermissionDenied);
    // A controller needs its token in trial mode as well.
    let mut tunnel = AdmissionTunnelClient::new(world.channel().await);
    assert_eq!(tunnel.attach(tokio_stream::empty()).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn beyond_loopback_the_metrics_need_a_token_and_trial_mode_cannot_be_had() {
    let mut setup = Setup::guarded();
    setup.config.listen = "0.0.0.0:0".parse().unwrap();
    setup.config.insecure = true;
    let mut world = setup.start().await;
    world.address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    assert_eq!(world.get("/metrics", "").await.status, 401);
    assert_eq!(world.get("/metrics", ACME).await.status, 403);
    assert_eq!(world.get("/metrics", READER).await.status, 200);
    assert_eq!(world.get("/readyz", "").await.status, 200);

    // Fine for the address this configuration names, and not for the one the router listens on.
    let trial = Setup::trial().config;
    let error = world.auth.replace(&trial).unwrap_err().to_string();
    assert!(error.contains("loopback only, not on 0.0.0.0:"), "{error}");
    assert_eq!(world.get("/v1/jobs", "").await.status, 401);
}
