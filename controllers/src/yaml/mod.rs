//! Policies in YAML.

mod glob;
mod image;
mod lint;
mod load;
mod matcher;
mod matchers;
mod policy;
mod template;
mod within;

pub(crate) use load::source;
pub(crate) use policy::{Finding, Findings, YamlPolicy};
