//! The job router's call without a job, beside an echo; and what it stands on beside that: a round trip to GitLab.

use bytes::Bytes;
use http::StatusCode;
use jobgate_proto::gitlab::{GetJobRequest, job_router_client::JobRouterClient};
use tonic::{Request, transport::Channel};

use super::{
    Sides,
    client::{job_request, token},
    polls::Fleet,
};
use crate::{
    Result,
    child::Server,
    echo::{self, EchoClient, Payload},
    measure::{Effort, Sample, closed_loop, compare},
    table::Row,
};

pub(crate) async fn rows(effort: Effort) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (in_flight, calls) in [(1, 1_000), (32, 4_000)] {
        rows.extend(compared(in_flight, effort.calls(calls), effort).await?);
    }
    Ok(rows)
}

async fn compared(in_flight: usize, calls: usize, effort: Effort) -> Result<Vec<Row>> {
    let sides = Sides::start("empty", 0)?;
    let floor = Server::start("echo", &[])?;
    let bare = EchoClient::new(echo::connect(&floor.url()).await?);
    let router = JobRouterClient::new(echo::connect(&sides.router.router.url()).await?);
    let direct = Fleet::connect(&sides.gitlab.said, in_flight).await?;
    let proxied = Fleet::connect(&sides.proxy.said, in_flight).await?;
    let over_rest = Fleet::connect(&sides.router.router.said, in_flight).await?;
    let body = Bytes::from(job_request(&token(0), 0, Some("2")));

    let (mut to_echo, mut to_hops, mut to_proxied, mut rest) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..=effort.rounds() {
        let echoed = closed_loop(in_flight, calls, async |_| {
            // Number 0: nothing comes back.
            bare.clone().unary(Payload { number: 0, body: body.clone() }).await?;
            Ok(())
        })
        .await?;
        let asked = polls(&direct, in_flight, calls).await?;
        let ours = closed_loop(in_flight, calls, async |_| get_job(router.clone(), body.clone()).await).await?;
        let proxied = polls(&proxied, in_flight, calls).await?;
        let over_rest = polls(&over_rest, in_flight, calls).await?;
        if round > 0 {
            to_echo.push((echoed, ours));
            to_hops.push((Sample { p50: echoed.p50 + asked.p50, ..echoed }, ours));
            to_proxied.push((Sample { p50: echoed.p50 + proxied.p50 - asked.p50, ..echoed }, ours));
            rest.push((proxied, over_rest));
        }
    }
    let what = format!("without a job, GitLab answers at once, {in_flight} in flight: p50");
    let row = |name: &str, pairs: &[_], most: f64| {
        let compared = compare(pairs);
        Row::at_most(name.to_string(), compared.floor.p50, compared.ours.p50, compared.p50_ratio, most)
    };
    Ok(vec![
        row(&format!("GetJob {what}, to an echo, which asks nobody"), &to_echo, 1.3),
        row(&format!("GetJob {what}, to an echo + a round trip to GitLab"), &to_hops, 1.3).beside(),
        row(&format!("GetJob {what}, to an echo + what the plain proxy adds to a call of GitLab"), &to_proxied, 1.3)
            .beside(),
        row(&format!("jobs/request {what}, to the plain proxy"), &rest, 1.15).beside(),
    ])
}

async fn get_job(mut router: JobRouterClient<Channel>, job_request: Bytes) -> Result<()> {
    let mut request = Request::new(GetJobRequest { job_request });
    request.metadata_mut().insert("authorization", format!("Bearer {}", token(0)).parse()?);
    request.metadata_mut().insert("x-request-id", "0123456789abcdef".parse()?);
    let answer = router.get_job(request).await?;
    let nothing = answer.get_ref().job_response.is_empty() && answer.metadata().contains_key("x-gitlab-last-update");
    if nothing { Ok(()) } else { Err("GetJob does not answer as GitLab does".into()) }
}

async fn polls(fleet: &Fleet, in_flight: usize, calls: usize) -> Result<Sample> {
    closed_loop(in_flight, calls, async |_| {
        let status = fleet.with(async |runner| Ok(runner.poll(Some("2")).await?.status)).await?;
        if status == StatusCode::NO_CONTENT { Ok(()) } else { Err(format!("{status} instead of no job").into()) }
    })
    .await
}
