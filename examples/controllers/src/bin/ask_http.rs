//! FREEZES=http://127.0.0.1:8000 cargo run -p jobgate-examples --bin ask_http
//!
//! Asks another service, `GET $FREEZES/projects/{path}` → `{"frozen": true, "reason": "…"}`, within the question's own time.
//! Without an answer it says that it failed; the router's `on_failure` decides what that means.

use std::time::Duration;

use jobgate_sdk::{AdmissionRequest, Controller, Verdict, async_trait};
use reqwest::{Client, Url};

/// Rejects jobs of projects that are frozen.
pub struct Freezes {
    client: Client,
    base: Url,
}

#[derive(serde::Deserialize)]
struct Freeze {
    frozen: bool,
    #[serde(default)]
    reason: String,
}

impl Freezes {
    /// Asks the service at this URL.
    pub fn new(base: Url) -> Self {
        Self { client: Client::new(), base }
    }

    async fn freeze(&self, request: &AdmissionRequest) -> Result<Freeze, reqwest::Error> {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["projects", &request.project().path]);
        }
        // A little less than there is, so that the failure is told with its cause.
        let limit = request.time_left().saturating_sub(Duration::from_millis(20));
        self.client.get(url).timeout(limit).send().await?.error_for_status()?.json().await
    }
}

#[async_trait]
impl Controller for Freezes {
    async fn admit(&self, request: &AdmissionRequest) -> Verdict {
        match self.freeze(request).await {
            Ok(Freeze { frozen: false, .. }) => Verdict::admit(),
            Ok(Freeze { reason, .. }) => Verdict::reject(format!("the project is frozen: {reason}")).rule("frozen"),
            Err(error) => Verdict::fail(format!("no word about freezes: {}", error.without_url())),
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let base = std::env::var("FREEZES").map_err(|_| "say where to ask: FREEZES=http://127.0.0.1:8000")?.parse()?;
    Ok(jobgate_examples::run(Freezes::new(base)).await?)
}
