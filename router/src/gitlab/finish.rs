//! Tells GitLab that a job is over which no runner will have: by the public runner API, which has no way to give a job back
//! (facts 5.2). Every step may be repeated, so that an attempt begins anew after anything, a restart included.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{Method, StatusCode};
use jiff::{SignedDuration, Timestamp};
use rand::RngExt;
use tokio::{
    sync::{Semaphore, mpsc},
    time::sleep,
};
use tokio_util::task::TaskTracker;

use super::{
    calls::{self, CallError, JOB_STATUS, JOB_TOKEN, Reply},
    handout::{GitLabJob, HandOut, Report, Stage},
    upstream::Upstream,
};

/// Time for one call.
const WITHIN: Duration = Duration::from_secs(20);
/// Largest answer to one.
const MOST: usize = 64 * 1024;
/// Shortest and longest pause between two attempts.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Times that the log is tried before the job is failed without it.
const WITH_TRACE: u32 = 5;
/// Answers, over some two minutes, until a 403 alone is believed.
const DOUBTS: u32 = 7;
/// Jobs told of at once.
const AT_ONCE: usize = 32;
/// GitLab itself has ended the job long before this (its own sweep takes about an hour, facts 5.2).
const LONGEST: SignedDuration = SignedDuration::from_hours(48);

/// How an attempt ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// GitLab knows.
    Told,
    /// The job was over before.
    Over,
    /// Later again.
    Later { why: String, pause: Option<Duration> },
}

/// What attempts have met. Those that do not get so far say nothing about it.
#[derive(Default)]
struct Tries {
    /// Times that the log was tried.
    logs: u32,
    /// Answers of 403 without the job's status.
    refusals: u32,
}

