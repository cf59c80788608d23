//! `PATCH /jobs/:id/trace` (facts 4.2).

use axum::response::Response;

use super::{
    dispatch::{Incoming, error, plain, with},
    jobs::Job,
};

pub(super) fn patch(call: &Incoming<'_>) -> Response {
    let start = call.header("content-range").and_then(|range| {
        let (start, end) = range.split_once('-')?;
        let _: u64 = end.parse().ok()?;
        start.parse::<usize>().ok()
    });
    call.shared.write(|state| {
        let (limit, interval) = (state.settings.trace_limit, state.settings.trace_interval);
        let job = match state.job_of(call.id, call.header("job-token")) {
            Ok(job) => job,
            Err(status) => return error(status),
        };
        if !job.status.executes() {
            job.refused += 1;
            return job.says(error(403));
        }
        let Some(start) = start else { return job.says(error(400)) };
        let status = append(job, start, &call.body, limit);
        // A count, not the last place (facts 7.17).
        let range = format!("0-{}", job.trace.len());
        let interval = interval.map(|seconds| seconds.to_string());
        let mut response = job.says(plain(status, status.to_string()));
        if status != 403 {
            response = with(response, [("range", range.as_str())]);
        }
        if status == 202 {
            response = with(response, interval.iter().map(|it| ("x-gitlab-trace-update-interval", it.as_str())));
        }
        response
    })
}

fn append(job: &mut Job, start: usize, piece: &[u8], limit: Option<usize>) -> u16 {
    // The stated end is not looked at.
    let end = start + piece.len();
    if start != job.trace.len() {
        // A piece sent again is not appended again.
        return if job.trace.len() == end { 202 } else { 416 };
    }
    if limit.is_some_and(|limit| end > limit) {
        job.drop_with("trace_size_exceeded");
        return 403;
    }
    job.trace.extend_from_slice(piece);
    202
}
