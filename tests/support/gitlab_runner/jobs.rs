//! A job's calls, in the order of facts 4.1.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::body::Frame;
use reqwest::Method;
use serde_json::{Value, json};

use super::{FakeRunner, Picked, rest::Answered};

/// Tries of the final update (facts 4.3).
const TRIES: usize = 10;

/// What an answer means to a running job.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Heard {
    GoOn,
    /// Ends it with `after_script`.
    Canceling,
    /// Ends it at once, without another call.
    Abort,
}

/// How a job is reported.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Done {
    Success,
    Failed { reason: &'static str, exit_code: i64 },
}

fn heard(answered: Option<&Answered>, missing: &[u16]) -> Heard {
    let Some(answered) = answered else { return Heard::GoOn };
    match answered.header("job-status") {
        Some("canceled" | "failed") => Heard::Abort,
        _ if missing.contains(&answered.status) => Heard::Abort,
        Some("canceling") => Heard::Canceling,
        _ => Heard::GoOn,
    }
}

impl FakeRunner {
    async fn update(&self, job: &mut Picked, state: &str, more: Value) -> Option<Answered> {
        let mut body = json!({ "info": self.info(), "token": job.token, "state": state, "output": {} });
        body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        let token = [("job-token", job.token.clone())];
        let answered = self.json_call(Method::PUT, &format!("jobs/{}", job.id), &token, &body).await;
        job.interval = answered.as_ref().and_then(interval).or(job.interval);
        answered
    }

    /// `PUT state=running`, before anything runs. [`Heard::Abort`]: the job is dropped without another call.
    pub async fn accept(&self, job: &mut Picked) -> Heard {
        let answered = self.update(job, "running", json!({})).await;
        heard(answered.as_ref(), &[403, 404])
    }

    /// The same, with what was printed so far, which keeps a job alive.
    pub async fn keep_alive(&self, job: &mut Picked) -> Heard {
        let output = output(&job.trace[..job.sent]);
        let answered = self.update(job, "running", output).await;
        heard(answered.as_ref(), &[403, 404])
    }

    /// Prints, and sends what was not sent yet.
    pub async fn print(&self, job: &mut Picked, text: &[u8]) -> Heard {
        job.trace.extend_from_slice(text);
        self.send_trace(job).await
    }

    /// Some lines, in more than one piece.
    pub async fn run(&self, job: &mut Picked) -> Heard {
        for line in ["Running with gitlab-runner 19.4.0 (d79f3e7b)\n", "$ echo ok\n", "ok\n"] {
            let heard = self.print(job, line.as_bytes()).await;
            if heard != Heard::GoOn {
                return heard;
            }
        }
        Heard::GoOn
    }

    /// `PATCH trace` until all is sent, or something stands in the way.
    async fn send_trace(&self, job: &mut Picked) -> Heard {
        while job.sent < job.trace.len() {
            let start = job.sent;
            let end = job.trace.len().min(start + (1 << 20));
            let headers = [
                ("job-token", job.token.clone()),
                ("content-type", "text/plain".to_owned()),
                ("content-range", format!("{start}-{}", end - 1)),
            ];
            let piece = Bytes::copy_from_slice(&job.trace[start..end]);
            let path = format!("jobs/{}/trace?debug_trace=false", job.id);
            let answered = self.call(Method::PATCH, &path, &headers, piece).await;
            let meaning = heard(answered.as_ref(), &[403]);
            let Some(answered) = answered else { return meaning };
            job.interval = interval(&answered).or(job.interval);
            match answered.status {
                _ if meaning == Heard::Abort => return meaning,
                202 => job.sent = end,
                // Without a range it begins anew (facts 4.2).
                416 => job.sent = range(&answered).unwrap_or(0).min(job.trace.len()),
                _ => return meaning,
            }
            if meaning != Heard::GoOn {
                return meaning;
            }
        }
        Heard::GoOn
    }

