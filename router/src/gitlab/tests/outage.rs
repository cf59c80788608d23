//! A GitLab that is not there, is not who it should be, or stops in the middle.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use super::support::{ask, exchange, gitlab, read_request, send, setup, status, values, world};
use crate::{
    config::GitLabConfig,
    faces::tests::support::World,
    gitlab::upstream::{Upstream, UpstreamError},
};

const SECRET: &str = "glcbt-secret";

/// Asks with secrets everywhere, and gives back the message of the error.
async fn outage(world: &World) -> String {
    let target = format!("/api/v4/jobs/7/artifacts?token={SECRET}");
    let answer = ask(world, "GET", &target, &format!("job-token: {SECRET}\r\n")).await;
    assert_eq!(status(&answer), 503, "{answer}");
    assert_eq!(values(&answer, "retry-after"), ["5"]);
    assert_eq!(values(&answer, "content-type"), ["application/json"]);
    assert!(!answer.contains(SECRET) && !answer.contains("artifacts"), "{answer}");
    let body: serde_json::Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(body.as_object().unwrap().len(), 1);
    body["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_gitlab_that_is_not_there_is_an_outage() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let message = outage(&world(&format!("http://{address}")).await).await;
    assert!(message.starts_with(&format!("GitLab at {address} cannot be reached: ")), "{message}");
    assert!(message.contains("refused"), "{message}");
    let message = outage(&world("http://gitlab.invalid").await).await;
    assert!(message.starts_with("GitLab at gitlab.invalid cannot be reached: "), "{message}");
}

/// Reads one request of each connection, and does something to it.
async fn breaking(answer: &'static [u8]) -> (World, Arc<std::sync::Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = world(&format!("http://{}", listener.local_addr().unwrap())).await;
    let seen = Arc::<std::sync::Mutex<Vec<String>>>::default();
    let log = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let request = read_request(&mut stream).await;
            log.lock().unwrap().extend(request);
            let _ = stream.write_all(answer).await;
        }
    });
    (world, seen)
}

#[tokio::test]
async fn a_gitlab_that_breaks_off_or_speaks_no_http_is_an_outage() {
    for answer in [b"".as_slice(), b"HTTP/1.1 200 OK\r\ncontent-", b"220 mail.example ESMTP\r\n\r\n", b"\x16\x03\x01"] {
        let (world, seen) = breaking(answer).await;
        let message = outage(&world).await;
        assert!(message.contains(" broke the connection off: "), "{message}");
        assert_eq!(seen.lock().unwrap().len(), 1);
    }
}

/// A connection that was used before may be closed at any time. What GitLab may have seen is not sent again: the first of
/// two job requests would take a job for nobody.
#[tokio::test]
async fn a_request_that_gitlab_has_seen_is_never_sent_twice() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = world(&format!("http://{}", listener.local_addr().unwrap())).await;
    let gitlab = tokio::spawn(async move {
        let mut seen = Vec::new();
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            for answer in [b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".as_slice(), b""] {
                let Some(request) = read_request(&mut stream).await else { break };
                seen.push(request.lines().next().unwrap().to_owned());
                stream.write_all(answer).await.unwrap();
            }
        }
        seen
    });
    let request = |name: &str| {
        format!("POST /api/v4/{name} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}")
    };
    assert_eq!(status(&send(&world, request("first")).await), 200);
    assert_eq!(status(&send(&world, request("second")).await), 503);
    assert_eq!(status(&send(&world, request("third")).await), 200);
    assert_eq!(status(&send(&world, request("fourth")).await), 503);
    let names = ["first", "second", "third", "fourth"].map(|name| format!("POST /api/v4/{name} HTTP/1.1"));
    assert_eq!(gitlab.await.unwrap(), names);
}

/// A connection that GitLab closed while it was idle is no outage.
#[tokio::test]
async fn a_connection_that_was_closed_while_idle_is_replaced() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = world(&format!("http://{}", listener.local_addr().unwrap())).await;
    for _ in 0..5 {
        let asking = ask(&world, "POST", "/api/v4/x", "");
        let answering = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_request(&mut stream).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            // Closed from here; the router has heard it when its own end is closed as well.
            stream.shutdown().await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        };
        let (answer, ()) = tokio::join!(asking, answering);
        assert_eq!(status(&answer), 200);
    }
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_request_to_gitlab() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = world(&format!("http://{}", listener.local_addr().unwrap())).await;
    let mut client = TcpStream::connect(world.address).await.unwrap();
    client.write_all(b"GET /api/v4/x HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    read_request(&mut stream).await.unwrap();
    drop(client);
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0, "the connection ends");
}

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A GitLab with a certificate for this name. It would speak HTTP/2 if it were asked to.
    async fn serve(&self, name: &str) -> std::net::SocketAddr {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let mut config = builder.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    while read_request(&mut stream).await.is_some() {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nsafe").await;
                    }
                });
            }
        });
        address
    }
}

#[tokio::test]
async fn only_a_gitlab_with_the_right_certificate_is_spoken_to() {
    let authority = Authority::new();
    let ca = |pem: Option<String>, address: std::net::SocketAddr| {
        let mut setup = setup(&format!("https://localhost:{}", address.port()));
        let config = GitLabConfig {
            ca: pem.map(String::into_bytes),
            ..gitlab(&format!("https://localhost:{}", address.port()))
        };
        setup.config.gitlab = Some(Arc::new(config));
        setup
    };
    let address = authority.serve("localhost").await;
    let world = ca(Some(authority.0.pem()), address).start().await;
    for _ in 0..2 {
        let answer = ask(&world, "GET", "/api/v4/x", "").await;
        assert!(answer.ends_with("\r\n\r\nsafe"), "{answer}");
    }
    let start = format!("the certificate of GitLab at localhost:{} is not accepted: ", address.port());
    // Of the public authorities, and of another one.
    for pem in [None, Some(Authority::new().0.pem())] {
        let message = outage(&ca(pem, address).start().await).await;
        assert!(message.starts_with(&start) && message.contains("see `ca` of `gitlab`"), "{message}");
    }
    let address = authority.serve("other.example").await;
    let message = outage(&ca(Some(authority.0.pem()), address).start().await).await;
    assert!(message.starts_with("the certificate of GitLab at localhost:"), "{message}");
    // A server without TLS.
    let (_world, plain) = breaking_address(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let message = outage(&ca(None, plain).start().await).await;
    assert!(message.starts_with(&format!("TLS with GitLab at localhost:{} failed: ", plain.port())), "{message}");
}

async fn breaking_address(answer: &'static [u8]) -> (tokio::task::JoinHandle<()>, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            exchange(&mut stream, answer).await;
        }
    });
    (task, address)
}

#[test]
fn what_cannot_be_used_of_the_configuration_is_said() {
    let new = |config: &GitLabConfig| Upstream::new(config).err();
    assert!(matches!(new(&gitlab("no url")), Some(UpstreamError::Url)));
    assert!(matches!(new(&gitlab("/only/a/path")), Some(UpstreamError::Url)));
    for pem in ["", "no pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let config = GitLabConfig { ca: Some(pem.into()), ..gitlab("https://gitlab.example") };
        let error = new(&config).unwrap().to_string();
        assert!(error.starts_with("`ca` of `gitlab`: "), "{error}");
    }
    let upstream = Upstream::new(&gitlab("https://gitlab.example:8443/sub/")).unwrap();
    assert_eq!(upstream.authority(), "gitlab.example:8443");
}
