//! The command-line program `jobgate`, and what it is made of: [`runner::Runner`] is the native runner,
//! [`connection::Connection`] how client commands reach a router.

/// How to reach a router.
pub mod connection;
mod policies;
pub mod runner;
/// What proves who is calling.
pub mod token;

pub use policies::Policies;
