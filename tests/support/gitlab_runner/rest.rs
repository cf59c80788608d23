//! REST, with the repetitions inside of one call (facts 2.0 and 2.2).

use std::time::Duration;

use axum::http::HeaderMap;
use bytes::Bytes;
use reqwest::Method;
use serde_json::{Value, json};

use super::{Code, FakeRunner, Picked, Polled, body::USER_AGENT};

const ATTEMPTS: usize = 5;

/// The last answer of a call.
#[derive(Clone, Debug)]
pub struct Answered {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answered {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn is_json(&self) -> bool {
        let kind = self.header("content-type").and_then(|kind| kind.split(';').next());
        kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
    }
}

fn repeats(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504) || status >= 512
}

impl FakeRunner {
    /// Where the API is.
    pub(super) fn api(&self, path: &str) -> String {
        format!("{}/api/v4/{path}", self.url)
    }

    /// One call, repeated under the same id. `None` without an answer, which is not repeated here.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, String)],
        body: Bytes,
    ) -> Option<Answered> {
        let id = self.new_request_id();
        let mut backoff = Duration::from_millis(100);
        for attempt in 1.. {
            let mut request = self.http.request(method.clone(), self.api(path)).body(body.clone());
            request = request.header("user-agent", USER_AGENT).header("x-request-id", &id);
            for (name, value) in headers {
                request = request.header(*name, value);
            }
            let response = request.send().await.ok()?;
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            let answered = Answered { status, headers, body: response.bytes().await.ok()? };
            if attempt == ATTEMPTS || !repeats(status) {
                return Some(answered);
            }
            // Whole seconds only (facts 7.21). `RateLimit-ResetTime` is not modelled.
            let told = answered.header("retry-after").and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
            self.pause(told.unwrap_or(backoff).min(Duration::from_secs(60))).await;
            backoff *= 2;
        }
        None
    }

    pub(super) async fn json_call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, String)],
        body: &Value,
    ) -> Option<Answered> {
        let mut all = vec![("content-type", "application/json".to_owned())];
        all.extend_from_slice(headers);
        let answered = self.call(method, path, &all, body.to_string().into()).await?;
        self.heard(answered.header("x-gitlab-last-update"));
        Some(answered)
    }

    fn runner_token(&self) -> [(&'static str, String); 2] {
        [("runner-token", self.token.clone()), ("accept", "application/json".to_owned())]
    }

    /// `POST /jobs/request`.
    pub(super) async fn request(&self) -> Polled {
        let body = self.job_request();
        let Some(answered) = self.json_call(Method::POST, "jobs/request", &self.runner_token(), &body).await else {
            return Polled::Failed(Code::Transport);
        };
        match answered.status {
            201 if answered.is_json() => {
                Picked::new(answered.body, answered.headers).map_or(Polled::Failed(Code::NoJob), Polled::Job)
            }
            // Another content type: the job is lost, and the runner thinks nothing of it.
            201 => Polled::Failed(Code::NoJob),
            204 => Polled::Empty,
            403 => Polled::Unhealthy(Code::Http(403)),
            status => Polled::Failed(Code::Http(status)),
        }
    }

    /// `POST /runners/verify`: the status, and the body if it is JSON.
    pub async fn verify(&self) -> Option<(u16, Value)> {
        let body = json!({ "info": self.info(), "token": self.token, "system_id": self.system_id });
        let answered = self.json_call(Method::POST, "runners/verify", &self.runner_token(), &body).await?;
        Some((answered.status, serde_json::from_slice(&answered.body).unwrap_or_default()))
    }

    /// `GET /runners/router/discovery`: the status, and where the router is.
    pub async fn discover(&self) -> Option<(u16, Option<String>)> {
        let answered = self.call(Method::GET, "runners/router/discovery", &self.runner_token(), Bytes::new()).await?;
        let found = (answered.status == 200 && answered.is_json())
            .then(|| serde_json::from_slice::<Value>(&answered.body).ok()?["server_url"].as_str().map(str::to_owned));
        Some((answered.status, found.flatten()))
    }
}
