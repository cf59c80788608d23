//! The command-line program `jobgate`, and what it is made of: [`command::main`] is the program, [`runner::Runner`] is the native runner,
//! [`connection::Connection`] how client commands reach a router.

mod client;
pub mod command;
/// How to reach a router.
pub mod connection;
mod demo;
/// What commands print, and how they end.
pub mod output;
mod policies;
pub mod runner;
/// What proves who is calling.
pub mod token;

pub use policies::Policies;

/// Compiles the controller of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
