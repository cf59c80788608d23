use jobgate_proto::{admission::v1::admission_tunnel_server, job::v1::jobs_server, runner::v1::runner_gateway_server};
use tokio_util::sync::CancellationToken;
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health, HealthServer},
    server::{HealthReporter, HealthService},
};

use crate::faces::Readiness;

/// The whole (`""`), and each service that a client may ask about.
const SERVICES: [&str; 4] =
    ["", jobs_server::SERVICE_NAME, runner_gateway_server::SERVICE_NAME, admission_tunnel_server::SERVICE_NAME];

/// The standard health service: serving while the router is ready.
pub(super) fn service(readiness: &Readiness, closing: &CancellationToken) -> HealthServer<impl Health> {
    let reporter = HealthReporter::new();
    tokio::spawn(follow(readiness.clone(), reporter.clone(), closing.clone()));
    HealthServer::new(HealthService::from_health_reporter(reporter))
}

async fn follow(readiness: Readiness, reporter: HealthReporter, closing: CancellationToken) {
    let mut conditions = readiness.subscribe();
    loop {
        let ready = conditions.borrow_and_update().hold() && !closing.is_cancelled();
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in SERVICES {
            reporter.set_service_status(service, status).await;
        }
        if closing.is_cancelled() {
            return;
        }
        tokio::select! {
            changed = conditions.changed() => if changed.is_err() { return },
            () = closing.cancelled() => {}
        }
    }
}
