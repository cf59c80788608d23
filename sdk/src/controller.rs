use std::{future::Future, sync::Arc};

use async_trait::async_trait;

use crate::{AdmissionRequest, Verdict};

/// Answers the question "may this job run?".
///
/// A question is **repeatable**: the router may ask the same id again (another instance, a lost connection), and must get
/// the same answer. Keep answers to what the request says and to state that changes slowly.
///
/// An answer has a time limit, [`AdmissionRequest::time_left`]. When it passes, the future returned here is dropped, so it
/// must be safe to cancel at any `await`. A panic becomes the verdict "failed" for this question and harms no other.
///
/// Closures are controllers too:
///
/// ```
/// use jobgate_sdk::{AdmissionRequest, Controller, Verdict};
///
/// fn is_controller(_: impl Controller) {}
///
/// is_controller(|request: AdmissionRequest| async move {
///     match request.job().protected {
///         Some(true) => Verdict::admit(),
///         _ => Verdict::reject("only protected refs run here").rule("protected-only"),
///     }
/// });
/// ```
#[async_trait]
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an admission controller",
    note = "implement `Controller` with `#[jobgate_sdk::async_trait]`, or pass a closure \
            `|request: AdmissionRequest| async move {{ Verdict::admit() }}` whose future is `Send`"
)]
pub trait Controller: Send + Sync + 'static {
    /// Decides about one job.
    async fn admit(&self, request: &AdmissionRequest) -> Verdict;
}

#[async_trait]
impl<F, Fut> Controller for F
where
    F: Fn(AdmissionRequest) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Verdict> + Send,
{
    async fn admit(&self, request: &AdmissionRequest) -> Verdict {
        // A request is a handful of reference counts; its clone lets the closure's future own what it reads.
        self(request.clone()).await
    }
}

#[async_trait]
impl Controller for Arc<dyn Controller> {
    async fn admit(&self, request: &AdmissionRequest) -> Verdict {
        self.as_ref().admit(request).await
    }
}
