//! Rego and YAML policies as jobgate admission controllers, and the tools to check, test and explain them.

mod reads;
#[allow(dead_code, reason = "the crate root does not publish policies yet")]
mod rego;
#[allow(dead_code, unused_imports, reason = "the crate root does not publish policies yet")]
mod yaml;

pub use reads::{Exposed, Reads};
