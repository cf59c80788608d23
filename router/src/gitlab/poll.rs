//! One poll of a runner, from its request to its answer: the walk of a job of GitLab.
//!
//! Everything from the moment on at which GitLab may have given a job happens in a task that nobody drops: what came is decided
//! about, written, and delivered or finished, whether its runner still waits or not.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use jiff::Timestamp;
use jobgate_sdk::Runner;
use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    calls::{self, CallError, REQUEST_ID, Reply},
    handout::GitLabJob,
    headers,
    identity::Unknown,
    outstanding::Asker,
    request::{BadRequest, PollRequest},
    source::{Inner, Source},
    tokens::TokenKey,
};
use crate::core::HandOutCommand;

/// GitLab holds a poll for 50 s where nothing has changed (facts 2.3); it is late after this.
const HELD: Duration = Duration::from_secs(75);
/// A poll whose runner is gone, or that ends with the router, waits so long for an answer that may be on its way. What comes
/// after it was cut off is lost, to the runner that asks GitLab directly as well.
const ON_ITS_WAY: Duration = Duration::from_secs(2);
/// Largest job that is taken from GitLab.
const LARGEST_JOB: usize = 32 << 20;
/// After rejections GitLab is asked again in the same poll: so often, and for so long.
const AGAIN: (u32, Duration) = (3, Duration::from_secs(5));
/// Runners are told to come again after this, where nothing else is known.
const COME_AGAIN: Duration = Duration::from_secs(5);
const LAST_UPDATE: &str = "x-gitlab-last-update";

/// A poll, as it came over REST or gRPC.
pub(super) struct Poll {
    pub(super) face: Face,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) peer: IpAddr,
}

/// How a runner asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Face {
    Rest,
    Grpc,
}

/// What a runner is answered.
#[derive(Debug)]
pub(super) enum Answer {
    /// An admitted job, byte for byte as GitLab gave it.
    Job(Given),
    /// No job.
    Empty(HeaderMap),
    /// GitLab refuses; its own words.
    Refused(Reply),
    /// Too many at once, or GitLab wants a pause.
    Busy(Duration),
    /// GitLab or the router itself cannot do it.
    Unavailable(String, Duration),
    /// What was asked cannot be read.
    Bad(BadRequest),
}

/// A job, on its way to its runner.
pub(super) struct Given {
    pub(super) document: Bytes,
    pub(super) headers: HeaderMap,
}

/// What the walk of a poll goes by.
pub(super) struct Asking {
    pub(super) poll: Poll,
    pub(super) request: PollRequest,
    pub(super) key: TokenKey,
    pub(super) runner: Arc<Runner>,
    pub(super) name: Arc<str>,
}

/// Whether somebody waits for the answer.
pub(super) struct Caller {
    gone: CancellationToken,
}

/// GitLab's answer to a job request.
enum Asked {
    Job(Reply),
    Other(Answer),
    /// Nobody waits any more, and nothing came.
    Nobody,
}

/// What became of a job.
pub(super) enum Outcome {
    Deliver(GitLabJob, Bytes),
    /// GitLab is told; the poll may go on.
    Over,
    /// Nothing can be written: nothing more is asked of GitLab.
    Stop(String),
}

impl Source {
    /// Answers a poll. Dropping the future is how a runner goes away.
    pub(super) async fn poll(&self, poll: Poll) -> Answer {
        let face = poll.face.name();
        let _open = self.0.metrics.open();
        let answer = self.answer(poll).await;
        self.0.metrics.polled(face, answer.name());
        answer
    }

