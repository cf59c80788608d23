//! Write a jobgate admission controller in fifteen lines.
//!
//! A **controller** answers one question: may this job run? Implement [`Controller`] (or write a closure), and return a
//! [`Verdict`] for each [`AdmissionRequest`].

mod controller;
mod predefined;
mod request;
mod verdict;

pub use async_trait::async_trait;
pub use controller::Controller;
pub use jobgate_proto::admission::v1::{
    Image, Job, Project, RefType, Runner, RunnerType, Script, ScriptLine, Service, Strings, User, Variable,
};
pub use predefined::{PREDEFINED_VARIABLES, is_predefined};
pub use request::{AdmissionRequest, MalformedRequest, Question, Subject};
pub use verdict::{Failure, FailureCause, Outcome, Reason, Rejection, Verdict};
