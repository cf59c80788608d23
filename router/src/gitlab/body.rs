//! Bodies on their way through, neither kept nor counted, but watched: one that comes to a halt would hold two connections
//! for ever.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

/// A body without progress for so long is cut off.
pub(super) const HALT: Duration = Duration::from_secs(300);
/// GitLab has so long to answer once it has the whole request. Runners wait as long (facts 2.0).
pub(super) const ANSWER: Duration = Duration::from_secs(600);

/// How far a request's body has come.
#[derive(Debug)]
pub(super) struct Pace(Mutex<Progress>);

#[derive(Clone, Copy, Debug)]
struct Progress {
    last: Instant,
    waits_for: Waits,
}

/// Who must do something next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// The client, to send more.
    Client,
    /// GitLab, to take what was sent.
    GitLab,
    /// GitLab, to answer.
    Answer,
}

/// A body on its way to GitLab.
pub(super) struct Upload {
    inner: Body,
    pace: Arc<Pace>,
}

/// Wraps the body of a request. What is returned with it ends when the body does not get on.
pub(super) fn upload(inner: Body) -> (Body, Arc<Pace>) {
    let waits_for = if inner.is_end_stream() { Waits::Answer } else { Waits::GitLab };
    let pace = Arc::new(Pace(Mutex::new(Progress { last: Instant::now(), waits_for })));
    (Body::new(Upload { inner, pace: pace.clone() }), pace)
}

impl Pace {
    /// Ends when it has come to a halt, and says whose fault that is.
    pub(super) async fn halted(&self) -> Waits {
        loop {
            let Progress { last, waits_for } = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let until = last + if waits_for == Waits::Answer { ANSWER } else { HALT };
            if until <= Instant::now() {
                return waits_for;
            }
            tokio::time::sleep_until(until).await;
        }
    }

    fn set(&self, waits_for: Waits, moved: bool) {
        // A poisoned lock means that a thread died between two plain assignments: the state is fine.
        let mut progress = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if progress.waits_for == Waits::Answer {
            return;
        }
        progress.waits_for = waits_for;
        if moved {
            progress.last = Instant::now();
        }
    }
}

impl hyper::body::Body for Upload {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(cx);
        match &frame {
            Poll::Pending => self.pace.set(Waits::Client, false),
            Poll::Ready(Some(Ok(_))) if !self.inner.is_end_stream() => self.pace.set(Waits::GitLab, true),
            Poll::Ready(_) => self.pace.set(Waits::Answer, true),
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // GitLab may answer before it has all of it.
        self.pace.set(Waits::Answer, true);
    }
}

/// A body on its way to the client. A client that takes nothing is the listener's to cut off.
pub(super) struct Download<B> {
    inner: B,
    /// The answer has no body, and what its head says of a length is about another.
    silent: bool,
    /// Since when GitLab is waited for.
    waits_since: Option<Instant>,
    /// Ends at its end or before: set anew only then, since most waits are short.
    halt: Option<Pin<Box<Sleep>>>,
}

impl<B> Download<B> {
    pub(super) fn new(inner: B, silent: bool) -> Self {
        Self { inner, silent, waits_since: None, halt: None }
    }
}

impl<B: hyper::body::Body<Data = Bytes, Error: Into<axum::BoxError>> + Unpin> hyper::body::Body for Download<B> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(cx);
        if frame.is_ready() {
            self.waits_since = None;
            return frame.map_err(axum::Error::new);
        }
        let until = *self.waits_since.get_or_insert_with(Instant::now) + HALT;
        let halt = self.halt.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        while halt.as_mut().poll(cx).is_ready() {
            if until <= Instant::now() {
                return Poll::Ready(Some(Err(axum::Error::new(Halted))));
            }
            halt.as_mut().reset(until);
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.silent || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // A length that is known would be told, also where GitLab tells none.
        if self.silent { SizeHint::default() } else { self.inner.size_hint() }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("GitLab sent nothing of its answer for 5 minutes")]
struct Halted;
