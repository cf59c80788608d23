//! The wire of jobgate: the `.proto` files under `proto/` and the code generated from them.
//!
//! Start with [`admission::v1::AdmitRequest`], the question, and [`admission::v1::AdmitResponse`], its answer. The messages
//! that people meet outside of gRPC (the question, a job's record) also have a JSON form, through `serde`: field names as in
//! the `.proto`, kinds as lower-case strings, times in RFC 3339, int64 as numbers. **A known value is always written, an
//! unknown one is left out.**

// Documentation of generated items comes from the `.proto` files; what tonic adds around them has none.
#![allow(
    missing_docs,
    clippy::needless_pass_by_value,
    clippy::large_enum_variant,
    unused_qualifications,
    unreachable_pub
)]

mod json;

/// May this job run?
pub mod admission {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("jobgate.admission.v1");
    }
}

/// The router's own queue.
pub mod job {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("jobgate.job.v1");
    }
}

/// How native runners get jobs.
pub mod runner {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("jobgate.runner.v1");
    }
}

/// How GitLab Runner asks a job router for a job. GitLab's wire, not ours.
pub mod gitlab {
    tonic::include_proto!("gitlab.agent.job_router.rpc");
}

/// The encoded `google.protobuf.FileDescriptorSet` of all files, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Prints instead of bytes that may hold secrets.
struct Redacted;

impl std::fmt::Debug for Redacted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl std::fmt::Debug for runner::v1::Assign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Assign")
            .field("job_id", &self.job_id)
            .field("lease", &self.lease)
            .field("document", &Redacted)
            .field("timeout", &self.timeout)
            .finish()
    }
}

impl std::fmt::Debug for job::v1::SubmitRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SubmitRequest")
            .field("documents", &Redacted)
            .field("idempotency_key", &self.idempotency_key)
            .finish()
    }
}

impl std::fmt::Debug for gitlab::GetJobRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GetJobRequest").field("job_request", &Redacted).finish()
    }
}

impl std::fmt::Debug for gitlab::GetJobResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GetJobResponse").field("job_response", &Redacted).finish()
    }
}
