//! Rego and YAML policies as jobgate admission controllers, and the tools to check, test and explain them.

mod reads;
#[allow(dead_code, reason = "the crate root does not publish policies yet")]
mod rego;

pub use reads::{Exposed, Reads};
