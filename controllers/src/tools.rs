//! What people who write policy all day use: check, test. See also [`eval`](crate::eval).

mod check;
mod test;

pub use check::{CheckReport, check};
pub use test::{CaseOutcome, CaseReport, DocumentReader, RuleCoverage, TestDocument, TestReport, test};