    /// [`FakeRunner::finish_as`] success.
    pub async fn finish(&self, job: &mut Picked) -> Option<u16> {
        self.finish_as(job, Done::Success).await
    }

    /// The rest of the trace, then the final state until it is taken: the last status, none without an answer.
    pub async fn finish_as(&self, job: &mut Picked, done: Done) -> Option<u16> {
        let mut last = None;
        for _ in 0..TRIES {
            if self.send_trace(job).await == Heard::Abort {
                return Some(403);
            }
            let mut more = output(&job.trace);
            let state = match &done {
                Done::Success => "success",
                Done::Failed { reason, exit_code } => {
                    more["failure_reason"] = (*reason).into();
                    more["exit_code"] = (*exit_code).into();
                    "failed"
                }
            };
            let answered = self.update(job, state, more).await;
            last = answered.as_ref().map(|answered| answered.status);
            match last {
                Some(200) => return last,
                _ if heard(answered.as_ref(), &[403, 404]) == Heard::Abort => return last,
                Some(412) => job.sent = 0,
                _ => self.pause(Duration::from_secs(job.interval.unwrap_or(3))).await,
            }
        }
        last
    }

    /// All of a job's life.
    pub async fn whole(&self, job: &mut Picked) -> Option<u16> {
        if self.accept(job).await == Heard::Abort || self.run(job).await == Heard::Abort {
            return None;
        }
        self.finish(job).await
    }

    /// `POST artifacts`, in chunks and without a length: the status.
    pub async fn upload(
        &self,
        job: &Picked,
        filename: &str,
        pieces: impl Iterator<Item = Bytes> + Send + Sync + 'static,
    ) -> Option<u16> {
        let head = format!(
            "--x-boundary\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{filename}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        );
        let pieces = std::iter::once(Bytes::from(head)).chain(pieces);
        let pieces = pieces.chain(std::iter::once(Bytes::from_static(b"\r\n--x-boundary--\r\n")));
        let stream = tokio_stream::iter(pieces.map(|piece| Ok::<_, Infallible>(Frame::data(piece))));
        let url = self.api(&format!("jobs/{}/artifacts?artifact_format=zip&artifact_type=archive", job.id));
        let request = self.http.post(url).header("job-token", &job.token).header("x-request-id", self.new_request_id());
        let request = request.header("content-type", "multipart/form-data; boundary=x-boundary");
        let body = reqwest::Body::wrap(StreamBody::new(stream));
        Some(request.body(body).send().await.ok()?.status().as_u16())
    }

    /// `GET artifacts` of another job, without keeping them: status, length and checksum.
    pub async fn download(&self, id: u64, token: &str, direct: bool) -> Option<(u16, u64, String)> {
        let query = if direct { "?direct_download=true" } else { "" };
        let request = self.http.get(self.api(&format!("jobs/{id}/artifacts{query}"))).header("job-token", token);
        let mut response = request.header("x-request-id", self.new_request_id()).send().await.ok()?;
        let (mut bytes, mut hasher) = (0, crc32fast::Hasher::new());
        while let Some(piece) = response.chunk().await.ok()? {
            bytes += piece.len() as u64;
            hasher.update(&piece);
        }
        Some((response.status().as_u16(), bytes, format!("crc32:{:08x}", hasher.finalize())))
    }
}

fn output(trace: &[u8]) -> Value {
    if trace.is_empty() {
        return json!({});
    }
    let checksum = format!("crc32:{:08x}", crc32fast::hash(trace));
    json!({ "checksum": checksum, "output": { "checksum": checksum, "bytesize": trace.len() } })
}

/// Seconds; nothing below one counts, nothing above 15 minutes (facts 7.22).
fn interval(answered: &Answered) -> Option<u64> {
    let seconds: u64 = answered.header("x-gitlab-trace-update-interval")?.parse().ok()?;
    (seconds > 0).then_some(seconds.min(900))
}

fn range(answered: &Answered) -> Option<usize> {
    answered.header("range")?.strip_prefix("0-")?.parse().ok()
}
