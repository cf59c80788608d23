//! The router as client commands see it: REST for looking and submitting, gRPC for following.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use jobgate_proto::job::v1::{JobRecord, WatchRequest, jobs_client::JobsClient};
use reqwest::{Method, StatusCode, header};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tonic::{Code, Status, Streaming};

use crate::{
    connection::{Connection, ConnectionError},
    output::{Failure, clean},
    token::Token,
};

/// Which router, and as whom.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Router")]
pub(crate) struct RouterArgs {
    /// URL of the router
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7400")]
    router: String,
    /// File with the token to show; none is needed in trial mode
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// PEM file of the certificate authorities to trust, instead of the public ones
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Send the token unencrypted beyond this machine
    #[arg(long)]
    insecure: bool,
}

impl RouterArgs {
    pub(crate) fn connection(&self) -> Result<Connection, Failure> {
        let connect = || -> Result<Connection, ConnectionError> {
            let mut connection = Connection::new(&self.router)?;
            if let Some(path) = &self.ca {
                connection = connection.ca_file(path)?;
            }
            match &self.token_file {
                Some(path) => connection.token(Token::from_file(path)?, self.insecure),
                None => Ok(connection),
            }
        };
        connect().map_err(Failure::new)
    }

    pub(crate) fn client(&self) -> Result<Client, Failure> {
        Client::new(self.connection()?)
    }
}

/// A router that is called.
pub(crate) struct Client {
    connection: Connection,
    http: reqwest::Client,
}

/// What the router answers when it does not do what it is asked.
#[derive(Deserialize)]
struct Refusal {
    error: Details,
}

#[derive(Deserialize)]
struct Details {
    code: String,
    message: String,
    #[serde(default)]
    faults: Vec<String>,
}

impl Client {
    pub(crate) fn new(connection: Connection) -> Result<Self, Failure> {
        let http = connection.http().map_err(|error| Failure::new(format_args!("cannot call out: {error}")))?;
        Ok(Self { connection, http })
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)]) -> Result<T, Failure> {
        let mut url = format!("{}{path}", self.connection.url());
        for (index, (key, value)) in query.iter().enumerate() {
            url.push(if index == 0 { '?' } else { '&' });
            url.push_str(&format!("{key}={}", escaped(value)));
        }
        self.read(self.request(Method::GET, &url)).await
    }

    pub(crate) async fn submit(&self, documents: Bytes, key: Option<&str>) -> Result<Value, Failure> {
        let yaml = !documents.trim_ascii_start().starts_with(b"{") && !documents.trim_ascii_start().starts_with(b"[");
        let kind = if yaml { "application/yaml" } else { "application/json" };
        let mut request = self.request(Method::POST, &format!("{}/v1/jobs", self.connection.url()));
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        self.read(request.header(header::CONTENT_TYPE, kind).body(documents)).await
    }

    pub(crate) async fn cancel(&self, id: &str) -> Result<Value, Failure> {
        let url = format!("{}/v1/jobs/{}/cancel", self.connection.url(), escaped(id));
        self.read(self.request(Method::POST, &url)).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, Failure> {
        let request = self.request(Method::POST, &format!("{}{path}", self.connection.url()));
        self.read(request.header(header::CONTENT_TYPE, "application/json").body(body.to_string())).await
    }

    /// State changes of these jobs, or of all.
    pub(crate) async fn watch(&self, ids: Vec<String>) -> Result<Streaming<JobRecord>, Status> {
        let endpoint = self.connection.endpoint().map_err(|error| Status::internal(error.to_string()))?;
        let channel = endpoint.connect().await.map_err(|error| Status::unavailable(innermost(&error)))?;
        let request = self.connection.call(WatchRequest { ids });
        Ok(JobsClient::new(channel).watch(request).await?.into_inner())
    }

    /// What a broken Watch means to the person who waits.
    pub(crate) fn watch_failure(&self, status: &Status) -> Failure {
        let said = clean(status.message());
        match status.code() {
            Code::Unavailable => self.unreachable(&said),
            Code::Unauthenticated => Failure::new(format_args!("the router does not know who is asking: {said}"))
                .help("name a token by --token-file"),
            _ => Failure::new(format_args!("the router refused: {said}")),
        }
    }

    fn request(&self, method: Method, url: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, url);
        match self.connection.bearer() {
            Some(bearer) => request.header(header::AUTHORIZATION, bearer),
            None => request,
        }
    }

    async fn read<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T, Failure> {
        let answer = request.send().await.map_err(|error| self.unreachable(&innermost(&error)))?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(|error| self.unreachable(&innermost(&error)))?;
        if !status.is_success() {
            return Err(self.refusal(status, &body));
        }
        serde_json::from_slice(&body).map_err(|error| {
            let url = self.connection.url();
            Failure::new(format_args!("{url} does not answer as a jobgate router of this version does: {error}"))
        })
    }

    fn refusal(&self, status: StatusCode, body: &[u8]) -> Failure {
        let Ok(Refusal { error }) = serde_json::from_slice::<Refusal>(body) else {
            let url = self.connection.url();
            return Failure::new(format_args!("{url} answered {status}, and not as a jobgate router does"))
                .help("is --router the URL of a jobgate router?");
        };
        let mut message = format!("the router refused: {} ({})", clean(&error.message), clean(&error.code));
        for fault in error.faults {
            message.push_str(&format!("\n  {}", clean(&fault)));
        }
        let failure = Failure::new(message);
        match error.code.as_str() {
            "unauthenticated" => failure.help("name a token that the router knows by --token-file"),
            "permission_denied" => failure.help("use a token that `may` do this for this project"),
            "queue_full" => failure.help("wait until jobs have ended, or raise `max_jobs` in the configuration"),
            _ => failure,
        }
    }

    fn unreachable(&self, cause: &str) -> Failure {
        Failure::new(format_args!("cannot reach the router at {}: {cause}", self.connection.url()))
            .help("start one by `jobgate serve --config FILE`, or name another by --router URL")
    }
}

/// How long to wait before a broken Watch is opened again.
pub(crate) const WATCH_AGAIN: Duration = Duration::from_millis(500);

/// The deepest cause: what is above it only says that something went wrong.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    clean(&error.to_string())
}

/// For a path segment or a query.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(byte.into()),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_into_a_url_is_escaped() {
        assert_eq!(escaped("acme/api?x=1&y ü"), "acme%2Fapi%3Fx%3D1%26y%20%C3%BC");
    }
}
