//! What people do to runners: taint, pin, drain.

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, State},
};
use http::{HeaderMap, Uri};
use jobgate_yaml::{Fields, Node, Reader};
use serde::Serialize;

use super::{Answer, Rest, body, query::Pairs};
use crate::{
    faces::{
        auth::{Caller, Right},
        error::{ApiError, Kind, shown},
        jobs::require,
    },
    handle::{CoreError, Handle, LeaderStatus, RunnerAction, RunnerStatus, TaintKind},
};

/// Longest reason, in characters.
const LONGEST_REASON: usize = 200;
/// Longest system id, in characters (`runner.proto`).
const LONGEST_SYSTEM: usize = 128;
const KINDS: [(&str, TaintKind); 2] = [("leadership", TaintKind::Leadership), ("jobs", TaintKind::Jobs)];

#[derive(Serialize)]
pub(super) struct OneRunner {
    runner: RunnerStatus,
}

#[derive(Serialize)]
pub(super) struct OneLeader {
    leader: LeaderStatus,
}

pub(super) async fn taint(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Answer<OneRunner> {
    allowed(&caller, &uri)?;
    let (kind, reason, system) = body::small(&headers, body, |reader, root| {
        let mut fields = reader.fields(root, "a taint")?;
        let kind = fields.require("kind").and_then(|node| reader.choice(node, &KINDS));
        let reason = fields.require("reason").and_then(|node| line(reader, node, LONGEST_REASON));
        let reason = reason.map(|reason| reason.trim().to_owned());
        let system = system(reader, &mut fields);
        fields.finish();
        Some((kind?, reason?, system?))
    })
    .await?;
    let (runner, by) = (name.clone(), caller.name().to_string());
    runner_after(&rest.jobs.handle, &caller, &name, RunnerAction::Taint { runner, system, kind, reason, by }).await
}

pub(super) async fn untaint(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Answer<OneRunner> {
    allowed(&caller, &uri)?;
    let (kind, system) = body::small(&headers, body, |reader, root| {
        let mut fields = reader.fields(root, "the body of untaint")?;
        let kind = fields.take("kind").map(|node| reader.choice(node, &KINDS));
        let system = system(reader, &mut fields);
        fields.finish();
        Some((kind.map_or(Some(None), |kind| kind.map(Some))?, system?))
    })
    .await?;
    let runner = name.clone();
    runner_after(&rest.jobs.handle, &caller, &name, RunnerAction::Untaint { runner, system, kind }).await
}

pub(super) async fn drain(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Answer<OneRunner> {
    allowed(&caller, &uri)?;
    let system = body::small(&headers, body, |reader, root| {
        let mut fields = reader.fields(root, "the body of drain")?;
        let system = system(reader, &mut fields);
        fields.finish();
        system
    })
    .await?;
    let runner = name.clone();
    runner_after(&rest.jobs.handle, &caller, &name, RunnerAction::Drain { runner, system }).await
}

pub(super) async fn pin(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    Path(group): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Answer<OneLeader> {
    allowed(&caller, &uri)?;
    let runner = body::small(&headers, body, |reader, root| {
        let mut fields = reader.fields(root, "a pin")?;
        let runner = fields.require("runner").and_then(|node| reader.name(node)).map(str::to_owned);
        fields.finish();
        runner
    })
    .await?;
    if !is_name(&runner) {
        return Err(no_such("runner", &runner, None));
    }
    let action = RunnerAction::Pin { group: group.clone(), runner, by: caller.name().to_string() };
    leader_after(&rest.jobs.handle, &caller, &group, action).await
}

pub(super) async fn unpin(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    Path(group): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Answer<OneLeader> {
    allowed(&caller, &uri)?;
    body::small(&headers, body, |reader, root| reader.fields(root, "the body of unpin").map(Fields::finish)).await?;
    leader_after(&rest.jobs.handle, &caller, &group, RunnerAction::Unpin { group: group.clone() }).await
}

fn allowed(caller: &Caller, uri: &Uri) -> Result<(), ApiError> {
    require(caller, Right::Operate)?;
    Pairs::read(uri, &[]).map(drop)
}

/// Does it, and tells how the runner is then.
async fn runner_after(handle: &Handle, caller: &Caller, name: &str, action: RunnerAction) -> Answer<OneRunner> {
    if !is_name(name) {
        return Err(no_such("runner", name, None));
    }
    operate(handle, caller, action).await?;
    let runner = handle.runners().await?.into_iter().find(|runner| &*runner.name == name);
    runner.map(|runner| Json(OneRunner { runner })).ok_or_else(|| no_such("runner", name, None))
}

/// Does it, and tells who leads the group then.
async fn leader_after(handle: &Handle, caller: &Caller, group: &str, action: RunnerAction) -> Answer<OneLeader> {
    if !is_name(group) {
        return Err(no_such("runner group", group, None));
    }
    operate(handle, caller, action).await?;
    let leader = handle.queue().await?.leaders.into_iter().find(|leader| &*leader.group == group);
    leader.map(|leader| Json(OneLeader { leader })).ok_or_else(|| no_such("runner group", group, None))
}

async fn operate(handle: &Handle, caller: &Caller, action: RunnerAction) -> Result<(), ApiError> {
    let error = match handle.operate(action.clone()).await {
        Ok(()) => {
            tracing::info!(by = %caller.name(), ?action, "runners operated");
            return Ok(());
        }
        Err(error) => error,
    };
    Err(match &error {
        CoreError::NoSuchRunner(name) => {
            let known = handle.runners().await.unwrap_or_default();
            no_such("runner", name, jobgate_yaml::nearest(name, known.iter().map(|runner| &*runner.name)))
        }
        CoreError::NoSuchRunnerGroup(name) => {
            let known = handle.queue().await.unwrap_or_default().leaders;
            no_such("runner group", name, jobgate_yaml::nearest(name, known.iter().map(|leader| &*leader.group)))
        }
        _ => error.into(),
    })
}

fn no_such(what: &str, name: &str, near: Option<&str>) -> ApiError {
    let message = match near {
        Some(near) => format!("there is no {what} `{}`; did you mean `{near}`?", shown(name)),
        None => format!("there is no {what} `{}`", shown(name)),
    };
    ApiError::new(Kind::NotFound, message)
}

/// What the configuration takes as a name; anything else is not looked for.
fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
}

/// `Some(None)` when it is not there.
#[expect(clippy::option_option, reason = "the outer one says whether it could be read")]
fn system(reader: &Reader<'_>, fields: &mut Fields<'_, '_, '_>) -> Option<Option<String>> {
    fields.take("system").map_or(Some(None), |node| line(reader, node, LONGEST_SYSTEM).map(Some))
}

/// One line that is not empty.
fn line(reader: &Reader<'_>, node: &Node, longest: usize) -> Option<String> {
    let text = reader.name(node)?;
    if text.chars().count() > longest || text.chars().any(char::is_control) {
        reader.fault(node.place, format!("expected one line of at most {longest} characters"));
        return None;
    }
    Some(text.to_owned())
}
