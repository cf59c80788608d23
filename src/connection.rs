use std::{fs, net::IpAddr, path::Path, time::Duration};

use http::Uri;
use tonic::{
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, ClientTlsConfig, Endpoint},
};

use crate::token::{Token, TokenError};

/// Where the router is, whom to trust there, and the token to show.
#[derive(Clone, Debug)]
pub struct Connection {
    url: String,
    https: bool,
    token: Option<Token>,
    ca: Option<Vec<u8>>,
}

/// Why the router cannot be called.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// Not the address of a router.
    #[error("`{url}` is not the URL of a router: {problem}")]
    Url {
        /// As given.
        url: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The token would cross the network readable by all.
    #[error("the token would be sent unencrypted to {host}; use https://, or say --insecure")]
    Insecure {
        /// Host of the URL.
        host: String,
    },
    /// The file of trusted authorities is of no use.
    #[error("cannot use {path} as certificate authorities: {problem}")]
    Authorities {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No usable token.
    #[error(transparent)]
    Token(#[from] TokenError),
}

impl Connection {
    /// A router at `http://host:port` or `https://host:port`.
    ///
    /// # Errors
    ///
    /// When it is another kind of URL, or has a path, a query or a user in it.
    pub fn new(url: &str) -> Result<Self, ConnectionError> {
        let fault = |problem| ConnectionError::Url { url: shown(url), problem };
        let uri: Uri = url.parse().map_err(|_| fault("it is no URL; it should look like http://127.0.0.1:7400"))?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(fault("it should begin with http:// or https://")),
        };
        if uri.authority().is_none_or(|authority| authority.as_str().contains('@')) {
            return Err(fault("it should name a host, and no user"));
        }
        if uri.path_and_query().is_some_and(|rest| rest.as_str() != "/") {
            return Err(fault("it should end after host and port"));
        }
        Ok(Self { url: url.trim_end_matches('/').to_owned(), https, token: None, ca: None })
    }

    /// Shows this token. An unencrypted connection that leaves this machine needs `insecure`.
    ///
    /// # Errors
    ///
    /// When it would be sent unencrypted and that was not said aloud.
    pub fn token(mut self, token: Token, insecure: bool) -> Result<Self, ConnectionError> {
        let uri: Uri = self.url.parse().unwrap_or_default();
        let host = uri.host().unwrap_or_default();
        if !self.https && !insecure && !is_loopback(host) {
            return Err(ConnectionError::Insecure { host: host.to_owned() });
        }
        self.token = Some(token);
        Ok(self)
    }

    /// Trusts the certificate authorities of this PEM file only, not the public ones.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or holds no certificate.
    pub fn ca_file(mut self, path: &Path) -> Result<Self, ConnectionError> {
        let fault = |problem| ConnectionError::Authorities { path: path.display().to_string(), problem };
        let pem = fs::read(path).map_err(|error| fault(error.to_string()))?;
        if reqwest::Certificate::from_pem_bundle(&pem).map_or(0, |found| found.len()) == 0 {
            return Err(fault("it holds no certificate in PEM".to_owned()));
        }
        self.ca = Some(pem);
        Ok(self)
    }

    /// Without a `/` at the end.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether there is a token to show.
    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// For gRPC.
    pub(crate) fn endpoint(&self) -> Result<Endpoint, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(self.url.clone())?
            .user_agent(concat!("jobgate/", env!("CARGO_PKG_VERSION")))?
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .keep_alive_while_idle(true);
        if !self.https {
            return Ok(endpoint);
        }
        let tls = match &self.ca {
            Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
            None => ClientTlsConfig::new().with_webpki_roots(),
        };
        endpoint.tls_config(tls)
    }

    /// A gRPC call that shows the token.
    pub(crate) fn call<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Some(value) = self.token.as_ref().and_then(header) {
            request.metadata_mut().insert("authorization", value);
        }
        request
    }

    /// For REST.
    pub(crate) fn http(&self) -> Result<reqwest::Client, reqwest::Error> {
        let mut client = reqwest::Client::builder()
            .user_agent(concat!("jobgate/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            .redirect(reqwest::redirect::Policy::none());
        if let Some(pem) = &self.ca {
            client = client.tls_certs_only(reqwest::Certificate::from_pem_bundle(pem)?);
        }
        client.build()
    }

    /// The token, for the `authorization` header of REST.
    pub(crate) fn bearer(&self) -> Option<reqwest::header::HeaderValue> {
        let mut value = reqwest::header::HeaderValue::from_str(self.token.as_ref()?.bearer().as_str()).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

const CONNECT: Duration = Duration::from_secs(5);
const PING: Duration = Duration::from_secs(20);
const ANSWER: Duration = Duration::from_secs(60);

fn header(token: &Token) -> Option<MetadataValue<Ascii>> {
    let mut value = MetadataValue::try_from(token.bearer().as_str()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Without what may be a password.
fn shown(url: &str) -> String {
    match url.rsplit_once('@') {
        Some((_, host)) => format!("…@{host}"),
        None => url.to_owned(),
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked_and_show_no_password() {
        for good in ["http://127.0.0.1:7400", "https://jobgate.acme.example/", "http://[::1]:7400"] {
            assert!(!Connection::new(good).unwrap().url().ends_with('/'));
        }
        for bad in ["", "127.0.0.1:7400", "grpc://x", "http://x/v1", "http://x?y", "http://u:hunter2@x", "http://"] {
            let message = Connection::new(bad).unwrap_err().to_string();
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn a_token_leaves_this_machine_encrypted_only() {
        let token = Token::new("s3cret").unwrap();
        let with = |url, insecure| Connection::new(url).unwrap().token(token.clone(), insecure);
        for local in ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "https://jobgate.acme.example"] {
            assert!(with(local, false).is_ok(), "{local}");
        }
        let refused = with("http://jobgate.acme.example", false).unwrap_err().to_string();
        assert_eq!(
            refused,
            "the token would be sent unencrypted to jobgate.acme.example; use https://, or say --insecure"
        );
        assert!(with("http://jobgate.acme.example", true).is_ok());
    }

    #[test]
    fn authorities_must_be_some() {
        let connection = Connection::new("https://x").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        assert!(connection.clone().ca_file(&path).is_err());
        fs::write(&path, "nothing").unwrap();
        assert!(connection.ca_file(&path).unwrap_err().to_string().ends_with("it holds no certificate in PEM"));
    }
}
