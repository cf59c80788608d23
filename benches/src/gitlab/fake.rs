//! A GitLab that does next to nothing: it gives jobs, or none, and swallows what is uploaded.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::{Result, child, fixtures};

/// Largest piece of a body that is made here.
pub(super) const PIECE: usize = 64 << 10;
/// Bytes of a job, about.
const JOB_BYTES: usize = 10_000;
/// Where the number of a job goes.
const PLACE: &str = "8888888888";
const FIRST_JOB: u64 = 1_000_000_000;
pub(super) const LAST_UPDATE: &str = "x-gitlab-last-update";

/// A body made of one piece of memory, over and over.
pub(super) struct Content {
    piece: Bytes,
    left: u64,
    sized: bool,
}

impl Content {
    pub(super) fn whole(bytes: impl Into<Bytes>) -> Self {
        let piece = bytes.into();
        Self { left: piece.len() as u64, piece, sized: true }
    }

    /// Of this length; told beforehand, or chunked.
    pub(super) fn filler(piece: &Bytes, length: u64, sized: bool) -> Self {
        Self { piece: piece.clone(), left: length, sized }
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let take = usize::try_from(self.left).unwrap_or(usize::MAX).min(self.piece.len());
        self.left -= take as u64;
        Poll::Ready(Some(Ok(Frame::data(self.piece.slice(..take)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        if self.sized { SizeHint::with_exact(self.left) } else { SizeHint::default() }
    }
}

/// How job requests are answered.
#[derive(Clone, Copy)]
enum Way {
    Job,
    Empty,
    /// As GitLab does: without `last_update` at once, and with it when the time is over.
    Hold,
}

struct GitLab {
    way: Way,
    after: Duration,
    jobs: AtomicU64,
    runners: AtomicU64,
    polls: AtomicU64,
    /// A job, in pieces between which its number goes.
    pieces: Vec<String>,
    filler: Bytes,
}

/// Role `gitlab`.
pub(crate) async fn serve(way: &str, after_ms: &str) -> Result<()> {
    let way = match way {
        "job" => Way::Job,
        "empty" => Way::Empty,
        "hold" => Way::Hold,
        _ => return Err("a GitLab needs to know how it answers".into()),
    };
    let gitlab = Arc::new(GitLab {
        way,
        after: Duration::from_millis(after_ms.parse()?),
        jobs: AtomicU64::new(FIRST_JOB),
        runners: AtomicU64::new(1),
        polls: AtomicU64::new(0),
        pieces: job().split(PLACE).map(str::to_owned).collect(),
        filler: vec![b'x'; PIECE].into(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    child::ready(listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let gitlab = gitlab.clone();
        let service = service_fn(move |request| {
            let gitlab = gitlab.clone();
            async move { gitlab.answer(request).await.map_err(std::io::Error::other) }
        });
        // It ends with its client.
        tokio::spawn(async move { drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await) });
    }
}

impl GitLab {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Content>> {
        let (parts, mut body) = request.into_parts();
        let path = parts.uri.path();
        match (&parts.method, path) {
            (&Method::POST, "/api/v4/jobs/request") => {
                let body = body.collect().await?.to_bytes();
                Ok(self.poll(&body).await)
            }
            (&Method::POST, "/api/v4/runners/verify") => {
                body.collect().await?;
                let id = self.runners.fetch_add(1, Ordering::Relaxed);
                Ok(json(StatusCode::OK, format!(r#"{{"id":{id},"token":"glrt-bench","token_expires_at":null}}"#)))
            }
            (&Method::GET, _) => {
                let length = parts.uri.query().and_then(|query| query.strip_prefix("length=")?.parse().ok());
                let content = Content::filler(&self.filler, length.ok_or("a download without a length")?, true);
                Ok(Response::new(content))
            }
            (method, _) => {
                let mut length = 0;
                while let Some(frame) = body.frame().await {
                    length += frame?.data_ref().map_or(0, Bytes::len);
                }
                let (status, text) = match *method {
                    Method::PATCH => (StatusCode::ACCEPTED, "202"),
                    Method::PUT => (StatusCode::OK, "200"),
                    _ => (StatusCode::CREATED, "201"),
                };
                let mut response = json(status, text);
                response.headers_mut().insert("job-status", HeaderValue::from_static("running"));
                response.headers_mut().insert(header::RANGE, format!("0-{length}").parse()?);
                Ok(response)
            }
        }
    }

    async fn poll(&self, body: &[u8]) -> Response<Content> {
        let number = self.polls.fetch_add(1, Ordering::Relaxed);
        let mut pause = self.after;
        if matches!(self.way, Way::Hold) {
            // The first ones end one after the other, as if those who ask had begun at different times.
            pause = match body {
                _ if contains(body, b"\"last_update\":\"2\"") => self.after,
                _ if contains(body, b"\"last_update\":\"1\"") => self.after * (number % 1000) as u32 / 1000,
                _ => Duration::ZERO,
            };
        }
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        if matches!(self.way, Way::Job) {
            return json(StatusCode::CREATED, self.job());
        }
        let known = if contains(body, b"\"last_update\"") { "2" } else { "1" };
        let mut response = Response::new(Content::whole(""));
        *response.status_mut() = StatusCode::NO_CONTENT;
        response.headers_mut().insert(LAST_UPDATE, HeaderValue::from_static(known));
        response
    }

    fn job(&self) -> Bytes {
        let number = self.jobs.fetch_add(1, Ordering::Relaxed).to_string();
        let mut job = BytesMut::with_capacity(JOB_BYTES * 2);
        for (place, piece) in self.pieces.iter().enumerate() {
            if place > 0 {
                job.put_slice(number.as_bytes());
            }
            job.put_slice(piece.as_bytes());
        }
        job.freeze()
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn json(status: StatusCode, text: impl Into<Bytes>) -> Response<Content> {
    let mut response = Response::new(Content::whole(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The number of a job that was made here.
pub(super) fn number_of(job: &[u8]) -> Option<u64> {
    let digits = job.strip_prefix(b"{\"id\":")?.first_chunk::<10>()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// An ordinary job as GitLab hands it out, about ten kilobytes of it, admitted by all policies.
fn job() -> String {
    let digest = "sha256:9f2b1c47d3e8f60718293a4b5c60190a5f2b1c47d3e8f60718293a4b5c6019aa";
    let token = format!("glcbt-64_{PLACE}abcdefghij");
    let repository = format!("https://gitlab-ci-token:{token}@gitlab.acme.example/{}.git", fixtures::PROJECT);
    let mut variables = vec![
        serde_json::json!({ "key": "CI_JOB_ID", "value": PLACE, "public": true, "masked": false }),
        serde_json::json!({ "key": "CI_JOB_TOKEN", "value": token, "public": false, "masked": true }),
        serde_json::json!({ "key": "CI_PIPELINE_SOURCE", "value": "push", "public": true, "masked": false }),
        serde_json::json!({ "key": "GITLAB_USER_LOGIN", "value": "ann", "public": true, "masked": false }),
    ];
    let make = |variables: &[serde_json::Value]| {
        let rest = serde_json::json!({
            "token": token,
            "allow_git_fetch": true,
            "job_info": {
                "name": "build", "stage": "build", "pipeline_id": 41562, "project_id": 311, "project_name": "api",
                "project_full_path": fixtures::PROJECT, "namespace_id": 88, "root_namespace_id": 12,
                "organization_id": 1, "instance_id": "4c1e7a52", "user_id": 42, "scoped_user_id": null,
                "time_in_queue_seconds": 2, "project_jobs_running_on_instance_runners_count": "+Inf",
            },
            "git_info": {
                "repo_url": repository, "repo_object_format": "sha1", "ref": "main", "ref_type": "branch",
                "sha": "0123456789abcdef0123456789abcdef01234567",
                "before_sha": "0000000000000000000000000000000000000000",
                "refspecs": ["+refs/pipelines/41562:refs/pipelines/41562"], "depth": 20, "protected": true,
            },
            "runner_info": { "timeout": 3600, "runner_session_url": null },
            "inputs": [],
            "variables": variables,
            "steps": [
                {
                    "name": "script", "script": ["make", "make test", "make package VERSION=$CI_COMMIT_SHORT_SHA"],
                    "timeout": 3600, "when": "on_success", "allow_failure": false,
                },
                { "name": "after_script", "script": ["make clean"], "timeout": 300, "when": "always", "allow_failure": true },
            ],
            "hooks": [],
            "image": { "name": format!("registry.acme.example/builder:1@{digest}"), "entrypoint": null, "executor_opts": {} },
            "services": [{ "name": format!("registry.acme.example/postgres:1@{digest}"), "alias": "db", "executor_opts": {} }],
            "artifacts": [{
                "name": "", "untracked": false, "paths": ["dist/"], "when": "on_success", "artifact_type": "archive",
                "artifact_format": "zip", "expire_in": "1 week",
            }],
            "cache": [{ "key": "main-protected", "untracked": false, "policy": "pull-push", "paths": [".cache"], "when": "on_success" }],
            "credentials": [{ "type": "registry", "url": "registry.acme.example", "username": "gitlab-ci-token", "password": token }],
            "dependencies": [{ "id": 8071, "token": token, "name": "lint", "artifacts_file": { "filename": "artifacts.zip", "size": 4711 } }],
            "features": {
                "trace_sections": true, "token_mask_prefixes": ["glpat-"],
                "failure_reasons": ["unknown_failure", "script_failure", "runner_system_failure", "runner_unsupported", "job_router_failure"],
            },
        });
        format!("{{\"id\":{PLACE},{}", &rest.to_string()[1..])
    };
    loop {
        let text = make(&variables);
        if text.len() >= JOB_BYTES {
            return text;
        }
        let number = variables.len();
        variables.push(serde_json::json!({
            "key": format!("CI_SOME_PREDEFINED_VARIABLE_{number}"), "public": true, "masked": false,
            "value": format!("https://gitlab.acme.example/{}/-/pipelines/41562", fixtures::PROJECT),
        }));
    }
}
