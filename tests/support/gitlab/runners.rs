//! Runners: their tokens, and the value that says whether a queue has changed.

use serde_json::{Value, json};
use tokio::sync::watch;

use super::{
    GitLab,
    dispatch::{Incoming, error, json_body},
    shared::State,
};
use axum::response::Response;

pub(super) struct Runner {
    pub(super) id: u64,
    /// Random, replaced whenever its queue changes (facts 2.3). Held requests wait on it.
    pub(super) last_update: watch::Sender<String>,
    pub(super) verified: usize,
}

pub(super) fn random_hex() -> String {
    format!("{:032x}", rand::random::<u128>())
}

impl State {
    /// The queue of these runners has changed: of all, or of one.
    pub(super) fn queue_changed(&self, only: Option<&str>) {
        let runners = self.runners.iter().filter(|(token, _)| only.is_none_or(|only| only == token.as_str()));
        runners.for_each(|(_, runner)| _ = runner.last_update.send_replace(random_hex()));
    }
}

impl GitLab {
    /// Makes a token known, and says the runner's id.
    pub fn runner(&self, token: &str) -> u64 {
        self.shared.write(|state| {
            let id = state.next_runner;
            state.next_runner += 1;
            let runner = Runner { id, last_update: watch::Sender::new(random_hex()), verified: 0 };
            state.runners.insert(token.to_owned(), runner);
            id
        })
    }

    /// Takes a token back.
    pub fn forget_runner(&self, token: &str) {
        self.shared.write(|state| _ = state.runners.remove(token));
    }

    /// How often a token was verified.
    pub fn verified(&self, token: &str) -> usize {
        self.shared.read(|state| state.runners.get(token).map_or(0, |runner| runner.verified))
    }

    /// What `X-GitLab-Last-Update` is at present.
    pub fn last_update(&self, token: &str) -> String {
        self.shared.read(|state| state.runners[token].last_update.borrow().clone())
    }

    /// Changes it, as anything does that could concern the runner's queue.
    pub fn queue_changed(&self, token: &str) {
        self.shared.write(|state| state.queue_changed(Some(token)));
    }
}

fn token(body: &[u8]) -> String {
    let body = serde_json::from_slice::<Value>(body).unwrap_or_default();
    body["token"].as_str().unwrap_or_default().to_owned()
}

pub(super) fn verify(call: &Incoming<'_>) -> Response {
    let token = token(&call.body);
    call.shared.write(|state| match state.runners.get_mut(&token) {
        Some(runner) => {
            runner.verified += 1;
            json_body(200, &json!({ "id": runner.id, "token": token, "token_expires_at": null }))
        }
        None => error(403),
    })
}

/// The runner gets another token, and the old one ends (facts 4.5).
pub(super) fn reset(call: &Incoming<'_>) -> Response {
    let old = token(&call.body);
    call.shared.write(|state| match state.runners.remove(&old) {
        Some(runner) => {
            let new = format!("glrt-{}", random_hex());
            state.runners.insert(new.clone(), runner);
            json_body(201, &json!({ "token": new, "token_expires_at": null }))
        }
        None => error(403),
    })
}

pub(super) fn discovery(call: &Incoming<'_>) -> Response {
    let token = call.header("runner-token").unwrap_or_default();
    call.shared.read(|state| match &state.settings.router {
        _ if !state.runners.contains_key(token) => error(403),
        Some(url) => json_body(200, &json!({ "server_url": url })),
        None => error(501),
    })
}
