//! The rules of `deny` and `warn`: where they are, and what their METADATA annotations call them.

use super::replica::RuleAt;

/// A rule that adds to `deny` or `warn`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RuleInfo {
    /// `deny` or `warn`.
    pub(crate) set: &'static str,
    /// By its annotation: `custom.rule`, else `title`.
    pub(crate) name: Option<String>,
    /// By its annotation: `custom.details_url`, else the first of `related_resources`.
    pub(crate) details_url: Option<String>,
    pub(crate) file: String,
    /// First and last line, counted from 1.
    pub(crate) lines: (u32, u32),
    pub(crate) at: RuleAt,
}

impl RuleInfo {
    /// Its name, or where it is.
    pub(crate) fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| format!("{} in line {}", self.set, self.lines.0))
    }

    pub(crate) fn has_names(&self) -> bool {
        self.name.is_some() || self.details_url.is_some()
    }
}
