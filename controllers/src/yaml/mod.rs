//! Policies in YAML.

mod cases;
mod explain;
mod glob;
mod image;
mod lint;
mod load;
mod matcher;
mod matchers;
mod policy;
mod schema;
mod template;
mod within;

pub(crate) use cases::{Case, Expect, cases};
pub(crate) use glob::matches;
pub(crate) use load::source;
pub(crate) use policy::{Finding, Findings, YamlPolicy};
pub use schema::schema;
