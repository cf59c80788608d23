//! For the tests of controllers: [`request()`] builds questions, [`ask`] puts one to a controller, [`RouterEnd`] is a router for a
//! controller that attaches, and [`conformance`] examines a controller in any language.
//!
//! ```
//! use jobgate_sdk::{AdmissionRequest, Verdict, testing};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let controller = |request: AdmissionRequest| async move {
//!     match request.job().image.as_ref().and_then(|image| image.tag.as_deref()) {
//!         Some("latest") => Verdict::reject("`latest` is not pinned").rule("pinned"),
//!         _ => Verdict::admit(),
//!     }
//! };
//! let request = testing::request().project("acme/api").image("alpine").build();
//! let verdict = testing::ask(&controller, &request).await;
//! assert_eq!(verdict.rejection().unwrap().rule(), Some("pinned"));
//! # }
//! ```

pub mod conformance;
mod request;
mod router;

use std::time::Instant;

pub use request::{RequestBuilder, request};
pub use router::{Attached, RouterEnd};

use crate::{AdmissionRequest, Controller, Verdict};

/// Asks a controller as [`serve`](crate::serve) does: within the request's time, and with a panic turned into a failure.
pub async fn ask(controller: &dyn Controller, request: &AdmissionRequest) -> Verdict {
    crate::desk::decide(request, Instant::now(), async { controller.admit(request).await }).await
}
