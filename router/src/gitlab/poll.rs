//! One poll of a runner, from its request to its answer: the walk of a job of GitLab.
//!
//! Everything from the moment on at which GitLab may have given a job is walked to its end, whether its runner still waits or
//! not: what came is decided about, written, and delivered or finished. See [`Walk`].

use std::{net::IpAddr, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    body,
    calls::{self, CallError, REQUEST_ID, RUNNER_TOKEN, Reply},
    headers,
    identity::Unknown,
    names::RunnerKey,
    outstanding::{Answered, Asker},
    request::{BadRequest, PollRequest},
    source::{Inner, Source},
    tokens::TokenKey,
    walk::{Walk, Walked},
};
use crate::{config::Secret, core::HandOutCommand};

/// GitLab holds a poll for 50 s where nothing has changed, or for as long as it is told to (facts 2.3). A runner waits so long.
const HELD: Duration = body::ANSWER;
/// A token whose job could not be read asks GitLab for no other one for so long: it would be lost as well.
pub(super) const AFTER_LOSS: Duration = Duration::from_secs(30);
/// `X-Request-Id`s shorter than this are not those of runners, which have 32 digits (facts 2.0).
const SHORTEST_ID: usize = 16;
/// A poll whose runner is gone, or that ends with the router, waits so long for an answer that may be on its way. What comes
/// after it was cut off is lost, to the runner that asks GitLab directly as well.
const ON_ITS_WAY: Duration = Duration::from_secs(2);
/// Largest job that is taken from GitLab.
const LARGEST_JOB: usize = 32 << 20;
/// After rejections GitLab is asked again in the same poll: so often, and for so long.
const AGAIN: (u32, Duration) = (3, Duration::from_secs(5));
/// Runners are told to come again after this, where nothing else is known.
pub(super) const COME_AGAIN: Duration = Duration::from_secs(5);
/// Why a runner is not served whose name nobody knows.
pub(super) const NAMELESS: &str =
    "GitLab does not say which runner this token is, and some have controllers of their own";
const LAST_UPDATE: &str = "x-gitlab-last-update";

/// A poll, as it came over REST or gRPC.
pub(super) struct Poll {
    pub(super) face: Face,
    pub(super) said: Said,
    /// The token of the call itself, where it has one beside that in its body.
    pub(super) bearer: Option<Secret>,
    pub(super) body: Bytes,
    pub(super) peer: IpAddr,
}

/// What a runner says beside the body of its request, and GitLab is told. Everything else is between it and us: what its HTTP
/// client would like, such as a compressed answer, is not what we can read.
#[derive(Clone, Debug, Default)]
pub(super) struct Said {
    pub(super) user_agent: Option<HeaderValue>,
    pub(super) request_id: Option<HeaderValue>,
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
    pub(super) runner: RunnerKey,
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
    Deliver(Answered),
    /// GitLab is told; the poll may go on.
    Over,
    /// Nothing can be written, or nothing be read: nothing more is asked of GitLab.
    Stop(String),
}

impl Source {
    /// Answers a poll. Dropping the future is how a runner goes away.
    pub(super) async fn poll(&self, poll: Poll) -> Answer {
        let face = poll.face.name();
        let _open = self.0.metrics.open();
        let answer = self.answer(poll).await;
        self.0.metrics.polled(face, answer.name());
        if let Answer::Unavailable(why, _) = &answer
            && let Some(before) = self.0.outages.pass()
        {
            tracing::warn!(before, "runners of GitLab get no jobs: {why}");
        }
        answer
    }

    async fn answer(&self, poll: Poll) -> Answer {
        let inner = &self.0;
        let request = match PollRequest::read(&poll.body) {
            Ok(request) => request,
            Err(bad) => return Answer::Bad(bad),
        };
        if poll.bearer.as_ref().is_some_and(|bearer| *bearer != request.token) {
            return Answer::Bad(BadRequest::OtherToken);
        }
        let key = inner.salt.key(request.token.expose());
        // Before all else: the job of a call whose answer was lost waits for nothing but this.
        if let Some(known) = asker(&poll, key, &request).and_then(|asker| inner.outstanding.again(&asker)) {
            let holds = {
                let standing = inner.standing.borrow();
                known.basis.holds(&standing.chains, &standing.names)
            };
            if holds {
                tracing::info!(job = known.job.0, runner = %known.basis.name, "a job is given again to the call whose answer was lost");
                return Answer::Job(Given { document: known.document, headers: HeaderMap::new() });
            }
            // Its chain would be asked something else by now; as if nobody had taken it from us.
            inner.handle.tell(HandOutCommand::Returned(known.job));
        }
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
        let id = match inner.identities.of(&inner.upstream, key, &request, poll.peer).await {
            Ok(id) => id,
            Err(unknown) => return inner.unknown(unknown),
        };
        let runner = RunnerKey { id, token: key };
        if inner.standing.borrow().names.name(runner).is_none() {
            return Answer::Unavailable(NAMELESS.to_owned(), COME_AGAIN);
        }
        match Walk::begin(self, Asking { poll, request, runner }).await {
            Walked::Job(admitted, headers) => {
                inner.metrics.job(&admitted.basis.name, "delivered");
                Answer::Job(Given { document: admitted.document, headers })
            }
            Walked::Other(answer) => answer,
        }
    }

