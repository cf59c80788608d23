//! Admission controllers of growing size, one program each in `src/bin/`; the first line of each says how to run it.
//!
//! This library holds what a program needs around its controller and what is the same for all of them.

use jobgate_sdk::{Controller, ServeError, serve};

/// Listens on the address in `LISTEN` (default `127.0.0.1:7501`) until Ctrl-C; answers open questions before it ends.
///
/// # Errors
///
/// When the address cannot be bound, or questions are still open after the drain limit.
pub async fn run(controller: impl Controller) -> Result<(), ServeError> {
    let address = std::env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:7501".into());
    serve(controller).version(env!("CARGO_PKG_VERSION")).listen(address).with_shutdown(tokio::signal::ctrl_c()).await
}
