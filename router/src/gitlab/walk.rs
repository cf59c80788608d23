//! That a poll is walked to its end.

use std::{
    panic::AssertUnwindSafe,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::FutureExt;
use http::HeaderMap;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{
    outstanding::Answered,
    poll::{Answer, Asking, COME_AGAIN},
    source::Source,
};
use crate::core::HandOutCommand;

/// Where a poll ended.
pub(super) enum Walked {
    /// With an admitted job. It is written already that it goes to this runner.
    Job(Answered, HeaderMap),
    Other(Answer),
}

/// The way of one poll. Dropped before its end, which is how a runner goes away, it goes on in a task of its own: GitLab may
/// have given a job by then, and that must not stay where it is. While its runner waits it needs no task, and no other thread
/// to wake.
pub(super) struct Walk {
    source: Source,
    way: Option<Pin<Box<dyn Future<Output = Walked> + Send>>>,
    gone: CancellationToken,
}

impl Walk {
    pub(super) fn begin(source: &Source, asking: Asking) -> Self {
        let gone = CancellationToken::new();
        let (walker, nobody, open) = (source.clone(), gone.clone(), source.0.open.token());
        let way = async move {
            // The router waits for its end before it ends.
            let _open = open;
            let walked = AssertUnwindSafe(walker.walk(&asking, &nobody)).catch_unwind().await;
            walked.unwrap_or_else(|_| {
                // GitLab may have given a job by then.
                walker.0.metrics.lost("broke");
                let (runner, request_id) = (asking.runner.token.short(), asking.request_id());
                tracing::error!(
                    runner,
                    request_id,
                    "a poll broke down in jobgate itself, and a job is lost if it had one"
                );
                Walked::Other(Answer::Unavailable("the poll broke down".to_owned(), COME_AGAIN))
            })
        };
        Self { source: source.clone(), way: Some(Box::pin(way)), gone }
    }
}

impl Future for Walk {
    type Output = Walked;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Walked> {
        // Nobody polls it after its end.
        let Some(way) = &mut self.way else { return Poll::Pending };
        let walked = ready!(way.as_mut().poll(cx));
        self.way = None;
        Poll::Ready(walked)
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        self.gone.cancel();
        let Some(way) = self.way.take() else { return };
        let (source, open) = (self.source.clone(), self.source.0.open.token());
        let rest = async move {
            let _open = open;
            if let Walked::Job(Answered { job, basis, .. }, _) = way.await {
                tracing::info!(job = job.0, runner = %basis.name, "a runner was gone before it got its job");
                source.0.metrics.job(&basis.name, "returned");
                source.0.handle.tell(HandOutCommand::Returned(job));
            }
        };
        // Without a runtime the process ends, and what was written is taken up by the next one.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(rest);
        }
    }
}
