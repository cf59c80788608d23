//! Messages of native runners, checked and in our own words.

use jobgate_proto::runner::v1::{self as wire, runner_message::Message};
use prost_types::Duration;
use tonic::Status;

use crate::{
    faces::auth::RunnerIdentity,
    handle::{self, JobResult, RunnerEvent, RunnerHello, RunnerOrder},
    job::{JobId, JobState, Lease},
};

/// Longest word a runner says of itself, in characters.
const LONGEST_WORD: usize = 128;
/// Jobs one stream may run at once.
const MOST_JOBS: u32 = 10_000;
/// Leases in one message.
const MOST_LEASES: usize = MOST_JOBS as usize;
/// Reasons one stream may give to keep jobs away.
const MOST_TAINTS: usize = 32;
/// Largest piece of output, in bytes.
const LARGEST_OUTPUT: usize = 64 * 1024;
/// Longest reason kept, in bytes.
const LONGEST_REASON: usize = 1024;

/// Reads the first message of a stream.
pub(super) fn hello(identity: &RunnerIdentity, message: wire::RunnerMessage) -> Result<RunnerHello, Status> {
    let Some(Message::Hello(hello)) = message.message else {
        return Err(Status::invalid_argument("the first message must be a hello"));
    };
    let wire::Hello { system_id, version, platform, executor, capacity, leases, taints } = hello;
    let system_id = word("system_id", system_id)?
        .ok_or_else(|| Status::invalid_argument("hello: `system_id` must name this machine or process"))?;
    if !(1..=MOST_JOBS).contains(&capacity) {
        return Err(Status::invalid_argument(format!("hello: `capacity` is 1 to {MOST_JOBS}, not {capacity}")));
    }
    if taints.len() > MOST_TAINTS {
        return Err(Status::invalid_argument(format!("hello: at most {MOST_TAINTS} taints")));
    }
    for taint in taints {
        word("taints", taint)?;
    }
    Ok(RunnerHello {
        runner: identity.0.clone(),
        system_id,
        version: word("version", version)?,
        platform: word("platform", platform)?,
        executor: word("executor", executor)?,
        capacity,
        leases: held(leases)?,
        taints: Vec::new(),
    })
}

/// Reads a later message; `None` for one that a newer runner may send and this router does not know.
pub(super) fn event(message: wire::RunnerMessage) -> Result<Option<RunnerEvent>, Status> {
    let Some(message) = message.message else { return Ok(None) };
    Ok(Some(match message {
        Message::Hello(_) => return Err(Status::invalid_argument("there is one hello, at the beginning")),
        Message::Credit(wire::Credit { slots }) if (1..=MOST_JOBS).contains(&slots) => RunnerEvent::Credit(slots),
        Message::Credit(wire::Credit { slots }) => {
            return Err(Status::invalid_argument(format!("credit: 1 to {MOST_JOBS} slots, not {slots}")));
        }
        Message::Accept(wire::Accept { job_id, lease }) => RunnerEvent::Accepted(job(job_id)?, Lease(lease)),
        Message::Refuse(wire::Refuse { job_id, lease, reason }) => {
            RunnerEvent::Refused(job(job_id)?, Lease(lease), line(&reason))
        }
        Message::Started(wire::Started { job_id, lease }) => RunnerEvent::Started(job(job_id)?, Lease(lease)),
        Message::Output(wire::Output { data, .. }) if data.len() > LARGEST_OUTPUT => {
            let length = data.len();
            return Err(Status::invalid_argument(format!(
                "output: at most {LARGEST_OUTPUT} bytes at once, not {length}"
            )));
        }
        Message::Output(wire::Output { job_id, lease, .. }) => RunnerEvent::Output(job(job_id)?, Lease(lease)),
        Message::Finished(finished) => self::finished(finished)?,
        Message::Heartbeat(wire::Heartbeat { leases }) => RunnerEvent::Heartbeat(held(leases)?),
        Message::Draining(wire::Draining {}) => RunnerEvent::Draining,
    }))
}

/// What a runner is told; `Err` when its stream ends with it.
pub(super) fn order(order: RunnerOrder) -> Result<wire::GatewayMessage, Status> {
    use wire::gateway_message::Message;
    let message = match order {
        RunnerOrder::Assign { job, lease, document, timeout_seconds, fence: _ } => Message::Assign(wire::Assign {
            job_id: job.to_string(),
            lease: lease.0,
            document,
            timeout: timeout_seconds.map(|seconds| Duration { seconds, nanos: 0 }),
        }),
        RunnerOrder::Cancel(job, lease, reason) => {
            Message::Cancel(wire::Cancel { job_id: job.to_string(), lease: lease.0, reason })
        }
        RunnerOrder::Recorded(job, lease) => {
            Message::Recorded(wire::Recorded { job_id: job.to_string(), lease: lease.0 })
        }
        RunnerOrder::Queue(signal) => Message::Queue(wire::QueueSignal {
            waiting: signal.waiting,
            running: signal.running,
            oldest_wait: signal.oldest.and_then(|since| {
                std::time::Duration::try_from(signal.time.duration_since(since)).ok()?.try_into().ok()
            }),
            capacity: signal.capacity,
        }),
        RunnerOrder::Heartbeat => Message::Heartbeat(wire::Heartbeat { leases: Vec::new() }),
        RunnerOrder::Drain => Message::Draining(wire::Draining {}),
        RunnerOrder::End(error) => return Err(super::runner::ended(&error)),
    };
    Ok(wire::GatewayMessage { message: Some(message) })
}

fn finished(finished: wire::Finished) -> Result<RunnerEvent, Status> {
    let state = match finished.outcome() {
        wire::Outcome::Success => JobState::Success,
        wire::Outcome::Failed => JobState::Failed,
        wire::Outcome::Canceled => JobState::Canceled,
        wire::Outcome::Unspecified => {
            return Err(Status::invalid_argument("finished: `outcome` is success, failed or canceled"));
        }
    };
    let wire::Finished { job_id, lease, exit_code, reason, .. } = finished;
    Ok(RunnerEvent::Finished(job(job_id)?, Lease(lease), JobResult { state, exit_code, reason: line(&reason) }))
}

fn held(leases: Vec<wire::HeldLease>) -> Result<Vec<handle::HeldLease>, Status> {
    if leases.len() > MOST_LEASES {
        return Err(Status::invalid_argument(format!("at most {MOST_LEASES} leases")));
    }
    let held = |held: wire::HeldLease| {
        Ok(handle::HeldLease { job: job(held.job_id)?, lease: Lease(held.lease), started: held.started })
    };
    leases.into_iter().map(held).collect()
}

fn job(id: String) -> Result<JobId, Status> {
    if id.is_empty() || id.len() > LONGEST_WORD {
        return Err(Status::invalid_argument("`job_id` is not an id of ours"));
    }
    Ok(JobId::new(id))
}

/// A short printable text, `None` when it is empty.
fn word(name: &str, text: String) -> Result<Option<String>, Status> {
    if text.chars().count() > LONGEST_WORD || text.chars().any(char::is_control) {
        let message = format!("hello: `{name}` is at most {LONGEST_WORD} printable characters");
        return Err(Status::invalid_argument(message));
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// One line of bounded length.
fn line(text: &str) -> String {
    let mut line = String::new();
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if line.len() + c.len_utf8() > LONGEST_REASON {
            break;
        }
        line.push(c);
    }
    line
}