    async fn answer(&self, poll: Poll) -> Answer {
        let inner = &self.0;
        let request = match PollRequest::read(&poll.body) {
            Ok(request) => request,
            Err(bad) => return Answer::Bad(bad),
        };
        let key = inner.salt.key(request.token.expose());
        if let Some(left) = inner.pauses.left(key) {
            return Answer::Busy(left);
        }
        let Some(_place) = inner.places.take(key, inner.settings.load().polls_per_token) else {
            return Answer::Busy(Duration::from_secs(1));
        };
        if inner.draining.is_cancelled() {
            return Answer::Empty(HeaderMap::new());
        }
        if !*inner.store_ok.borrow() {
            // What is admitted could not be kept: GitLab is not asked for it.
            return Answer::Unavailable("the router cannot write its state".to_owned(), COME_AGAIN);
        }
        if let Some(document) = asker(&poll, key, &request).and_then(|asker| inner.outstanding.again(&asker)) {
            tracing::info!(runner = key.short(), "a job is given again to the call whose answer was lost");
            return Answer::Job(Given { document, headers: HeaderMap::new() });
        }
        let identity = match inner.identities.of(&inner.upstream, key, &request, poll.peer, Timestamp::now()).await {
            Ok(identity) => identity,
            Err(unknown) => return inner.unknown(key, unknown),
        };
        let Some((name, id)) = inner.name(&identity, key) else {
            let why = "GitLab does not say which runner this token is, and some have controllers of their own";
            return Answer::Unavailable(why.to_owned(), COME_AGAIN);
        };
        let runner = Arc::new(Runner {
            name: name.to_string(),
            id,
            version: request.version.clone(),
            platform: request.platform.clone(),
            executor: request.executor.clone(),
            ..Runner::default()
        });
        let (gone, guard) = gone();
        let (answer, answered) = oneshot::channel();
        let asking = Asking { poll, request, key, runner, name };
        let walk = self.clone().walk(asking, Caller { gone }, answer);
        tokio::spawn(self.0.open.track_future(walk));
        let answer = answered.await;
        drop(guard);
        // The task breaks down only by a fault of its own; the runner comes again.
        answer.unwrap_or_else(|_| Answer::Unavailable("the poll broke down".to_owned(), COME_AGAIN))
    }

    /// Asks GitLab until there is something to answer.
    async fn walk(self, asking: Asking, caller: Caller, answer: oneshot::Sender<Answer>) {
        let inner = &self.0;
        let (mut rejected, mut since) = (0, None);
        let answered = loop {
            let reply = match inner.ask(&asking, &caller).await {
                Asked::Job(reply) => reply,
                Asked::Other(answer) => break answer,
                Asked::Nobody => return,
            };
            let headers = forwarded(&reply);
            match self.decide(&asking, reply.body).await {
                Outcome::Deliver(job, document) => {
                    return self.deliver(&asking, job, Given { document, headers }, answer).await;
                }
                Outcome::Stop(why) => break Answer::Unavailable(why, COME_AGAIN),
                Outcome::Over => {}
            }
            rejected += 1;
            let began = *since.get_or_insert_with(Instant::now);
            if rejected > AGAIN.0 || began.elapsed() >= AGAIN.1 || caller.is_gone() || inner.draining.is_cancelled() {
                break Answer::Empty(HeaderMap::new());
            }
        };
        // Nobody waiting is fine: there is no job in it.
        let _ = answer.send(answered);
    }

    /// Gives an admitted job to its runner. It is written already that it goes there.
    async fn deliver(&self, asking: &Asking, job: GitLabJob, given: Given, answer: oneshot::Sender<Answer>) {
        if let Some(asker) = asker(&asking.poll, asking.key, &asking.request) {
            self.0.outstanding.answered(asker, job, given.document.clone());
        }
        match answer.send(Answer::Job(given)) {
            Ok(()) => self.0.metrics.job(&asking.name, "delivered"),
            Err(_) => {
                tracing::info!(job = job.0, runner = %asking.name, "a runner was gone before it got its job");
                self.0.metrics.job(&asking.name, "returned");
                self.0.handle.handout(HandOutCommand::Returned(job)).await;
            }
        }
    }
}

