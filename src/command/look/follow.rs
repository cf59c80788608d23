use serde_json::Value;
use tokio::time::sleep;
use tonic::Code;

use super::text;
use crate::{
    client::{Client, WATCH_AGAIN},
    output::{Failure, Output, clean},
};

/// A router follows no more named jobs on one stream (`job.proto`).
const MAX_WATCHED: usize = 1000;

/// Prints every state change of these jobs until all are final; of all jobs for ever. Gives the last states.
pub(in crate::command) async fn follow(
    client: &Client,
    ids: Vec<String>,
    output: &mut Output,
) -> Result<Vec<Value>, Failure> {
    let mut last: Vec<Value> = Vec::new();
    if ids.is_empty() {
        follow_some(client, ids, &mut last, output).await?;
        return Ok(last);
    }
    for ids in ids.chunks(MAX_WATCHED) {
        follow_some(client, ids.to_vec(), &mut last, output).await?;
    }
    Ok(last)
}

async fn follow_some(
    client: &Client,
    ids: Vec<String>,
    last: &mut Vec<Value>,
    output: &mut Output,
) -> Result<(), Failure> {
    loop {
        let mut stream = match client.watch(ids.clone()).await {
            Ok(stream) => stream,
            // The router was there when this began: it will be again.
            Err(status) if status.code() == Code::Unavailable && !last.is_empty() => {
                sleep(WATCH_AGAIN).await;
                continue;
            }
            Err(status) => return Err(client.watch_failure(&status)),
        };
        let status = loop {
            match stream.message().await {
                Ok(Some(record)) => {
                    let record = serde_json::to_value(&record).map_err(Failure::new)?;
                    changed(last, record, output)?;
                }
                Ok(None) if ids.is_empty() => break tonic::Status::unavailable("the stream ended"),
                Ok(None) => return Ok(()),
                Err(status) => break status,
            }
        };
        match status.code() {
            Code::Unavailable | Code::ResourceExhausted | Code::Unknown | Code::Internal | Code::Aborted => {
                tracing::warn!(reason = %clean(status.message()), "no longer following; trying again");
                sleep(WATCH_AGAIN).await;
            }
            _ => return Err(client.watch_failure(&status)),
        }
    }
}

fn changed(last: &mut Vec<Value>, record: Value, output: &mut Output) -> Result<(), Failure> {
    let known = last.iter_mut().find(|known| known["id"] == record["id"]);
    if known.as_ref().is_some_and(|known| known["state"] == record["state"] && known["reason"] == record["reason"]) {
        return Ok(());
    }
    match output.is_json() {
        true => output.json_line(&record)?,
        false => {
            let [id, project, name, state, reason] =
                ["id", "project", "name", "state", "reason"].map(|key| clean(&text(&record[key])));
            // A reason often begins with the state: `rejected by …`.
            let reason = reason.strip_prefix(&state).unwrap_or(&reason).trim_start().to_owned();
            let line = format!("{id} {project} {name}: {} {reason}", output.state(&state));
            output.line(line.trim_end())?;
        }
    }
    match known {
        Some(known) => *known = record,
        None => last.push(record),
    }
    Ok(())
}
