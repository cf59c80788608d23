//! Artifacts: taken in without keeping them, and given out without having them (facts 4.4).

use std::sync::{Arc, Mutex};

use axum::{
    body::Body,
    extract::{DefaultBodyLimit, FromRequest, Multipart, Request},
    http::{HeaderMap, header},
    response::Response,
};
use bytes::Bytes;
use tokio_stream::{Stream, StreamExt};

use super::{
    GitLab,
    dispatch::{Incoming, checksum, drain, error, json_body, plain, with},
};

const PIECE: usize = 64 << 10;

/// What was uploaded.
#[derive(Clone, Debug, Default)]
pub struct Upload {
    pub query: String,
    pub headers: HeaderMap,
    /// Of the part `file`.
    pub filename: Option<String>,
    pub bytes: u64,
    pub checksum: String,
    /// Form fields beside it.
    pub fields: Vec<(String, String)>,
    /// The body as it came, with the marks between parts.
    pub raw_bytes: u64,
    pub raw_checksum: String,
}

/// What there is to download.
#[derive(Clone)]
pub enum Content {
    /// Made while it is sent.
    Pattern(u64),
    Bytes(Bytes),
}

pub(super) struct Artifact {
    token: String,
    content: Content,
}

/// Length and checksum of what passed.
#[derive(Default)]
struct Tap {
    bytes: u64,
    hasher: crc32fast::Hasher,
}

impl Tap {
    fn take(&mut self, piece: &[u8]) {
        self.bytes += piece.len() as u64;
        self.hasher.update(piece);
    }

    fn checksum(&self) -> String {
        format!("crc32:{:08x}", self.hasher.clone().finalize())
    }
}

pub(super) async fn upload(call: Incoming<'_>, body: Body) -> Response {
    let token = call.header("job-token").map(str::to_owned);
    let refused = call.shared.write(|state| match state.job_of(call.id, token.as_deref()) {
        Ok(job) if job.status.executes() => None,
        Ok(job) => {
            job.refused += 1;
            Some(job.says(error(403)))
        }
        Err(status) => Some(error(status)),
    });
    if let Some(response) = refused {
        drain(Some(body)).await;
        return response;
    }
    let Incoming { shared, parts, id, .. } = call;
    let mut upload = Upload {
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers.clone(),
        ..Upload::default()
    };
    if read(Request::from_parts(parts, body), &mut upload).await.is_none() {
        return error(400);
    }
    shared.write(|state| {
        if let Some(job) = state.jobs.get_mut(&id) {
            job.uploads.push(upload);
        }
    });
    json_body(201, &serde_json::json!({ "message": "201 Created" }))
}

/// `None` when it is no form, or ends too early.
async fn read(request: Request, upload: &mut Upload) -> Option<()> {
    let whole = Arc::<Mutex<Tap>>::default();
    let tap = Arc::clone(&whole);
    let mut request = request.map(|body| {
        Body::from_stream(
            body.into_data_stream().map(move |piece| piece.inspect(|piece| tap.lock().unwrap().take(piece))),
        )
    });
    DefaultBodyLimit::disable().apply(&mut request);
    let mut form = Multipart::from_request(request, &()).await.ok()?;
    while let Some(mut field) = form.next_field().await.ok()? {
        let name = field.name().unwrap_or_default().to_owned();
        if name != "file" {
            upload.fields.push((name, field.text().await.ok()?));
            continue;
        }
        upload.filename = field.file_name().map(str::to_owned);
        let mut file = Tap::default();
        while let Some(piece) = field.chunk().await.ok()? {
            file.take(&piece);
        }
        (upload.bytes, upload.checksum) = (file.bytes, file.checksum());
    }
    let whole = whole.lock().unwrap();
    (upload.raw_bytes, upload.raw_checksum) = (whole.bytes, whole.checksum());
    Some(())
}

pub(super) fn download(call: &Incoming<'_>) -> Response {
    let found = call.shared.read(|state| {
        let artifact = state.artifacts.get(&call.id)?;
        let (settings, token) = (&state.settings, artifact.token.clone());
        Some((token, artifact.content.clone(), settings.redirect, settings.sized_downloads))
    });
    let Some((token, content, redirect, sized)) = found else { return error(404) };
    if call.header("job-token") != Some(token.as_str()) {
        return error(403);
    }
    match redirect.filter(|_| call.query().contains("direct_download=true")) {
        Some(status) => {
            // As from another host, with a signature for a secret.
            let host = call.header("host").unwrap_or_default();
            let to = format!("http://{host}/storage/artifacts/{}?signature=s3cret-signature", call.id);
            with(plain(status, ""), [("location", to.as_str())])
        }
        None => send(content, sized),
    }
}

/// The object storage's end of a redirect.
pub(super) fn stored(call: &Incoming<'_>) -> Response {
    if call.query() != "signature=s3cret-signature" {
        return error(403);
    }
    let found = call
        .shared
        .read(|state| Some((state.artifacts.get(&call.id)?.content.clone(), state.settings.sized_downloads)));
    found.map_or_else(|| error(404), |(content, sized)| send(content, sized))
}

fn send(content: Content, sized: bool) -> Response {
    let (length, body) = match content {
        Content::Pattern(length) => (length, Body::from_stream(pattern(length).map(Ok::<_, std::convert::Infallible>))),
        Content::Bytes(bytes) if sized => (bytes.len() as u64, Body::from(bytes)),
        Content::Bytes(bytes) => {
            (bytes.len() as u64, Body::from_stream(tokio_stream::once(Ok::<_, std::convert::Infallible>(bytes))))
        }
    };
    let mut response = Response::builder().header(header::CONTENT_TYPE, "application/octet-stream");
    if sized {
        response = response.header(header::CONTENT_LENGTH, length);
    }
    response.body(body).unwrap()
}

/// Bytes out of one piece of memory. Each piece begins at another place of it, so that pieces that change places are noticed.
fn pattern(length: u64) -> impl Stream<Item = Bytes> {
    const PERIOD: usize = 251;
    let memory: Bytes = (0..PIECE + PERIOD).map(|at| u8::try_from(at % PERIOD).unwrap()).collect();
    let (mut left, mut shift) = (length, 0);
    tokio_stream::iter(std::iter::from_fn(move || {
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE);
        left -= take as u64;
        shift = (shift + 7) % PERIOD;
        (take > 0).then(|| memory.slice(shift..shift + take))
    }))
}

/// The checksum of a whole [`Content::Pattern`].
pub async fn pattern_checksum(length: u64) -> String {
    let mut tap = Tap::default();
    let mut pieces = std::pin::pin!(pattern(length));
    while let Some(piece) = pieces.next().await {
        tap.take(&piece);
    }
    tap.checksum()
}

impl Content {
    pub async fn checksum(&self) -> String {
        match self {
            Self::Pattern(length) => pattern_checksum(*length).await,
            Self::Bytes(bytes) => checksum(bytes),
        }
    }
}

impl GitLab {
    /// Makes the artifacts of a job available, to who has this token.
    pub fn artifact(&self, job: u64, token: &str, content: Content) {
        let artifact = Artifact { token: token.to_owned(), content };
        self.shared.write(|state| _ = state.artifacts.insert(job, artifact));
    }
}
