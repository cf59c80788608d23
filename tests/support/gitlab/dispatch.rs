//! The way of every call: it is noted, meets an outage or its script, and gets its answer.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    body::{Body, to_bytes},
    extract::Request,
    http::{HeaderName, HeaderValue, header, request::Parts},
    response::Response,
};
use bytes::Bytes;
use serde_json::json;
use tokio::time::Instant;
use tokio_stream::StreamExt;

use super::{
    answers::Answer,
    artifacts,
    calls::{Call, Endpoint, Outcome},
    poll, runners,
    server::Cut,
    shared::Shared,
    trace, update,
};

/// Bodies that are kept.
const LARGEST_BODY: usize = 64 << 20;

pub(super) async fn serve(shared: Arc<Shared>, peer: SocketAddr, request: Request) -> Result<Response, Cut> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let prefix = shared.read(|state| state.settings.prefix.clone());
    let path = path.strip_prefix(prefix.as_str()).unwrap_or("").to_owned();
    let (endpoint, id) = Endpoint::of(&parts.method, &path);

    let (kept, mut stream) = match endpoint {
        Endpoint::Upload => (Bytes::new(), Some(body)),
        _ => (to_bytes(body, LARGEST_BODY).await.map_err(|_| Cut)?, None),
    };
    let mut noted = Noted::new(&shared, endpoint, peer, &parts, kept.clone());

    let (outage, script) = shared.write(|state| {
        let script = if state.outage.is_none() { state.scripts.get_mut(&endpoint) } else { None };
        (state.outage, script.and_then(std::collections::VecDeque::pop_front).unwrap_or(Answer::Normal))
    });
    if outage.is_some() || matches!(script, Answer::Status(_) | Answer::StatusWith(..)) {
        drain(stream.take()).await;
    }
    if let Some(status) = outage {
        return Ok(noted.over(error(status)));
    }
    match &script {
        Answer::Status(status) | Answer::Early(status) => return Ok(noted.over(error(*status))),
        Answer::StatusWith(status, headers) => {
            return Ok(noted.over(with(error(*status), headers.iter().map(|(name, value)| (*name, value.as_str())))));
        }
        Answer::Garbage => {
            let response = plain(if endpoint == Endpoint::Request { 201 } else { 200 }, "{\"id\": 1, <html>");
            return Ok(noted.over(with(response, [("content-type", "application/json")])));
        }
        Answer::BreakBefore => return Err(noted.cut()),
        Answer::Hang => std::future::pending().await,
        Answer::Delay(gate) => gate.pass().await,
        _ => {}
    }
    let call = Incoming { shared: &shared, parts, path, id, body: kept, number: noted.number };
    let response = call.answer(endpoint, stream).await;
    match script {
        Answer::BreakOff => Err(noted.cut()),
        Answer::Lost(status) => Ok(noted.over(error(status))),
        Answer::ContentType(kind) => Ok(noted.over(with(response, [("content-type", kind)]))),
        Answer::BreakHalfway => {
            noted.cut();
            Ok(halved(response).await)
        }
        Answer::DelayDelivery(gate) => {
            gate.pass().await;
            Ok(noted.over(response))
        }
        _ => Ok(noted.over(response)),
    }
}

/// Reads an upload to its end, so that its client sees the answer and not a connection that ends while it sends.
pub(super) async fn drain(body: Option<Body>) {
    let mut pieces = body.unwrap_or_default().into_data_stream();
    while let Some(Ok(_)) = pieces.next().await {}
}

/// A call, to those who answer it.
pub(super) struct Incoming<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) parts: Parts,
    /// Without the prefix.
    pub(super) path: String,
    /// The job in the path.
    pub(super) id: u64,
    pub(super) body: Bytes,
    /// Which call it is, of all that were kept.
    pub(super) number: Option<usize>,
}

