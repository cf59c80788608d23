//! The whole system in one process, on job documents as GitLab hands them out.

mod show;
mod stage;

use std::time::Duration;

use bytes::Bytes;
use jobgate_proto::job::v1::JobRecord;
use jobgate_router::Decision;
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::mpsc;

use self::{show::Show, stage::Stage};
use crate::output::{Failure, Output};

/// Everything should have happened long before.
const LIMIT: Duration = Duration::from_secs(60);

/// Jobs of three projects.
const DOCUMENTS: [&str; 3] = [
    include_str!("../../examples/documents/payments-api.json"),
    include_str!("../../examples/documents/payments-ledger.json"),
    include_str!("../../examples/documents/shop-web.json"),
];

/// Runs the demo from beginning to end, and leaves nothing behind, however it ends.
pub(crate) async fn run(output: &mut Output, interrupted: impl Future<Output = ()>) -> Result<(), Failure> {
    let (hear, mut decisions) = mpsc::unbounded_channel();
    let stage = Stage::set(hear).await?;
    let played = tokio::select! {
        played = tokio::time::timeout(LIMIT, play(&stage, &mut decisions, output)) => {
            played.unwrap_or_else(|_| Err(Failure::new(format_args!("the demo did not end within {LIMIT:?}"))))
        }
        () = interrupted => Err(Failure::new("interrupted")),
    };
    stage.clear().await;
    played?.end(output)
}

async fn play(
    stage: &Stage,
    decisions: &mut mpsc::UnboundedReceiver<Arc<Decision>>,
    output: &mut Output,
) -> Result<Show, Failure> {
    let mut show = Show::begin(output)?;
    stage.attached().await?;
    let mut ids = Vec::new();
    for documents in DOCUMENTS {
        let answer = stage.client.submit(Bytes::from_static(documents.as_bytes()), None).await?;
        let read: Vec<Value> = serde_json::from_str(documents).map_err(Failure::new)?;
        for (job, document) in answer["jobs"].as_array().into_iter().flatten().zip(&read) {
            let id = job["id"].as_str().unwrap_or_default().to_owned();
            show.submitted(&id, document);
            ids.push(id);
        }
    }
    let refused = |status: tonic::Status| Failure::new(format_args!("the demo's router: {}", status.message()));
    let mut changes = stage.client.watch(ids).await.map_err(refused)?;
    loop {
        // A decision is told before the change of state that it causes.
        tokio::select! {
            biased;
            Some(decision) = decisions.recv() => show.decided(&decision, output)?,
            change = changes.message() => match change.map_err(refused)? {
                Some(record) => show.changed(record),
                None => return Ok(show),
            },
        }
    }
}

/// A record's state as a word.
fn state(record: &JobRecord) -> String {
    record.state().as_str_name().trim_start_matches("JOB_STATE_").to_ascii_lowercase()
}
