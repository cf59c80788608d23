//! The faces from outside, over real sockets, in front of the real task that owns the state.

mod auth;
mod grpc;
mod limits;
mod log;
mod operate;
mod rest;
mod runner;
pub(crate) mod support;
mod tls;
mod watch;
