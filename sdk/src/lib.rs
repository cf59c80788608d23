#![doc = include_str!("../README.md")]

mod attach;
mod backoff;
mod controller;
mod desk;
mod error;
mod link;
mod listen;
mod observer;
mod predefined;
mod request;
mod serve;
#[cfg(feature = "testing")]
pub mod testing;
mod tls;
mod token;
mod tunnel;
mod verdict;

pub use async_trait::async_trait;
pub use attach::Attach;
pub use backoff::{Backoff, InvalidBackoff};
pub use controller::Controller;
pub use error::ServeError;
pub use jobgate_proto::admission::v1::{
    Image, Job, Project, RefType, Runner, RunnerType, Script, ScriptLine, Service, Strings, User, Variable,
};
pub use listen::{Listen, ListenOn, Listening};
pub use observer::{Ending, Observer};
pub use predefined::{PREDEFINED_VARIABLES, is_predefined};
pub use request::{AdmissionRequest, MalformedRequest, Question, Subject};
pub use serve::{PolicyVersion, Serve, serve};
pub use tls::{ClientTls, ServerTls, TlsError};
pub use token::{Token, TokenError};
pub use verdict::{Failure, FailureCause, Outcome, Reason, Rejection, Verdict};

/// Compiles the examples of the guide.
#[cfg(doctest)]
#[doc = include_str!("../../docs/sdk.md")]
struct Guide;
