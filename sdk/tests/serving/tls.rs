use std::path::{Path, PathBuf};

use jobgate_proto::admission::v1::admission_controller_client::AdmissionControllerClient;
use jobgate_sdk::{ServeError, ServerTls, serve, testing};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

use crate::Obedient;

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
