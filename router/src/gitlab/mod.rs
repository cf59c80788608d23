//! In front of GitLab: its runners ask here, GitLab is asked with their own credentials, and only what the chain admits
//! reaches them. Everything else they say to GitLab is passed on as it came.
//!
//! Facts about GitLab and its runners that a rule here rests on are cited by section and row of the project's notes on the
//! runner's protocol ("facts 7.12": section 7, row 12).
//!
//! | module | is about |
//! |---|---|
//! | `front`, `path` | what a request is for, however it is spelled |
//! | `pass`, `headers`, `body` | what goes on to GitLab as it came |
//! | `rest`, `job_router` | how runners ask for jobs |
//! | `source`, `poll`, `walk`, `request`, `identity`, `names`, `tokens`, `turns` | asking GitLab on their behalf |
//! | `decide`, `trace` | the chain, and what the job's log says of it |
//! | `handout`, `handouts`, `outstanding` | what is written of a job until its runner has it |
//! | `finish`, `calls` | telling GitLab that a job is over |
//! | `upstream`, `connector`, `answer`, `metrics` | connections, answers of our own, counters |

pub(crate) mod answer;
mod body;
mod calls;
mod connector;
mod decide;
mod finish;
mod front;
mod handout;
mod handouts;
mod headers;
mod identity;
mod job_router;
mod metrics;
mod names;
mod outstanding;
mod pass;
mod path;
mod poll;
mod request;
mod rest;
mod source;
mod tokens;
mod trace;
mod turns;
mod upstream;
mod walk;

pub(crate) use front::Prepared;
pub(crate) use handout::{GitLabJob, HandOut, Report};
pub(crate) use handouts::{Due, HandOuts};
pub(crate) use job_router::{JobRouterFace, LARGEST_MESSAGE};
pub(crate) use metrics::GitLabMetrics;
pub(crate) use names::{Basis, Names, Standing};
pub(crate) use outstanding::Outstanding;
#[cfg(test)]
pub(crate) use {handout::Stage, handouts::Shown, names::RunnerKey, tokens::Salt};

pub use front::Front;
pub use path::fuzz_gitlab_path;
pub use upstream::UpstreamError;

#[cfg(test)]
pub(crate) mod tests;
