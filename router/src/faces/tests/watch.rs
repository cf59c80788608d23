use std::sync::Arc;

use jiff::Timestamp;
use jobgate_proto::job::v1::{CancelRequest, JobState as Wire, WatchRequest, jobs_client::JobsClient};
use tokio::sync::{broadcast, mpsc};
use tonic::Code;

use super::support::{ACME, ALL, Setup, with_token};
use crate::{
    handle::{Command, Handle, JobPage},
    job::{JobId, JobRecord, JobState},
};

fn record(id: &str, state: JobState) -> Arc<JobRecord> {
    Arc::new(JobRecord {
        id: JobId::new(id),
        project: "acme/api".parse().unwrap(),
        source_id: None,
        name: None,
        state,
        reason: String::new(),
        submitted_at: Timestamp::UNIX_EPOCH,
        admitted_at: None,
        assigned_at: None,
        started_at: None,
        finished_at: None,
        runner: None,
        lease: None,
        priority: 0,
        exit_code: None,
    })
}

/// A task that publishes these changes before it answers a question with the present state.
fn scripted(room: usize, published: Vec<Arc<JobRecord>>, present: Arc<JobRecord>) -> Handle {
    let (inbox, mut commands) = mpsc::channel(8);
    let (changes, _) = broadcast::channel(room);
    let publish = changes.clone();
    tokio::spawn(async move {
        while let Some(command) = commands.recv().await {
            for change in &published {
                let _ = publish.send(change.clone());
            }
            match command {
                Command::Job(_, reply) => drop(reply.send(Ok(present.clone()))),
                Command::List(_, reply) => drop(reply.send(Ok(JobPage { jobs: vec![present.clone()], next: None }))),
                _ => {}
            }
        }
    });
    Handle { inbox, changes }
}

#[tokio::test]
async fn the_present_state_comes_first_then_changes_and_the_end() {
    let world = Setup::guarded().start().await;
    let id = world.submit(ALL, "acme/api").await;
    let mut client = JobsClient::new(world.channel().await);
    let request = with_token(WatchRequest { ids: vec![id.clone()] }, ACME);
    let mut stream = client.watch(request).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert_eq!(first.id, id);
    client.cancel(with_token(CancelRequest { id }, ALL)).await.unwrap();
    let mut last = first;
    while let Some(next) = stream.message().await.unwrap() {
        last = next;
    }
    assert_eq!(last.state(), Wire::Canceled, "ends with the last state");
}

#[tokio::test]
async fn a_finished_job_is_shown_once_and_an_unknown_one_is_not_found() {
    let world = Setup::guarded().start().await;
    let id = world.submit(ALL, "other/x").await;
    let mut client = JobsClient::new(world.channel().await);
    client.cancel(with_token(CancelRequest { id: id.clone() }, ALL)).await.unwrap();
    let request = WatchRequest { ids: vec![id.clone(), id.clone()] };
    let mut stream = client.watch(with_token(request.clone(), ALL)).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().state(), Wire::Canceled);
    assert!(stream.message().await.unwrap().is_none());
    assert_eq!(client.watch(with_token(request, ACME)).await.unwrap_err().code(), Code::NotFound);
    let many = WatchRequest { ids: vec![id; 1001] };
    assert_eq!(client.watch(with_token(many, ALL)).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn whoever_follows_all_sees_what_they_may_see() {
    let world = Setup::guarded().start().await;
    let own = world.submit(ALL, "acme/api").await;
    world.submit(ALL, "other/x").await;
    let mut client = JobsClient::new(world.channel().await);
    let mut stream = client.watch(with_token(WatchRequest::default(), ACME)).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().id, own);
    world.submit(ALL, "other/y").await;
    let new = world.submit(ALL, "acme/new").await;
    let mut next = stream.message().await.unwrap().unwrap();
    while next.id == own {
        next = stream.message().await.unwrap().unwrap();
    }
    assert_eq!(next.id, new);
}

#[tokio::test]
async fn changes_that_the_present_state_contains_are_not_shown_again() {
    let steps = [JobState::Routing, JobState::Admitted, JobState::Assigned, JobState::Running, JobState::Success];
    let published: Vec<_> = steps.iter().map(|state| record("a", *state)).collect();
    // Equal, and not the same allocation.
    let mut setup = Setup::trial();
    setup.handle = Some(scripted(64, published, record("a", JobState::Assigned)));
    let world = setup.start().await;
    for ids in [vec!["a".to_owned()], Vec::new()] {
        let all = ids.is_empty();
        let mut client = JobsClient::new(world.channel().await);
        let mut stream = client.watch(WatchRequest { ids }).await.unwrap().into_inner();
        let mut seen = Vec::new();
        while !seen.contains(&Wire::Success) {
            seen.push(stream.message().await.unwrap().unwrap().state());
        }
        assert_eq!(seen, [Wire::Assigned, Wire::Running, Wire::Success], "all: {all}");
    }
}

#[tokio::test]
async fn a_watcher_that_lags_is_ended_and_not_left_with_a_gap() {
    let mut setup = Setup::trial();
    setup.handle = Some(scripted(4, Vec::new(), record("a", JobState::Routing)));
    let changes = setup.handle.as_ref().unwrap().changes.clone();
    let world = setup.start().await;
    let mut client = JobsClient::new(world.channel().await);
    let mut stream = client.watch(WatchRequest::default()).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().id, "a");
    // All at once: nothing else runs on this thread meanwhile.
    for _ in 0..100 {
        changes.send(record("b", JobState::Routing)).unwrap();
    }
    assert_eq!(stream.message().await.unwrap_err().code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn a_watcher_that_lags_from_the_start_is_told_so_as_well() {
    let published = vec![record("b", JobState::Routing); 100];
    let mut setup = Setup::trial();
    setup.handle = Some(scripted(4, published, record("a", JobState::Routing)));
    let world = setup.start().await;
    let mut client = JobsClient::new(world.channel().await);
    let status = client.watch(WatchRequest { ids: vec!["a".to_owned()] }).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn shutdown_ends_a_watch() {
    let mut world = Setup::guarded().start().await;
    let id = world.submit(ALL, "acme/api").await;
    let mut client = JobsClient::new(world.channel().await);
    let mut stream = client.watch(with_token(WatchRequest { ids: vec![id] }, ALL)).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    world.stop();
    let end = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert_eq!(end.unwrap_err().code(), Code::Unavailable);
    world.stopped().await;
}
