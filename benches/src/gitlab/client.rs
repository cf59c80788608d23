//! Runners of GitLab, as far as the wire is concerned: each has a connection of its own, and keeps it.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::fake::{Content, LAST_UPDATE, number_of};
use crate::{Result, child};

/// A runner and its connection.
pub(super) struct Runner {
    sender: SendRequest<Content>,
    host: HeaderValue,
    token: String,
    number: usize,
    calls: u64,
}

/// An answer, read to its end.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) last_update: Option<String>,
    /// Its beginning.
    pub(super) body: Bytes,
}

/// What a runner says when it asks for a job.
pub(super) fn job_request(token: &str, number: usize, last_update: Option<&str>) -> String {
    let last_update = last_update.map(|update| format!(r#","last_update":"{update}""#)).unwrap_or_default();
    format!(
        r#"{{"info":{{"name":"gitlab-runner","version":"19.4.0","revision":"1a2b3c4d","platform":"linux","architecture":"amd64","executor":"docker","shell":"bash","labels":{{}},"features":{{"variables":true,"image":true,"services":true,"artifacts":true,"cache":true,"fallback_cache_keys":true,"shared":true,"upload_multiple_artifacts":true,"upload_raw_artifacts":true,"session":true,"terminal":true,"refspecs":true,"masking":true,"proxy":false,"raw_variables":true,"artifacts_exclude":true,"multi_build_steps":true,"trace_reset":true,"trace_checksum":true,"trace_size":true,"vault_secrets":true,"cancelable":true,"return_exit_code":true,"service_variables":true,"service_multiple_aliases":true,"image_executor_opts":true,"service_executor_opts":true,"cancel_gracefully":true,"native_steps_integration":true,"two_phase_job_commit":true,"job_inputs":true}},"config":{{"gpus":""}}}},"token":"{token}","system_id":"s_{number:012x}"{last_update}}}"#
    )
}

pub(super) fn token(number: usize) -> String {
    format!("glrt-bench-{number:012}")
}

impl Runner {
    /// Connects; each number has a token of its own.
    pub(super) async fn connect(address: &str, number: usize) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Whoever waits for an answer sees that it is gone.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, host: address.parse()?, token: token(number), number, calls: 0 })
    }

    /// Asks for a job.
    pub(super) async fn poll(&mut self, last_update: Option<&str>) -> Result<Answer> {
        let body = Content::whole(job_request(&self.token, self.number, last_update));
        self.call(Method::POST, "/api/v4/jobs/request", "application/json", body).await
    }

    /// Asks for a job, and gives its number.
    pub(super) async fn job(&mut self) -> Result<u64> {
        let answer = self.poll(None).await?;
        let number = (answer.status == StatusCode::CREATED).then(|| number_of(&answer.body)).flatten();
        number.ok_or_else(|| format!("{} instead of a job: {:?}", answer.status, answer.body).into())
    }

    /// Says that it has the job.
    pub(super) async fn confirm(&mut self, job: u64) -> Result<()> {
        let body = Content::whole(r#"{"token":"glcbt-bench","state":"running"}"#);
        let path = format!("/api/v4/jobs/{job}");
        good(&self.call(Method::PUT, &path, "application/json", body).await?)
    }

    /// Sends a part of a job's log.
    pub(super) async fn trace(&mut self, log: Bytes) -> Result<()> {
        good(&self.call(Method::PATCH, "/api/v4/jobs/4711/trace", "text/plain", Content::whole(log)).await?)
    }

    /// Uploads artifacts of this length, chunked.
    pub(super) async fn upload(&mut self, piece: &Bytes, length: u64) -> Result<()> {
        let body = Content::filler(piece, length, false);
        let kind = "multipart/form-data; boundary=bench";
        good(&self.call(Method::POST, "/api/v4/jobs/4711/artifacts", kind, body).await?)
    }

    pub(super) async fn download(&mut self, length: u64) -> Result<()> {
        let path = format!("/api/v4/jobs/4711/artifacts?length={length}");
        good(&self.call(Method::GET, &path, "application/json", Content::whole("")).await?)
    }

    async fn call(&mut self, method: Method, path: &str, kind: &str, body: Content) -> Result<Answer> {
        self.calls += 1;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.host.clone())
            .header(header::USER_AGENT, "gitlab-runner 19.4.0 (19-4-stable; go1.26; linux/amd64)")
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, kind)
            .header("runner-token", &self.token)
            .header("x-request-id", format!("{:08x}{:08x}", self.number, self.calls))
            .body(body)?;
        self.sender.ready().await?;
        let (parts, mut body) = self.sender.send_request(request).await?.into_parts();
        // Large ones are not kept; what is looked at is at the beginning.
        let mut first = Bytes::new();
        while let Some(frame) = body.frame().await {
            let data = frame?.into_data().unwrap_or_default();
            if first.is_empty() {
                first = data;
            }
        }
        let last_update = parts.headers.get(LAST_UPDATE).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Ok(Answer { status: parts.status, last_update, body: first })
    }
}

/// Nothing but success will do.
fn good(answer: &Answer) -> Result<()> {
    if answer.status.is_success() { Ok(()) } else { Err(format!("{}: {:?}", answer.status, answer.body).into()) }
}

/// Role `gitlab-runners`: so many idle runners that poll, each with a connection and a token of its own.
pub(crate) async fn hold(address: &str, count: &str) -> Result<()> {
    for number in 0..count.parse()? {
        let mut runner = Runner::connect(address, number).await?;
        let mut answer = runner.poll(None).await?;
        tokio::spawn(async move {
            loop {
                let next = match answer.last_update.as_deref() {
                    Some(update) if answer.status == StatusCode::NO_CONTENT => runner.poll(Some(update)).await,
                    _ => Err(format!("{} instead of no job: {:?}", answer.status, answer.body).into()),
                };
                match next {
                    Ok(next) => answer = next,
                    Err(error) => {
                        eprintln!("an idle runner: {error}");
                        return;
                    }
                }
            }
        });
    }
    child::ready("holding");
    std::future::pending().await
}
