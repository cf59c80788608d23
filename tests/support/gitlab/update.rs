//! `PUT /jobs/:id` (facts 4.3, and 5.1 for two phases).

use axum::response::Response;
use serde_json::Value;

use super::{
    dispatch::{Incoming, error, plain, with},
    jobs::{Job, Status},
    settings::Settings,
};

pub(super) fn put(call: &Incoming<'_>) -> Response {
    let Ok(body) = serde_json::from_slice::<Value>(&call.body) else { return error(400) };
    // GitLab prefers the body's token over the header's (facts 7.33).
    let token = body["token"].as_str().or_else(|| call.header("job-token"));
    call.shared.write(|state| {
        let mut settings = state.settings.clone();
        let job = match state.job_of(call.id, token) {
            Ok(job) => job,
            Err(status) => return error(status),
        };
        let answer = update(job, &mut settings, &body);
        // The body is the number of the status.
        let mut response = job.says(plain(answer, answer.to_string()));
        if answer == 202 {
            let interval = settings.trace_interval.unwrap_or(3).to_string();
            response = with(response, [("x-gitlab-trace-update-interval", interval.as_str())]);
        }
        state.settings.rewinds = settings.rewinds;
        response
    })
}

fn update(job: &mut Job, settings: &mut Settings, body: &Value) -> u16 {
    let wanted = body["state"].as_str().unwrap_or_default();
    match (job.status, wanted) {
        (Status::Pending, "pending") => job.keeps_alive("pending"),
        (Status::Pending, "running") => {
            job.status = Status::Running;
            job.keeps_alive("running")
        }
        (Status::Pending, _) => 400,
        (status, _) if !status.executes() => {
            job.refused += 1;
            403
        }
        (_, "running") => job.keeps_alive("running"),
        (_, "success" | "failed") => {
            let checksum = body["output"]["checksum"].as_str().or_else(|| body["checksum"].as_str());
            if checksum.is_some() && settings.rewinds > 0 {
                settings.rewinds -= 1;
                return 412;
            }
            // Only with a checksum; without one a state counts at once.
            if checksum.is_some() && settings.live_trace && job.persisting == 0 {
                job.persisting += 1;
                return 202;
            }
            job.checksum = checksum.map(str::to_owned);
            job.end(wanted, body, settings);
            200
        }
        _ => 400,
    }
}

impl Job {
    fn keeps_alive(&mut self, state: &str) -> u16 {
        if self.updates.last().is_some_and(|last| last == state) {
            self.keep_alives += 1;
        } else {
            self.updates.push(state.to_owned());
        }
        200
    }

    fn end(&mut self, state: &str, body: &Value, settings: &Settings) {
        self.updates.push(state.to_owned());
        self.exit_code = body["exit_code"].as_i64();
        self.sent_reason = body["failure_reason"].as_str().map(str::to_owned);
        if state == "failed" {
            let known = self.sent_reason.as_ref().filter(|reason| settings.known_reasons.contains(reason));
            self.failure_reason = Some(known.map_or("unknown_failure", String::as_str).to_owned());
        }
        // What was being canceled ends canceled, whatever the runner says. Not in the facts; GitLab's own state machine.
        self.status = match (self.status, state) {
            (Status::Canceling, _) => Status::Canceled,
            (_, "success") => Status::Success,
            _ => Status::Failed,
        };
    }
}
