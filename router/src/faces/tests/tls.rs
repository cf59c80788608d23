use std::{fs, path::Path, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::support::{Answer, Setup, World};
use crate::{
    config::ServerTls,
    faces::{Tls, TlsError},
};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Certificate and key as PEM.
fn issue(authority: &Authority) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    (params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

struct Files {
    directory: tempfile::TempDir,
    authority: Authority,
}

impl Files {
    fn new() -> Self {
        let files = Self { directory: tempfile::tempdir().unwrap(), authority: authority() };
        files.write(issue(&files.authority));
        fs::write(files.path("ca.pem"), files.authority.pem()).unwrap();
        files
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, (cert, key): (String, String)) {
        fs::write(self.path("cert.pem"), cert).unwrap();
        fs::write(self.path("key.pem"), key).unwrap();
    }

    fn tls(&self, client_ca: bool) -> ServerTls {
        let client_ca = client_ca.then(|| self.path("ca.pem"));
        ServerTls { cert: self.path("cert.pem"), key: self.path("key.pem"), client_ca }
    }

    async fn serve(&self, client_ca: bool) -> World {
        let mut setup = Setup::trial();
        setup.config.tls = Some(self.tls(client_ca));
        setup.start().await
    }

    async fn connect(&self, world: &World, protocol: &[u8], identity: bool) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        let mut config = if identity {
            let (cert, key) = issue(&self.authority);
            let cert = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![cert], key).unwrap()
        } else {
            builder.with_no_client_auth()
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(world.address).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await
    }

    async fn get(&self, world: &World, identity: bool) -> u16 {
        let Ok(mut stream) = self.connect(world, b"http/1.1", identity).await else { return 0 };
        let host = format!("localhost:{}", world.address.port());
        let request = format!("GET /healthz HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        let _ = stream.write_all(request.as_bytes()).await;
        Answer::read(&mut stream).await.status
    }
}

async fn served(files: &Files, world: &World) -> Vec<u8> {
    let stream = files.connect(world, b"h2", false).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn der(path: &Path) -> Vec<u8> {
    CertificateDer::from_pem_file(path).unwrap().to_vec()
}

#[tokio::test]
async fn both_protocols_are_spoken_over_tls_and_nothing_in_clear() {
    let files = Files::new();
    let world = files.serve(false).await;
    assert_eq!(files.get(&world, false).await, 200);
    let stream = files.connect(&world, b"h2", false).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(world.get("/healthz", "").await.status, 0, "no answer in clear");
}

#[tokio::test]
async fn runners_of_gitlab_are_served_there_too_over_rest_and_over_grpc() {
    use jobgate_proto::gitlab::{GetJobRequest, job_router_client::JobRouterClient};
    use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

    let files = Files::new();
    let mut setup = Setup::guarded();
    setup.config.tls = Some(files.tls(false));
    setup.config.external_url = Some("https://jobgate.example:7400".to_owned());
    // Nobody listens there: what is answered is ours.
    setup.config.gitlab = Some(Arc::new(crate::gitlab::tests::support::gitlab("http://127.0.0.1:1")));
    let world = setup.start().await;
    let mut stream = files.connect(&world, b"http/1.1", false).await.unwrap();
    let request = "GET /api/v4/runners/router/discovery HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = Answer::read(&mut stream).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"server_url":"grpcs://jobgate.example:7400"}"#));

    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(files.authority.pem()));
    let url = format!("https://localhost:{}", world.address.port());
    let channel = Endpoint::from_shared(url).unwrap().tls_config(tls).unwrap().connect().await.unwrap();
    let mut request = tonic::Request::new(GetJobRequest { job_request: r#"{"token":"glrt-1"}"#.into() });
    request.metadata_mut().insert("authorization", "Bearer glrt-1".parse().unwrap());
    let status = JobRouterClient::new(channel).get_job(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
    assert!(status.message().contains("cannot be reached"), "{status}");
}

#[tokio::test]
async fn a_new_pair_serves_new_handshakes_and_a_bad_one_changes_nothing() {
    let files = Files::new();
    let world = files.serve(false).await;
    let tls = world.tls.clone().unwrap();
    let first = served(&files, &world).await;
    let open = files.connect(&world, b"http/1.1", false).await.unwrap();

    files.write(issue(&files.authority));
    assert_eq!(served(&files, &world).await, first, "not before it is told");
    tls.reload().unwrap();
    let second = served(&files, &world).await;
    assert_ne!(second, first);
    assert_eq!(second, der(&files.path("cert.pem")));
    drop(open);

    // Half a change: the certificate of one pair, the key of another.
    fs::write(files.path("cert.pem"), issue(&files.authority).0).unwrap();
    let error = tls.reload().unwrap_err();
    assert!(matches!(error, TlsError::Pair { .. }), "{error}");
    for (name, text) in [("key.pem", "no key"), ("key.pem", ""), ("cert.pem", ""), ("cert.pem", "-----BEGIN X-----\n")]
    {
        fs::write(files.path(name), text).unwrap();
        let error = tls.reload().unwrap_err().to_string();
        assert!(error.contains(".pem") && !error.contains("no key"), "{error}");
    }
    fs::remove_file(files.path("key.pem")).unwrap();
    assert!(tls.reload().is_err());
    assert_eq!(served(&files, &world).await, second, "the old one goes on");
}

#[tokio::test]
async fn with_a_client_authority_only_its_clients_are_answered() {
    let files = Files::new();
    let world = files.serve(true).await;
    assert_eq!(files.get(&world, false).await, 0);
    assert_eq!(files.get(&world, true).await, 200);
    fs::write(files.path("ca.pem"), authority().pem()).unwrap();
    world.tls.as_ref().unwrap().reload().unwrap();
    assert_eq!(files.get(&world, true).await, 0, "the authority is reloaded with the pair");
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_not_waited_for() {
    let files = Files::new();
    let mut setup = Setup::trial();
    setup.config.tls = Some(files.tls(false));
    setup.limits.tls_handshake = std::time::Duration::from_millis(50);
    let world = setup.start().await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    assert_eq!(Answer::read(&mut stream).await.status, 0);
}

#[test]
fn files_that_are_no_pair_are_named() {
    let files = Files::new();
    fs::write(files.path("cert.pem"), "").unwrap();
    let error = Tls::load(&files.tls(false)).unwrap_err().to_string();
    assert!(error.ends_with("cert.pem: there is no certificate in it"), "{error}");
}
