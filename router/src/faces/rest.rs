//! REST: `/v1/*`, and what answers on other paths.

mod body;
mod operate;
mod query;

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{Path, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use jobgate_proto::job::v1 as wire;
use serde::Serialize;

use self::query::Pairs;
use super::{
    ControllerStatus, ControllersStatus,
    auth::{Caller, Right},
    error::{ApiError, Kind, is_grpc, shown},
    jobs::{Jobs, Query, require},
};
use crate::{
    decision::Decision,
    handle::{JobDetails, JobEvent, QueueStatus, RunnerStatus, Waits},
    job::JobState,
};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

#[derive(Clone)]
pub(super) struct Rest {
    pub(super) jobs: Jobs,
    pub(super) controllers: ControllersStatus,
}

#[derive(Serialize)]
struct Decisions {
    decisions: Vec<Arc<Decision>>,
}

#[derive(Serialize)]
struct Controllers {
    controllers: Vec<ControllerStatus>,
}

#[derive(Serialize)]
struct Runners {
    runners: Vec<RunnerStatus>,
}

#[derive(Serialize)]
struct Explained {
    job: wire::JobRecord,
    events: Vec<JobEvent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waits: Option<Waits>,
}

type Answer<T> = Result<Json<T>, ApiError>;

pub(super) fn routes(rest: Rest) -> Router {
    Router::new()
        .route("/v1/jobs", post(submit).get(list))
        .route("/v1/jobs/{id}", get(job))
        .route("/v1/jobs/{id}/cancel", post(cancel))
        .route("/v1/jobs/{id}/explain", get(explain))
        .route("/v1/decisions", get(decisions))
        .route("/v1/controllers", get(controllers))
        .route("/v1/runners", get(runners))
        .route("/v1/runners/{name}/taint", post(operate::taint))
        .route("/v1/runners/{name}/untaint", post(operate::untaint))
        .route("/v1/runners/{name}/drain", post(operate::drain))
        .route("/v1/runner-groups/{group}/pin", post(operate::pin))
        .route("/v1/runner-groups/{group}/unpin", post(operate::unpin))
        .route("/v1/queue", get(queue))
        .route("/api/v4/{*rest}", any(gitlab))
        .method_not_allowed_fallback(wrong_method)
        .with_state(rest)
}

/// Answers of ours are for the one who asked, and are what they say they are.
pub(super) async fn plain_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// No such path, whoever asks.
pub(super) async fn nowhere(request: Request) -> Response {
    let message = format!("there is nothing at `{}`", shown(request.uri().path()));
    let grpc = is_grpc(request.headers());
    ApiError::new(if grpc { Kind::NotImplemented } else { Kind::NotFound }, message).respond(grpc)
}

async fn wrong_method(request: Request) -> ApiError {
    let message = format!("`{}` is not asked with {}", shown(request.uri().path()), request.method());
    ApiError::new(Kind::MethodNotAllowed, message)
}

async fn gitlab() -> ApiError {
    let message = "this router has no `gitlab` in its configuration: it does not speak for a GitLab";
    ApiError::new(Kind::NotImplemented, message)
}

async fn submit(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    require(&caller, Right::Submit)?;
    Pairs::read(&uri, &[])?;
    body::media_type(&headers, "job documents")?;
    let key = idempotency_key(&headers)?;
    let documents = body::read(&headers, body, rest.jobs.document_bytes()).await.map_err(|error| match error {
        body::Unread::TooLarge => rest.jobs.too_large(),
        body::Unread::Broken => body::broken(),
    })?;
    let jobs = rest.jobs.submit(&caller, documents, &key).await?;
    let jobs = jobs
        .into_iter()
        .map(|(id, state)| wire::Submitted { id: id.to_string(), state: wire::JobState::from(state).into() })
        .collect();
    Ok((StatusCode::CREATED, Json(wire::SubmitResponse { jobs })).into_response())
}

async fn list(State(rest): State<Rest>, Extension(caller): Extension<Caller>, uri: Uri) -> Answer<wire::ListResponse> {
    let pairs = Pairs::read(&uri, &["state", "project", "limit", "page_token"])?;
    let state = |name: &str| {
        JobState::parse(name).ok_or_else(|| {
            let known: Vec<_> = JobState::ALL.iter().map(|state| state.as_str()).collect();
            ApiError::invalid(format!("state: `{}` is none of {}", shown(name), known.join(", ")))
        })
    };
    let query = Query {
        states: pairs.all("state").map(state).collect::<Result<_, _>>()?,
        project: pairs.one("project")?.unwrap_or_default().to_owned(),
        limit: pairs.number("limit")?,
        page_token: pairs.one("page_token")?.unwrap_or_default().to_owned(),
    };
    let page = rest.jobs.list(&caller, query).await?;
    Ok(Json(wire::ListResponse {
        jobs: page.jobs.iter().map(|job| (&**job).into()).collect(),
        next_page_token: page.next.map(|id| id.to_string()).unwrap_or_default(),
    }))
}

async fn job(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    uri: Uri,
) -> Answer<wire::JobRecord> {
    Pairs::read(&uri, &[])?;
    let job = rest.jobs.get(&caller, &id).await?;
    Ok(Json((&*job).into()))
}

async fn cancel(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    uri: Uri,
) -> Answer<wire::JobRecord> {
    Pairs::read(&uri, &[])?;
    let job = rest.jobs.cancel(&caller, &id).await?;
    Ok(Json((&*job).into()))
}

async fn explain(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    uri: Uri,
) -> Answer<Explained> {
    Pairs::read(&uri, &[])?;
    let JobDetails { job, events, waits } = rest.jobs.explain(&caller, &id).await?;
    Ok(Json(Explained { job: (&*job).into(), events, waits }))
}

async fn decisions(State(rest): State<Rest>, Extension(caller): Extension<Caller>, uri: Uri) -> Answer<Decisions> {
    let pairs = Pairs::read(&uri, &["job", "limit"])?;
    let decisions = rest.jobs.decisions(&caller, pairs.one("job")?, pairs.number("limit")?).await?;
    Ok(Json(Decisions { decisions }))
}

async fn controllers(State(rest): State<Rest>, Extension(caller): Extension<Caller>, uri: Uri) -> Answer<Controllers> {
    require(&caller, Right::Overview)?;
    Pairs::read(&uri, &[])?;
    Ok(Json(Controllers { controllers: (rest.controllers)() }))
}

async fn runners(State(rest): State<Rest>, Extension(caller): Extension<Caller>, uri: Uri) -> Answer<Runners> {
    require(&caller, Right::Overview)?;
    Pairs::read(&uri, &[])?;
    Ok(Json(Runners { runners: rest.jobs.handle.runners().await? }))
}

async fn queue(State(rest): State<Rest>, Extension(caller): Extension<Caller>, uri: Uri) -> Answer<QueueStatus> {
    require(&caller, Right::Overview)?;
    Pairs::read(&uri, &[])?;
    Ok(Json(rest.jobs.handle.queue().await?))
}

fn idempotency_key(headers: &HeaderMap) -> Result<String, ApiError> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let key = match (values.next(), values.next()) {
        (None, _) => return Ok(String::new()),
        (Some(value), None) => value.to_str().unwrap_or_default(),
        (Some(_), Some(_)) => return Err(ApiError::invalid("there are two `Idempotency-Key` headers")),
    };
    if key.is_empty() {
        return Err(ApiError::invalid("`Idempotency-Key` is 1 to 255 characters of ASCII"));
    }
    Ok(key.to_owned())
}
