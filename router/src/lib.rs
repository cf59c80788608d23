//! Asks the chain of admission controllers about each job and hands out admitted jobs only.

mod admission;
mod chain;
pub mod config;
mod core;
mod decision;
mod document;
pub mod faces;
mod follow;
mod gitlab;
mod glob;
mod handle;
mod image;
mod intake;
mod job;
mod path;
mod policy;
mod priority;
mod remote;
mod roster;
mod router;
mod scheduler;
mod store;
#[cfg(test)]
mod testing;
mod view;

pub use chain::{ChainVersion, Chains, Entry};
pub use decision::{Cause, Decision, Ruling, VerdictRecord};
pub use document::{JobDocument, MAX_DOCUMENT_BYTES, read_documents, read_runner};
#[doc(hidden)]
pub use gitlab::fuzz_gitlab_path;
pub use gitlab::{Front, UpstreamError};
pub use glob::{BadGlob, BadTextGlob, ProjectGlob, TextGlob};
pub use handle::{
    CoreError, GroupQueue, Handle, HeldLease, IdempotencyKey, JobDetails, JobEvent, JobFilter, JobPage, JobResult,
    LeaderStatus, Obstacle, QueueSignal, QueueStatus, RunnerAction, RunnerEvent, RunnerHello, RunnerOrder,
    RunnerStatus, Session, SystemStatus, TaintKind, TaintStatus, Waits,
};
pub use intake::jobs_from_documents;
pub use job::{JobId, JobRecord, JobState, Lease, NewJob};
pub use path::{GroupPath, PathError, ProjectPath, Scope};
pub use policy::{LoadedPolicy, NoPolicies, PolicySource, PolicySpec, PolicyStatus};
pub use router::{Bound, Reloader, Router, RunError};
#[cfg(feature = "bench")]
#[doc(hidden)]
pub use scheduler::bench as machine;
#[doc(hidden)]
pub use store::fuzz_store_frame;
pub use store::{
    Archive, Batch, CheckReport, DiskOptions, DiskStore, DocumentRef, EventRow, Fault, JobRow, MemoryStore, OpenError,
    Repair, Repairs, Restored, Store, StoreError, Submission, check as check_store,
};
pub use view::{Expose, UnknownExpose, View, ViewRejection, question_from_document, view};
