use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use jobgate_proto::admission::v1::admission_controller_client::AdmissionControllerClient;
use jobgate_sdk::{
    Backoff, ClientTls, ServeError, ServerTls, serve,
    testing::{self, RouterEnd},
};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

use crate::{Diary, Obedient, until};

/// An authority with a server and a client certificate, in PEM files.
struct Pki {
    dir: tempfile::TempDir,
    ca: String,
    client: Identity,
}

impl Pki {
    fn new() -> Self {
        let ca_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&ca_key).unwrap().pem();
        let issuer = Issuer::new(params, ca_key);
        let leaf = |usage| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            params.extended_key_usages.push(usage);
            (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
        };
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = leaf(ExtendedKeyUsagePurpose::ServerAuth);
        for (name, pem) in [("ca.pem", &ca), ("server.pem", &certificate), ("server.key", &key)] {
            std::fs::write(dir.path().join(name), pem).unwrap();
        }
        let (certificate, key) = leaf(ExtendedKeyUsagePurpose::ClientAuth);
        for (name, pem) in [("client.pem", &certificate), ("client.key", &key)] {
            std::fs::write(dir.path().join(name), pem).unwrap();
        }
        Self { dir, ca, client: Identity::from_pem(certificate, key) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn server(&self) -> ServerTls {
        ServerTls::from_files(self.path("server.pem"), self.path("server.key"))
    }

    fn trusted(&self) -> ClientTlsConfig {
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.ca)).domain_name("localhost")
    }
}

async fn is_answered(tls: ServerTls, client: ClientTlsConfig) -> bool {
    let listening = serve(Obedient::new().0).listen("127.0.0.1:0").tls(tls).bind().await.unwrap();
    let url = format!("https://{}", listening.local_addr());
    tokio::spawn(listening.into_future());
    let Ok(channel) = Channel::from_shared(url).unwrap().tls_config(client).unwrap().connect().await else {
        return false;
    };
    AdmissionControllerClient::new(channel).admit(testing::request().wire()).await.is_ok()
}

#[tokio::test]
async fn callers_verify_the_controller() {
    let (pki, other) = (Pki::new(), Pki::new());
    assert!(is_answered(pki.server(), pki.trusted()).await);
    assert!(!is_answered(pki.server(), other.trusted()).await);
}

#[tokio::test]
async fn the_controller_verifies_callers_when_told_to() {
    let (pki, other) = (Pki::new(), Pki::new());
    let strict = || pki.server().client_ca(pki.path("ca.pem"));
    assert!(is_answered(strict(), pki.trusted().identity(pki.client.clone())).await);
    assert!(!is_answered(strict(), pki.trusted()).await);
    assert!(!is_answered(strict(), pki.trusted().identity(other.client.clone())).await);
}

#[tokio::test]
async fn faulty_files_are_named() {
    let (pki, other) = (Pki::new(), Pki::new());
    let fault = |tls| async {
        match serve(Obedient::new().0).listen("127.0.0.1:0").tls(tls).await {
            Err(ServeError::Tls(error)) => error.path().to_owned(),
            _ => panic!("faulty files were taken"),
        }
    };
    let (certificate, key) = (pki.path("server.pem"), pki.path("server.key"));
    assert_eq!(fault(ServerTls::from_files("/nonexistent", &key)).await, Path::new("/nonexistent"));
    assert_eq!(fault(ServerTls::from_files(&key, &key)).await, key);
    assert_eq!(fault(ServerTls::from_files(&certificate, &certificate)).await, certificate);
    assert_eq!(fault(ServerTls::from_files(&certificate, other.path("server.key"))).await, certificate);
}

/// TLS in front of a router's plain port, for clients with a certificate of this authority. Tells its URL.
async fn terminate(pki: &Pki, router: &RouterEnd) -> String {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pki.ca.as_bytes()).unwrap()).unwrap();
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(
            vec![CertificateDer::from_pem_file(pki.path("server.pem")).unwrap()],
            PrivateKeyDer::from_pem_file(pki.path("server.key")).unwrap(),
        )
        .unwrap();
    config.alpn_protocols.push(b"h2".to_vec());
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let plain = router.url().trim_start_matches("http://").to_owned();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, plain) = (acceptor.clone(), plain.clone());
            tokio::spawn(async move {
                let Ok(mut outside) = acceptor.accept(stream).await else { return };
                let mut inside = TcpStream::connect(plain).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
            });
        }
    });
    url
}

#[tokio::test]
async fn an_attaching_controller_verifies_the_router_and_shows_its_certificate() {
    let (pki, other) = (Pki::new(), Pki::new());
    let mut router = RouterEnd::start().await.unwrap();
    let (url, token) = (terminate(&pki, &router).await, router.token());
    let attach = |tls: ClientTls| {
        let (diary, lines) = Diary::new();
        let backoff = Backoff::new(std::time::Duration::from_millis(1), std::time::Duration::from_millis(20)).unwrap();
        let attach = serve(Obedient::new().0).named("c").observer(diary).attach(&url, token.clone());
        (tokio::spawn(attach.tls(tls.server_name("localhost")).backoff(backoff).into_future()), lines)
    };
    let identity = |tls: ClientTls| tls.identity(pki.path("client.pem"), pki.path("client.key"));
    let trusting = || ClientTls::new().ca(pki.path("ca.pem"));
    for bad in [trusting(), identity(ClientTls::new().ca(other.path("ca.pem"))), identity(ClientTls::new())] {
        let (served, mut lines) = attach(bad);
        let told = lines.recv().await.unwrap();
        assert!(told == "unreachable" || told == "lost", "{told}");
        served.abort();
    }
    let (_served, mut lines) = attach(identity(trusting()));
    until(&mut lines, "connected").await;
    let attached = router.attached().await;
    assert!(attached.ask(&testing::request().build()).await.unwrap().is_admitted());

    let (served, _lines) = attach(ClientTls::new().ca("/nonexistent"));
    assert!(matches!(served.await.unwrap(), Err(ServeError::Tls(error)) if error.path() == Path::new("/nonexistent")));
}
