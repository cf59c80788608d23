use std::path::Path;
use super::OpenError;
/// x
#[derive(Debug, Default)]
pub struct CheckReport {}
/// x
/// # Errors
/// x
pub fn check(_directory: &Path) -> Result<CheckReport, OpenError> { Ok(CheckReport {}) }
