//! One question from the wire to its answer, the same for every way of being asked.

use std::{
    future::poll_fn,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use jobgate_proto::admission::v1::{AdmitRequest, AdmitResponse};
use prost::Message;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::sleep_until,
};
use tracing::{Instrument, info_span};

use crate::{AdmissionRequest, Controller, Ending, FailureCause, Observer, Outcome, Verdict};

/// No question is worked on longer than this, whatever time its asker grants.
pub(crate) const LONGEST_QUESTION: Duration = Duration::from_secs(60);

/// Answers above this are replaced by a failure; the router would not take them.
const ANSWER_LIMIT: usize = 64 * 1024;

/// The right to work on a question; given back when the controller has decided.
pub(crate) type Room = OwnedSemaphorePermit;

/// Where questions are answered.
pub(crate) struct Desk {
    pub(crate) controller: Arc<dyn Controller>,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    pub(crate) policy_version: watch::Receiver<String>,
    pub(crate) permits: Arc<Semaphore>,
}

impl Desk {
    /// Reads a question. What is none is answered at once.
    pub(crate) fn read(&self, wire: AdmitRequest) -> Result<AdmissionRequest, Box<AdmitResponse>> {
        AdmissionRequest::try_from(wire).map_err(|error| {
            if let Some(observer) = &self.observer {
                observer.malformed(&error);
            }
            let verdict = Verdict::failed(FailureCause::Malformed, error.to_string());
            Box::new(respond(verdict, error.id(), self.policy_version.borrow().clone()))
        })
    }

    /// Answers one question. It came at `received`, and its time runs from then, also while it waits for room.
    pub(crate) async fn answer(
        &self,
        request: &AdmissionRequest,
        received: Instant,
        room: Option<Room>,
    ) -> AdmitResponse {
        let version = self.policy_version.borrow().clone();
        let span = info_span!(
            "question",
            admission_id = request.admission_id(),
            question_id = request.id(),
            controller = request.controller(),
        );
        let verdict = self.observed(request, received, room).instrument(span).await;
        respond(verdict, request.id(), version)
    }

    async fn observed(&self, request: &AdmissionRequest, received: Instant, room: Option<Room>) -> Verdict {
        let deciding = async {
            let _room = match room {
                Some(room) => Some(room),
                None => Arc::clone(&self.permits).acquire_owned().await.ok(),
            };
            self.controller.admit(request).await
        };
        let Some(observer) = &self.observer else { return decide(request, received, deciding).await };
        observer.started(request);
        let watched = Watched { observer: &**observer, request, received, ended: false };
        let verdict = decide(request, received, deciding).await;
        watched.end(&verdict);
        verdict
    }
}

/// Lets a controller decide within the question's time. A panic is a failure of this question only.
pub(crate) async fn decide(
    request: &AdmissionRequest,
    received: Instant,
    deciding: impl Future<Output = Verdict>,
) -> Verdict {
    let time_left = request.time_left().min(LONGEST_QUESTION);
    let deadline = tokio::time::Instant::from_std(received + time_left);
    let mut deciding = pin!(AssertUnwindSafe(deciding).catch_unwind());
    // Most controllers answer at once: only the others get a timer.
    let mut timer = None;
    let decided = poll_fn(|context| match deciding.as_mut().poll(context) {
        Poll::Ready(decided) => Poll::Ready(Some(decided)),
        Poll::Pending => {
            let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
            timer.as_mut().poll(context).map(|()| None)
        }
    });
    match decided.await {
        Some(Ok(verdict)) => verdict,
        Some(Err(_)) => {
            tracing::error!("the controller panicked");
            Verdict::failed(FailureCause::Panic, "the controller panicked")
        }
        None if time_left.is_zero() => Verdict::failed(FailureCause::NoTimeLeft, "it was asked with no time left"),
        None => Verdict::failed(FailureCause::Silent, format!("no answer within {time_left:?}")),
    }
}

/// The verdict as it goes over the wire, if it fits.
fn respond(verdict: Verdict, id: &str, version: String) -> AdmitResponse {
    // Only lists can make an answer large; everything else of a verdict is bounded when it is made.
    let bounded = verdict.warnings().is_empty() && verdict.exempted().is_empty();
    let outcome_stands = !matches!(verdict.outcome(), Outcome::Failed(_));
    let mut response = verdict.into_response(id);
    if !bounded && outcome_stands && response.encoded_len() > ANSWER_LIMIT {
        let size = response.encoded_len();
        let message = format!("the answer has {size} bytes, more than {ANSWER_LIMIT}: give fewer warnings");
        response = Verdict::failed(FailureCause::Oversize, message).into_response(response.id);
    }
    if response.policy_version.is_empty() {
        response.policy_version = version;
    }
    response
}

/// Tells the observer the end of a question, also when its future is dropped.
struct Watched<'a> {
    observer: &'a dyn Observer,
    request: &'a AdmissionRequest,
    received: Instant,
    ended: bool,
}

impl Watched<'_> {
    fn end(mut self, verdict: &Verdict) {
        self.ended = true;
        self.observer.finished(self.request, Ending::Answered(verdict), self.received.elapsed());
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.observer.finished(self.request, Ending::Withdrawn, self.received.elapsed());
        }
    }
}
