//! In front of GitLab: its runners ask here, GitLab is asked with their own credentials, and only what the chain admits
//! reaches them. Everything else they say to GitLab is passed on as it came.
//!
//! Facts about GitLab and its runners that a rule here rests on are cited by section and row of the project's notes on the
//! runner's protocol ("facts 7.12": section 7, row 12).

mod answer;
mod body;
mod connector;
mod front;
mod headers;
mod pass;
mod path;
mod upstream;

pub use front::Front;
pub use path::fuzz_gitlab_path;
pub use upstream::UpstreamError;

#[cfg(test)]
mod tests;