/// What a finisher needs.
pub(super) struct Finisher {
    pub(super) upstream: Upstream,
    /// Hears that a job is finished, and whether GitLab was told by us.
    pub(super) finished: Arc<dyn Fn(GitLabJob, bool) + Send + Sync>,
    /// The calendar.
    pub(super) clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl Finisher {
    /// Tells GitLab of every job that comes, until nobody can send one any more. A job that GitLab cannot be told of does not hold
    /// up another.
    pub(super) async fn run(self, mut jobs: mpsc::UnboundedReceiver<HandOut>) {
        let this = Arc::new(self);
        let (turns, tasks) = (Arc::new(Semaphore::new(AT_ONCE)), TaskTracker::new());
        let begun: Arc<Mutex<HashSet<GitLabJob>>> = Arc::default();
        while let Some(handout) = jobs.recv().await {
            let job = handout.job;
            // One that could not be written was told of from memory, and comes again when it is written.
            if !begun.lock().unwrap_or_else(PoisonError::into_inner).insert(job) {
                continue;
            }
            let (this, turns, begun) = (this.clone(), turns.clone(), begun.clone());
            tasks.spawn(async move {
                this.finish(handout, &turns).await;
                begun.lock().unwrap_or_else(PoisonError::into_inner).remove(&job);
            });
        }
    }

    async fn finish(&self, handout: HandOut, turns: &Semaphore) {
        let Stage::Failing(report) = &handout.stage else { return };
        let (mut attempts, mut tries) = (0, Tries::default());
        loop {
            let ended = {
                // Nobody closes the semaphore.
                let _turn = turns.acquire().await;
                self.attempt(&handout, report, &mut tries).await
            };
            let (why, pause) = match ended {
                Ended::Told | Ended::Over => {
                    tracing::info!(job = handout.job.0, runner = %handout.runner, told = ended == Ended::Told, "GitLab knows that a job is over");
                    (self.finished)(handout.job, ended == Ended::Told);
                    return;
                }
                Ended::Later { why, pause } => (why, pause),
            };
            if (self.clock)().duration_since(handout.since) > LONGEST {
                tracing::error!(job = handout.job.0, %why, "GitLab could not be told for two days that a job is over; it is left to GitLab");
                (self.finished)(handout.job, false);
                return;
            }
            let pause = pause.unwrap_or_else(|| back_off(attempts));
            tracing::warn!(job = handout.job.0, %why, again_in = ?pause, "GitLab cannot be told yet that a job is over");
            sleep(pause).await;
            attempts += 1;
        }
    }

    async fn attempt(&self, handout: &HandOut, report: &Report, tries: &mut Tries) -> Ended {
        // Harmless where the job is running; where GitLab waits for a runner to take it up nothing else is possible before
        // (facts 5.1).
        match self.put(handout, serde_json::json!({ "token": handout.token.expose(), "state": "running" })).await {
            Ok(reply) if tries.is_over(&reply) => return Ended::Over,
            Ok(reply) if is_passing(reply.status) => return self.later("taking it up", &reply),
            Ok(_) => {}
            Err(error) => return broken("taking it up", &error),
        }
        tries.logs += 1;
        match self.trace(handout, report.trace.as_bytes(), tries.logs == 1).await {
            Ok(None) => {}
            Ok(Some(reply)) if tries.is_over(&reply) => return Ended::Over,
            // The token is worth nothing once the job has failed: now or never. But a job must not stay for its log's sake.
            Ok(Some(reply)) if is_passing(reply.status) && tries.logs <= WITH_TRACE => {
                return self.later("its log", &reply);
            }
            Err(error) if tries.logs <= WITH_TRACE => return broken("its log", &error),
            Ok(Some(reply)) => without_log(handout.job, &format!("GitLab answers {}", reply.status)),
            Err(error) => without_log(handout.job, &error.to_string()),
        }
        // Without `checksum` and `output` the state is taken at once (facts 5.2), and without `exit_code` no
        // `allow_failure:exit_codes` of the author makes a warning of it (facts 5.3).
        let body = serde_json::json!({
            "token": handout.token.expose(), "state": "failed", "failure_reason": &*report.failure_reason,
        });
        match self.put(handout, body).await {
            Ok(reply) if reply.status == StatusCode::OK => Ended::Told,
            Ok(reply) if tries.is_over(&reply) => Ended::Over,
            Ok(reply) => self.later("its end", &reply),
            Err(error) => broken("its end", &error),
        }
    }

    async fn put(&self, handout: &HandOut, body: serde_json::Value) -> Result<Reply, CallError> {
        let path = format!("/api/v4/jobs/{}", handout.job);
        let token = (JOB_TOKEN, handout.token.expose());
        let request = calls::request(Method::PUT, &path, token, "application/json", body.to_string())?;
        calls::call(&self.upstream, request, MOST, WITHIN).await
    }

    /// Writes the log; `None` when GitLab has it.
    async fn trace(&self, handout: &HandOut, trace: &[u8], is_first: bool) -> Result<Option<Reply>, CallError> {
        let path = format!("/api/v4/jobs/{}/trace", handout.job);
        // Bytes that GitLab has before ours, and of ours.
        let (mut before, mut sent) = (0, 0);
        loop {
            let rest = trace.get(sent..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(None);
            }
            let token = (JOB_TOKEN, handout.token.expose());
            let mut request = calls::request(Method::PATCH, &path, token, "text/plain", rest.to_vec())?;
            // Without a unit, and with an inclusive end (facts 7.17).
            let range = format!("{}-{}", before + sent, before + trace.len() - 1).parse();
            request.headers_mut().insert(http::header::CONTENT_RANGE, range.map_err(http::Error::from)?);
            let reply = calls::call(&self.upstream, request, MOST, WITHIN).await?;
            if reply.status == StatusCode::ACCEPTED && !has_ended(&reply) {
                return Ok(None);
            }
            let range = reply.text(&http::header::RANGE).and_then(|range| range.strip_prefix("0-"));
            let held: Option<usize> = range.and_then(|held| held.parse().ok());
            match held.filter(|_| reply.status == StatusCode::RANGE_NOT_SATISFIABLE && before == 0) {
                // An attempt before this one was further than its answer.
                Some(held) if held > sent && held <= trace.len() => sent = held,
                // A runner had begun. Later attempts cannot tell its lines from their own.
                Some(held) if held > trace.len() && is_first => before = held,
                Some(held) if held > trace.len() => return Ok(None),
                _ => return Ok(Some(reply)),
            }
        }
    }

    fn later(&self, what: &str, reply: &Reply) -> Ended {
        Ended::Later { why: format!("{what}: GitLab answers {}", reply.status), pause: reply.pause((self.clock)()) }
    }
}

fn without_log(job: GitLabJob, why: &str) {
    tracing::warn!(job = job.0, why, "GitLab does not take the log of a job that is given up; the job ends without it");
}

fn broken(what: &str, error: &CallError) -> Ended {
    Ended::Later { why: format!("{what}: {error}"), pause: None }
}

impl Tries {
    /// Whether GitLab says that the job is over. A 403 without the job's status may be somebody between us, or mean a job that
    /// is deleted: it is believed when it stays. 404 is answered by anything that is no GitLab, and never by GitLab for a job.
    fn is_over(&mut self, reply: &Reply) -> bool {
        self.refusals += u32::from(reply.status == StatusCode::FORBIDDEN && !has_ended(reply));
        has_ended(reply) || self.refusals > DOUBTS
    }
}

/// Facts 4.3.
fn has_ended(reply: &Reply) -> bool {
    reply.text(&JOB_STATUS).is_some_and(|status| matches!(status, "canceled" | "failed" | "success"))
}

/// Whether the same call may go through later.
fn is_passing(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND
        )
}

/// Doubling, with a quarter of chance.
fn back_off(tries: u32) -> Duration {
    let pause = PAUSE.0.saturating_mul(1 << tries.min(6)).min(PAUSE.1);
    pause.mul_f64(rand::rng().random_range(0.75..=1.25))
}
