//! Connections, and where things are.

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    gitlab::{Endpoint, JobBuilder, Settings, Status},
    gitlab_runner::{FakeRunner, Way},
    site::{Setup, TOKEN, World, soon},
};

/// A frame of HTTP/2 without a body longer than 255 bytes.
fn frame(kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![0, 0, u8::try_from(body.len()).unwrap(), kind, flags, 0, 0, 0, 0];
    frame.extend_from_slice(body);
    frame
}

#[tokio::test]
async fn row_09_a_client_that_pings_often_and_asks_nothing_stays_connected() {
    const PINGS: u64 = 1000;
    const ACK: u8 = 1;
    const PING: u8 = 6;
    const GO_AWAY: u8 = 7;
    let world = World::new().await;
    let mut stream = TcpStream::connect(world.jobgate.address).await.unwrap();
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    sent.extend(frame(4, 0, &[]));
    stream.write_all(&sent).await.unwrap();
    let (mut reads, mut writes) = stream.split();
    let write = async {
        for ping in 0..PINGS {
            writes.write_all(&frame(PING, 0, &ping.to_be_bytes())).await.unwrap();
        }
    };
    let read = async {
        let mut answered = 0;
        while answered < PINGS {
            let mut head = [0; 9];
            reads.read_exact(&mut head).await.expect("it stays connected");
            let mut body = vec![0; usize::from(head[1]) * 256 + usize::from(head[2])];
            reads.read_exact(&mut body).await.unwrap();
            assert_ne!(head[3], GO_AWAY, "after {answered} pings: {body:?}");
            answered += u64::from(head[3] == PING && head[4] & ACK != 0);
        }
    };
    soon("answers to all pings", async { tokio::join!(write, read) }).await;
    drop(stream);
    world.jobgate.stop().await;
}

#[tokio::test]
async fn row_30_gitlab_may_be_below_a_path_and_so_may_we() {
    let gitlab = Settings { prefix: "/gitlab".to_owned(), ..Settings::default() };
    let world = Setup { gitlab, prefix: "/ci-gate", ..Setup::new() }.start().await;
    world.gitlab.enqueue(JobBuilder::new(17).build());
    world.gitlab.enqueue(JobBuilder::new(18).name("forbidden").build());
    let runner = FakeRunner::new(world.jobgate.url("/ci-gate"), TOKEN);
    let mut job = runner.poll().await.job();
    assert_eq!(runner.whole(&mut job).await, Some(200));
    assert!(runner.poll().await.is_empty());
    assert_eq!(world.gitlab.ended(18).await.status, Status::Failed);
    for call in world.gitlab.all_calls() {
        assert!(call.path_and_query.starts_with("/gitlab/api/v4/"), "{}", call.path_and_query);
    }
    world.jobgate.stop().await;
}

#[tokio::test]
async fn row_30_ids_have_64_bits() {
    const LARGE: u64 = i64::MAX as u64;
    let world = World::new().await;
    world.gitlab.enqueue(JobBuilder::new(LARGE).build());
    world.gitlab.enqueue(JobBuilder::new(LARGE - 1).name("forbidden").build());
    let runner = world.runner();
    let mut job = runner.poll().await.job();
    assert_eq!(job.id, LARGE);
    world.metric_is("handouts{stage=\"delivering\"}", 1).await;
    assert_eq!(runner.whole(&mut job).await, Some(200));
    world.metric_is("handouts{stage=\"delivering\"}", 0).await;
    assert!(runner.poll().await.is_empty());
    assert_eq!(world.gitlab.ended(LARGE - 1).await.status, Status::Failed);
    assert_eq!(world.decisions(LARGE - 1).await.len(), 1);
    world.jobgate.stop().await;
}

#[tokio::test]
async fn row_31_rest_and_the_job_router_are_at_one_address() {
    let world = Setup::over_grpc().await;
    let (rest, router) = (world.runner(), world.runner().way(Way::Router));
    for id in [1, 3] {
        world.gitlab.enqueue(JobBuilder::new(id).build());
        world.gitlab.enqueue(JobBuilder::new(id + 1).build());
        assert_eq!(router.poll().await.job().id, id);
        assert_eq!(rest.poll().await.job().id, id + 1);
    }
    assert_eq!(world.gitlab.count(Endpoint::Discovery), 0);
    world.jobgate.stop().await;
}

#[tokio::test]
async fn row_31_connections_that_end_with_their_call_are_served() {
    let world = World::new().await;
    let body = json!({ "token": TOKEN, "info": {} }).to_string();
    let length = body.len();
    for (close, ends) in [("close", true), ("keep-alive", false)] {
        let mut stream = TcpStream::connect(world.jobgate.address).await.unwrap();
        let head = format!(
            "POST /api/v4/jobs/request HTTP/1.1\r\nHost: jobgate\r\nConnection: {close}\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        for _ in 0..2 {
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            if ends {
                soon("the end of the connection", stream.read_to_end(&mut answer)).await.unwrap();
            } else {
                while !answer.ends_with(b"\r\n\r\n") {
                    soon("an answer", stream.read_buf(&mut answer)).await.unwrap();
                }
            }
            let answer = String::from_utf8_lossy(&answer).to_lowercase();
            assert!(answer.starts_with("http/1.1 204"), "{answer}");
            assert_eq!(answer.contains("connection: close"), ends, "{answer}");
            if ends {
                break;
            }
        }
    }
    // What one hop says of its connection is not said to the next.
    for call in world.gitlab.calls(Endpoint::Request) {
        assert_ne!(call.header("connection"), Some("close"));
        assert_eq!(call.json()["token"], Value::from(TOKEN));
    }
    world.jobgate.stop().await;
}
