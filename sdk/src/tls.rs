use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

/// How a listening controller proves who it is, and whose calls it takes. The files are PEM, and are read again when they
/// change; a faulty change is logged and the old files stay in use.
#[derive(Clone, Debug)]
pub struct ServerTls {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

/// Whom an attaching controller trusts, and how it proves who it is. The files are PEM, and are read for each connection.
#[derive(Clone, Debug, Default)]
pub struct ClientTls {
    ca: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
    server_name: Option<String>,
}

/// What is wrong with the files of TLS.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct TlsError {
    path: PathBuf,
    reason: String,
}

impl TlsError {
    fn new(path: &Path, reason: impl Into<String>) -> Self {
        Self { path: path.to_owned(), reason: reason.into() }
    }

    /// The file at fault.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl ServerTls {
    /// The certificate chain, leaf first, and its private key.
    #[must_use]
    pub fn from_files(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self { certificate: certificate.into(), key: key.into(), client_ca: None }
    }

    /// Takes calls only from clients with a certificate that one of these authorities signed.
    #[must_use]
    pub fn client_ca(mut self, ca: impl Into<PathBuf>) -> Self {
        self.client_ca = Some(ca.into());
        self
    }

    /// What the files say now.
    pub(crate) fn read(&self) -> Result<ServerFiles, TlsError> {
        Ok(ServerFiles {
            certificate: read(&self.certificate)?,
            key: read(&self.key)?,
            client_ca: self.client_ca.as_deref().map(read).transpose()?,
        })
    }

    /// Certificate, key and authorities are taken together or not at all.
    pub(crate) fn config(&self, files: &ServerFiles) -> Result<Arc<ServerConfig>, TlsError> {
        let provider: Arc<CryptoProvider> = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::new(&self.certificate, error.to_string()))?;
        let builder = match (&self.client_ca, &files.client_ca) {
            (Some(path), Some(pem)) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path, pem)?), provider)
                    .build()
                    .map_err(|error| TlsError::new(path, error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let key = PrivateKeyDer::from_pem_slice(&files.key)
            .map_err(|_| TlsError::new(&self.key, "holds no private key in PEM"))?;
        let mut config = builder
            .with_single_cert(certificates(&self.certificate, &files.certificate)?, key)
            .map_err(|error| TlsError::new(&self.certificate, format!("with its key: {error}")))?;
        config.alpn_protocols.push(b"h2".to_vec());
        Ok(Arc::new(config))
    }
}

/// The content of the files, to see whether they changed.
#[derive(PartialEq, Eq)]
pub(crate) struct ServerFiles {
    certificate: Vec<u8>,
    key: zeroize::Zeroizing<Vec<u8>>,
    client_ca: Option<Vec<u8>>,
}

impl ClientTls {
    /// Trusts the public authorities that browsers trust, and shows no certificate.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts these authorities only.
    #[must_use]
    pub fn ca(mut self, ca: impl Into<PathBuf>) -> Self {
        self.ca = Some(ca.into());
        self
    }

    /// Shows this certificate chain, leaf first, to a server that asks for one.
    #[must_use]
    pub fn identity(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((certificate.into(), key.into()));
        self
    }

    /// Expects this name in the server's certificate, in place of the host in the URL.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// What the files say now, checked.
    pub(crate) fn config(&self) -> Result<ClientTlsConfig, TlsError> {
        let mut config = ClientTlsConfig::new();
        match &self.ca {
            Some(path) => {
                let pem: Vec<u8> = read(path)?;
                roots(path, &pem)?;
                config = config.ca_certificate(Certificate::from_pem(pem));
            }
            None => config = config.with_webpki_roots(),
        }
        if let Some((certificate, key)) = &self.identity {
            let (chain, secret): (Vec<u8>, Vec<u8>) = (read(certificate)?, read(key)?);
            certificates(certificate, &chain)?;
            PrivateKeyDer::from_pem_slice(&secret).map_err(|_| TlsError::new(key, "holds no private key in PEM"))?;
            config = config.identity(Identity::from_pem(chain, secret));
        }
        if let Some(name) = &self.server_name {
            config = config.domain_name(name);
        }
        Ok(config)
    }
}

fn read<T: From<Vec<u8>>>(path: &Path) -> Result<T, TlsError> {
    fs::read(path).map(T::from).map_err(|error| TlsError::new(path, error.to_string()))
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::new(path, error.to_string()))?;
    match chain.is_empty() {
        true => Err(TlsError::new(path, "holds no certificate in PEM")),
        false => Ok(chain),
    }
}

fn roots(path: &Path, pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, pem)? {
        roots.add(certificate).map_err(|error| TlsError::new(path, error.to_string()))?;
    }
    Ok(roots)
}
