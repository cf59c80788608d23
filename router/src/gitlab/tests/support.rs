//! A GitLab that keeps what it was sent, byte for byte, and a router in front of it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    config::GitLabConfig,
    faces::tests::support::{Setup, World},
};

/// Answers every request with the same bytes.
pub(super) struct GitLab {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl GitLab {
    pub(super) async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, seen) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default());
        let (answer, log): (Arc<[u8]>, _) = (answer.into().into(), seen.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (answer, log) = (answer.clone(), log.clone());
                tokio::spawn(async move {
                    while let Some(request) = read_request(&mut stream).await {
                        log.lock().unwrap().push(request);
                        if stream.write_all(&answer).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, seen }
    }

    pub(super) async fn ok() -> Self {
        Self::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await
    }

    pub(super) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// The one request that it has seen.
    pub(super) fn one(&self) -> String {
        let seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen[0].clone()
    }

    /// The router in front of it.
    pub(super) async fn world(&self) -> World {
        world(&format!("http://{}", self.address)).await
    }
}

pub(super) fn setup(url: &str) -> Setup {
    let mut setup = Setup::guarded();
    setup.config.external_url = Some("https://ci.example.com:8443/gate".to_owned());
    setup.config.gitlab = Some(Arc::new(gitlab(url)));
    setup
}

pub(super) async fn world(url: &str) -> World {
    setup(url).start().await
}

/// The configuration of a GitLab.
pub(crate) fn gitlab(url: &str) -> GitLabConfig {
    GitLabConfig {
        url: url.to_owned(),
        ca: None,
        runners: Vec::new(),
        policy_reasons: vec!["script_failure".to_owned()],
        failure_reasons: vec!["runner_system_failure".to_owned()],
        polls_per_token: 10,
    }
}

/// Head and body as they came; `None` at the end of the connection.
pub(super) async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = read_head(stream).await?;
    let head = bytes.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map(|text| text.parse().unwrap());
    if let Some(length) = length {
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.ok()?;
        bytes.push_str(&String::from_utf8_lossy(&body));
    } else if head.contains("transfer-encoding: chunked") {
        while !bytes.ends_with("\r\n0\r\n\r\n") {
            bytes.push(char::from(stream.read_u8().await.ok()?));
        }
    }
    Some(bytes)
}

pub(super) async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// Sends bytes to the router, and reads all of the answer. They end with a request that closes the connection.
pub(super) async fn send(world: &World, bytes: impl AsRef<[u8]>) -> String {
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    exchange(&mut stream, bytes).await
}

pub(super) async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), bytes: impl AsRef<[u8]>) -> String {
    // One that is refused may be answered before it is read.
    let _ = stream.write_all(bytes.as_ref()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// A request without a body.
pub(super) async fn ask(world: &World, method: &str, target: &str, headers: &str) -> String {
    send(world, format!("{method} {target} HTTP/1.1\r\nhost: router\r\nconnection: close\r\n{headers}\r\n")).await
}

pub(super) fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or_default()
}

/// The values of a header, in order.
pub(super) fn values<'a>(message: &'a str, name: &str) -> Vec<&'a str> {
    let head = message.split("\r\n\r\n").next().unwrap_or_default();
    let headers = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    headers.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
}
