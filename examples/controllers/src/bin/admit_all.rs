//! cargo run -p jobgate-examples --bin admit_all
//!
//! The smallest controller: a closure. Admits every job, and warns about those of unprotected refs.

use jobgate_sdk::{AdmissionRequest, ServeError, Verdict};

#[tokio::main]
async fn main() -> Result<(), ServeError> {
    jobgate_examples::run(|request: AdmissionRequest| async move {
        match request.job().protected {
            Some(true) => Verdict::admit(),
            Some(false) => Verdict::admit().warn("this ref is not protected"),
            None => Verdict::admit().warn("nobody told whether this ref is protected"),
        }
    })
    .await
}
