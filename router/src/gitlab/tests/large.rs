//! Bodies larger than anybody would want in memory, both ways.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::support::{read_head, world};
use crate::faces::tests::support::World;

const SIZE: usize = 200 << 20;
/// What two hops of sockets hold, and some of ours. The router's own part is well below a mebibyte.
const IN_FLIGHT: usize = 40 << 20;
/// Nobody takes anything: what could be written by then was.
const STUCK: Duration = Duration::from_secs(1);
/// Nothing of these tests takes so long unless it hangs.
const HANGS: Duration = Duration::from_secs(20);

/// Client, GitLab's end, and the router between.
async fn connected(request: &str) -> (TcpStream, TcpStream, World) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = world(&format!("http://{}", listener.local_addr().unwrap())).await;
    let mut client = TcpStream::connect(world.address).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    let accepted = tokio::time::timeout(HANGS, listener.accept()).await;
    let (mut gitlab, _) = accepted.expect("the head goes on before the body is there").unwrap();
    let head = read_head(&mut gitlab).await.unwrap();
    let framing = if request.contains("chunked") { "transfer-encoding: chunked" } else { "content-length: " };
    assert_eq!(head.contains(framing), request.starts_with("POST"), "{head}");
    (client, gitlab, world)
}

/// Writes a unit again and again while the other side reads nothing, until no more is taken; then lets it read.
async fn flows(mut from: impl AsyncWrite + Unpin, mut to: impl AsyncRead + Unpin, unit: &[u8], end: &[u8]) {
    let all = unit.len() * (SIZE >> 20);
    let mut written = 0;
    while let Ok(wrote) = tokio::time::timeout(STUCK, from.write(&unit[written % unit.len()..])).await {
        written += wrote.unwrap();
        assert!(written < IN_FLIGHT, "the router takes what it cannot pass on");
    }
    let writing = async {
        while written < all {
            written += from.write(&unit[written % unit.len()..]).await.unwrap();
        }
        from.write_all(end).await.unwrap();
    };
    let reading = async {
        let mut block = vec![0; 1 << 16];
        let (mut total, mut last) = (0, Vec::new());
        while total < SIZE || !last.ends_with(end) {
            let read = to.read(&mut block).await.unwrap();
            assert!(read > 0, "it ended after {total}");
            total += read;
            last.extend_from_slice(&block[..read]);
            last.drain(..last.len().saturating_sub(8));
        }
        assert_eq!(total == SIZE, end.is_empty(), "the router makes chunks of its own");
    };
    tokio::join!(writing, reading);
}

fn chunk() -> Vec<u8> {
    [b"100000\r\n".as_slice(), &vec![0; 1 << 20], b"\r\n"].concat()
}

#[tokio::test]
async fn an_upload_with_a_length_streams() {
    let head = format!("POST /api/v4/jobs/7/artifacts HTTP/1.1\r\nhost: a\r\ncontent-length: {SIZE}\r\n\r\n");
    let (mut client, mut gitlab, _world) = connected(&head).await;
    flows(&mut client, &mut gitlab, &vec![0; 1 << 20], b"").await;
    gitlab.write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    assert!(read_head(&mut client).await.unwrap().starts_with("HTTP/1.1 201 "));
}

#[tokio::test]
async fn an_upload_without_a_length_streams() {
    let head = "POST /api/v4/jobs/7/artifacts HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let (mut client, mut gitlab, _world) = connected(head).await;
    flows(&mut client, &mut gitlab, &chunk(), b"0\r\n\r\n").await;
    gitlab.write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    assert!(read_head(&mut client).await.unwrap().starts_with("HTTP/1.1 201 "));
}

#[tokio::test]
async fn a_download_streams_with_a_length_and_without() {
    let request = "GET /api/v4/jobs/7/artifacts HTTP/1.1\r\nhost: a\r\n\r\n";
    for (framing, unit, end) in [
        (format!("content-length: {SIZE}"), vec![0; 1 << 20], b"".as_slice()),
        ("transfer-encoding: chunked".to_owned(), chunk(), b"0\r\n\r\n"),
    ] {
        let (mut client, mut gitlab, _world) = connected(request).await;
        gitlab.write_all(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n").as_bytes()).await.unwrap();
        let head = read_head(&mut client).await.unwrap();
        assert!(head.contains(&framing), "{head}");
        flows(&mut gitlab, &mut client, &unit, end).await;
    }
}

#[tokio::test]
async fn an_answer_may_come_before_the_end_of_the_upload() {
    let head = format!("POST /api/v4/jobs/7/artifacts HTTP/1.1\r\nhost: a\r\ncontent-length: {SIZE}\r\n\r\nx");
    let (mut client, mut gitlab, _world) = connected(&head).await;
    gitlab.write_all(b"HTTP/1.1 413 Payload Too Large\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    assert!(read_head(&mut client).await.unwrap().starts_with("HTTP/1.1 413 "));
}

#[tokio::test]
async fn an_end_too_early_is_no_end() {
    // GitLab's, to the client.
    let (mut client, mut gitlab, _world) = connected("GET /api/v4/x HTTP/1.1\r\nhost: a\r\n\r\n").await;
    gitlab.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n").await.unwrap();
    drop(gitlab);
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer).await;
    assert!(!answer.ends_with(b"0\r\n\r\n"), "a part looks like the whole");
    // The client's, to GitLab.
    let head = "POST /api/v4/x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n";
    let (client, mut gitlab, _world) = connected(head).await;
    drop(client);
    let mut body = Vec::new();
    let _ = gitlab.read_to_end(&mut body).await;
    assert!(!body.ends_with(b"0\r\n\r\n"), "a part looks like the whole");
}
