use std::time::Duration;

use jobgate_proto::job::v1::{SubmitRequest, jobs_client::JobsClient};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::Code;

use super::support::{ALL, Answer, Setup, document, with_token};
use crate::faces::{AuthError, BindError, Metrics, Parts, Readiness, Server};

const SHORT: Duration = Duration::from_millis(50);
/// Nothing of these tests takes so long unless it hangs.
const HANGS: Duration = Duration::from_secs(20);

/// Whether the server ends the connection.
async fn ends(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    // A reset is an end as well.
    tokio::time::timeout(HANGS, stream.read_to_end(&mut rest)).await.is_ok()
}

#[tokio::test]
async fn a_client_that_takes_its_time_with_the_head_is_let_go() {
    let mut setup = Setup::trial();
    setup.limits.header_read = SHORT;
    let world = setup.start().await;
    for beginning in
        ["", "P", "PRI * HTTP/2.0\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/1.1\r\nhost: a", "GET"]
    {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        stream.write_all(beginning.as_bytes()).await.unwrap();
        assert!(ends(&mut stream).await, "{beginning:?}");
    }
    // Between two requests as well.
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let request = format!("GET /healthz HTTP/1.1\r\nhost: {}\r\n\r\n", world.address);
    stream.write_all(request.as_bytes()).await.unwrap();
    assert!(ends(&mut stream).await);
}

#[tokio::test]
async fn a_client_that_takes_its_time_with_the_body_is_let_go() {
    let mut setup = Setup::trial();
    setup.limits.request = SHORT;
    let world = setup.start().await;
    let head = format!("POST /v1/jobs HTTP/1.1\r\nhost: {}\r\ncontent-length: 100\r\n\r\n{{", world.address);
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = tokio::time::timeout(HANGS, Answer::read(&mut stream)).await.unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (408, "timed_out"));
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let mut setup = Setup::trial();
    setup.limits.header_read = SHORT;
    setup.limits.idle = SHORT;
    let world = setup.start().await;
    // HTTP/2, one request, then nothing: the server says goodbye and closes.
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    // GET http :path / :authority a, end of stream, end of headers.
    stream.write_all(b"\0\0\x06\x01\x05\0\0\0\x01\x82\x86\x84\x41\x01a").await.unwrap();
    assert!(ends(&mut stream).await);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let world = Setup::trial().start().await;
    let answer = world.http("GET", "/healthz", "", &format!("x-long: {}\r\n", "x".repeat(64 * 1024)), "").await;
    assert_eq!(answer.status, 431);
    let many = (0..1000).map(|number| format!("x-{number}: y\r\n")).collect::<String>();
    assert_eq!(world.http("GET", "/healthz", "", &many, "").await.status, 431);
}

#[tokio::test]
async fn documents_beyond_the_limit_are_refused_however_they_come() {
    let mut setup = Setup::guarded();
    setup.limits.document_bytes = 1000;
    let world = setup.start().await;
    let head = format!("POST /v1/jobs HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {ALL}\r\n", world.address);
    // Said before it is sent: refused before it is read.
    let said = world.raw(format!("{head}content-length: 99999999999\r\n\r\n").as_bytes()).await;
    assert_eq!((said.status, said.code().as_str()), (413, "too_large"));
    let chunk = "x".repeat(1001);
    let chunked = format!("{head}connection: close\r\ntransfer-encoding: chunked\r\n\r\n3e9\r\n{chunk}\r\n0\r\n\r\n");
    assert_eq!(world.raw(chunked.as_bytes()).await.status, 413);
    let padded = format!("{}{}", document("a/b"), " ".repeat(1000 - document("a/b").len()));
    assert_eq!(world.post("/v1/jobs", ALL, &padded).await.status, 201, "just fits");

    let mut client = JobsClient::new(world.channel().await);
    let mut submit = async |documents: String| {
        let request = SubmitRequest { documents: documents.into(), idempotency_key: String::new() };
        client.submit(with_token(request, ALL)).await.map_or_else(|status| status.code(), |_| Code::Ok)
    };
    assert_eq!(submit(padded.clone()).await, Code::Ok);
    assert_eq!(submit(format!("{padded} ")).await, Code::InvalidArgument);
    assert_eq!(submit(" ".repeat(10_000)).await, Code::OutOfRange);
}

#[tokio::test]
async fn four_mebibytes_of_documents_are_taken() {
    let world = Setup::guarded().start().await;
    let one = document("a/b");
    let body = format!("{one}{}", " ".repeat(4 * 1024 * 1024 - one.len()));
    assert_eq!(world.post("/v1/jobs", ALL, &body).await.status, 201);
    assert_eq!(world.post("/v1/jobs", ALL, &format!("{body} ")).await.status, 413);
}

