use std::{path::Path, path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio_rustls::TlsAcceptor;

use crate::config::ServerTls;

/// The certificate, key and client authority the router listens with. They are read as one and replaced as one: a file that
/// cannot be read, or a key that is not the certificate's, leaves what is in use as it is.
#[derive(Clone, Debug)]
pub struct Tls(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    files: ServerTls,
    current: ArcSwap<ServerConfig>,
}

/// Why certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not what it should be.
    #[error("{}: {what}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The key is not the key of the certificate.
    #[error("{} and {}: {source}", .cert.display(), .key.display())]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong with the two.
        source: rustls::Error,
    },
}

impl Tls {
    /// Reads certificate, key and client authority.
    ///
    /// # Errors
    ///
    /// [`TlsError`] names the file and what is wrong with it; never what a key file holds.
    pub fn load(files: &ServerTls) -> Result<Self, TlsError> {
        let current = ArcSwap::new(Arc::new(read(files)?));
        Ok(Self(Arc::new(Shared { files: files.clone(), current })))
    }

    /// Reads the files again; handshakes from now on use what they hold. Open connections go on.
    ///
    /// # Errors
    ///
    /// As [`Tls::load`]; the old certificate stays in use.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.0.current.store(Arc::new(read(&self.0.files)?));
        Ok(())
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.0.current.load_full())
    }
}

fn read(files: &ServerTls) -> Result<ServerConfig, TlsError> {
    let chain = certificates(&files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| bad_pem(&files.key, "private key", &error))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|source| pair(files, source))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => builder.with_client_cert_verifier(client_verifier(path, provider)?),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|source| pair(files, source))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn client_verifier(
    path: &Path,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
    let file = |what: String| TlsError::File { path: path.to_owned(), what };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| file(error.to_string()))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().map_err(|e| file(e.to_string()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| bad_pem(path, "certificate", &error))?;
    if certificates.is_empty() {
        return Err(TlsError::File { path: path.to_owned(), what: "there is no certificate in it".to_owned() });
    }
    Ok(certificates)
}

/// Says nothing of the file's content: it may be a key.
fn bad_pem(path: &Path, what: &str, error: &rustls::pki_types::pem::Error) -> TlsError {
    use rustls::pki_types::pem::Error;
    let what = match error {
        Error::Io(error) => error.to_string(),
        Error::NoItemsFound => format!("there is no {what} in it"),
        _ => format!("it is no PEM file of a {what}"),
    };
    TlsError::File { path: path.to_owned(), what }
}

fn pair(files: &ServerTls, source: rustls::Error) -> TlsError {
    TlsError::Pair { cert: files.cert.clone(), key: files.key.clone(), source }
}
