//! The gRPC services of the router.

mod health;
mod jobs;
mod message;
mod runner;
mod watch;

use jobgate_proto::{
    DESCRIPTORS, job::v1::jobs_server::JobsServer, runner::v1::runner_gateway_server::RunnerGatewayServer,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status, service::Routes};

use self::{jobs::JobsService, runner::Gateway};
use super::{Limits, Readiness, auth::Caller, jobs::Jobs};

/// Bytes of a submission beside its documents.
const ENVELOPE: usize = 4 * 1024;
/// Largest message of a runner: an output of 64 KiB, or a hello with its leases.
const RUNNER_MESSAGE: usize = 1024 * 1024;
/// Largest request that is but a question.
const SMALL_MESSAGE: usize = 64 * 1024;

/// The services of this module, beside those given.
pub(super) fn routes(
    others: Routes,
    jobs: Jobs,
    limits: &Limits,
    readiness: &Readiness,
    closing: &CancellationToken,
) -> Result<Routes, tonic_reflection::server::Error> {
    let gateway = Gateway::new(jobs.handle.clone(), limits, closing.clone());
    let gateway = RunnerGatewayServer::new(gateway).max_decoding_message_size(RUNNER_MESSAGE);
    let documents = jobs.document_bytes() + ENVELOPE;
    let jobs = JobsServer::new(JobsService::new(jobs, closing.clone())).max_decoding_message_size(documents);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?
        .max_decoding_message_size(SMALL_MESSAGE);
    let health = health::service(readiness, closing).max_decoding_message_size(SMALL_MESSAGE);
    Ok(others.add_service(jobs).add_service(gateway).add_service(reflection).add_service(health))
}

/// Whoever the layer in front of the services says it is.
fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request.extensions().get().cloned().ok_or_else(|| Status::unauthenticated("nobody said who asks"))
}
