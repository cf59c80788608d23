//! Messages of native runners, checked and in our own words.

use jobgate_proto::runner::v1::{self as wire, runner_message::Message};
use prost_types::{Duration, Timestamp};
use tonic::Status;

use crate::{
    faces::auth::RunnerIdentity,
    handle::{self, JobResult, QueueSignal, RunnerEvent, RunnerHello, RunnerOrder, TaintKind},
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
/// Longest reason of a taint, in characters.
const LONGEST_TAINT: usize = 200;
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
    Ok(RunnerHello {
        runner: identity.0.clone(),
        system_id,
        version: word("version", version)?,
        platform: word("platform", platform)?,
        executor: word("executor", executor)?,
        capacity,
        leases: held(leases)?,
        taints: taints.iter().map(|text| taint(text)).collect::<Result<_, _>>()?,
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
        RunnerOrder::Assign { job, lease, document, timeout_seconds, fence } => Message::Assign(wire::Assign {
            job_id: job.to_string(),
            lease: lease.0,
            document,
            timeout: timeout_seconds.map(|seconds| Duration { seconds, nanos: 0 }),
            fence,
        }),
        RunnerOrder::Cancel(job, lease, reason) => {
            Message::Cancel(wire::Cancel { job_id: job.to_string(), lease: lease.0, reason })
        }
        RunnerOrder::Recorded(job, lease) => {
            Message::Recorded(wire::Recorded { job_id: job.to_string(), lease: lease.0 })
        }
        RunnerOrder::Queue(signal) => Message::Queue(queue(&signal)),
        RunnerOrder::Heartbeat => Message::Heartbeat(wire::Heartbeat { leases: Vec::new() }),
        RunnerOrder::Drain => Message::Draining(wire::Draining {}),
        RunnerOrder::End(error) => return Err(super::runner::ended(&error)),
    };
    Ok(wire::GatewayMessage { message: Some(message) })
}

fn queue(signal: &QueueSignal) -> wire::QueueSignal {
    let QueueSignal { waiting, running, oldest, capacity, time } = *signal;
    let oldest = oldest.map(|since| time.duration_since(since).max(jiff::SignedDuration::ZERO));
    let oldest_wait = oldest.map(|wait| Duration { seconds: wait.as_secs(), nanos: wait.subsec_nanos() });
    let time = Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() };
    wire::QueueSignal { waiting, running, oldest_wait, capacity, time: Some(time) }
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

/// `leadership` or `jobs`, with or without `: ` and a reason.
fn taint(text: &str) -> Result<(TaintKind, String), Status> {
    let (kind, reason) = text.split_once(": ").unwrap_or((text, ""));
    let Some(kind) = TaintKind::parse(kind) else {
        let message = "hello: a taint is `leadership` or `jobs`, with or without `: ` and a reason";
        return Err(Status::invalid_argument(message));
    };
    if reason.chars().count() > LONGEST_TAINT || reason.chars().any(char::is_control) {
        let message = format!("hello: the reason of a taint is one line of at most {LONGEST_TAINT} characters");
        return Err(Status::invalid_argument(message));
    }
    Ok((kind, reason.trim().to_owned()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taint_is_one_of_two_words_and_perhaps_a_reason() {
        let good = |text: &str| taint(text).unwrap();
        assert_eq!(good("leadership"), (TaintKind::Leadership, String::new()));
        assert_eq!(good("jobs: disk: 99 % full"), (TaintKind::Jobs, "disk: 99 % full".to_owned()));
        let long = "é".repeat(200);
        assert_eq!(good(&format!("jobs: {long}")).1, long);
        for bad in ["", "job", "Jobs", "jobs:x", "jobs :x", "all: x", "disk is full"] {
            let status = taint(bad).unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            assert!(status.message().contains("`leadership` or `jobs`"), "{bad}: {status}");
        }
        for bad in [format!("jobs: {long}é"), "jobs: a\nb".to_owned(), "jobs: \u{1b}[31m".to_owned()] {
            let status = taint(&bad).unwrap_err();
            assert!(status.message().contains("at most 200 characters"), "{status}");
        }
    }

    #[test]
    fn a_signal_says_how_long_the_oldest_waits_and_when_this_was_so() {
        let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap();
        let time = at("2026-11-25T10:00:02.5Z");
        let signal =
            QueueSignal { waiting: 3, running: 2, oldest: Some(at("2026-11-25T10:00:00.25Z")), capacity: 4, time };
        let said = queue(&signal);
        assert_eq!((said.waiting, said.running, said.capacity), (3, 2, 4));
        assert_eq!(said.oldest_wait, Some(Duration { seconds: 2, nanos: 250_000_000 }));
        assert_eq!(said.time, Some(Timestamp { seconds: time.as_second(), nanos: 500_000_000 }));
        assert_eq!(queue(&QueueSignal { oldest: None, ..signal.clone() }).oldest_wait, None);
        let ahead = queue(&QueueSignal { oldest: Some(at("2026-11-25T10:00:09Z")), ..signal });
        assert_eq!(ahead.oldest_wait, Some(Duration::default()), "a clock that went back makes no negative wait");
    }

    #[test]
    fn the_fence_goes_with_the_job() {
        let assign = |fence| {
            let (job, lease, document) = (JobId::new("1"), Lease(7), bytes::Bytes::new());
            let said = order(RunnerOrder::Assign { job, lease, document, timeout_seconds: None, fence }).unwrap();
            let Some(wire::gateway_message::Message::Assign(assign)) = said.message else { panic!("{said:?}") };
            assign.fence
        };
        assert_eq!([assign(None), assign(Some(0)), assign(Some(9))], [None, Some(0), Some(9)]);
    }
}
