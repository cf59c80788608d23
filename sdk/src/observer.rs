use std::time::Duration;

use crate::{AdmissionRequest, MalformedRequest, ServeError, Verdict};

/// Told what happens while a controller is served, for metrics of any kind.
///
/// Every method does nothing unless implemented. They are called on the way of each question: count, and return.
pub trait Observer: Send + Sync + 'static {
    /// The controller is being asked.
    fn started(&self, _request: &AdmissionRequest) {}

    /// A question that was started is over. Called exactly once for each.
    fn finished(&self, _request: &AdmissionRequest, _ending: Ending<'_>, _took: Duration) {}

    /// A message came that is no question; it was answered "failed".
    fn malformed(&self, _error: &MalformedRequest) {}

    /// The controller is attached to this router.
    fn connected(&self, _router: &str) {}

    /// The controller is not attached any more, or could not be. `None`: as asked, by shutdown or by the router's drain.
    fn disconnected(&self, _router: &str, _fault: Option<&ServeError>) {}
}

/// How a question ended.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Ending<'a> {
    /// With this answer; failures by panic or lack of time included.
    Answered(&'a Verdict),
    /// Without one: the router withdrew it, or went away.
    Withdrawn,
}