    /// Asks GitLab until there is something to answer, or nobody waits for it: `gone`.
    pub(super) async fn walk(&self, asking: &Asking, gone: &CancellationToken) -> Walked {
        let inner = &self.0;
        let (mut rejected, mut since) = (0, None);
        loop {
            let reply = match inner.ask(asking, gone).await {
                Asked::Job(reply) => reply,
                Asked::Other(answer) => return Walked::Other(answer),
                Asked::Nobody => return Walked::Other(Answer::Empty(HeaderMap::new())),
            };
            let headers = forwarded(&reply);
            match self.decide(asking, reply.body).await {
                Outcome::Deliver(admitted) => {
                    if let Some(asker) = asker(&asking.poll, asking.runner.token, &asking.request) {
                        inner.outstanding.answered(asker, admitted.clone());
                    }
                    return Walked::Job(admitted, headers);
                }
                Outcome::Stop(why) => return Walked::Other(Answer::Unavailable(why, COME_AGAIN)),
                Outcome::Over => {}
            }
            rejected += 1;
            let began = *since.get_or_insert_with(Instant::now);
            let enough =
                rejected > AGAIN.0 || began.elapsed() >= AGAIN.1 || inner.pauses.left(asking.runner.token).is_some();
            if enough || !*inner.store_ok.borrow() {
                return Walked::Other(Answer::Empty(HeaderMap::new()));
            }
        }
    }
}

impl Inner {
    async fn ask(&self, asking: &Asking, gone: &CancellationToken) -> Asked {
        if self.draining.is_cancelled() {
            return Asked::Other(Answer::Empty(HeaderMap::new()));
        }
        if gone.is_cancelled() {
            return Asked::Nobody;
        }
        let request = match asking.request() {
            Ok(request) => request,
            Err(error) => return Asked::Other(Answer::Unavailable(error.to_string(), COME_AGAIN)),
        };
        let mut answered = std::pin::pin!(calls::call(&self.upstream, request, LARGEST_JOB, HELD));
        let (ended, nobody) = tokio::select! {
            reply = answered.as_mut() => return self.understand(asking.runner.token, reply),
            () = gone.cancelled() => (tokio::time::timeout(ON_ITS_WAY, answered).await, Asked::Nobody),
            () = self.draining.cancelled() => {
                (tokio::time::timeout(ON_ITS_WAY, answered).await, Asked::Other(Answer::Empty(HeaderMap::new())))
            }
        };
        match ended {
            Ok(reply) => self.understand(asking.runner.token, reply),
            Err(_) => {
                self.metrics.lost("cut_off");
                nobody
            }
        }
    }

    /// What GitLab's answer means for the runner (facts 2.2). Nothing but its own 403 may mark a runner as unhealthy.
    fn understand(&self, key: TokenKey, reply: Result<Reply, CallError>) -> Asked {
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) => {
                self.metrics.answered(0);
                if error.was_sent() {
                    // It may have been a job; then GitLab's own sweep ends it.
                    self.metrics.lost(if matches!(error, CallError::Late(_)) { "late" } else { "broke_off" });
                    if let Some(before) = self.losses.pass() {
                        tracing::error!(runner = key.short(), before, %error, "an answer of GitLab was lost, and a job with it if it was one");
                    }
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

    fn unknown(&self, unknown: Unknown) -> Answer {
        match unknown {
            Unknown::Refused => Answer::Refused(Reply {
                status: StatusCode::FORBIDDEN,
                headers: HeaderMap::new(),
                body: Bytes::from_static(b"{\"message\":\"403 Forbidden\"}"),
            }),
            Unknown::Busy(pause) => {
                self.metrics.paused();
                Answer::Busy(pause)
            }
            Unknown::Outage(why) => Answer::Unavailable(why, COME_AGAIN),
        }
    }
}

/// Who asked, where the call can be told from all others: one manager of a token, and a number that it does not use twice.
fn asker(poll: &Poll, token: TokenKey, request: &PollRequest) -> Option<Asker> {
    let request_id = poll.said.request_id().filter(|id| id.len() >= SHORTEST_ID)?;
    let system_id = Some(&request.system_id).filter(|id| !id.is_empty())?;
    Some(Asker { token, system_id: system_id.clone(), request_id: request_id.to_owned() })
}

/// GitLab's headers, as they go on to the runner.
fn forwarded(reply: &Reply) -> HeaderMap {
    let mut headers = reply.headers.clone();
    headers::from_gitlab(&mut headers);
    headers.remove(header::CONTENT_LENGTH);
    headers
}

impl Said {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        Self { user_agent: headers.get(header::USER_AGENT).cloned(), request_id: headers.get(REQUEST_ID).cloned() }
    }

    fn request_id(&self) -> Option<&str> {
        self.request_id.as_ref()?.to_str().ok()
    }
}

impl Asking {
    /// The runner's own number of this call, for people who search in logs.
    pub(super) fn request_id(&self) -> &str {
        self.poll.said.request_id().unwrap_or_default()
    }

    /// What GitLab is asked: the runner's own words, byte for byte.
    fn request(&self) -> Result<Request<Body>, http::Error> {
        let token = (RUNNER_TOKEN, self.request.token.expose());
        let body = self.poll.body.clone();
        let mut request = calls::unsigned(Method::POST, "/api/v4/jobs/request", token, "application/json", body)?;
        let headers = request.headers_mut();
        let Said { user_agent, request_id } = &self.poll.said;
        headers.insert(header::USER_AGENT, user_agent.clone().unwrap_or(calls::OWN_NAME));
        headers.insert(REQUEST_ID, request_id.clone().map_or_else(calls::own_id, Ok)?);
        headers::for_gitlab(headers, self.poll.peer);
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        Ok(request)
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