impl Inner {
    async fn ask(&self, asking: &Asking, caller: &Caller) -> Asked {
        let mut request = Request::new(Body::from(asking.poll.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = http::Uri::from_static("/api/v4/jobs/request");
        let mut sent = asking.poll.headers.clone();
        headers::for_gitlab(&mut sent, asking.poll.peer);
        sent.remove(header::CONTENT_LENGTH);
        sent.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        *request.headers_mut() = sent;
        let mut answered = std::pin::pin!(calls::call(&self.upstream, request, LARGEST_JOB, HELD));
        let reply = tokio::select! {
            reply = answered.as_mut() => reply,
            () = caller.gone.cancelled() => match tokio::time::timeout(ON_ITS_WAY, answered).await {
                Ok(reply) => reply,
                Err(_) => return Asked::Nobody,
            },
            () = self.draining.cancelled() => match tokio::time::timeout(ON_ITS_WAY, answered).await {
                Ok(reply) => reply,
                Err(_) => return Asked::Other(Answer::Empty(HeaderMap::new())),
            },
        };
        self.understand(asking.key, reply)
    }

    /// What GitLab's answer means for the runner (facts 2.2). Nothing but its own 403 may mark a runner as unhealthy.
    fn understand(&self, key: TokenKey, reply: Result<Reply, CallError>) -> Asked {
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) => {
                self.metrics.answered(0);
                if error.may_have_been_seen() {
                    // It may have given a job; then its own sweep ends it.
                    self.metrics.lost();
                    tracing::error!(runner = key.short(), %error, "an answer of GitLab was lost, and a job with it if it was one");
                }
                return Asked::Other(Answer::Unavailable(error.to_string(), COME_AGAIN));
            }
        };
        self.metrics.answered(reply.status.as_u16());
        let pause = reply.pause(Timestamp::now());
        Asked::Other(match reply.status {
            StatusCode::CREATED => return Asked::Job(reply),
            StatusCode::NO_CONTENT => Answer::Empty(forwarded(&reply)),
            StatusCode::TOO_MANY_REQUESTS => {
                let pause = pause.unwrap_or(COME_AGAIN);
                self.pauses.set(key, pause);
                self.metrics.paused();
                Answer::Busy(pause)
            }
            StatusCode::FORBIDDEN => {
                self.identities.refused(key);
                Answer::Refused(reply)
            }
            status if status.is_client_error() => Answer::Refused(reply),
            status => {
                let why = format!("GitLab answers {status} to a job request");
                Answer::Unavailable(why, pause.unwrap_or(COME_AGAIN))
            }
        })
    }

    fn unknown(&self, key: TokenKey, unknown: Unknown) -> Answer {
        match unknown {
            Unknown::Refused => Answer::Refused(Reply {
                status: StatusCode::FORBIDDEN,
                headers: HeaderMap::new(),
                body: Bytes::from_static(b"{\"message\":\"403 Forbidden\"}"),
            }),
            Unknown::Busy(pause) => {
                self.pauses.set(key, pause);
                self.metrics.paused();
                Answer::Busy(pause)
            }
            Unknown::Outage(why) => Answer::Unavailable(why, COME_AGAIN),
        }
    }
}

/// Who asked, where the call can be told from others.
fn asker(poll: &Poll, token: TokenKey, request: &PollRequest) -> Option<Asker> {
    let request_id = poll.headers.get(REQUEST_ID)?.to_str().ok().filter(|id| !id.is_empty())?;
    Some(Asker { token, system_id: request.system_id.clone(), request_id: request_id.to_owned() })
}

/// GitLab's headers, as they go on to the runner.
fn forwarded(reply: &Reply) -> HeaderMap {
    let mut headers = reply.headers.clone();
    headers::from_gitlab(&mut headers);
    headers.remove(header::CONTENT_LENGTH);
    headers
}

fn gone() -> (CancellationToken, DropGuard) {
    let gone = CancellationToken::new();
    let guard = gone.clone().drop_guard();
    (gone, guard)
}

impl Asking {
    /// The runner's own number of this call, for people who search in logs.
    pub(super) fn request_id(&self) -> &str {
        self.poll.headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default()
    }
}

impl Caller {
    fn is_gone(&self) -> bool {
        self.gone.is_cancelled()
    }
}

impl Face {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Rest => "rest",
            Self::Grpc => "grpc",
        }
    }
}

impl Answer {
    const fn name(&self) -> &'static str {
        match self {
            Self::Job(_) => "job",
            Self::Empty(_) => "empty",
            Self::Refused(_) => "refused",
            Self::Busy(_) => "busy",
            Self::Unavailable(..) => "unavailable",
            Self::Bad(_) => "bad_request",
        }
    }

    /// The value that lets GitLab hold the next poll; on an answer without a job (facts 2.3).
    pub(super) fn last_update(headers: &HeaderMap) -> Option<&HeaderValue> {
        headers.get(LAST_UPDATE)
    }
}

impl std::fmt::Debug for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Given([redacted])")
    }
}
