//! What machines look at: health, readiness, metrics.

use axum::{
    Extension, Json, Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{StatusCode, header};
use serde::Serialize;

use super::{
    ControllersStatus, Metrics, Readiness,
    auth::{Caller, Right},
    error::{ApiError, Kind},
    jobs::require,
    metrics::Snapshot,
    status::Conditions,
};
use crate::handle::Handle;

#[derive(Clone)]
pub(super) struct Observe {
    pub(super) handle: Handle,
    pub(super) metrics: Metrics,
    pub(super) readiness: Readiness,
    pub(super) controllers: ControllersStatus,
}

#[derive(Serialize)]
struct Ready {
    ready: bool,
    #[serde(flatten)]
    conditions: Conditions,
    /// Controllers that cannot be asked right now. They do not make the router unready: their jobs fail closed.
    absent_controllers: Vec<std::sync::Arc<str>>,
}

pub(super) fn routes(observe: Observe) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(observe)
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(observe): State<Observe>) -> Response {
    let conditions = observe.readiness.conditions();
    let controllers = (observe.controllers)();
    let absent = controllers.into_iter().filter(|status| status.state != "disabled" && status.attached == 0);
    let ready =
        Ready { ready: conditions.hold(), conditions, absent_controllers: absent.map(|status| status.name).collect() };
    let status = if ready.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(ready)).into_response()
}

/// Names controllers and runners, and how much work there is: on loopback for anybody, beyond it for a token that may look
/// at all projects.
async fn metrics(State(observe): State<Observe>, caller: Option<Extension<Caller>>) -> Result<Response, ApiError> {
    if let Some(Extension(caller)) = &caller {
        require(caller, Right::Overview)?;
    }
    // A router whose task is gone still has its counters.
    let snapshot = Snapshot {
        ready: observe.readiness.is_ready(),
        queue: observe.handle.queue().await.unwrap_or_default(),
        runners: observe.handle.runners().await.unwrap_or_default(),
        controllers: (observe.controllers)(),
    };
    let text = observe.metrics.encode(&snapshot);
    let text = text.map_err(|_| ApiError::new(Kind::Internal, "the metrics could not be written"))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}