#[tokio::test]
async fn a_connection_is_told_how_many_streams_it_may_open() {
    let mut setup = Setup::trial();
    setup.limits.streams_per_connection = 7;
    let world = setup.start().await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], 4, "the first frame is SETTINGS");
    let mut settings = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
    stream.read_exact(&mut settings).await.unwrap();
    let of = |id: u8| {
        settings
            .chunks(6)
            .find(|one| one[..2] == [0, id])
            .map(|one| u32::from_be_bytes([one[2], one[3], one[4], one[5]]))
    };
    assert_eq!(of(3), Some(7), "SETTINGS_MAX_CONCURRENT_STREAMS");
    assert_eq!(of(6), Some(32 * 1024), "SETTINGS_MAX_HEADER_LIST_SIZE");
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_one_to_end() {
    let mut setup = Setup::trial();
    setup.limits.connections = 1;
    let world = setup.start().await;
    let request = format!("GET /healthz HTTP/1.1\r\nhost: {}\r\n\r\n", world.address);
    let mut first = TcpStream::connect(world.address).await.unwrap();
    first.write_all(request.as_bytes()).await.unwrap();
    let mut block = [0; 1024];
    assert!(first.read(&mut block).await.unwrap() > 0);
    let mut second = TcpStream::connect(world.address).await.unwrap();
    second.write_all(request.as_bytes()).await.unwrap();
    // The server has been awake since the second one came, and has not answered it.
    first.write_all(request.as_bytes()).await.unwrap();
    assert!(first.read(&mut block).await.unwrap() > 0);
    assert_eq!(second.try_read(&mut block).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    drop(first);
    assert!(second.read(&mut block).await.unwrap() > 0);
}

#[tokio::test]
async fn shutdown_finishes_open_requests_and_takes_no_new_ones() {
    let mut world = Setup::guarded().start().await;
    let body = document("a/b");
    let length = body.len();
    let head = format!(
        "POST /v1/jobs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ALL}\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
    );
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut block = [0; 1024];
    let count = stream.read(&mut block).await.unwrap();
    assert!(block[..count].starts_with(b"HTTP/1.1 100"), "the request is open");
    world.stop();
    // Refused connections say that it has begun to stop.
    while TcpStream::connect(world.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!world.readiness.is_ready());
    stream.write_all(body.as_bytes()).await.unwrap();
    assert_eq!(Answer::read(&mut stream).await.status, 201);
    world.stopped().await;
}

#[tokio::test]
async fn shutdown_does_not_wait_for_ever() {
    let mut setup = Setup::trial();
    setup.limits.drain = SHORT;
    let mut world = setup.start().await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let head = format!(
        "POST /v1/jobs HTTP/1.1\r\nhost: {}\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n",
        world.address
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut block = [0; 64];
    assert!(stream.read(&mut block).await.unwrap() > 0);
    world.stop();
    tokio::time::timeout(HANGS, world.stopped()).await.unwrap();
}

#[tokio::test]
async fn an_address_in_use_or_not_for_trials_is_a_clear_error() {
    let world = Setup::trial().start().await;
    let bind = async |address: &str| {
        let mut config = Setup::trial().config;
        config.listen = address.parse().unwrap();
        let parts = Parts {
            handle: world.handle.clone(),
            controllers: std::sync::Arc::new(Vec::new),
            metrics: Metrics::new(),
            readiness: Readiness::new(),
            services: tonic::service::Routes::default(),
            limits: crate::faces::Limits::default(),
            gitlab: None,
        };
        Server::bind(&config, parts).await.err().unwrap()
    };
    let address = world.address.to_string();
    let error = bind(&address).await;
    assert!(matches!(error, BindError::InUse { .. }));
    assert!(error.to_string().starts_with(&format!("{address} is in use")), "{error}");
    assert!(matches!(bind("0.0.0.0:0").await, BindError::Tokens(AuthError::TrialBeyondLoopback { .. })));
}

#[tokio::test]
async fn submissions_wait_for_their_turn_over_both_faces() {
    let mut setup = Setup::guarded();
    setup.limits.submissions = 1;
    let world = setup.start().await;
    let head = format!(
        "POST /v1/jobs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ALL}\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n"
    );
    let mut first = TcpStream::connect(world.address).await.unwrap();
    first.write_all(head.as_bytes()).await.unwrap();
    let mut block = [0; 64];
    assert!(first.read(&mut block).await.unwrap() > 0, "its body is awaited: it has the turn");
    let mut client = JobsClient::new(world.channel().await);
    let request = SubmitRequest { documents: document("a/b").into(), idempotency_key: String::new() };
    let mut second = std::pin::pin!(client.submit(with_token(request, ALL)));
    // Others are served meanwhile.
    tokio::select! {
        biased;
        _ = second.as_mut() => panic!("not its turn"),
        answer = world.get("/v1/jobs", ALL) => assert_eq!(answer.status, 200),
    }
    drop(first);
    second.await.unwrap();
}

#[tokio::test]
async fn a_peer_that_takes_nothing_is_cut_off() {
    let mut setup = Setup::trial();
    setup.limits.write_stall = SHORT;
    let world = setup.start().await;
    for _ in 0..900 {
        world.handle.submit(vec![crate::testing::new_job(crate::JobId::fresh().as_str(), "a/b")], None).await.unwrap();
    }
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let request = format!("GET /v1/jobs?limit=1000 HTTP/1.1\r\nhost: {}\r\n\r\n", world.address);
    // Asks again and again, and reads nothing, until the server does not take any more of it.
    let cut = async { while stream.write_all(request.as_bytes()).await.is_ok() {} };
    assert!(tokio::time::timeout(HANGS, cut).await.is_ok(), "the server has reset the connection");
}
