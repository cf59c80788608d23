//! Requests of jobs (facts 2.1 to 2.3).

use axum::response::Response;
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::{
    dispatch::{Incoming, error, plain, with},
    jobs::{Assignment, Status},
    shared::{Shared, State},
};

/// Counts a held request for as long as its client waits.
struct Held<'a>(&'a Shared);

impl<'a> Held<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.write(|state| state.held += 1);
        Self(shared)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.write(|state| state.held -= 1);
    }
}

pub(super) async fn request(call: &Incoming<'_>) -> Response {
    let Ok(body) = serde_json::from_slice::<Value>(&call.body) else { return error(400) };
    // The body's token counts; the header is not looked at (facts 2.1).
    let token = body["token"].as_str().unwrap_or_default().to_owned();
    let known = call.shared.read(|state| {
        let runner = state.runners.get(&token)?;
        Some((runner.last_update.subscribe(), state.settings.hold))
    });
    let Some((mut current, hold)) = known else { return error(403) };

    if let Some(seen) = body["last_update"].as_str().filter(|seen| *current.borrow_and_update() == **seen) {
        let held = Held::new(call.shared);
        let seen = seen.to_owned();
        let change = current.wait_for(|value| *value != seen);
        // A client that goes away drops this future here, and no job is assigned to it.
        let changed = matches!(timeout(hold, change).await, Ok(Ok(_)));
        drop(held);
        if !changed {
            return nothing(call.shared, &token);
        }
    }
    let assignment = Assignment {
        token: token.clone(),
        system_id: body["system_id"].as_str().unwrap_or_default().to_owned(),
        request_id: call.header("x-request-id").map(str::to_owned),
        info: body["info"].clone(),
        at: Instant::now(),
        call: call.number,
    };
    match call.shared.write(|state| state.assign(assignment)) {
        Some(document) => with_document(document),
        None => nothing(call.shared, &token),
    }
}

impl State {
    /// The first job of the queue that this runner may have.
    fn assign(&mut self, to: Assignment) -> Option<bytes::Bytes> {
        let may = |id: &u64| self.jobs[id].runner.as_ref().is_none_or(|only| *only == to.token);
        let at = self.queue.iter().position(may)?;
        let id = self.queue.remove(at)?;
        let two_phase = self.settings.two_phase && to.has_feature("two_phase_job_commit");
        let job = self.jobs.get_mut(&id)?;
        job.status = if two_phase { Status::Pending } else { Status::Running };
        job.assignments.push(to);
        let (document, only) = (job.document.clone(), job.runner.clone());
        self.queue_changed(only.as_deref());
        Some(document)
    }
}

fn with_document(document: bytes::Bytes) -> Response {
    let (mut parts, _) = plain(201, "").into_parts();
    parts.headers.insert("content-type", "application/json".parse().unwrap());
    Response::from_parts(parts, document.into())
}

/// `X-GitLab-Last-Update` comes with 204 only (facts 2.3).
fn nothing(shared: &Shared, token: &str) -> Response {
    let last = shared.read(|state| state.runners.get(token).map(|runner| runner.last_update.borrow().clone()));
    let response = Response::builder().status(204).body(axum::body::Body::empty()).unwrap();
    with(response, last.iter().map(|last| ("x-gitlab-last-update", last.as_str())))
}
