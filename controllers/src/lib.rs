//! Rego and YAML policies as jobgate admission controllers, and the tools to check, test and explain them.

mod reads;

pub use reads::{Exposed, Reads};