impl Incoming<'_> {
    async fn answer(self, endpoint: Endpoint, stream: Option<Body>) -> Response {
        let request_id = self.header("x-request-id").map(str::to_owned);
        let response = match endpoint {
            Endpoint::Verify => runners::verify(&self),
            Endpoint::Reset => runners::reset(&self),
            Endpoint::Discovery => runners::discovery(&self),
            Endpoint::Request => poll::request(&self).await,
            Endpoint::Update => update::put(&self),
            Endpoint::Trace => trace::patch(&self),
            Endpoint::Upload => artifacts::upload(self, stream.unwrap_or_default()).await,
            Endpoint::Download => artifacts::download(&self),
            Endpoint::Storage => artifacts::stored(&self),
            Endpoint::Internal => error(401),
            Endpoint::Other if self.path.starts_with("/api/v4/") => self.echo(),
            Endpoint::Other => error(404),
        };
        with(response, request_id.iter().map(|id| ("x-request-id", id.as_str())))
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.parts.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(super) fn query(&self) -> &str {
        self.parts.uri.query().unwrap_or_default()
    }

    /// All that came, as JSON.
    fn echo(&self) -> Response {
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers: Vec<_> =
            self.parts.headers.iter().map(|(name, value)| json!([name.as_str(), text(value)])).collect();
        json_body(
            200,
            &json!({
                "method": self.parts.method.as_str(),
                "path_and_query": self.parts.uri.path_and_query().map_or("", |path| path.as_str()),
                "headers": headers,
                "body": { "bytes": self.body.len(), "checksum": checksum(&self.body) },
            }),
        )
    }
}

/// Writes down how a call ends; one that is dropped before has lost its client.
struct Noted<'a> {
    shared: &'a Shared,
    number: Option<usize>,
    over: bool,
}

impl<'a> Noted<'a> {
    fn new(shared: &'a Shared, endpoint: Endpoint, peer: SocketAddr, parts: &Parts, body: Bytes) -> Self {
        let number = shared.write(|state| {
            *state.counts.entry(endpoint).or_default() += 1;
            state.settings.record.then(|| {
                state.calls.push(Call {
                    endpoint,
                    at: Instant::now(),
                    peer,
                    method: parts.method.clone(),
                    path_and_query: parts.uri.path_and_query().map_or("", |path| path.as_str()).to_owned(),
                    headers: parts.headers.clone(),
                    body,
                    outcome: None,
                });
                state.calls.len() - 1
            })
        });
        Self { shared, number, over: false }
    }

    fn end(&mut self, outcome: Outcome) {
        self.over = true;
        self.shared.write(|state| {
            // It is gone when the test forgot the calls.
            if let Some(call) = self.number.and_then(|number| state.calls.get_mut(number)) {
                call.outcome = Some(outcome);
            }
        });
    }

    fn over(&mut self, response: Response) -> Response {
        self.end(Outcome::Status(response.status().as_u16()));
        response
    }

    fn cut(&mut self) -> Cut {
        self.end(Outcome::Cut);
        Cut
    }
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.end(Outcome::Gone);
        }
    }
}

/// CRC-32 as runners write it.
pub(super) fn checksum(bytes: &[u8]) -> String {
    format!("crc32:{:08x}", crc32fast::hash(bytes))
}

pub(super) fn plain(status: u16, text: impl Into<String>) -> Response {
    let response = Response::builder().status(status).header(header::CONTENT_TYPE, "text/plain");
    response.body(Body::from(text.into())).unwrap()
}

pub(super) fn json_body(status: u16, value: &serde_json::Value) -> Response {
    with(plain(status, value.to_string()), [("content-type", "application/json")])
}

/// An error as GitLab words it (facts 2.0).
pub(super) fn error(status: u16) -> Response {
    json_body(status, &json!({ "message": format!("{status} from the fake") }))
}

pub(super) fn with<'h>(mut response: Response, headers: impl IntoIterator<Item = (&'h str, &'h str)>) -> Response {
    for (name, value) in headers {
        let name: HeaderName = name.parse().unwrap();
        response.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
    }
    response
}

/// The whole length promised, half of the body sent.
async fn halved(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let body = to_bytes(body, LARGEST_BODY).await.unwrap();
    parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    let half = body.slice(..body.len() / 2);
    Response::from_parts(parts, Body::from_stream(tokio_stream::iter([Ok(half), Err(Cut)])))
}
