//! Everything that listens or is looked at: one address for REST, gRPC, health, readiness and metrics, who may use it, and
//! the decision log.

mod again;
mod auth;
mod connection;
mod decision_log;
mod error;
mod grpc;
mod jobs;
mod limits;
mod listener;
mod metrics;
mod observe;
mod rest;
mod server;
mod status;
mod throttle;
mod tls;

pub use auth::{Auth, AuthError};
pub(crate) use connection::Peer;
pub use decision_log::{DecisionLog, DecisionLogEnd};
pub use limits::Limits;
pub use metrics::Metrics;
pub use server::{BindError, Parts, Server};
pub use status::{ControllerStatus, ControllersStatus, Readiness};
pub(crate) use throttle::Throttle;
pub use tls::{Tls, TlsError};

#[cfg(test)]
pub(crate) mod tests;
